"""Full memory in words: torch's and numpy's errors enter, one line that says what to lower leaves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from srat_fast.errors import TrainingFailure

#: What is said by errors for want of memory that have no type of their own.
_WORDS = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "DefaultCPUAllocator")


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
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise TrainingFailure(f"out of memory {where}; lower {lower}") from None


def out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that led to it, is for want of memory.

    An allocation that fails in the middle of a capture or a compilation comes out as whatever failed after it, and the
    CUDA runtime, cuBLAS and torch's CPU allocator have no exception type of their own.
    """
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, (torch.OutOfMemoryError, MemoryError)) or any(w in str(one) for w in _WORDS):
            return True
        todo += [one.__cause__, one.__context__]
    return False
