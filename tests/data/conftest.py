"""Small published archives in their true formats, a web server that misbehaves as asked, and a tiny disk."""

from __future__ import annotations

import hashlib
import io
import pickle
import struct
import sys
import tarfile
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import scipy.io

from srat_fast.data import archives
from srat_fast.data.archives import CIFAR, SVHN, Archive
from srat_fast.datasets import DATASETS

NOWHERE = "http://127.0.0.1:9/"  # the discard port: nothing listens


class Python2Pickler(pickle._Pickler):
    """Writes as the publishers' Python 2 did: byte strings for text, and numpy's old module names."""

    dispatch: ClassVar[dict] = dict(pickle._Pickler.dispatch)

    def save_string(self, value: str | bytes) -> None:
        content = value if isinstance(value, bytes) else value.encode("latin1")
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(value)

    dispatch[bytes] = save_string
    dispatch[str] = save_string


def python2_pickle(value: Any) -> bytes:
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def batch(number: int, label_key: str, labels: list[int]) -> bytes:
    """Two images: all `number`, but for the first pixel's red, 200 and 201."""
    data = np.full((2, 3072), number, np.uint8)
    data[:, 0] = [200, 201]
    names = [f"image_{number}_{k}.png" for k in range(2)]
    return python2_pickle({"data": data, label_key: labels, "filenames": names, "batch_label": "one batch"})


def member(name: str, content: bytes = b"", **facts: Any) -> tuple[tarfile.TarInfo, bytes]:
    """An entry of an archive; `facts` such as type and linkname make it a link."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in facts.items():
        setattr(info, key, value)
    return info, content


def archive_of(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return path


def described(path: Path, archive: Archive) -> Archive:
    """The facts of a file that stands in for a published one; its publisher cannot be reached."""
    content = path.read_bytes()
    return replace(
        archive,
        url=NOWHERE + archive.name,
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        md5=hashlib.md5(content).hexdigest(),
    )


class Published:
    """Stands in for the publishers: small archives, with the product's facts table telling their checksums."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory, self._monkeypatch = directory, monkeypatch
        directory.mkdir()

    def cifar(
        self, name: str, extra: list[tuple[tarfile.TarInfo, bytes]] | None = None, **replaced: bytes | None
    ) -> Path:
        """Make an archive with two images a batch; `replaced` gives other content to members, or None to leave out."""
        facts = CIFAR[name]
        top, classes = facts.folder, len(DATASETS[name].classes)
        members = [member(top, type=tarfile.DIRTYPE), member(f"{top}/readme.html", b"<html>")]
        sums = {}
        for number, part in enumerate(facts.train | facts.test):
            content = replaced.get(part, batch(number, facts.label_key, [number % classes, classes - 1]))
            sums[part] = hashlib.md5(content or b"").hexdigest()
            if content is not None:
                members.append(member(f"{top}/{part}", content))
        path = archive_of(self.directory / facts.archive.name, [*(extra or []), *members])
        facts = replace(
            facts,
            archive=described(path, facts.archive),
            train={part: sums[part] for part in facts.train},
            test={part: sums[part] for part in facts.test},
        )
        self._monkeypatch.setitem(CIFAR, name, facts)
        return path

    def svhn(self) -> Path:
        """Make both files; image k of 4 has 10 (k + 1) in row 0, column 1, blue."""
        images = np.zeros((32, 32, 3, 4), np.uint8)
        images[0, 1, 2] = [10, 20, 30, 40]
        for part in ("train", "test"):
            path = self.directory / SVHN[part].name
            scipy.io.savemat(path, {"X": images, "y": np.array([[10], [1], [2], [3]])}, do_compression=True)
            self._monkeypatch.setitem(SVHN, part, described(path, SVHN[part]))
        return self.directory

    def script(self, body: str, *arguments: object) -> list[str]:
        """A command line that runs `body` in another process, which knows the same facts."""
        facts = self.directory / "facts.pickle"
        facts.write_bytes(pickle.dumps((CIFAR, SVHN)))
        head = (
            "import pickle, sys\nfrom pathlib import Path\nfrom srat_fast.data import archives\n"
            "cifar, svhn = pickle.loads(Path(sys.argv.pop(1)).read_bytes())\n"
            "archives.CIFAR.update(cifar); archives.SVHN.update(svhn)\n"
        )
        return [sys.executable, "-c", head + body, str(facts), *map(str, arguments)]


@pytest.fixture
def published(tmp_path, monkeypatch) -> Published:
    return Published(tmp_path / "published", monkeypatch)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The cache directory, empty."""
    path = tmp_path / "cache"
    monkeypatch.setenv("SRAT_FAST_CACHE", str(path))
    return path


class Server:
    """A web server for a directory.

    Attributes:
        url: its base address.
        requests: (path, Range header or None), in order.
        mood: "well", "html", "html-as-archive", "missing", "busy", "hangs", "changed", "longer", or "breaks" (sends
            half of what is left and closes); "breaks" and "busy" become "well" after `times` requests.
        resumes: whether it answers Range requests.
        delay: seconds before it answers.
        password: what it asks for, name:password in base64; None for nothing.
    """

    def __init__(self, directory: Path) -> None:
        self.requests: list[tuple[str, str | None]] = []
        self.mood, self.times, self.resumes, self.delay = "well", 1, True, 0.0
        self.password: str | None = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self, directory)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/sets"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def answer(self, handler: BaseHTTPRequestHandler, directory: Path) -> None:
        asked = handler.headers.get("Range")
        self.requests.append((handler.path, asked))
        time.sleep(self.delay)
        mood = (
            self.mood if len(self.requests) <= self.times or self.mood not in ("breaks", "busy") else "well"
        )
        if self.password and handler.headers.get("Authorization") != f"Basic {self.password}":
            handler.send_error(401)
            return
        content = (directory / handler.path.rpartition("/")[2]).read_bytes()
        start, status = 0, 200
        if mood in ("missing", "busy"):
            handler.send_error(404 if mood == "missing" else 503)
            return
        if mood == "hangs":
            time.sleep(1.5)
            return
        if mood in ("html", "html-as-archive"):
            page = b"\n<!DOCTYPE html><html>please log in</html>"
            content = page if mood == "html" else page.ljust(len(content))
        elif mood == "changed":
            content = bytes([*content[:-1], content[-1] ^ 1])
        elif mood == "longer":
            content += b"more"
        elif asked and self.resumes:
            start, status = int(asked.removeprefix("bytes=").removesuffix("-")), 206
        body = content[start:]
        handler.send_response(status)
        if mood != "longer":
            handler.send_header("Content-Length", str(len(body)))
        if status == 206:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        handler.end_headers()
        handler.wfile.write(body[: len(body) // 2] if mood == "breaks" else body)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server for the published archives; connections are tried again without a pause."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(archives, "PAUSE", 0.01)
    running = Server(tmp_path / "published")
    yield running
    running.close()
