"""Shared fixtures: a device, tiny images and a console that is no terminal.

Without a GPU the kernels run in triton's interpreter. That is decided here, before any test module is imported, because
triton reads it once and torch.compile imports triton. Other tests do not notice: ``backend="auto"`` on a CPU means
"torch".
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from srat_fast.data.arrays import ImageArrays, ImageSet
from tests.leftovers import end_children_with, mount_tmpfs
from tests.leftovers import pytest_handlecrashitem as pytest_handlecrashitem

# Both read by torch at the first product on a GPU; also what tests outside of `hardware.numerics` are judged by.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
torch.backends.cudnn.allow_tf32 = False  # float32 means float32
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
# Read once, when numba is imported: ffcv's decoders run as plain Python here; one test compiles them elsewhere.
os.environ.setdefault("NUMBA_DISABLE_JIT", "1")


def pytest_configure(config: pytest.Config) -> None:
    end_children_with(os.getpid())


@pytest.fixture
def disk_of(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A function of a size ("64k") that gives a file system of that size; skipped where none can be mounted."""
    place = tmp_path / "disk"

    def mount(size: str) -> Path:
        place.mkdir()
        reason = mount_tmpfs(place, size)
        if reason:
            pytest.skip(f"a tmpfs cannot be mounted here: {reason}")
        return place

    yield mount
    if place.is_mount():
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def device() -> torch.device:
    """The GPU where there is one, so that the same tests judge it."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def uneven_arrays() -> ImageArrays:
    """Three classes with 30, 20 and 12 training images of 8 x 8 pixels; each image's first pixel is its index."""
    counts, size = (30, 20, 12), 8
    generator = np.random.default_rng(0)

    def images(per_class: tuple[int, ...]) -> ImageSet:
        labels = np.repeat(np.arange(len(per_class)), per_class).astype(np.int64)
        pixels = generator.integers(0, 256, (len(labels), size, size, 3), dtype=np.uint8)
        pixels[:, 0, 0, 0] = np.arange(len(labels))
        return ImageSet(pixels, labels)

    return ImageArrays(images(counts), images((5, 5, 5)), ("a", "b", "c"))


@pytest.fixture
def image_folder(tmp_path):
    """A folder data set of two classes with images of several formats, modes and sizes."""
    root = tmp_path / "images"
    generator = np.random.default_rng(1)
    for part, per_class in (("train", 6), ("test", 3)):
        for label, name in enumerate(("cat", "dog")):
            folder = root / part / name
            folder.mkdir(parents=True)
            for k in range(per_class):
                shape = [(20, 30, 3), (32, 32, 3), (40, 16, 3)][k % 3]
                pixels = generator.integers(0, 100, shape, dtype=np.uint8) + 120 * label
                image = Image.fromarray(pixels.astype(np.uint8))
                kind = ["png", "jpg", "bmp"][k % 3]
                if k % 3 == 0:
                    image = image.convert("L" if k == 0 else "RGBA")
                image.save(folder / f"{k}.{kind}")
    return root


@pytest.fixture(scope="session")
def ffcv() -> ModuleType:
    """The layer around ffcv; skipped where it may not be installed, but as root (and so on CI) it has to be there."""
    from srat_fast.data.ffcv_loader import ffcv_library
    from srat_fast.errors import UserError

    try:
        return ffcv_library()
    except UserError as error:
        if os.geteuid() == 0 and os.environ.get("FFCV") != "no":
            pytest.fail(f"{error}; FFCV=no leaves its tests out on purpose")
        pytest.skip(str(error))
