"""Training step of the fast engine (Algorithm 1): PGD attack, objective, guarded SGD update."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from srat_fast.attacks.engine import AttackEngine, compile_mode, compile_settings
from srat_fast.attacks.threat import Threat, count_factors, require_radii, training_start
from srat_fast.errors import TrainingFailure, UserError
from srat_fast.losses.objective import Objective, class_vector
from srat_fast.models.batch import Batch
from srat_fast.models.build import renew_head
from srat_fast.models.classifier import Classifier
from srat_fast.ranks import ALONE, Ranks, statistics_of
from srat_fast.recipe import ResolvedRecipe, Stage, stage_at, stages_of
from srat_fast.registry import inner, threat
from srat_fast.seeds import seed_for
from srat_fast.training.capture import Captured, Function, layout, preserved
from srat_fast.training.cost import Stopwatch
from srat_fast.training.feedback import RULES, Facts, Rule, sets
from srat_fast.training.parity import WAY_OUT, check_parity, compile_errors


class NotFinite(TrainingFailure):
    """A loss or gradient that is not finite."""

    #: every process of a run sees it
    together = True
    failure = "nonfinite"


class StepGuard:
    """Keeps a model at its last finite state.

    Args:
        model: on its device.
    """

    def __init__(self, model: nn.Module) -> None:
        device = next(model.parameters()).device
        self.keep(list(model.buffers()))
        #: steps begun in this epoch; the first that was not finite, or 0; its loss; 1.0 from that step on.
        self.steps, self.bad = (torch.zeros(1, dtype=torch.int64, device=device) for _ in range(2))
        self.loss, self.found = (torch.zeros(1, dtype=torch.float32, device=device) for _ in range(2))

    def keep(self, buffers: Sequence[Tensor]) -> None:
        """Keep these from before each step: a model's buffers, and those of terms."""
        kinds = [b.is_floating_point() for b in buffers]
        groups = [
            [b for b, real in zip(buffers, kinds, strict=True) if real is kind] for kind in (True, False)
        ]
        self._groups = [group for group in groups if group]
        self._kept = [_flat(group).clone() for group in self._groups]

    def tensors(self) -> list[Tensor]:
        """What a step changes in place."""
        return [self.steps, self.bad, self.loss, self.found, *self._kept]

    def before_step(self) -> None:
        """Keep the running statistics, unless a step was not finite."""
        for kept, group in zip(self._kept, self._groups, strict=True):
            kept.copy_(torch.where(self.bad > 0, kept, _flat(group)))

    def check(self, total: Tensor, norm: Tensor) -> None:
        """Decide on the update that follows; `found` is what a fused optimiser takes as `found_inf`."""
        self.steps += 1
        finite = torch.isfinite(total) & torch.isfinite(norm)
        first = ~finite & (self.bad == 0)
        self.bad += first * self.steps
        self.loss.copy_(torch.where(first, total.detach().float(), self.loss))
        self.found.copy_(self.bad > 0)

    def settle(self) -> None:
        """Put the running statistics back to those before the step that was not finite."""
        self._put_back(self._kept)

    def _put_back(self, kept: list[Tensor]) -> None:
        for flat, group in zip(kept, self._groups, strict=True):
            parts = flat.split([b.numel() for b in group])
            torch._foreach_copy_(group, [old.view_as(b) for old, b in zip(parts, group, strict=True)])

    @contextmanager
    def same_statistics(self) -> Iterator[None]:
        """Running statistics and counters are afterwards what they were before."""
        kept = [_flat(group) for group in self._groups]
        yield
        self._put_back(kept)


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


