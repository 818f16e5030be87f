"""Readers of the published formats: CIFAR's pickled batches and SVHN's MATLAB files, from verified bytes.

An archive is read member by member, by expected name, and nothing is extracted to disk; its pickles are read by an
unpickler that builds arrays, dictionaries, lists and text only. (torchvision.datasets extracts, and its pickle.load
runs what a pickle says.)
"""

from __future__ import annotations

import io
import pickle
import tarfile
import zlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from srat_fast.data.archives import CifarFacts, require_md5
from srat_fast.data.arrays import ImageArrays, ImageSet
from srat_fast.data.paths import one_line
from srat_fast.errors import UserError

#: The largest real member has 155 MB; a larger one is not the published file, whatever its name.
_LARGEST_MEMBER = 512 * 2**20


class _BatchUnpickler(pickle.Unpickler):
    """Builds what a CIFAR batch consists of, and refuses everything else before it is called."""

    _allowed: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        # the published files, written in 2009, name a module that newer releases of numpy have moved
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._allowed:
            return self._allowed[module, name]
        raise pickle.UnpicklingError(f"names {module}.{name}, which no batch of images needs")


def read_batch(content: bytes, label_key: str, classes: int, name: str) -> ImageSet:
    """One batch; `name` of the member is for messages."""

    def refused(problem: object) -> UserError:
        return UserError("data.root", f"is not a batch of images: {problem}", name)

    try:
        found = _BatchUnpickler(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # pickle raises whatever its opcodes lead to
        raise refused(error) from None
    batch = found if isinstance(found, dict) else {}
    data, labels = np.asarray(batch.get("data")), np.asarray(batch.get(label_key))
    if data.dtype != np.uint8 or data.shape[1:] != (3 * 32 * 32,):
        raise refused(f"no rows of {3 * 32 * 32} bytes")
    if labels.shape != data.shape[:1] or labels.dtype.kind != "i" or not _within(labels, classes):
        raise refused(f"no labels 0..{classes - 1}")
    images = data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # planes to [N, H, W, C]
    return ImageSet(np.ascontiguousarray(images), labels.astype(np.int64))


def _within(labels: np.ndarray, classes: int) -> bool:
    return bool(labels.size) and int(labels.min()) >= 0 and int(labels.max()) < classes


def members_of_archive(content: bytes, path: Path, facts: CifarFacts) -> dict[str, bytes]:
    """The expected members of an archive, by name and verified; all others are passed over."""
    sums = facts.train | facts.test
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                if folder != facts.folder or name not in sums:
                    continue
                if not member.isreg() or member.size > _LARGEST_MEMBER or name in found:
                    raise UserError("data.root", f"its member {member.name} is not one plain file", str(path))
                file = tar.extractfile(member)
                assert file is not None, "a regular member has content"
                found[name] = require_md5(file.read(), sums[name], f"{path}: {member.name}")
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise UserError("data.root", f"is no readable archive: {error}", str(path)) from None
    if missing := [name for name in sums if name not in found]:
        raise UserError("data.root", f"holds no {facts.folder}/{missing[0]}", str(path))
    return found


def members_of_folder(path: Path, facts: CifarFacts) -> dict[str, bytes]:
    """The verified batches of an archive that was unpacked, as torchvision leaves it."""
    found = {}
    for name, md5 in (facts.train | facts.test).items():
        with one_line(path / name):
            content = (path / name).read_bytes()
        found[name] = require_md5(content, md5, str(path / name))
    return found


def read_cifar(members: dict[str, bytes], facts: CifarFacts, classes: tuple[str, ...]) -> ImageArrays:
    """The whole set."""
    parts = []
    for names in (facts.train, facts.test):
        sets = [read_batch(members[name], facts.label_key, len(classes), name) for name in names]
        images, labels = [part.images for part in sets], [part.labels for part in sets]
        parts.append(ImageSet(np.concatenate(images), np.concatenate(labels)))
    return ImageArrays(parts[0], parts[1], classes)


def read_mat(content: bytes, name: str) -> ImageSet:
    """One part of SVHN; X is [32, 32, 3, N], y is [N, 1] with the digit 0 as 10."""
    from scipy.io import loadmat

    try:
        found = loadmat(io.BytesIO(content), variable_names=("X", "y"))
        pixels, digits = found["X"], found["y"].reshape(-1).astype(np.int64)
    except Exception as error:  # scipy raises several kinds for a damaged file
        raise UserError("data.root", f"is no MATLAB file of digits: {error}", name) from None
    if pixels.dtype != np.uint8 or pixels.shape != (32, 32, 3, len(digits)) or not len(digits):
        found_instead = f"X is {pixels.dtype} {pixels.shape}"
        raise UserError("data.root", f"is no set of 32 x 32 pictures: {found_instead}", name)
    if digits.min() < 1 or digits.max() > 10:
        raise UserError("data.root", "is no set of digits: y must lie in 1..10", name)
    return ImageSet(np.ascontiguousarray(pixels.transpose(3, 0, 1, 2)), digits % 10)
