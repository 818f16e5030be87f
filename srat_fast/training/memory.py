"""Full memory in words: torch's and numpy's errors enter, one line that says what to lower leaves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from srat_fast.errors import TrainingFailure


@contextmanager
def memory_errors(where: str, lower: str) -> Iterator[None]:
    """Turns an error for want of memory, of the GPU or of the machine, into one line.

    Args:
        where: such as "in epoch 3".
        lower: the options that help there.

    Raises:
        TrainingFailure: in place of the error inside; it begins with "out of memory".
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise TrainingFailure(f"out of memory {where}; lower {lower}") from None
    except RuntimeError as error:
        # torch's CPU allocator has no exception type of its own
        if "DefaultCPUAllocator" not in str(error):
            raise
        raise TrainingFailure(f"out of memory {where}; lower {lower}") from None
