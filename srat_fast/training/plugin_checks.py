"""Checks of what a plug-in registers, on toy batches: its formulas, its networks, and steps as runs make them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.gradcheck import GradcheckError
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from srat_fast.errors import TrainingFailure, UserError
from srat_fast.hardware import neutral, numerics
from srat_fast.losses.objective import Context, unchanged
from srat_fast.methods import rows as all_rows
from srat_fast.models.batch import Batch
from srat_fast.models.build import build_model
from srat_fast.models.classifier import Classifier
from srat_fast.models.files import NETWORK, model_from_bytes, weights_bytes
from srat_fast.plugins import described, load, load_all, plugin_errors
from srat_fast.recipe import ResolvedRecipe, build_recipe
from srat_fast.registry import term, threat
from srat_fast.training.capture import preserved
from srat_fast.training.step import FastEngine

PASSED, FAILED, LEFT_OUT = "passed", "failed", "left out"
#: training images per class of the toy, and its under-represented half
COUNTS, UNDER = [20, 12, 8, 5, 3], [2, 3, 4]
_BATCH, _SIZE, _STEPS = 16, 8, 3


class Check(NamedTuple):
    """One check of one entry."""

    entry: str
    what: str
    result: str
    verdict: str


class _LeftOut(Exception):
    """A check that cannot be made, and why."""


class _NoPart(_LeftOut, AttributeError):
    """What toy features have not got: a part of a network."""


@neutral()
def check_plugin(path: str | Path, *beside: str | Path, compiled: bool = True) -> Iterator[Check]:
    """Load a plug-in and check each of its terms, networks and methods.

    Args:
        path: its file.
        beside: files of others that it goes with: what they register is known, and not checked.
        compiled: whether steps are compiled, which takes a minute.

    Raises:
        UserError: it cannot be loaded.
    """
    load_all(beside)
    own: dict[str, list[str]] = {kind: [] for kind in ("term", "model", "threat", "inner", "method")}
    for kind, name in load(path).names:
        own[kind].append(name)
    for name in own["term"]:
        yield from _term_checks(name)
    for name in own["model"]:
        yield from _model_checks(name, bool(own["term"]))
    for name in own["threat"]:
        yield from _threat_checks(name)
    method = own["method"][0] if own["method"] else "srat-ldam"
    network = {"model.name": own["model"][0]} if own["model"] else {}
    for name in own["method"]:
        yield from _step_checks(f"method {name}", network | {"method": name}, compiled)
    for name in own["model"] if not own["method"] else own["model"][1:]:
        yield from _step_checks(f"network {name}", {"method": method, "model.name": name}, compiled)
    for name in own["threat"]:
        radius, step = _radius(name), _radius(name) / 2
        ball = {f"{section}.{leaf}": value for section in ("attack", "eval_attack")
                for leaf, value in (("threat", name), ("epsilon", radius), ("step_size", step))}  # fmt: skip
        yield from _step_checks(f"threat {name}", network | {"method": method} | ball, compiled)
    for name in own["inner"]:
        yield from _step_checks(
            f"inner loss {name}", network | {"method": method, "attack.loss": name}, compiled
        )


def _check(entry: str, what: str, test: Callable[[], str]) -> Check:
    try:
        with plugin_errors():
            return Check(entry, what, test(), PASSED)
    except Exception as error:  # whatever the plug-in, autograd or a compiler raises is what was found
        for why in (error, error.__cause__):  # the cause where it comes through the plug-in's own code
            if isinstance(why, _LeftOut):
                return Check(entry, what, str(why), LEFT_OUT)
        text = error.line() if isinstance(error, UserError) else str(error)
        if not isinstance(error, (TrainingFailure, UserError, AssertionError)):
            text = f"{type(error).__name__}: {text}"
        return Check(entry, what, " ".join(text.split())[:300], FAILED)


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise AssertionError(problem)


class _Toy(nn.Module):
    """Features are the pixels, so that derivatives by pixels are derivatives by features and logits."""

    def __init__(self, generator: torch.Generator, dtype: torch.dtype) -> None:
        super().__init__()
        self.linear = nn.Linear(_SIZE, len(COUNTS), bias=False, dtype=dtype)
        with torch.no_grad():
            self.linear.weight.copy_(
                torch.randn(_SIZE, len(COUNTS), generator=generator, dtype=torch.float64).T
            )

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            raise _NoPart(
                f"it reads batch.model.{name}, which these toys have not; steps alone try it"
            ) from None

    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1)

    def classify(self, features: Tensor) -> Tensor:
        return self.linear(features)

    def separable(self, features: Tensor) -> Tensor:
        return functional.normalize(features, dim=1)


class _Detaching(TorchFunctionMode):
    """Sees whether something is detached, or computed under `torch.no_grad`."""

    seen = False

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen |= function is Tensor.detach or (function is torch._C._set_grad_enabled and not args[0])
        return function(*args, **(kwargs or {}))


class _Plain(Batch):
    """A batch without autocast, which knows no device without numbers."""

    def _embed(self, images: Tensor) -> Tensor:
        return self.model.features(images)


class _Case:
    """A term on toy features, in one precision, on the CPU or on torch's device without numbers, "meta"."""

    def __init__(self, name: str, dtype: torch.dtype = torch.float64, device: str = "cpu") -> None:
        rows = [row.name for row in all_rows() if name in (row.base, *row.terms)]
        recipe = build_recipe("digits", {"method": rows[-1]} if rows else {}).resolve()
        weights = torch.tensor([1.0, 1.5, 2.0, 3.0, 4.0], dtype=dtype, device=device)
        context = Context(recipe, COUNTS, UNDER, torch.device(device), weights, feature_dim=_SIZE)
        self.part, self.mean = term[name](context), context.mean
        self.where = described(self.part) or name
        if hasattr(self.part, "start_epoch"):
            self.part.start_epoch(recipe.optim.epochs - 1)  # what grows is there
        module = self.part if isinstance(self.part, nn.Module) else nn.Module()
        self.buffers = list(module.to(dtype).buffers())
        generator = torch.Generator().manual_seed(0)
        self.model = _Toy(generator, dtype).to(device)
        self.images = torch.randn(12, 1, 2, _SIZE // 2, generator=generator, dtype=torch.float64).to(dtype)
        self.noise = 0.1 * torch.randn(self.images.shape, generator=generator, dtype=torch.float64).to(dtype)
        self.images, self.noise = self.images.to(device), self.noise.to(device)
        self.labels = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 0, 0], device=device)

    def batch(self, images: Tensor, keep: Any = slice(None)) -> Batch:
        clean = (self.images + self.noise)[keep] if getattr(self.part, "clean", False) else None
        return _Plain(self.model, images, self.labels[keep], clean)

    def value(self, images: Tensor, keep: Any = slice(None)) -> Tensor:
        """Of a term as it is after it was made: equal random numbers, buffers as they were."""
        with preserved(self.buffers), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            before, batch = torch.get_rng_state(), self.batch(images, keep)
            with _Detaching() as mode:
                value = self.part(batch)
            self.draws, self.detaches = not torch.equal(before, torch.get_rng_state()), mode.seen
        return value


