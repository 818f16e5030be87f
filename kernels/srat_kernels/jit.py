"""The one file that imports triton: `triton`, `tl` and what the tuner needs of them.

Imported only when a kernel is about to run, so that `import srat_kernels` needs no triton.
"""

from __future__ import annotations

from srat_kernels.backends import interpreting

try:
    import triton
    import triton.language as tl
    from triton.runtime.cache import get_cache_manager
    from triton.testing import do_bench
except ImportError as error:
    raise ImportError('backend = "triton": triton is missing, install it with: pip install triton') from error

#: Whether kernels of this process run in triton's interpreter: decided for good when triton is first imported.
INTERPRETED = not isinstance(tl.sum, triton.JITFunction)

if interpreting() and not INTERPRETED:
    raise RuntimeError(
        "TRITON_INTERPRET=1 came too late: set it before anything imports triton, torch.compile included"
    )

__all__ = ["INTERPRETED", "do_bench", "get_cache_manager", "tl", "triton"]
