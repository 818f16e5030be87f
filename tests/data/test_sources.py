"""Sources: digits, and the torchvision sets read from small archives in their true formats."""

from __future__ import annotations

import hashlib
import pickle
import tarfile

import numpy as np
import pytest
import scipy.io

from srat_fast.data.sources import load_arrays
from srat_fast.data.torchvision_import import torchvision_datasets
from srat_fast.datasets import DATASETS
from srat_fast.errors import UserError


def test_digits_are_real_and_split_by_class() -> None:
    arrays = load_arrays("digits", None, 8)
    assert arrays.train.images.shape == (1297, 8, 8, 1)
    assert np.bincount(arrays.test.labels).tolist() == [50] * 10
    assert tuple(np.bincount(arrays.train.labels)) == DATASETS["digits"].train_counts
    assert (arrays.train.images.min(), arrays.train.images.max()) == (0, 255)


def md5(path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def cifar10_archive(tmp_path, monkeypatch):
    """cifar-10-python.tar.gz with two images a batch, and torchvision told its checksums."""
    kind = torchvision_datasets().CIFAR10
    source, root = tmp_path / "make" / "cifar-10-batches-py", tmp_path / "root"
    source.mkdir(parents=True)
    root.mkdir()
    sums = {}
    for k, (name, _) in enumerate([*kind.train_list, *kind.test_list]):
        data = np.full((2, 3072), k, np.uint8)
        data[:, 0] = [200, 201]  # red channel, row 0, column 0
        (source / name).write_bytes(pickle.dumps({"data": data, "labels": [k % 10, 9]}))
        sums[name] = md5(source / name)
    (source / "batches.meta").write_bytes(pickle.dumps({"label_names": list(DATASETS["cifar10"].classes)}))
    archive = root / kind.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source, "cifar-10-batches-py")
    monkeypatch.setattr(kind, "train_list", [[n, sums[n]] for n, _ in kind.train_list])
    monkeypatch.setattr(kind, "test_list", [[n, sums[n]] for n, _ in kind.test_list])
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": md5(source / "batches.meta")})
    monkeypatch.setattr(kind, "tgz_md5", md5(archive))
    return archive


def test_cifar10_from_an_archive_placed_by_hand(cifar10_archive) -> None:
    arrays = load_arrays("cifar10", cifar10_archive.parent, 32)
    assert arrays.train.images.shape == (10, 32, 32, 3)
    assert arrays.test.images.shape == (2, 32, 32, 3)
    assert arrays.train.images[0, 0, 0].tolist() == [200, 0, 0]  # channels last, red first
    assert arrays.train.labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
    assert arrays.classes[0] == "airplane"


def test_a_changed_archive_is_not_unpickled(cifar10_archive) -> None:
    content = bytearray(cifar10_archive.read_bytes())
    content[len(content) // 2] ^= 1
    cifar10_archive.write_bytes(content)
    with pytest.raises(UserError, match=r"downloading it failed .*; place cifar-10-python\.tar\.gz \(md5 "):
        load_arrays("cifar10", cifar10_archive.parent, 32)


def test_svhn_from_its_files(tmp_path, monkeypatch) -> None:
    kind = torchvision_datasets().SVHN
    images = np.zeros((32, 32, 3, 4), np.uint8)
    images[0, 1, 2] = [10, 20, 30, 40]  # row 0, column 1, blue
    lists = dict(kind.split_list)
    for part in ("train", "test"):
        url, name, _ = lists[part]
        scipy.io.savemat(tmp_path / name, {"X": images, "y": np.array([[10], [1], [2], [3]])})
        lists[part] = [url, name, md5(tmp_path / name)]
    monkeypatch.setattr(kind, "split_list", lists)
    arrays = load_arrays("svhn", tmp_path, 32)
    assert arrays.train.images[:, 0, 1, 2].tolist() == [10, 20, 30, 40]
    assert arrays.train.labels.tolist() == [0, 1, 2, 3]  # SVHN writes the digit 0 as 10


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn"])
def test_without_network_the_message_says_what_to_place_where(name, tmp_path, monkeypatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    root = tmp_path / "deep" / "data"
    with pytest.raises(
        UserError, match=r"does not hold .* downloading it failed .*; place .* \(md5 [0-9a-f]{32}\)"
    ):
        load_arrays(name, root, 32)
    assert not (tmp_path / "deep").exists()
