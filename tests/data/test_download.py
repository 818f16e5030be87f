"""Downloads from real servers on this machine: whole, broken, slow, wrong, raced and killed."""

from __future__ import annotations

import base64
import logging
import os
import signal
import subprocess
import time

import pytest

from srat_fast.data import archives as module
from srat_fast.data.archives import CIFAR, archives_of, download
from srat_fast.data.sources import load_arrays
from srat_fast.errors import UserError

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def archive(published):
    """A published archive of some size, in a directory that only the server reads."""
    published.cifar("cifar10", test_batch=os.urandom(300_000))
    return CIFAR["cifar10"].archive


def names(directory) -> list[str]:
    return sorted(p.name for p in directory.iterdir())


def test_an_archive_comes_from_the_mirror(archive, server, tmp_path, caplog) -> None:
    caplog.set_level(logging.INFO, "srat_fast.data")
    path = download(archive, tmp_path / "new" / "root", server.url + "/")
    assert path.read_bytes() == (tmp_path / "published" / archive.name).read_bytes()
    assert names(path.parent) == [archive.name]
    assert server.requests == [(f"/sets/{archive.name}", None)]
    assert caplog.messages == [f"downloading {archive.name} (0 MB) from 127.0.0.1"]


def test_mirrors_may_be_named_in_the_environment_or_be_a_directory(archive, server, tmp_path, monkeypatch):
    monkeypatch.setenv("SRAT_FAST_MIRROR", server.url)
    assert download(archive, tmp_path / "a").exists()
    monkeypatch.setenv("SRAT_FAST_MIRROR", (tmp_path / "published").as_uri())
    assert download(archive, tmp_path / "b").exists()
    assert len(server.requests) == 1
    monkeypatch.setenv("SRAT_FAST_MIRROR", "no url")
    with pytest.raises(UserError, match="SRAT_FAST_MIRROR = 'no url': a base URL is needed"):
        download(archive, tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_mirror_without_the_archive_is_followed_by_the_publisher(archive, server, tmp_path) -> None:
    from dataclasses import replace

    (tmp_path / "empty").mkdir()
    at_home = replace(archive, url=f"{server.url}/{archive.name}")
    assert download(at_home, tmp_path / "root", (tmp_path / "empty").as_uri()).exists()
    assert len(server.requests) == 1


def test_a_mirror_may_ask_for_a_password_which_no_message_has(archive, server, tmp_path) -> None:
    server.password = base64.b64encode("me:s@cret ü".encode()).decode()
    host = server.url.removeprefix("http://")
    assert download(archive, tmp_path / "a", f"http://me:s%40cret%20%C3%BC@{host}").exists()
    with pytest.raises(
        UserError, match=r"downloading failed \(127\.0\.0\.1: answers 401 Unauthorized"
    ) as error:
        download(archive, tmp_path / "b", f"http://me:wrong@{host}")
    assert "wrong" not in str(error.value)


@pytest.mark.parametrize(
    ("mirror", "says"),
    [
        ("http://127.0.0.1:9/données und mehr", r"\(127\.0\.0\.1: Connection refused"),
        ("http://[::1", r"data\.mirror = 'http://\[::1': a base URL is needed"),
        ("http://127.0.0.1:port/", r"\(127\.0\.0\.1: is no address: nonnumeric port: 'port';"),
        (f"http://{'a' * 64}.example/", "is no address: .*label"),
    ],
)
def test_an_address_that_is_none_is_one_line(mirror, says, archive, server, tmp_path) -> None:
    with pytest.raises(UserError, match=says):
        download(archive, tmp_path / "root", mirror)
    assert not (tmp_path / "root").exists()


def test_a_broken_connection_is_resumed_where_it_broke(archive, server, tmp_path) -> None:
    server.mood, server.times = "breaks", 2
    path = download(archive, tmp_path / "root", server.url)
    assert path.stat().st_size == archive.size
    starts = [0 if asked is None else int(asked[6:-1]) for _, asked in server.requests]
    assert starts[0] == 0 < starts[1] < starts[2] < archive.size


def test_a_server_that_cannot_resume_starts_again(archive, server, tmp_path) -> None:
    server.mood, server.resumes = "breaks", False
    assert download(archive, tmp_path / "root", server.url).stat().st_size == archive.size
    assert len(server.requests) == 2


def test_a_busy_server_is_asked_again(archive, server, tmp_path) -> None:
    server.mood = "busy"
    assert download(archive, tmp_path / "root", server.url).exists()


@pytest.mark.parametrize(
    ("mood", "says", "requests"),
    [
        ("html", "sent a web page, not the archive", 1),
        ("html-as-archive", "sent a web page, not the archive", 1),
        ("changed", "is damaged: its SHA-256 is", 1),
        ("longer", "sends more than", 1),
        ("missing", "answers 404 Not Found", 1),
        ("breaks", "the connection broke after", 4),
        ("hangs", "timed out, 4 times", 4),
    ],
)
def test_what_a_server_does_wrong(mood, says, requests, archive, server, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    server.mood, server.times = mood, 99
    if mood == "breaks":
        server.resumes = False
    with pytest.raises(UserError, match=r"data\.root") as error:
        download(archive, tmp_path / "deep" / "root", server.url)
    text = str(error.value)
    assert f"127.0.0.1: {says}" in text
    assert f"place {archive.name} ({archive.size} bytes, MD5 {archive.md5}, SHA-256 {archive.sha256})" in text
    assert "--mirror URL or SRAT_FAST_MIRROR" in text
    assert "\n" not in text
    assert len(server.requests) == requests
    assert not (tmp_path / "deep").exists(), "something half-made is left"


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn"])
def test_without_network_the_message_says_what_to_place_where(name, published, tmp_path, monkeypatch) -> None:
    published.svhn() if name == "svhn" else published.cifar(name)  # their publisher is a closed port
    monkeypatch.setattr(module, "PAUSE", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    archive = archives_of(name)[0]
    says = rf"deep/data': place {archive.name} \(\d+ bytes, MD5 {archive.md5}, .*Connection refused"
    with pytest.raises(UserError, match=says):
        load_arrays(name, tmp_path / "deep" / "data", 32)
    assert not (tmp_path / "deep").exists()


def test_a_full_disk_is_one_line_and_leaves_nothing(archive, server, disk_of) -> None:
    disk = disk_of("64k")
    assert archive.size > 100_000
    with pytest.raises(UserError, match=r"cannot be written: No space left on device"):
        download(archive, disk / "root", server.url)
    assert names(disk) == []


def test_a_directory_that_cannot_be_made(archive, server, tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"file/root': cannot be written: Not a directory"):
        download(archive, tmp_path / "file" / "root", server.url)
    assert server.requests == []


LOAD = """
from srat_fast.data.notices import printed
from srat_fast.data.sources import load_arrays
print("ready", flush=True)
sys.stdin.readline()
with printed():
    print(load_arrays("cifar10", Path(sys.argv[1]), 32, sys.argv[2]).train.labels.tolist())
"""


@pytest.mark.parametrize("caches", [1, 2], ids=["one cache", "two caches"])
def test_of_two_processes_one_downloads_and_the_other_waits(caches, published, server, tmp_path) -> None:
    published.cifar("cifar10")
    server.delay = 1.0
    root = tmp_path / "root"
    command = published.script(LOAD, root, server.url)
    processes = [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"SRAT_FAST_CACHE": str(tmp_path / f"cache{k % caches}")},
        )
        for k in range(2)
    ]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 2
    for process in processes:  # both are started up: now they race
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert [out for out, _ in said] == ["[0, 9, 1, 9, 2, 9, 3, 9, 4, 9]\n"] * 2
    assert len(server.requests) == 1
    lines = "".join(err for _, err in said)
    assert lines.count("downloading cifar-10-python.tar.gz") == 1
    what = "prepares" if caches == 1 else "downloads"
    assert lines.count(f"waiting for another process that {what} cifar") == 1
    assert names(root) == ["cifar-10-python.tar.gz"]
    assert list(tmp_path.glob("cache*/.*")) == []


def test_what_a_killed_download_leaves_is_used_up(published, server, tmp_path, monkeypatch) -> None:
    published.cifar("cifar10")
    server.delay = 60.0
    root = tmp_path / "root"
    process = subprocess.Popen(
        published.script(LOAD, root, server.url), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    process.stdin.write(b"go\n")
    process.stdin.flush()
    part = root / ".cifar-10-python.tar.gz.part"
    while not server.requests:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert part.exists()
    server.delay = 0.0
    assert len(load_arrays("cifar10", root, 32, server.url).train) == 10
    assert names(root) == ["cifar-10-python.tar.gz"]
