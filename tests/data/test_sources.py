"""Sources: digits, and the published sets read from small archives in their true formats, whole or damaged."""

from __future__ import annotations

import hashlib
import importlib
import os
import pickle
import re
import shutil
import sys
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from srat_fast.data.archives import CIFAR, SVHN, archives_of
from srat_fast.data.sources import load_arrays
from srat_fast.data.torchvision_import import torchvision
from srat_fast.datasets import DATASETS
from srat_fast.errors import UserError

from .conftest import archive_of, batch, described, member, python2_pickle

pytestmark = pytest.mark.usefixtures("cache")


def test_digits_are_real_and_split_by_class() -> None:
    arrays = load_arrays("digits", None, 8)
    assert arrays.train.images.shape == (1297, 8, 8, 1)
    assert np.bincount(arrays.test.labels).tolist() == [50] * 10
    assert tuple(np.bincount(arrays.train.labels)) == DATASETS["digits"].train_counts
    assert (arrays.train.images.min(), arrays.train.images.max()) == (0, 255)


def test_digits_are_those_of_sklearn_which_is_not_imported_for_them(monkeypatch) -> None:
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "sklearn.datasets", None)
        ours = load_arrays("digits", None, 8)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    theirs = load_arrays("digits", None, 8)
    for mine, other in ((ours.train, theirs.train), (ours.test, theirs.test)):
        np.testing.assert_array_equal(mine.images, other.images, strict=True)
        np.testing.assert_array_equal(mine.labels, other.labels, strict=True)


def test_the_facts_are_whole() -> None:
    for name in ("cifar10", "cifar100", "svhn"):
        for archive in archives_of(name):
            assert archive.url.endswith("/" + archive.name)
            assert len(archive.sha256) == 64
            assert len(archive.md5) == 32
            assert f"{archive.size // 10**6}"[:2] in DATASETS[name].source or name == "svhn"
    assert sum(SVHN[part].size for part in SVHN) // 10**6 == 246
    assert len(DATASETS["cifar100"].classes) == len(set(DATASETS["cifar100"].classes)) == 100
    assert sum(DATASETS["svhn"].train_counts) == 73257


