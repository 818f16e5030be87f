# ruff: noqa: D102 - `Group` does what the docstrings of `Ranks` say
"""Processes of one run under torchrun: each one's share of a batch, and what is computed over the whole batch.

The rule that keeps N processes one method: every process computes the objective of the whole batch from everybody's
outputs, and gradients are averaged. So a gathered output hands its own rows' gradient back N times, and what reads the
weights directly, like a regulariser of the head, counts once. Gradients are averaged here and not by
DistributedDataParallel, whose reduction belongs to `backward`: AWP's gradient never reaches `.grad`, a loss that is not
finite has to be seen before the update, and a part that is captured as a CUDA graph must hold no collective.
"""

from __future__ import annotations

import datetime
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from srat_fast.errors import Interrupted, TrainingFailure, UserError, failure_of, launched

T = TypeVar("T")
#: Bytes of gradients that are averaged at a time.
BUCKET = 2**25
#: What processes agree upon between two steps: a signal's number, whether to save, whether a step was not finite.
_FLAGS = ("stop", "due", "bad")
#: The launcher's store, once for each run that this process has taken part in.
_STORES: list[Any] = []
#: Seconds in which a process that fails is expected to say why.
_TOLD = 3.0


class PeerLost(TrainingFailure):
    """Another process of the run has failed, or does not answer."""

    #: the process that prints it in place of the first
    rank: int | None = None

    def __init__(self, problem: str, failure: str = "error") -> None:
        super().__init__(problem)
        self.failure = failure


class Ranks:
    """One process, which has every image; nothing is exchanged."""

    rank, size = 0, 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes, prints and saves."""
        return self.rank == 0

    def share(self, images: int) -> slice:
        """The rows of a batch that are this process's: consecutive ones, at most one more than another's; or none."""
        each, more = divmod(images, self.size)
        start = self.rank * each + min(self.rank, more)
        return slice(start, start + each + (self.rank < more))

    def own(self, rows: Tensor) -> Tensor:
        """Its share of a whole batch."""
        return rows

    def gatherer(self, images: int) -> Whole | None:
        """Share -> whole batch of `images` rows, with gradient; None where they are the same."""
        return None

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their means over the processes."""

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over the processes."""
        return tensor

    def largest_(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by the largest of each element over the processes."""
        return tensor

    def to_first_(self, *counters: Tensor) -> None:
        """Add counters up in the first process; those of the others begin at 0 again."""

    def objects(self, own: T) -> list[T]:
        """An object of each process."""
        return [own]

    def norms(self, kind: str) -> AbstractContextManager[Any]:
        """Forward passes with BatchNorm statistics of the whole batch ("sync") or of each share ("local")."""
        return nullcontext()

    def heard(self, name: str, own: int) -> int:
        """The largest value of a flag over the processes, as of the last `tick`."""
        return own

    def tick(self) -> None:
        """Exchange flags; their values are known at the next step boundary."""

    def clear(self, name: str) -> None:
        """Take back what this process would say of a flag."""

    def on_first(self, function: Callable[[], T]) -> T:
        """The result of a call in the first process, however long it takes."""
        return function()

    def one_a_node(self) -> AbstractContextManager[None]:
        """What runs inside runs first in one process of each machine: for downloads and caches."""
        return nullcontext()

    def same(self, what: str, own: Any) -> None:
        """Refuse to go on where the processes differ."""

    def device(self, requested: str) -> str:
        """`run.device` of this process."""
        return requested


ALONE = Ranks()


@contextmanager
def joined(requested: str, seconds: float) -> Iterator[Ranks]:
    """The processes of torchrun, or this one alone; `requested`: run.device, `seconds`: longest wait for another."""
    rank, size = launched()
    if size == 1:
        yield ALONE
        return
    group = Group(rank, size, seconds)
    try:
        group.meet(requested)
        yield group
    except BaseException as error:
        group.leave(error)
        raise
    group.leave(None)


