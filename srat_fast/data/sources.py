"""The data sets by name."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from pathlib import Path

import numpy as np

from srat_fast.data.archives import CIFAR, SVHN, archives_of, content_of
from srat_fast.data.arrays import ImageArrays, ImageSet
from srat_fast.data.folder import load_folder
from srat_fast.data.npz import load_npz
from srat_fast.data.paths import is_directory, is_there
from srat_fast.data.prepared import location, prepared
from srat_fast.data.readers import members_of_archive, members_of_folder, read_cifar, read_mat
from srat_fast.datasets import DATASETS, DIGITS_TEST_PER_CLASS
from srat_fast.errors import UserError


def load_arrays(name: str, root: Path, image_size: int, mirror: str | None = None) -> ImageArrays:
    """A whole data set, downloaded where it has to be; `root` is its directory, or the .npz file."""
    module, _, function = DATASETS[name].reader.partition(":")
    return getattr(importlib.import_module(module), function)(root, image_size, mirror)


def folder(root: Path, image_size: int, mirror: str | None) -> ImageArrays:
    """Class folders of image files."""
    return load_folder(root, image_size)


def npz(root: Path, image_size: int, mirror: str | None) -> ImageArrays:
    """NumPy's .npz files."""
    return load_npz(root, image_size)


def given(root: Path, image_size: int, mirror: str | None) -> ImageArrays:
    """Images in memory, which no file holds."""
    problem = "the images were given in memory and are not on disk; pass them again (data=...)"
    raise UserError("data.name", problem, "arrays")


def cifar10(root: Path, image_size: int, mirror: str | None) -> ImageArrays:
    """CIFAR-10, decoded once."""
    return prepared(prepared_key("cifar10"), lambda: _cifar("cifar10", root, mirror))


def cifar100(root: Path, image_size: int, mirror: str | None) -> ImageArrays:
    """CIFAR-100, decoded once."""
    return prepared(prepared_key("cifar100"), lambda: _cifar("cifar100", root, mirror))


def svhn(root: Path, image_size: int, mirror: str | None) -> ImageArrays:
    """SVHN's cropped digits, decoded once."""
    return prepared(prepared_key("svhn"), lambda: _svhn(root, mirror))


def prepared_key(name: str) -> str:
    """What a published set is called in the cache: its archives' checksums decide."""
    sums = "".join(archive.sha256 for archive in archives_of(name))
    return f"{name}-{hashlib.sha256(sums.encode()).hexdigest()[:12]}"


def state_of(name: str, root: Path) -> str:
    """Whether a published set is here, by the look of it: nothing is verified."""
    if location(prepared_key(name)).is_dir():
        return "prepared"
    places = [root / archive.name for archive in archives_of(name)]
    if all(place.is_file() for place in places) or (name in CIFAR and (root / CIFAR[name].folder).is_dir()):
        return f"in {root}/, not prepared yet"
    size = sum(archive.size for archive in archives_of(name))
    return f"not in {root}/; the first use downloads {size / 1e6:.0f} MB"


def digits(root: Path, image_size: int, mirror: str | None) -> ImageArrays:
    """scikit-learn's digits; the last images of each class (other writers, by the bundle's order) are the test set."""
    rows = _digits()
    images = np.round(rows[:, :64] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)  # 17 grey levels
    labels = rows[:, 64].astype(np.int64)
    test = np.sort(np.concatenate([np.flatnonzero(labels == c)[-DIGITS_TEST_PER_CLASS:] for c in range(10)]))
    train = np.setdiff1d(np.arange(len(labels)), test)
    everything = ImageSet(images, labels)
    return ImageArrays(everything.select(train), everything.select(test), DATASETS["digits"].classes)


def _digits() -> np.ndarray:
    """[N, 65]: pixels and label, from scikit-learn's own file: importing its data sets takes a second of every run."""
    found = importlib.util.find_spec("sklearn")
    for folder in (found and found.submodule_search_locations) or ():
        file = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits  # a version that keeps it elsewhere

    bundle = load_digits()
    return np.column_stack([bundle.data, bundle.target])


def _cifar(name: str, root: Path, mirror: str | None) -> ImageArrays:
    """From the archive, or from the folder that torchvision unpacked it to."""
    facts, classes = CIFAR[name], DATASETS[name].classes
    folder, archive = root / facts.folder, root / facts.archive.name
    if is_directory(folder):
        try:
            return read_cifar(members_of_folder(folder, facts), facts, classes)
        except UserError as error:
            if not is_there(archive):
                advice = f"{error.problem}; remove the folder {folder} to have the set downloaded"
                raise UserError("data.root", advice, error.value) from None
    content = content_of(facts.archive, root, mirror)
    return read_cifar(members_of_archive(content, archive, facts), facts, classes)


def _svhn(root: Path, mirror: str | None) -> ImageArrays:
    train, test = (
        read_mat(content_of(SVHN[part], root, mirror), str(root / SVHN[part].name))
        for part in ("train", "test")
    )
    return ImageArrays(train, test, DATASETS["svhn"].classes)
