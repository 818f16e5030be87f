"""ffcv, imported when it is asked for: nothing enters; the layer around it leaves, or one line on how to install it."""

from __future__ import annotations

import os
from types import ModuleType

from srat_fast.errors import MissingPackage, UserError

#: What a Debian or Ubuntu machine needs; docs/howto/loaders.md has the longer form.
INSTALL = "bash .ci/ffcv in a checkout, or see docs/howto/loaders.md, Installing ffcv; --loader memory needs nothing"
_PARTS = ("ffcv", "numba", "llvmlite", "cv2", "tqdm", "psutil", "distutils")


def ffcv_library() -> ModuleType:
    """`srat_fast.data.ffcv_library`, imported with ffcv, numba and OpenCV.

    Returns:
        The module.

    Raises:
        MissingPackage: ffcv or a package that it needs is not there.
        UserError: it is there and cannot be imported.
    """
    try:
        from srat_fast.data import ffcv_library as module
    except ImportError as error:
        missing = (error.name or "").split(".")[0]
        if isinstance(error, ModuleNotFoundError) and missing in _PARTS:
            raise MissingPackage(
                "ffcv" if missing == "ffcv" else f"{missing} (of ffcv)", "--loader ffcv", INSTALL
            ) from None
        raise UserError("data.loader", _broken(error), "ffcv") from None
    except OSError as error:  # a shared library that ctypes does not find
        raise UserError("data.loader", _broken(error), "ffcv") from None
    return module


def _broken(error: Exception) -> str:
    return f"ffcv is installed but cannot be imported ({' '.join(str(error).split())}); {INSTALL}"


def default_workers(cuda: bool) -> int:
    """Decoding threads where the recipe does not say.

    Args:
        cuda: whether training runs on a GPU; on a CPU the cores have enough to do.

    Returns:
        1, or the cores of this process, at most 8.
    """
    return min(8, len(os.sched_getaffinity(0))) if cuda else 1