class Group(Ranks):
    """One of several processes."""

    def __init__(self, rank: int, size: int, seconds: float) -> None:
        self.rank, self.size, self._seconds = rank, size, seconds
        self._local = int(os.environ.get("LOCAL_RANK", "0"))
        self._device = "cpu"
        self._calls = 0
        self._flags: dict[str, int] = {}
        self._agreed: dict[str, int] | None = dict.fromkeys(_FLAGS, 0)
        self._message: tuple[Any, Tensor] | None = None
        self._who: list[dict[str, Any]] = []
        self._store: Any = None
        self._control: Any = None

    def device(self, requested: str) -> str:
        if requested == "auto":
            requested = "cuda" if torch.cuda.is_available() else "cpu"
        if requested == "cpu":
            return requested
        if requested not in ("cuda", "cuda:0"):  # a run's own recipe has that of its first process
            problem = "auto, cpu or cuda: each process takes the GPU of its own number on its machine"
            raise UserError("run.device", problem, requested)
        there = torch.cuda.device_count() if torch.cuda.is_available() else 0
        here = int(os.environ.get("LOCAL_WORLD_SIZE", self._local + 1))
        if here > there:
            raise UserError(
                "--nproc-per-node", f"this machine has {there} GPU(s); a GPU each is needed", here
            )
        return f"cuda:{self._local}"

    def meet(self, requested: str) -> None:
        """Wait until every process is there, and connect."""
        limit = datetime.timedelta(seconds=self._seconds)
        if not _STORES:
            try:
                _STORES.append(_store(self.first, limit))
            except (RuntimeError, ValueError, OSError) as error:
                problem = (
                    f"torchrun's address does not answer within {self._seconds:g} s: {_first_line(error)}"
                )
                raise TrainingFailure(problem) from None
        else:  # a program that trains one run after the other: each has keys of its own
            _STORES.append(_STORES[0])
        restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._store = dist.PrefixStore(f"srat-fast/{restarts}/{len(_STORES)}", _STORES[0])
        self._device = self.device(requested)  # from here on the others hear of what is wrong
        here = {
            "host": socket.gethostname(),
            "node": os.environ.get("GROUP_RANK", ""),
            "process": os.getpid(),
        }
        self._store.set(f"start/{self.rank}", json.dumps(here))
        self._store.add("started", 1)
        until = time.monotonic() + self._seconds
        while self._store.add("started", 0) < self.size:
            if (told := self._failures()) is not None:
                raise told
            if time.monotonic() > until:
                named = ", ".join(str(r) for r in range(self.size) if not self._store.check([f"start/{r}"]))
                problem = (
                    f"rank {named} of {self.size} did not start within {self._seconds:g} s (run.peer_seconds)"
                )
                raise TrainingFailure(problem)
            time.sleep(0.02)
        self._who = [json.loads(self._store.get(f"start/{r}")) for r in range(self.size)]
        with self._peers():
            cuda = self._device.startswith("cuda")
            more: dict[str, Any] = {"device_id": torch.device(self._device)} if cuda else {}
            dist.init_process_group(
                "nccl" if cuda else "gloo", store=dist.PrefixStore("group", self._store), rank=self.rank,
                world_size=self.size, timeout=limit, **more,
            )  # fmt: skip
            #: what the host alone has to know, beside the device's collectives; a process that dies is noticed here
            self._control = dist.new_group(backend="gloo", timeout=limit)

    def leave(self, error: BaseException | None) -> None:
        """Tell the others why this process ends; those beside the first let it finish its record before they end.

        torchrun ends all processes as soon as one has ended with an error.
        """
        together = error is None or isinstance(error, Interrupted) or getattr(error, "together", False)
        with suppress(RuntimeError, PeerLost):  # the launcher may be gone, and what it stored
            if error is not None and not isinstance(error, PeerLost) and not together:
                together = self._tell(error)
            if self._store is not None and self.first:
                self._store.set("over", "")
                until = time.monotonic() + _TOLD  # without torchrun's agent the store is this process's
                while together and time.monotonic() < until and not self._all_gone():
                    time.sleep(0.01)
            elif self._store is not None and together:
                self._await("over", patience=60.0)
                self._store.add("gone", 1)
        if dist.is_initialized() and (error is None or self._device == "cpu"):
            with suppress(RuntimeError):
                dist.destroy_process_group()
            # the error's traceback keeps this object, and what still refers to a group keeps its connections open
            self._control = self._message = None

    def _all_gone(self) -> bool:
        return bool(self._store.add("gone", 0) >= self.size - 1)

    def _tell(self, error: BaseException) -> bool:
        """Say why this process fails; whether the first one has said the same, as of bad input."""
        text = " ".join(str(error).split()) or type(error).__name__
        if not self.first:
            until = time.monotonic() + 1.0
            while time.monotonic() < until and self._store is not None:
                if (
                    self._store.check(["failed/0"])
                    and json.loads(self._store.get("failed/0"))["text"] == text
                ):
                    return True
                time.sleep(0.02)
            error.rank = self.rank  # type: ignore[attr-defined]  # of any type; `srat_fast.errors` prints it there
        if self._store is not None:
            kind = failure_of(error) or "error"
            told = json.dumps({"rank": self.rank, "text": text, "kind": kind})
            for key in (f"failed/{self.rank}", "failed"):
                self._store.set(key, told)
        return False

    def _failures(self) -> PeerLost | None:
        """What another process said before it failed."""
        if not self._store.check(["failed"]):
            return None
        told = json.loads(self._store.get("failed"))
        return PeerLost(f"rank {told['rank']} has failed: {told['text']}", told["kind"])

    def _dead(self) -> PeerLost | None:
        """A process of this machine that is no longer there."""
        here = self._who[self.rank] if self._who else {}
        for rank, who in enumerate(self._who):
            if (who["host"], who["node"]) == (here["host"], here["node"]) and not _alive(who["process"]):
                named = f"rank {rank} (process {who['process']} on {who['host']})"
                lost = PeerLost(
                    f"{named} was killed or ended without a word; --resume goes on from the last checkpoint"
                )
                if all(not _alive(w["process"]) for w in self._who[: self.rank]):
                    lost.rank = self.rank  # nobody before it is left to print it
                return lost
        return None

    def _launcher_lost(self) -> PeerLost:
        lost = PeerLost("torchrun has ended without a word; --resume goes on from the last checkpoint")
        if self._local == 0:  # a line a machine
            lost.rank = self.rank
        return lost

    def _lost(self, error: RuntimeError) -> PeerLost:
        """Who it was that broke a collective."""
        with suppress(RuntimeError):
            self._store.set(f"waiting/{self.rank}", "")
        until = time.monotonic() + _TOLD
        while time.monotonic() < until:
            try:
                found = self._failures() or self._dead()
            except RuntimeError:  # the store has gone, with its process
                found = self._launcher_lost() if _agents_store() else self._dead()
            if found is not None:
                return found
            time.sleep(0.05)
        silent, why = [], f"another process of the run is gone or does not answer: {_first_line(error)}"
        with suppress(RuntimeError):  # whoever else waits has said so by now
            silent = [r for r in range(self.size) if not self._store.check([f"waiting/{r}"])]
        if silent:
            named = ", ".join(map(str, silent))
            why = f"rank {named} of {self.size} is gone or silent for {self._seconds:g} s (run.peer_seconds)"
        lost = PeerLost(f"{why}; --resume goes on from the last checkpoint")
        if all(rank in silent for rank in range(self.rank)) or not silent:  # nobody before it prints it
            lost.rank = self.rank
        return lost

    @contextmanager
    def _peers(self) -> Iterator[None]:
        try:
            yield
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise self._lost(error) from None

    def _await(self, key: str, patience: float = float("inf")) -> None:
        """Until the first process has set a key; it may take its time, but not fail."""
        until, pause = time.monotonic() + patience, 0.01
        with self._peers():
            while time.monotonic() < until and not self._store.check([key]):
                if (lost := self._failures() or self._dead()) is not None:
                    raise lost
                time.sleep(pause)
                pause = min(2 * pause, 0.2)

    def own(self, rows: Tensor) -> Tensor:
        return rows[self.share(len(rows))]

    def gatherer(self, images: int) -> Whole | None:
        return Whole(self, images)

    def gather(self, own: Tensor, images: int) -> Tensor:
        """The whole batch in order, without gradient: shares are filled up to equal length for the exchange."""
        most = -(-images // self.size)
        if len(own) < most:
            own = torch.cat([own, own.new_zeros((most - len(own), *own.shape[1:]))])
        found = own.new_empty((self.size * most, *own.shape[1:]))
        with self._peers():
            dist.all_gather(list(found.split(most)), own.contiguous())
        if images % self.size == 0:
            return found
        longer = images % self.size * most  # rows of the shares that have one more
        return torch.cat(
            [found[:longer], found[longer:].unflatten(0, (-1, most))[:, : most - 1].flatten(0, 1)]
        )

    @torch.no_grad()
    def average_(self, tensors: Sequence[Tensor]) -> None:
        works = []
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            with self._peers():
                works.append((dist.all_reduce(flat, async_op=True), flat, bucket))
        for work, flat, bucket in works:
            with self._peers():
                work.wait()
            parts = flat.div_(self.size).split([tensor.numel() for tensor in bucket])
            torch._foreach_copy_(
                bucket, [part.view(own.shape) for part, own in zip(parts, bucket, strict=True)]
            )

    def sum_(self, tensor: Tensor) -> Tensor:
        with self._peers():
            dist.all_reduce(tensor)
        return tensor

    def largest_(self, tensor: Tensor) -> Tensor:
        with self._peers():  # of the host: predictions are there
            dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self._control)
        return tensor

    def to_first_(self, *counters: Tensor) -> None:
        for counter in counters:
            self.sum_(counter)
            if not self.first:
                counter.zero_()

    def objects(self, own: T) -> list[T]:
        found: list[Any] = [None] * self.size
        with self._peers():
            dist.all_gather_object(found, own, group=self._control)
        return found

    def norms(self, kind: str) -> AbstractContextManager[Any]:
        return _Norms(self, kind)

    def heard(self, name: str, own: int) -> int:
        self._flags[name] = own
        if self._agreed is None:
            assert self._message is not None, "after the first tick"
            work, values = self._message
            with self._peers():
                work.wait()
            self._agreed = dict(zip(_FLAGS, map(int, values.tolist()), strict=True))
        return self._agreed[name]

    def tick(self) -> None:
        self.heard("due", self._flags.get("due", 0))  # the message before has arrived
        values = torch.tensor([self._flags.get(name, 0) for name in _FLAGS])
        with self._peers():
            work = dist.all_reduce(values, dist.ReduceOp.MAX, group=self._control, async_op=True)
        self._message, self._agreed, self._flags = (work, values), None, {}

    def clear(self, name: str) -> None:
        self._flags[name] = 0

    def on_first(self, function: Callable[[], T]) -> T:
        self._calls += 1
        box: list[Any] = [None]
        key = f"done/{self._calls}"
        if self.first:
            box = [function()]  # where it fails, `leave` tells the others
        else:
            self._await(key)
        with self._peers():
            if self.first:
                self._store.set(key, "")
            dist.broadcast_object_list(box, src=0, group=self._control)
        return box[0]

    @contextmanager
    def one_a_node(self) -> Iterator[None]:
        self._calls += 1
        key = f"node/{self._calls}/{os.environ.get('GROUP_RANK', '')}"
        if self._local:
            self._await(key)
        yield
        if not self._local:
            with self._peers():
                self._store.set(key, "")

    def same(self, what: str, own: Any) -> None:
        found = self.objects(own)
        other = next((rank for rank, value in enumerate(found) if value != found[0]), None)
        if other is not None:
            host = self._who[other]["host"]
            error = TrainingFailure(f"rank {other} (on {host}) and rank 0 differ: {what}")
            error.together = True
            raise error