class ClassRadii:
    """Radius and step of each image by its class (`attack.radius`, `attack.radius_ramp`, `feedback.rule`).

    The factors lie in one tensor that changes in place with the epoch, so that a captured attack sees them.
    """

    def __init__(self, recipe: ResolvedRecipe, counts: Sequence[int], device: torch.device) -> None:
        self._attack = attack = recipe.attack
        field, value = "attack.radius", attack.radius
        if value == "same" and attack.radius_ramp > 0:
            field, value = "attack.radius_ramp", str(attack.radius_ramp)
        elif value == "same":
            field, value = "feedback.rule", recipe.feedback.rule
        require_radii(attack.threat, field, value)
        factors = {
            "same": [1.0] * len(counts),
            "count": count_factors(counts, attack.radius_strength),
            "vector": attack.radius_factors,
        }[attack.radius]
        found = class_vector("attack.radius_factors", factors, len(counts), device, torch.float64)
        assert found is not None, "the recipe's own check"
        largest, most = attack.epsilon * float(found.max()), threat[attack.threat].largest
        if largest > most:
            problem = f"makes a radius of {largest:.3g}; at most {most:g} is possible in {attack.threat}"
            raise UserError(field, problem, value)
        self._full, self._rising = found, attack.radius_ramp * recipe.optim.epochs
        self._most = most / attack.epsilon
        #: [C]: what `feedback.rule` has found
        self.found = torch.ones_like(found)
        #: [C] on epsilon and step_size, of the present epoch
        self.factors = found.clone()

    def start_epoch(self, epoch: int) -> None:
        """Put the epoch's factors in force; a ramp begins at 0."""
        ramp = min(epoch / self._rising, 1.0) if self._rising > 0 else 1.0
        self.factors.copy_((self._full * self.found * ramp).clamp(max=self._most))

    def of(self, images: Tensor, labels: Tensor) -> tuple[Threat, Tensor]:
        """The ball and the step size of each image."""
        epsilon, step = (
            (length * self.factors[labels]).to(images.dtype)
            for length in (self._attack.epsilon, self._attack.step_size)
        )
        return threat[self._attack.threat](epsilon), step


class WeightPerturbation:
    """Adversarial weight perturbation (Wu et al. 2020) around one update.

    v_l = gamma |w_l| g_l / (|g_l| + 1e-20) for each weight of more than one dimension, g the gradient of the whole
    objective at w. The update is computed and applied at w + v, weight decay included; then v is subtracted.
    """

    def __init__(self, model: nn.Module, gamma: float, guard: StepGuard, ranks: Ranks = ALONE) -> None:
        self._gamma, self._guard, self._ranks = gamma, guard, ranks
        self._weights: list[Tensor] = [
            p for name, p in model.named_parameters() if p.dim() > 1 and "weight" in name and p.requires_grad
        ]
        self._kept: list[Tensor] = []
        self._moves: list[Tensor] = []

    def add(self, objective: Callable[[], Tensor]) -> None:
        """Move the weights; the pass that this takes leaves no trace in running statistics and `.grad`."""
        if not self._weights:  # scales alone are trained
            return
        with self._guard.same_statistics():
            found = torch.autograd.grad(objective(), self._weights, allow_unused=True)
        with torch.no_grad():
            gradients = [
                torch.zeros_like(w) if g is None else g for w, g in zip(self._weights, found, strict=True)
            ]
            self._ranks.average_(gradients)
            lengths = torch._foreach_norm(gradients)
            torch._foreach_add_(lengths, 1e-20)
            scales = torch._foreach_div(torch._foreach_norm(self._weights), lengths)
            torch._foreach_mul_(scales, self._gamma)
            self._moves = [g * scale for g, scale in zip(gradients, scales, strict=True)]
            self._kept = [w.clone() for w in self._weights]
            torch._foreach_add_(self._weights, self._moves)

    @torch.no_grad()
    def remove(self) -> None:
        """Take the perturbation off again; where the guard has refused the update, to the very bits of before."""
        if not self._weights:
            return
        torch._foreach_sub_(self._weights, self._moves)
        for weight, old in zip(self._weights, self._kept, strict=True):
            weight.copy_(torch.where(self._guard.found > 0, old, weight))
        self._moves, self._kept = [], []


class LateReader:
    """Reads a device's integer without waiting for it: on a GPU as it was some steps ago.

    Args:
        source: [1] int64.
    """

    def __init__(self, source: Tensor) -> None:
        self._source = source
        self._event: torch.cuda.Event | None = None
        self._copy = torch.zeros(1, dtype=torch.int64, pin_memory=True) if source.is_cuda else source

    def poll(self) -> int:
        """The value as of some steps ago; on a CPU as of now."""
        if not self._source.is_cuda:
            return int(self._source)
        if self._event is not None and not self._event.query():
            return 0
        value = 0 if self._event is None else int(self._copy)
        self._copy.copy_(self._source, non_blocking=True)
        self._event = torch.cuda.Event()
        self._event.record()
        return value

    def now(self) -> int:
        """The value as of now; waits for the device."""
        return int(self._source)


def set_trained(model: Classifier, stage: Stage) -> None:
    """Give gradients to what a stage trains alone, and put its features to rest where they stay as they are.

    The factors of a scaled head are no part of `all`.
    """
    for name, parameter in model.named_parameters():
        scales, head = name == "linear.scales", name.startswith("linear.")
        trained = {"all": not scales, "scales": scales}.get(stage.train, head and not scales)
        parameter.requires_grad_(trained)
        parameter.grad = None
    model.rests = stage.frozen
    model.train()