def _term_checks(name: str) -> Iterator[Check]:
    def scalar() -> str:
        case = _Case(name)
        for what, images in {"random": case.images, "confident": 30 * case.images}.items():
            value = case.value(images)
            value = value.detach() if isinstance(value, Tensor) else value
            _require(
                isinstance(value, Tensor) and value.shape == (),
                f"{case.where}: a scalar is needed, not {getattr(value, 'shape', type(value).__name__)}",
            )
            _require(bool(torch.isfinite(value)), f"{float(value)} on {what} logits")
        value = case.value(case.images[:1], slice(0, 1)).detach()
        _require(bool(torch.isfinite(value)), f"{float(value)} on a batch of one image")
        return "random and confident logits, one image"

    def repeated() -> str:
        case = _Case(name)
        weights, first = case.model.linear.weight.detach().clone(), case.value(case.images).detach()
        with unchanged(case.where, case.part):
            again = case.value(case.images).detach()
        _require(torch.equal(weights, case.model.linear.weight), f"{case.where}: it changes the network")
        _require(
            torch.equal(first, again),
            f"{case.where}: {float(first):g}, then {float(again):g} of one batch: random numbers that are not torch's?",
        )
        return "equal values of one batch"

    def differences() -> str:
        case = _Case(name)
        images = case.images.clone().requires_grad_()
        value = case.value(images)
        _require(value.requires_grad, f"{case.where}: no gradient; is it detached from the batch?")
        found = torch.autograd.grad(value, images, allow_unused=True)[0]
        _require(
            found is None or bool(torch.isfinite(found).all()), f"{case.where}: a gradient is not finite"
        )
        try:
            torch.autograd.gradcheck(case.value, (images,))
        except GradcheckError as error:
            what = str(error).partition(",")[0]
            if case.detaches:
                raise _LeftOut(f"finite differences see through what it detaches ({what})") from None
            raise AssertionError(
                f"{case.where}: the gradient is not that of finite differences ({what})"
            ) from None
        return f"{images.numel()} derivatives agree with finite differences"

    def order() -> str:
        case, shuffled = _Case(name), torch.randperm(12, generator=torch.Generator().manual_seed(1))
        away = _relative(case.value(case.images), case.value(case.images[shuffled], shuffled))
        if case.draws:
            raise _LeftOut("it draws random numbers")
        _require(away < 1e-10, f"the value changes by {away:.2g} with the order of the images")
        return f"{away:.1g} relative"

    def single() -> str:
        double, case = _Case(name), _Case(name, torch.float32)
        away = _relative(double.value(double.images), case.value(case.images).double())
        _require(away < 1e-4, f"{away:.2g} from the value in float64")
        return f"{away:.1g} relative to float64"

    def elsewhere() -> str:
        try:
            case = _Case(name, torch.float32, "meta")
            case.value(case.images)
        except RuntimeError as error:
            if "not on the expected device" in str(error):
                raise
            raise _LeftOut(f"it needs numbers of the batch ({' '.join(str(error).split())[:80]})") from None
        return "all on context.device, nothing waits for it"

    def reference() -> str:
        case = _Case(name)
        if not hasattr(case.part, "reference"):
            raise _LeftOut("compared with nothing: the term has no method `reference`")
        images = case.images.clone().requires_grad_()
        batch = case.batch(images)
        losses = case.part.reference(batch)
        _require(
            losses.shape == (12,),
            f"reference(batch) must be one loss an image, [12], not {list(losses.shape)}",
        )
        values = [case.value(images), case.mean(losses, batch.labels)]
        ours, theirs = (torch.autograd.grad(value, images)[0] for value in values)
        away = max(_relative(values[1], values[0]), _relative(theirs, ours))
        _require(away < 1e-8, f"{away:.2g} from its own reference")
        return f"value and gradient, {away:.1g} relative"

    entry = f"term {name}"
    first = _check(entry, "scalar and finite", scalar)
    yield first
    if first.verdict == PASSED:
        yield _check(entry, "repeated", repeated)
        yield _check(entry, "gradient, float64", differences)
        yield _check(entry, "order of the batch", order)
        yield _check(entry, "float32", single)
        yield _check(entry, "device", elsewhere)
        yield _check(entry, "reference", reference)