def _store(first: bool, limit: datetime.timedelta) -> dist.TCPStore:
    """torchrun's own store; without its agent the first process's."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(
        address, port, is_master=first and not _agents_store(), timeout=limit, wait_for_workers=False
    )


def _agents_store() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _alive(process: int) -> bool:
    """Whether a process of this machine runs; one that has ended and was not waited for does not."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        if os.path.isdir("/proc/self"):
            return False
    except OSError:
        return True
    try:  # not Linux
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors of one type, in order, of about `BUCKET` bytes."""
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        by_type.setdefault(tensor.dtype, []).append(tensor)
    for group in by_type.values():
        bucket: list[Tensor] = []
        for tensor in group:
            bucket.append(tensor)
            if sum(t.numel() * t.element_size() for t in bucket) >= BUCKET:
                yield bucket
                bucket = []
        if bucket:
            yield bucket


class Whole:
    """Share -> whole batch of so many images, and back."""

    def __init__(self, ranks: Group, images: int) -> None:
        self._ranks, self._images = ranks, images

    def __call__(self, own: Tensor) -> Tensor:
        """With gradient."""
        return _Gather.apply(own, self._images, self._ranks)

    def own(self, whole: Tensor) -> Tensor:
        """This process's rows."""
        return self._ranks.own(whole)