def test_addresses_and_md5_sums_are_those_of_torchvision() -> None:
    datasets = torchvision("datasets", "tests")
    for name, theirs in (("cifar10", datasets.CIFAR10), ("cifar100", datasets.CIFAR100)):
        facts = CIFAR[name]
        archive = facts.archive
        assert (archive.name, archive.url, archive.md5) == (theirs.filename, theirs.url, theirs.tgz_md5)
        assert facts.folder == theirs.base_folder
        assert [list(facts.train.items()), list(facts.test.items())] == [
            [tuple(member) for member in part] for part in (theirs.train_list, theirs.test_list)
        ]
    for part, facts in SVHN.items():
        assert [facts.url, facts.name, facts.md5] == datasets.SVHN.split_list[part]


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_read_as_torchvision_reads_it(name, published, tmp_path) -> None:
    archive = published.cifar(name)
    arrays = load_arrays(name, archive.parent, 32)
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    datasets, facts = torchvision("datasets", "tests"), CIFAR[name]

    class Theirs({"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]):  # type: ignore[misc]
        train_list, test_list = list(facts.train.items()), list(facts.test.items())  # of the small archive

        def _load_meta(self) -> None:
            pass

    for train, ours in ((True, arrays.train), (False, arrays.test)):
        theirs = Theirs(tmp_path / "unpacked", train=train)
        assert (ours.images == theirs.data).all()
        assert ours.labels.tolist() == theirs.targets


def test_svhn_is_read_as_torchvision_reads_it(published, monkeypatch) -> None:
    root = published.svhn()
    arrays, theirs = load_arrays("svhn", root, 32), torchvision("datasets", "tests").SVHN
    for part, ours in (("train", arrays.train), ("test", arrays.test)):
        monkeypatch.setitem(theirs.split_list, part, [SVHN[part].url, SVHN[part].name, SVHN[part].md5])
        found = theirs(root, part)
        assert (ours.images == found.data.transpose(0, 2, 3, 1)).all()
        assert ours.labels.tolist() == found.labels.tolist()


def test_a_torchvision_that_is_missing_or_of_another_torch_is_one_line(monkeypatch) -> None:
    def fails(name: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(importlib, "import_module", fails)
    needed = rf"needs the torchvision that was built for torch {re.escape(torch.__version__)}, not 0\.\d+.*::nms does"
    with pytest.raises(UserError, match=needed) as error:
        torchvision("datasets", "data.policy")
    assert error.value.option == "data.policy"

    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(
        UserError, match=r"needs the package torchvision, .*: pip install torchvision torch==\d"
    ):
        torchvision("datasets", "data.policy")


def test_cifar10_from_an_archive_placed_by_hand(published) -> None:
    arrays = load_arrays("cifar10", published.cifar("cifar10").parent, 32)
    assert arrays.train.images.shape == (10, 32, 32, 3)
    assert arrays.test.images.shape == (2, 32, 32, 3)
    assert arrays.train.images[0, 0, 0].tolist() == [200, 0, 0]  # channels last, red first
    assert arrays.train.images[9, 31, 31].tolist() == [4, 4, 4]
    assert arrays.train.labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
    assert arrays.classes[0] == "airplane"


def test_cifar100_takes_the_fine_labels(published) -> None:
    arrays = load_arrays("cifar100", published.cifar("cifar100").parent, 32)
    assert arrays.train.images.shape == (2, 32, 32, 3)
    assert arrays.train.labels.tolist() == [0, 99]
    assert (arrays.classes[0], arrays.classes[99]) == ("apple", "worm")


def test_svhn_from_its_files(published) -> None:
    arrays = load_arrays("svhn", published.svhn(), 32)
    assert arrays.train.images.shape == (4, 32, 32, 3)
    assert arrays.train.images[:, 0, 1, 2].tolist() == [10, 20, 30, 40]
    assert arrays.train.labels.tolist() == [0, 1, 2, 3]  # SVHN writes the digit 0 as 10
    assert arrays.train.labels.dtype == np.int64


def unpacked(published) -> tuple:
    """The folder that torchvision leaves, and the archive gone."""
    archive = published.cifar("cifar10")
    with tarfile.open(archive) as tar:
        tar.extractall(archive.parent, filter="data")
    archive.unlink()
    return archive.parent, archive.parent / CIFAR["cifar10"].folder


def test_a_folder_that_torchvision_unpacked(published) -> None:
    root, folder = unpacked(published)
    assert load_arrays("cifar10", root, 32).train.labels.tolist()[-2:] == [4, 9]
    assert {p.name for p in root.iterdir()} == {folder.name}


def test_a_changed_file_of_an_unpacked_folder_is_named_and_not_unpickled(published, tmp_path) -> None:
    root, folder = unpacked(published)
    (folder / "data_batch_3").write_bytes(evil(tmp_path / "ran"))
    with pytest.raises(UserError, match=r"data_batch_3': is damaged: its MD5 is .*; remove the folder"):
        load_arrays("cifar10", root, 32)
    assert not (tmp_path / "ran").exists()
    (folder / "data_batch_3").unlink()
    with pytest.raises(UserError, match=r"data_batch_3': cannot be read: No such file.*; remove the folder"):
        load_arrays("cifar10", root, 32)
    assert published.cifar("cifar10").exists()
    assert len(load_arrays("cifar10", root, 32).train) == 10  # an archive beside it is taken instead


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (flipped, "is damaged: its SHA-256 is"),
        (lambda content: content[:-100], "is cut short: "),
        (lambda content: b"", "is cut short: 0 bytes instead of"),
        (lambda content: content + b"x", "is not the published file"),
        (lambda content: b"<!DOCTYPE html><html>log in</html>", "is a web page, not the archive"),
    ],
    ids=["flipped bit", "truncated", "empty", "longer", "web page"],
)
@pytest.mark.parametrize("name", ["cifar10", "svhn"])
def test_a_damaged_archive_is_refused_before_it_is_opened(name, damage, says, published, cache, monkeypatch):
    root = published.svhn() if name == "svhn" else published.cifar(name).parent
    archive = root / archives_of(name)[0].name
    archive.write_bytes(damage(archive.read_bytes()))
    monkeypatch.setattr("tarfile.open", None)  # any call would fail otherwise
    monkeypatch.setattr("scipy.io.loadmat", None)
    with pytest.raises(UserError, match=says) as error:
        load_arrays(name, root, 32)
    assert str(archive) in str(error.value)
    assert "remove it to have it downloaded" in str(error.value)
    assert not cache.exists()


class Evil:
    """A pickle that makes a file when it is read."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def evil(path) -> bytes:
    return pickle.dumps({"data": Evil(path), "labels": [1, 2]}, protocol=2)


def test_a_malicious_pickle_is_refused_even_under_the_right_checksum(published, tmp_path) -> None:
    root = published.cifar("cifar10", data_batch_2=evil(tmp_path / "ran")).parent
    with pytest.raises(UserError, match=r"data_batch_2': is not a batch of images: names .*mkdir"):
        load_arrays("cifar10", root, 32)
    assert not (tmp_path / "ran").exists()
    pickle.loads(evil(tmp_path / "ran"))
    assert (tmp_path / "ran").exists()  # the same pickle does run in an ordinary reader


@pytest.mark.parametrize(
    "content",
    [
        b"no pickle",
        python2_pickle([1, 2]),
        python2_pickle({"data": np.zeros((2, 3000), np.uint8), "labels": [0, 1]}),
        python2_pickle({"data": np.zeros((2, 3072), np.float32), "labels": [0, 1]}),
        python2_pickle({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 10]}),
        python2_pickle({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1, 2]}),
        python2_pickle({"data": np.zeros((2, 3072), np.uint8)}),
        batch(0, "fine_labels", [0, 1]),
    ],
)
def test_what_is_no_batch_is_refused(content, published) -> None:
    with pytest.raises(UserError, match="data_batch_1': is not a batch of images"):
        load_arrays("cifar10", published.cifar("cifar10", data_batch_1=content).parent, 32)


def test_members_with_paths_outside_are_passed_over(published, tmp_path) -> None:
    top = CIFAR["cifar10"].folder
    extra = [
        member("../escaped", b"out"),
        member(str(tmp_path / "absolute"), b"out"),
        member(f"{top}/../data_batch_1", b"other"),
        member("way/out", type=tarfile.SYMTYPE, linkname=str(tmp_path)),
        member("way/out/written", b"through a link"),
        member(f"other/{top}/test_batch", b"other"),
    ]
    root = published.cifar("cifar10", extra).parent
    before = sorted(p for p in tmp_path.rglob("*") if "cache" not in p.parts)
    assert load_arrays("cifar10", root, 32).train.labels.tolist()[0] == 0
    assert sorted(p for p in tmp_path.rglob("*") if "cache" not in p.parts) == before


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_an_expected_member_that_is_no_plain_file_is_refused(kind, published, tmp_path) -> None:
    top = CIFAR["cifar10"].folder
    (tmp_path / "secret").write_text("secret")
    link = member(f"{top}/data_batch_1", type=kind, linkname=str(tmp_path / "secret"))
    root = published.cifar("cifar10", [link], data_batch_1=None).parent
    with pytest.raises(UserError, match=r"its member .*/data_batch_1 is not one plain file"):
        load_arrays("cifar10", root, 32)


def test_members_missing_twice_or_changed_are_refused(published) -> None:
    top = CIFAR["cifar10"].folder
    with pytest.raises(UserError, match=f"holds no {top}/test_batch"):
        load_arrays("cifar10", published.cifar("cifar10", test_batch=None).parent, 32)
    twice = published.cifar("cifar10", [member(f"{top}/test_batch", batch(5, "labels", [5, 9]))])
    with pytest.raises(UserError, match="test_batch is not one plain file"):
        load_arrays("cifar10", twice.parent, 32)
    changed = archive_of(twice, [member(f"{top}/test_batch", batch(6, "labels", [5, 9]))])
    CIFAR["cifar10"] = replace(CIFAR["cifar10"], archive=described(changed, CIFAR["cifar10"].archive))
    with pytest.raises(UserError, match="test_batch': is damaged: its MD5"):
        load_arrays("cifar10", changed.parent, 32)


def test_an_archive_that_is_no_archive_is_refused_under_the_right_checksum(published) -> None:
    path = published.cifar("cifar10")
    for content in (b"\x1f\x8bnot a gzip stream", path.read_bytes()[:300], os.urandom(3000)):
        path.write_bytes(content)
        CIFAR["cifar10"] = replace(CIFAR["cifar10"], archive=described(path, CIFAR["cifar10"].archive))
        with pytest.raises(UserError, match="is no readable archive"):
            load_arrays("cifar10", path.parent, 32)


def test_a_matlab_file_of_something_else_is_refused(published, monkeypatch) -> None:
    import scipy.io

    root = published.svhn()
    path = root / SVHN["train"].name
    for content in ({"X": np.zeros((4, 4, 3, 2), np.uint8), "y": [[1], [2]]},
                    {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": [[1], [11]]},
                    {"X": np.zeros((32, 32, 3, 2)), "y": [[1], [2]]}, {"Z": [1]}):  # fmt: skip
        scipy.io.savemat(path, content)
        monkeypatch.setitem(SVHN, "train", described(path, SVHN["train"]))
        with pytest.raises(UserError, match=r"train_32x32\.mat': is no "):
            load_arrays("svhn", root, 32)


def test_a_prepared_set_needs_no_archive(published, cache) -> None:
    root = published.cifar("cifar10").parent
    first = load_arrays("cifar10", root, 32)
    shutil.rmtree(root)
    again = load_arrays("cifar10", root, 32)
    assert (again.train.images == first.train.images).all()
    assert hashlib.sha256(again.test.images).digest() == hashlib.sha256(first.test.images).digest()
    assert isinstance(again.train.images.base, np.memmap)