def begin_stage(model: Classifier, stage: Stage) -> None:
    """What happens once, when a stage begins: new weights of the head with `new-head`."""
    if stage.train == "new-head":
        renew_head(model, seed_for(stage.recipe.seed, "head", stage.number))


class StepResult(NamedTuple):
    """What one step leaves, on the device and detached: the host need not wait for it.

    With `run.capture` these are buffers that the next step overwrites.

    Attributes:
        losses: "total", "classification" and the method's further terms, scalars; with `optim.awp_gamma` of the
            perturbed network, as `correct` is.
        correct: training images classified right (adversarial ones, before the update), scalar int64.
        images: what the network was trained on, [B, C, H, W].
    """

    losses: dict[str, Tensor]
    correct: Tensor
    images: Tensor


class FastEngine:
    """The product's training step: channels_last, bf16, input-only attack gradients, `srat_kernels` losses.

    With `run.compile = on` forward and backward are compiled, for whole batches: the last, partial one of an epoch is
    not worth the minute that its shape would take. With `run.capture = on` the whole attack and the whole
    update are one CUDA graph each. Attack and update are separate callables on separate modules, and nothing that a
    guard looks at changes between steps.

    Args:
        recipe: resolved, hardware's choices included.
        model: on the device; laid out as channels_last and put in train mode here.
        counts: training images per class.
        under: labels of the under-represented half.
        ranks: the processes that share each batch: a step is then given this one's images and the whole batch's labels.
    """

    def __init__(
        self,
        recipe: ResolvedRecipe,
        model: Classifier,
        counts: list[int],
        under: list[int],
        ranks: Ranks = ALONE,
    ) -> None:
        self.ranks = ranks
        self.device = next(model.parameters()).device
        self.model = model
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
        self._counts, self._under = counts, under
        self.noise = torch.Generator(self.device).manual_seed(seed_for(recipe.seed, "attack"))
        self.nonfinite, self.zero = (torch.zeros(1, dtype=torch.int64, device=self.device) for _ in range(2))
        self.guard = StepGuard(self.model)
        self.stopwatch = Stopwatch(self.device)
        self.compile_seconds = 0.0
        compiled, captured = recipe.run.compile == "on", recipe.run.capture == "on"
        self._captured = captured
        #: images of a batch that is compiled for; 0 where none is
        self._compiled_size = min(recipe.optim.batch_size, sum(counts)) if compiled else 0
        #: shape of images -> the gradients that its captured update writes (start-up check)
        self.captured_gradients: dict[torch.Size, list[Tensor | None]] = {}
        #: shapes of images that were rehearsed -> layout of images and labels
        self._seen: dict[torch.Size, tuple[object, ...]] = {}
        self._attack: Function
        self._update: Function
        #: what the feedback rule has found, for stages to come
        self._effects: dict[str, Sequence[float] | Tensor] = {}
        self.stages = stages_of(recipe)
        self.enter(0)
        begin_stage(self.model, self.stage)

    def enter(self, number: int) -> None:
        """Be what a stage needs: its objective, attack and trained parameters, to be compiled and captured anew.

        Weights stay as they are. Momentum is kept where the same parameters are trained as before.
        """
        before = self.stage.train if number else None
        self.stage: Stage = self.stages[number]
        stage = self.stage
        recipe = stage.recipe
        self.recipe, self.row = recipe, recipe.row
        if self._seen:
            self.close()
        set_trained(self.model, stage)
        self.objective = Objective(recipe, self._counts, self._under, self.device, self.model.feature_dim)
        self.guard.keep([*self.model.buffers(), *self.objective.buffers.values()])
        self.ball = threat[recipe.attack.threat](recipe.attack.epsilon)
        one_radius = recipe.attack.radius == "same" and recipe.attack.radius_ramp == 0
        one_radius = one_radius and "radii" not in sets(recipe)
        self.radii = None if one_radius else ClassRadii(recipe, self._counts, self.device)
        self.climbed = inner[recipe.attack.loss]
        gamma = recipe.optim.awp_gamma
        self.perturbation = (
            WeightPerturbation(self.model, gamma, self.guard, self.ranks) if gamma > 0 else None
        )
        self._perturbs = False  # until `optim.awp_epoch`
        compiled, mode = self._compiled_size > 0, recipe.run.compile_mode
        own = self.model.linear.weight.dtype
        dtype = torch.bfloat16 if recipe.run.precision == "bf16" else own
        self.attack_engine = AttackEngine(
            self.model,
            dtype=dtype,
            bn=recipe.attack.bn,
            compiled=compiled,
            mode=mode,
            features=getattr(self.climbed, "features", False),
        )
        self._losses: Function = self.losses
        if compiled:
            self._losses = torch.compile(self.losses, fullgraph=True, dynamic=False, mode=compile_mode(mode))
        several, local = self.ranks.size > 1, recipe.run.batch_norm == "local"
        #: running statistics that each process moves by its share, and that are averaged after each step
        self._local_statistics = statistics_of(self.model) if several and local and not stage.frozen else []
        synced = several and not local and recipe.attack.bn != "running"
        #: whether the attack's loss is taken on the whole batch, which is where its passes exchange something anyway
        self._whole_attack = several and (synced or not getattr(self.climbed, "per_image", False))
        # a graph holds no collective: with several processes the attack's at most
        capture_update = self._captured and not several
        self.captures_attack = self._captured and not self._whole_attack
        self._rehearse = compiled or self.captures_attack
        if stage.train != before:
            self.optimizer = self._make_optimizer(capture_update)
        self._attack = (
            Captured(self._attack_batch, self.state) if self.captures_attack else self._attack_batch
        )
        self._update = Captured(self._update_batch, self.state) if capture_update else self._update_batch
        self.steer(self._effects)

    def _make_optimizer(self, captured: bool) -> torch.optim.SGD:
        """Fused SGD; its momentum starts as zeros (the same update as starting empty), so that nothing is made later.

        A captured update reads the rate from memory, hence a tensor there.
        """
        optim = self.recipe.optim
        trained = [p for p in self.model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(
            trained,
            lr=torch.tensor(optim.lr, device=self.device) if captured else optim.lr,
            momentum=optim.momentum,
            weight_decay=optim.weight_decay,
            nesterov=optim.nesterov,
            fused=True,
        )
        if optim.momentum > 0:
            for parameter in trained:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        optimizer.found_inf = self.guard.found  # type: ignore[attr-defined]  # the fused update passes over 1.0
        return optimizer

    @property
    def terms(self) -> tuple[str, ...]:
        """What the objective is the sum of: "classification" and the row's further terms."""
        return self.objective.names[1:]

    @property
    def remembered(self) -> dict[str, Tensor]:
        """Buffers of the objective's terms by name: part of a checkpoint."""
        return self.objective.buffers

    def state(self) -> list[Tensor]:
        """Every tensor that a step changes in place: for rehearsals that must leave no trace."""
        momentum = [
            t for entry in self.optimizer.state.values() for t in entry.values() if isinstance(t, Tensor)
        ]
        counters = [self.nonfinite, self.zero, *self.guard.tensors()]
        weights = []
        if self.recipe.feedback.rule == "faal":  # finds them in each update
            weights = [self.objective.class_weights, *self.objective.found.values()]
        buffers = [*self.model.buffers(), *self.objective.buffers.values()]
        return [*self.model.parameters(), *buffers, *momentum, *counters, *weights]

    def by_epoch(self) -> list[Tensor]:
        """Every tensor that the beginning of an epoch changes in place, the rate aside."""
        radii = [] if self.radii is None else [self.radii.factors]
        return [self.objective.class_weights, *self.objective.found.values(), *radii]

    def rule(self, facts: Facts) -> Rule:
        """The feedback rule of a run's recipe, whose first stage may have none."""
        return RULES[facts.recipe.feedback.rule](facts)

    def steer(self, effects: Mapping[str, Sequence[float] | Tensor]) -> None:
        """Take over what the feedback rule has found; weights and radii are in force from the next `start_epoch`.

        A stage of another row goes without.
        """
        self._effects = dict(effects)
        if self.recipe.feedback.rule == "off":
            return
        found = self.objective.found | ({} if self.radii is None else {"radii": self.radii.found})
        for name, values in effects.items():
            found[name].copy_(torch.as_tensor(values, dtype=torch.float64))

    def start_epoch(self, epoch: int) -> None:
        """Begin the epoch's stage where it is another one; set rate, class weights and radii, in place.

        Where weights begin to be perturbed the update is another one: it is captured and checked anew.
        """
        stage = stage_at(self.stages, epoch)
        if stage is not self.stage:
            self.enter(stage.number)
            begin_stage(self.model, stage)
        rate = stage.rate(epoch)
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        self.objective.start_epoch(epoch)
        if self.radii is not None:
            self.radii.start_epoch(epoch)
        perturbs = self.perturbation is not None and epoch >= self.recipe.optim.awp_epoch
        if perturbs != self._perturbs:
            self._perturbs = perturbs
            self.close()

    def step(self, images: Tensor, labels: Tensor) -> StepResult:
        """Algorithm 1 on one batch: attack, objective, update."""
        images = images.contiguous(memory_format=torch.channels_last)
        if self._rehearse and len(images) and images.shape not in self._seen:
            self.rehearse(images, self.ranks.own(labels))
        self.guard.before_step()
        examples, beside = images, list[Tensor]()
        with self.ranks.norms(self.recipe.run.batch_norm):
            if self.row.adversarial:
                with self.stopwatch.region("attack"):
                    examples, *beside = self._attacks(images, labels)
            with self.stopwatch.region("step"):
                result = self.update(examples, labels, *self.clean(images, *beside))
        if self._local_statistics:
            torch._foreach_mul_(self._local_statistics, self.ranks.size * len(images) / len(labels))
            self.ranks.average_(self._local_statistics)
        return result

    def clean(self, images: Tensor, last_right: Tensor | None = None) -> tuple[Tensor, ...]:
        """Further input of an update: the clean images where a term reads them, x_c where two attacks were run."""
        if self.recipe.attack.stop == "both":
            return images, images if last_right is None else last_right
        return (images,) if self.objective.clean else ()

    def clean_copies(self, images: Tensor) -> tuple[Tensor, ...]:
        """The same for a rehearsal: tensors of their own, as compiled code notices where two inputs are one."""
        return tuple(t.clone(memory_format=torch.preserve_format) for t in self.clean(images))

    def starts(self, start: Tensor) -> tuple[Tensor, ...]:
        """The same start for each attack of a step."""
        return (start, start) if self.recipe.attack.stop == "both" else (start,)

    def rehearse(self, images: Tensor, labels: Tensor) -> None:
        """Compile and capture for a batch's shape, leaving no trace.

        The first shape, and the one that is compiled for, are checked against eager mode.
        """
        started = time.perf_counter()
        compiling = compile_settings(self.device) if self._compiled_size else nullcontext()
        gpus = [self.device] if self.device.type == "cuda" else []
        random = torch.random.fork_rng(devices=gpus)  # of dropout: a run that goes on rehearses once more
        with compile_errors(self.recipe), preserved(self.state()), compiling, random:
            several = self.ranks.size > 1  # these images are a share: nothing is exchanged for them
            if (
                not self._seen and self.recipe.plugin and not several
            ):  # what is wrong with it is told of its line, not of a compiler's
                for _ in range(2):  # in the second it is seen whether a term remembers something
                    self.losses(images, labels, *self.clean_copies(images))
            if not self._seen or len(images) == self._compiled_size:
                check_parity(self, images, labels)
            else:
                if self.row.adversarial:
                    self._attack(images, labels, *self.starts(images))
                if not several:
                    self._update(images, labels, *self.clean_copies(images))
        self._seen[images.shape] = layout(images, labels)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.compile_seconds += time.perf_counter() - started

    def close(self) -> None:
        """Give back the CUDA graphs; the engine's tensors stay, and a further step would be rehearsed anew."""
        for part in (self._attack, self._update):
            if isinstance(part, Captured):
                part.close()
        self._seen.clear()
        self.captured_gradients.clear()

    def _require_rehearsed(self, images: Tensor, labels: Tensor) -> None:
        """Refuse what would be compiled or captured in the middle of training, where nothing checks it."""
        if self._rehearse and self._seen.get(images.shape) != layout(images, labels):
            raise TrainingFailure(
                f"a batch of {tuple(images.shape)} with strides {images.stride()} and {labels.dtype} labels is not "
                f"laid out as the one that was compiled or captured for; {WAY_OUT}"
            )

    def attack(self, images: Tensor, labels: Tensor) -> Tensor:
        """The recipe's training attack on a batch."""
        return self._attacks(images, labels)[0]

    def _attacks(self, images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """x', and beside it x_c with `attack.stop = both`, each from a start of its own."""
        starts = self.starts(images)
        if self.recipe.attack.random_start:
            starts = tuple(self._start(images, len(labels)) for _ in starts)
        if not self._whole_attack:
            labels = self.ranks.own(labels)
        if not len(images):  # of a batch with fewer images than processes: nothing that is worth a graph
            return self._attack_batch(images, labels, *starts, eager=True)
        self._require_rehearsed(images, labels)
        for start in starts:
            self._require_rehearsed(start, labels)
        return self._attack(images, labels, *starts)

    def _start(self, images: Tensor, total: int) -> Tensor:
        """Where the attack starts: drawn for the whole batch, so that it does not depend on how many share it."""
        kind = self.recipe.attack.start
        if self.ranks.size == 1:
            return training_start(kind, self.ball, images, self.noise)
        share = self.ranks.share(total)
        whole = images.new_zeros((total, *images.shape[1:])).contiguous(memory_format=torch.channels_last)
        whole[share] = images
        return training_start(kind, self.ball, whole, self.noise)[share]

    def update(self, images: Tensor, labels: Tensor, *clean: Tensor) -> StepResult:
        """The outer minimisation: one SGD step on the objective of Eq. 7."""
        if self.ranks.size == 1:
            self._require_rehearsed(images, labels)
        *losses, correct = self._update(images, labels, *clean)
        return StepResult(dict(zip(self.objective.names, losses, strict=True)), correct, images)

    def attack_eagerly(self, images: Tensor, labels: Tensor, *starts: Tensor) -> tuple[Tensor, ...]:
        """The attack without compilation or capture: what the start-up check compares with."""
        return self._attack_batch(images, labels, *starts, eager=True)

    def update_eagerly(
        self, images: Tensor, labels: Tensor, *clean: Tensor, full: bool = False
    ) -> tuple[Tensor, ...]:
        """The update without compilation or capture (`full`: in float32): what the start-up check compares with."""
        return self._update_batch(
            images, labels, *clean, losses=lambda x, y, *c: self.losses(x, y, *c, autocast=not full)
        )

    def run_parts(self) -> tuple[Function, Function]:
        """The attack (images, labels, `starts`) and the update (images, labels, `clean`) as steps run them."""
        return self._attack, self._update

    def _attack_batch(
        self, images: Tensor, labels: Tensor, *starts: Tensor, eager: bool = False
    ) -> tuple[Tensor, ...]:
        attack = self.recipe.attack
        ball, step_size = (
            (self.ball, attack.step_size)
            if self.radii is None
            else self.radii.of(images, self.ranks.own(labels) if self._whole_attack else labels)
        )
        # x_c first, as published: where BatchNorm runs on batches its statistics see that order
        stops = ("last-right", "first-wrong") if attack.stop == "both" else (attack.stop,)
        found = [
            self.attack_engine(
                images,
                labels,
                ball=ball,
                steps=attack.steps,
                step_size=step_size,
                start=start,
                loss=self.climbed,
                objective=self.objective,
                nonfinite=self.nonfinite,
                zero=self.zero,
                gather=self.ranks.gatherer(len(labels)) if self._whole_attack else None,
                eager=eager or len(images) != self._compiled_size,
                stop=stop,
            )
            for stop, start in zip(stops, starts, strict=True)
        ]
        return tuple(reversed(found))

    def losses(
        self, images: Tensor, labels: Tensor, *clean: Tensor, autocast: bool = True
    ) -> tuple[Tensor, ...]:
        """Forward pass and objective, then the logits: the part of the update that is compiled."""
        half = autocast and self.recipe.run.precision == "bf16"
        gather = self.ranks.gatherer(len(labels))
        batch = Batch(self.model, images, labels, *clean, half=half, gather=gather)
        return (*self.objective(batch).values(), batch.logits)

    def _update_batch(
        self,
        images: Tensor,
        labels: Tensor,
        *clean: Tensor,
        losses: Callable[..., tuple[Tensor, ...]] | None = None,
    ) -> tuple[Tensor, ...]:
        if losses is None:
            losses = self._losses if len(images) == self._compiled_size else self.losses
        perturbation = self.perturbation if self._perturbs else None
        if perturbation is not None:
            perturbation.add(lambda: losses(images, labels, *clean)[0])
        total, *parts, logits = losses(images, labels, *clean)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        if self.ranks.size > 1:
            total = total.detach()
            self.ranks.average_([total, *(p.grad for p in self.model.parameters() if p.grad is not None)])
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        if self.recipe.optim.clip_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), self.recipe.optim.clip_norm, norm)
        self.guard.check(total, norm)
        self.optimizer.step()
        if perturbation is not None:
            perturbation.remove()
        correct = (logits.detach().argmax(dim=1) == labels).sum()
        return (*(value.detach() for value in (total, *parts)), correct)