class _Gather(torch.autograd.Function):
    """Share -> whole batch; backward its own rows' gradient times N, since gradients are averaged."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, images: int, ranks: Group) -> Tensor:
        ctx.share, ctx.size = ranks.share(images), ranks.size
        return ranks.gather(own, images)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0][ctx.share] * ctx.size, None, None


class _Norms(TorchFunctionMode):
    """BatchNorm in train mode as `run.batch_norm` has it, whatever module calls it.

    Not torch.nn.SyncBatchNorm: that refuses a CPU, and every layer would have to be another.
    """

    def __init__(self, ranks: Group, kind: str) -> None:
        super().__init__()
        self._ranks, self._kind = ranks, kind

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.batch_norm:
            return self._norm(func, *args, **kwargs)
        return func(*args, **kwargs)

    def _norm(
        self,
        func: Any,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if training and self._kind == "sync":
            return _SyncedNorm.apply(
                input, weight, bias, running_mean, running_var, momentum, eps, self._ranks
            )
        if training and not len(input):  # no image, so no statistics: only the graph goes on
            shape = (1, -1, *[1] * (input.dim() - 2))
            for factor in (weight, bias):
                input = input if factor is None else input * factor.to(input.dtype).view(shape)
            return input
        return func(input, running_mean, running_var, weight, bias, training, momentum, eps)


class _SyncedNorm(torch.autograd.Function):
    """BatchNorm over the images of all processes: two collectives of a few numbers a channel, one each way.

    Means and squared deviations of the shares are merged as Chan et al. (1983) do, so that nothing cancels.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        eps: float,
        ranks: Group,
    ) -> Tensor:
        channels = x.shape[1]
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        own = x.numel() // channels
        if own:
            mean, square = torch.batch_norm_update_stats(values, None, None, 0.0)
        else:
            square, mean = values.new_zeros(2, channels)
        row = torch.cat([mean, square, values.new_full((1,), own)])
        rows = ranks.gather(row[None], ranks.size)
        means, squares, counts = rows[:, :channels], rows[:, channels:-1], rows[:, -1:]
        count = counts.sum()
        mean = (counts * means).sum(dim=0) / count
        square = (counts * (squares + (means - mean).square())).sum(dim=0) / count
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((square * (count / (count - 1))).to(running_var.dtype), momentum)
        ctx.save_for_backward(x, weight, mean, square, count)
        ctx.ranks, ctx.eps, ctx.shape = ranks, eps, (1, -1, *[1] * (x.dim() - 2))
        if not own:
            return x.clone()
        return functional.batch_norm(x, mean, square, weight, bias, False, 0.0, eps)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, square, count = ctx.saved_tensors
        factors = torch.ones_like(mean) if weight is None else weight
        gradient, own = gradients[0].clone(), mean.new_zeros(2, len(mean))
        if len(x):  # as if mean and variance were constants, with this share's sums
            gradient, along, away = torch.ops.aten.native_batch_norm_backward.default(
                gradients[0], x, factors, mean, square, None, None, False, ctx.eps, [True, True, True]
            )
            own = torch.stack([away, along])
        away, along = ctx.ranks.sum_(own.clone()) / count
        inverse = (square + ctx.eps).rsqrt()
        slope = factors * inverse.square() * along
        level = factors * inverse * away - slope * mean
        gradient -= torch.addcmul(level.view(ctx.shape), x, slope.view(ctx.shape)).to(gradient.dtype)
        wants = ctx.needs_input_grad
        return gradient, own[1] if wants[1] else None, own[0] if wants[2] else None, *[None] * 5


def fingerprint(model: nn.Module) -> list[int]:
    """The sum of each parameter's bits: other weights have others."""
    kinds = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits = [p.detach().view(kinds[p.element_size()]).sum(dtype=torch.int64) for p in model.parameters()]
    return torch.stack(bits).tolist()


def statistics_of(model: nn.Module) -> list[Tensor]:
    """The running statistics of a model's BatchNorms."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    return [b for m in norms for b in (m.running_mean, m.running_var) if b is not None]
