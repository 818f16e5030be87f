"""CIFAR's batches, from a verified archive or an unpacked folder.

The archive is read member by member, by expected name; nothing is extracted to disk. The batches are Python pickles,
so they are checked by MD5 first and then read by an unpickler that builds arrays, dictionaries, lists and text only.
"""

from __future__ import annotations

import io
import pickle
import tarfile
import zlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from srat_fast.data.archives import CifarFacts
from srat_fast.data.arrays import ImageArrays, ImageSet
from srat_fast.data.verify import one_line, require_md5
from srat_fast.errors import UserError

#: The largest real member has 155 MB; a larger one is not the published file, whatever its name.
_LARGEST_MEMBER = 512 * 2**20
_SIZE, _PIXELS = 32, 3 * 32 * 32


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
    """One batch.

    Args:
        content: of a member whose checksum was right.
        label_key: "labels" or "fine_labels".
        classes: labels are below it.
        name: of the member, for messages.

    Returns:
        Its images [N, 32, 32, 3] and labels.

    Raises:
        UserError: not a batch of images.
    """
    try:
        batch = _BatchUnpickler(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # pickle raises whatever its opcodes lead to
        raise UserError("data.root", f"is not a batch of images: {error}", name) from None
    data = batch.get("data") if isinstance(batch, dict) else None
    labels = np.asarray(batch.get(label_key) if isinstance(batch, dict) else None)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (_PIXELS,):
        raise UserError("data.root", f"is not a batch of images: no rows of {_PIXELS} bytes", name)
    if labels.shape != data.shape[:1] or labels.dtype.kind != "i" or not _within(labels, classes):
        raise UserError("data.root", f"is not a batch of images: no labels 0..{classes - 1}", name)
    images = data.reshape(-1, 3, _SIZE, _SIZE).transpose(0, 2, 3, 1)  # planes to [N, H, W, C]
    return ImageSet(np.ascontiguousarray(images), labels.astype(np.int64))


def _within(labels: np.ndarray, classes: int) -> bool:
    return bool(labels.size) and int(labels.min()) >= 0 and int(labels.max()) < classes


def members_of_archive(path: Path, facts: CifarFacts) -> dict[str, bytes]:
    """The expected members of an archive, by name; all others are passed over.

    Args:
        path: the archive, verified.
        facts: what it should hold.

    Returns:
        Member -> its bytes, each verified by MD5.

    Raises:
        UserError: a member is missing, a link, there twice or damaged.
    """
    sums = facts.train | facts.test
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as tar:
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
    """The batches of an archive that was unpacked, as torchvision leaves it.

    Args:
        path: the unpacked folder.
        facts: what it should hold.

    Returns:
        Member -> its bytes, each verified by MD5.

    Raises:
        UserError: a file is missing or damaged.
    """
    found = {}
    for name, md5 in (facts.train | facts.test).items():
        with one_line(path / name):
            content = (path / name).read_bytes()
        found[name] = require_md5(content, md5, str(path / name))
    return found


def arrays_of(members: dict[str, bytes], facts: CifarFacts, classes: tuple[str, ...]) -> ImageArrays:
    """The whole set.

    Args:
        members: as `members_of_archive` or `members_of_folder` give them.
        facts: which are training images, and in which order.
        classes: names in label order.

    Returns:
        Its images.

    Raises:
        UserError: a member is not a batch of images.
    """
    parts = []
    for names in (facts.train, facts.test):
        sets = [read_batch(members[name], facts.label_key, len(classes), name) for name in names]
        parts.append(
            ImageSet(np.concatenate([s.images for s in sets]), np.concatenate([s.labels for s in sets]))
        )
    return ImageArrays(parts[0], parts[1], classes)