def _model_checks(name: str, terms: bool) -> Iterator[Check]:
    def made(dtype: torch.dtype = torch.float32, channels: int = 3) -> Classifier:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Classifier(name, len(COUNTS), channels=channels, width=4, projection_dim=6).to(dtype)

    def images(size: int, dtype: torch.dtype = torch.float32, channels: int = 3) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.rand(_BATCH, channels, size, size, generator=generator, dtype=torch.float64).to(dtype)

    def shapes() -> str:
        for channels, size in ((1, 8), (3, 8), (3, 32)):
            model = made(channels=channels)
            logits = model(images(size, channels=channels))
            _require(logits.shape == (_BATCH, len(COUNTS)), f"logits are {list(logits.shape)}")
            _require(bool(torch.isfinite(logits).all()), "logits are not finite")
        return f"features [B, {model.feature_dim}] of 8x8 and 32x32, grey and colour"

    def double() -> str:
        away = _relative(
            made(torch.float64).eval()(images(8, torch.float64)), made().eval()(images(8)).double()
        )
        _require(away < 1e-4, f"{away:.2g} from the float64 logits")
        return f"float32 {away:.1g} relative to float64"

    def half() -> str:
        model = made().train()
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(images(8))
        logits.square().mean().backward()
        missing = [
            n for n, p in model.named_parameters() if p.grad is None and not n.startswith("projection")
        ]
        _require(terms or not missing, f"no gradient reaches {', '.join(missing)}")
        _require(logits.dtype == torch.float32, f"logits are {logits.dtype}")
        finite = all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)
        _require(finite, "a gradient is not finite")
        left = f" but {', '.join(missing)}, which is left to terms" if missing else ""
        return f"a gradient reaches every weight{left}"

    def alone() -> str:
        model, batch = made().eval(), images(8)
        away = _relative(model(batch)[:1], model(batch[:1]))
        _require(away < 1e-4, f"in eval mode an image's logits change by {away:.2g} with its neighbours")
        return "eval mode: no image sees its neighbours"

    def folded() -> str:
        model = made(torch.float64).train()
        pairs = model.folds()
        if not pairs:
            raise _LeftOut("it names no pairs; attack.bn = running runs unfolded, slower")
        for _ in range(3):
            model(images(8, torch.float64))
        inside = set(model.modules())
        strangers = [pair for pair in pairs if not set(pair) <= inside]
        _require(not strangers, "folds() names modules that are not the network's")
        seen: dict[nn.Module, Tensor] = {}
        for convolution, norm in pairs:
            convolution.register_forward_hook(lambda module, given, out: seen.update({module: out}))
            norm.register_forward_pre_hook(lambda module, given: seen.update({module: given[0]}))
        with torch.no_grad():
            model.eval()(images(8, torch.float64))
        apart = [pair for pair in pairs if seen[pair[0]] is not seen[pair[1]]]
        _require(
            not apart, f"{len(apart)} of {len(pairs)} pairs are not a BatchNorm of its convolution's output"
        )
        return f"{len(pairs)} pairs"

    def kept() -> str:
        model = made().eval()
        content = weights_bytes(model.state_dict(), {NETWORK: json.dumps(model.arguments())})
        again = model_from_bytes(content, Path("model.safetensors"))
        _require(torch.equal(model(images(8)), again(images(8))), "other logits after a round trip")
        return f"{len(model.state_dict())} tensors, equal logits"

    entry = f"network {name}"
    first = _check(entry, "shapes", shapes)
    yield first
    if first.verdict == PASSED:
        yield _check(entry, "float64", double)
        yield _check(entry, "bf16, gradients", half)
        yield _check(entry, "eval mode", alone)
        yield _check(entry, "folding", folded)
        yield _check(entry, "weights file", kept)


