"""Where images come from: a data set's name and directory enter, `ImageArrays` leave."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from srat_fast.data.arrays import ImageArrays, ImageSet
from srat_fast.data.folder import load_folder
from srat_fast.data.torchvision_import import torchvision_datasets
from srat_fast.datasets import DATASETS, DIGITS_TEST_PER_CLASS
from srat_fast.errors import UserError

_TORCHVISION = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "svhn": "SVHN"}


def load_arrays(name: str, root: Path, image_size: int) -> ImageArrays:
    """A data set as uint8 arrays.

    Args:
        name: a key of `srat_fast.datasets.DATASETS`.
        root: directory that holds (or receives) it; not used for digits.
        image_size: pixels; for `folder` only.

    Returns:
        All its training and test images.

    Raises:
        UserError: it is not there and cannot be downloaded, or is damaged.
    """
    if name == "digits":
        return _digits()
    if name == "folder":
        return load_folder(root, image_size)
    return ImageArrays(
        _torchvision(name, root, True), _torchvision(name, root, False), DATASETS[name].classes
    )


def _digits() -> ImageArrays:
    """scikit-learn's digits; the last images of each class (other writers, by the bundle's order) are the test set."""
    from sklearn.datasets import load_digits

    bundle = load_digits()
    images = np.round(bundle.images * (255 / 16)).astype(np.uint8)[..., None]  # [N, 8, 8, 1], 17 grey levels
    labels = bundle.target.astype(np.int64)
    test = np.sort(np.concatenate([np.flatnonzero(labels == c)[-DIGITS_TEST_PER_CLASS:] for c in range(10)]))
    train = np.setdiff1d(np.arange(len(labels)), test)
    everything = ImageSet(images, labels)
    return ImageArrays(everything.select(train), everything.select(test), DATASETS["digits"].classes)


def _torchvision(name: str, root: Path, train: bool) -> ImageSet:
    """One split by torchvision's own reader, which checks MD5 sums before it opens anything."""
    datasets = torchvision_datasets()
    kind = getattr(datasets, _TORCHVISION[name])
    split: dict[str, object] = {"split": "train" if train else "test"} if name == "svhn" else {"train": train}
    try:
        data = kind(str(root), download=False, **split)
    except RuntimeError:  # torchvision's word for "not there, or a checksum differs"
        data = _download(kind, name, root, split)
    if name == "svhn":  # [N, 3, 32, 32]
        return ImageSet(np.ascontiguousarray(data.data.transpose(0, 2, 3, 1)), data.labels.astype(np.int64))
    return ImageSet(data.data, np.asarray(data.targets, dtype=np.int64))


def _download(kind: type, name: str, root: Path, split: dict[str, object]) -> object:
    missing = [p for p in (root, *root.parents) if not p.exists()]
    try:
        return kind(str(root), download=True, **split)
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        for directory in missing:  # torchvision makes the directory first; nothing half-made stays
            if directory.is_dir() and not any(directory.iterdir()):
                directory.rmdir()
        reason = str(getattr(error, "reason", error)).splitlines()[0]
        where = (
            f"does not hold {name}, and downloading it failed ({reason}); place {_files(kind, split)} there"
        )
        raise UserError("data.root", where, str(root)) from None


def _files(kind: type, split: dict[str, object]) -> str:
    """The archives to place by hand (torchvision unpacks them itself), with the MD5 sums that it will check."""
    if "split" in split:
        files = [kind.split_list[part][1:3] for part in ("train", "test")]  # type: ignore[attr-defined]
    else:
        files = [(kind.filename, kind.tgz_md5)]  # type: ignore[attr-defined]
    return " and ".join(f"{name} (md5 {md5})" for name, md5 in files)
