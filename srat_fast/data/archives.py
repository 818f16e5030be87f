"""The published archives: file names, addresses, sizes, checksums and members.

Facts only, as their publishers and torchvision state them. SHA-256 judges a whole archive, upstream's MD5 sums judge
its members, so that an archive unpacked by torchvision can be judged too.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Archive:
    """One file that a publisher serves.

    Attributes:
        name: its file name; a mirror serves it under this name.
        url: the publisher's address.
        size: bytes.
        sha256: of its content.
        md5: of its content, as upstream states it.
    """

    name: str
    url: str
    size: int
    sha256: str
    md5: str


@dataclass(frozen=True)
class CifarFacts:
    """A CIFAR set: one archive of Python pickles.

    Attributes:
        archive: the archive.
        folder: the directory inside of it.
        train: member -> MD5, in the order of the training images.
        test: likewise for the test images.
        label_key: of a batch's labels.
    """

    archive: Archive
    folder: str
    train: dict[str, str]
    test: dict[str, str]
    label_key: str


_KRIZ = "https://www.cs.toronto.edu/~kriz/"
_HOUSENUMBERS = "http://ufldl.stanford.edu/housenumbers/"

CIFAR: dict[str, CifarFacts] = {
    "cifar10": CifarFacts(
        Archive(
            "cifar-10-python.tar.gz",
            _KRIZ + "cifar-10-python.tar.gz",
            170498071,
            "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            "c58f30108f718f92721af3b95e74349a",
        ),
        "cifar-10-batches-py",
        {
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        {"test_batch": "40351d587109b95175f43aff81a1287e"},
        "labels",
    ),
    "cifar100": CifarFacts(
        Archive(
            "cifar-100-python.tar.gz",
            _KRIZ + "cifar-100-python.tar.gz",
            169001437,
            "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
            "eb9058c3a382ffc7106e4002c42a8d85",
        ),
        "cifar-100-python",
        {"train": "16019d7e3df5f24257cddd939b257f8d"},
        {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        "fine_labels",
    ),
}

#: One MATLAB file a part ("cropped digits", 32 x 32).
SVHN: dict[str, Archive] = {
    "train": Archive(
        "train_32x32.mat",
        _HOUSENUMBERS + "train_32x32.mat",
        182040794,
        "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
        "e26dedcc434d2e4c54c9b2d4a06d8373",
    ),
    "test": Archive(
        "test_32x32.mat",
        _HOUSENUMBERS + "test_32x32.mat",
        64275384,
        "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
        "eb5a983be6a315427106f1b164d9cef3",
    ),
}


def archives_of(name: str) -> list[Archive]:
    """The files that a data set is published in.

    Args:
        name: cifar10, cifar100 or svhn.

    Returns:
        One or two archives.
    """
    return list(SVHN.values()) if name == "svhn" else [CIFAR[name].archive]