def _radius(name: str) -> float:
    """A radius that toy images allow."""
    kind = threat[name]
    return min(0.1 * kind.diameter((1, _SIZE, _SIZE)), kind.largest)


def _threat_checks(name: str) -> Iterator[Check]:
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(_BATCH, 1, _SIZE, _SIZE, generator=generator)
    gradient = torch.randn(clean.shape, generator=generator)

    def attacked(radius: float | Tensor, step: float | Tensor) -> float:
        """The farthest that any of its points leaves the ball."""
        ball = threat[name](radius)
        start = ball.random_start(clean, torch.Generator().manual_seed(1))
        _require(
            torch.equal(start, ball.random_start(clean, torch.Generator().manual_seed(1))),
            "equal generators give unequal starts",
        )
        points = [start.clone(), ball.noise(clean, generator)]
        for sign in (1, 1, 1, -1):
            points.append(ball.step(points[-1].clone(), sign * gradient, clean, step))
        return max(float(ball.overshoot(point, clean).max()) for point in points)

    def inside() -> str:
        radius, bound = _radius(name), threat[name].tolerance
        each = torch.linspace(0.5, 1.0, _BATCH) * radius
        away = max(attacked(radius, radius / 2), attacked(each, each / 2))
        _require(away <= bound, f"{away:.2g} outside of the ball or [0, 1]; its tolerance is {bound:.2g}")
        return f"starts, noise and steps, one radius and [B] of them: at most {away:.1g} outside"

    def upward() -> str:
        ball, step = threat[name](_radius(name)), _radius(name) / 2
        moved = ball.step(clean.clone(), gradient, clean, step) - clean
        gain = (moved * gradient).flatten(1).sum(dim=1)
        _require(bool((gain > 0).all()), "a step goes against the gradient")
        broken = gradient.clone()
        broken[:, :, 0, 0] = float("nan")
        found = ball.step(clean.clone(), broken, clean, step)
        still = torch.equal(found[:, :, 0, 0], clean[:, :, 0, 0]) and bool(torch.isfinite(found).all())
        _require(still, "an entry of the gradient that is NaN moves its pixel")
        return "along the gradient; NaN moves no pixel"

    entry = f"threat {name}"
    yield _check(entry, "ball", inside)
    yield _check(entry, "step", upward)


