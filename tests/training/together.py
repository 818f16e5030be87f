"""Processes of one run, as torchrun starts them, in which a test calls a function: forked from one that has torch."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch
import torch.distributed as dist

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["srat_fast.training.trainer", "tests.training.short_runs"])


def _work(
    rank: int, size: int, port: int, pipe: Connection, function: Callable[..., Any], given: Any
) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_USE_AGENT_STORE="True",
    )
    torch.set_num_threads(1)
    try:
        pipe.send((True, function(*given)))
    except BaseException as error:
        pipe.send((False, f"{type(error).__name__}: {error}\n{traceback.format_exc()}"))


class Together:
    """`size` processes that call `function`; one that fails has a text in place of its result."""

    def __init__(self, size: int, function: Callable[..., Any], *given: Any) -> None:
        # as torchrun's agent has it
        self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        port = self._store.port
        self.processes: list[BaseProcess] = []
        self._pipes = []
        for rank in range(size):
            here, there = _CONTEXT.Pipe()
            process = _CONTEXT.Process(target=_work, args=(rank, size, port, there, function, given))
            process.start()
            there.close()
            self.processes.append(process)
            self._pipes.append(here)

    def running(self) -> bool:
        """Whether all are at work."""
        return all(process.is_alive() for process in self.processes)

    def results(self, seconds: float = 120.0) -> list[tuple[bool, Any]]:
        """Whether it was returned, and the result or error, of each process; none is left behind."""
        found: list[tuple[bool, Any]] = []
        try:
            for pipe in self._pipes:
                try:
                    found.append(pipe.recv() if pipe.poll(seconds) else (False, "too slow"))
                except EOFError:
                    found.append((False, "killed"))
        finally:
            for process in self.processes:
                process.join(5)
                process.kill()
                process.join()
        return found


def together(size: int, function: Callable[..., Any], *given: Any) -> list[Any]:
    """The results of all, where none has failed."""
    found = Together(size, function, *given).results()
    assert all(done for done, _ in found), "\n".join(str(result) for done, result in found if not done)
    return [result for _, result in found]