def _relative(expected: Tensor, found: Tensor) -> float:
    found, expected = found.detach(), expected.detach()
    return float((found - expected).norm() / expected.norm().clamp(min=1e-12))


def _recipe(fields: dict[str, Any], device: torch.device, **run: str) -> ResolvedRecipe:
    changes = {f"run.{name}": value for name, value in run.items()}
    return build_recipe(
        "digits",
        {"model.width": 4, "optim.batch_size": _BATCH, "attack.steps": 2, "run.device": str(device)}
        | {"run.precision": "fp32", "run.compile": "off", "run.capture": "off"} | fields | changes,
    ).resolve()  # fmt: skip


def _steps(recipe: ResolvedRecipe, device: torch.device) -> str:
    """A few steps on random images; the last loss."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(_BATCH, 1, _SIZE, _SIZE, generator=generator).to(device)
    labels = torch.randint(len(COUNTS), (_BATCH,), generator=generator).to(device)
    with numerics(False):
        model = build_model(recipe, classes=len(COUNTS), channels=1, moments=None).to(device)
        engine = FastEngine(recipe, model, COUNTS, UNDER)
        try:
            engine.start_epoch(0)
            for _ in range(_STEPS):
                losses = engine.step(images, labels).losses
            total = float(losses["total"])
            _require(
                not int(engine.guard.bad), f"loss or gradient is not finite in step {int(engine.guard.bad)}"
            )
        finally:
            engine.close()
    return f"{_STEPS} steps, loss {total:.3g}"


def _step_checks(entry: str, fields: dict[str, Any], compiled: bool) -> Iterator[Check]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def steps(**run: str) -> Callable[[], str]:
        return lambda: f"{_steps(_recipe(fields, device, **run), device)} on {device}"

    def compile() -> str:
        if not compiled:
            raise _LeftOut("--no-compile")
        return f"{steps(compile='on')()}, as eager ones"

    def capture() -> str:
        if device.type != "cuda":
            raise _LeftOut("CUDA graphs need a GPU, and this machine has none")
        return f"{steps(capture='on')()}, as eager ones"

    first = _check(entry, "steps, fp32", steps())
    yield first
    if first.verdict == PASSED:
        yield _check(entry, "steps, bf16", steps(precision="bf16"))
        yield _check(entry, "steps, compiled", compile)
        yield _check(entry, "steps, captured", capture)
