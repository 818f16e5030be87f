"""Stages of a training: which part of the epochs is trained with what, as recipes of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from srat_fast.errors import UserError
from srat_fast.methods import METHODS
from srat_fast.recipe.fields import fields_of
from srat_fast.recipe.sections import NEUTRAL, Stages

if TYPE_CHECKING:
    from srat_fast.recipe.recipe import Recipe, ResolvedRecipe

#: What `stages.train` leaves as it is: the features, whose BatchNorm then keeps its statistics.
FROZEN = ("head", "new-head", "scales")
_NONE = {f"stages.{name}": () for name, _, _ in fields_of(Stages)}
#: Fields that rows set and that are one for the whole run: its network and its images.
_ONE = ("model.", "data.", "stages.")


@dataclass(frozen=True)
class Stage:
    """A part of a training.

    Attributes:
        number: from 0.
        first: its first epoch, from 0.
        end: the epoch after its last.
        recipe: of the run while it lasts, without further stages; the run's own where it has none.
        train: an entry of `stages.train`; so are the following of their fields.
        sampler: how images are drawn.
        schedule: of the rate.
        lr: rate of a schedule of its own.
    """

    number: int
    first: int
    end: int
    recipe: ResolvedRecipe
    train: str = "all"
    sampler: str = "uniform"
    schedule: str = "run"
    lr: float = 0.0

    @property
    def frozen(self) -> bool:
        """Whether the features stay as they are."""
        return self.train in FROZEN

    def rate(self, epoch: int) -> float:
        """The learning rate of one of its epochs."""
        if self.schedule == "run":
            return learning_rate(self.recipe, epoch)
        done = (epoch - self.first) / (self.end - self.first)
        if self.schedule == "cosine":
            return self.lr * (1 + math.cos(math.pi * done)) / 2
        return self.lr * (0.1 if self.schedule == "half" and done >= 0.5 else 1.0)


def learning_rate(recipe: ResolvedRecipe, epoch: int) -> float:
    """Linear warm-up, then a factor at each milestone, or with `compounding` at each epoch from the first one on.

    warm-up: lr (e + 1) / warmup_epochs      after: lr * decay^(milestones reached, or epochs since the first and 1)
    """
    optim = recipe.optim
    if epoch < optim.warmup_epochs:
        return optim.lr * (epoch + 1) / optim.warmup_epochs
    if optim.schedule == "compounding" and optim.milestones:
        return optim.lr * optim.decay ** max(0, epoch - optim.milestones[0] + 1)
    return optim.lr * optim.decay ** sum(epoch >= milestone for milestone in optim.milestones)


def stages_of(recipe: ResolvedRecipe) -> list[Stage]:
    """The stages of a run; one of all its epochs where the recipe has no plan."""
    plan = recipe.stages
    if not plan.lengths:
        return [Stage(0, 0, recipe.optim.epochs, recipe)]
    edges = edges_of(plan.lengths, recipe.optim.epochs)
    found = []
    for number, (first, end) in enumerate(pairwise(edges)):
        part: Any = recipe.replace(changes_of(recipe, number)).filled()
        stage = Stage(number, first, end, part)
        own = {name: getattr(plan, name) for name in ("train", "sampler", "schedule", "lr")}
        found.append(replace(stage, **{name: values[number] for name, values in own.items() if values}))
    return found


def stage_at(stages: Sequence[Stage], epoch: int) -> Stage:
    """The stage of an epoch; behind the end the last."""
    return next((stage for stage in stages if epoch < stage.end), stages[-1])


def edges_of(lengths: Sequence[int], epochs: int) -> list[int]:
    """First epoch of each stage, and the end: shares of the epochs, rounded, of at least one epoch each."""
    edges = [0]
    for number, done in enumerate(accumulate(lengths)):
        left = len(lengths) - number - 1
        edges.append(min(max(round(epochs * done / sum(lengths)), edges[-1] + 1), epochs - left))
    return edges


def changes_of(recipe: Recipe, number: int) -> dict[str, Any]:
    """What differs from the run's recipe in a stage.

    A stage of another row has what that row sets in place of what the run's row or recipe says, but for the network and
    the images.
    """
    plan = {name: recipe.value(name) for name in _NONE}
    changes: dict[str, Any] = dict(_NONE)
    row = plan["stages.method"][number] if plan["stages.method"] else "method"
    if row not in ("method", recipe.method):
        changes |= {name: None for name in NEUTRAL if not name.startswith(_ONE)}
        changes |= {"method": row, "protocol": "srat", "attack.loss": None}
        if not recipe.optim.clip_norm and not recipe.steep():
            changes["optim.clip_norm"] = None  # which LDAM wants
        if METHODS[row].weighting == "none":  # a ratio of weights would have no effect there
            changes |= {"loss.weight_rule": "class-balanced", "loss.weight_ratio": None}
        changes |= {"loss.base": "method", "loss.weighting": "method", "attack.examples": "method"}
    if plan["stages.examples"] and plan["stages.examples"][number] != "method":
        changes["attack.examples"] = plan["stages.examples"][number]
        if (
            changes["attack.examples"] == "clean"
        ):  # without an attack its radii, its stops and its branches are none
            changes |= {n: v for n, v in NEUTRAL.items() if n.startswith("attack.") or n == "loss.branch"}
    if plan["stages.train"] and plan["stages.train"][number] in FROZEN:
        changes["attack.bn"] = "running"
    return changes


def check_stages(recipe: Recipe) -> None:
    """Refuse a plan whose parts do not fit each other, the epochs or the network."""
    lengths, scaled = recipe.value("stages.lengths"), recipe.value("model.head") == "scaled"
    if not (lengths or scaled or any(vars(recipe.stages).values())):
        return
    plan = {name.removeprefix("stages."): recipe.value(name) for name in _NONE if name != "stages.lengths"}
    row = METHODS[recipe.method]
    for name, values in plan.items():
        rows_own = not lengths and values == row.setting(f"stages.{name}", recipe.data.name, ())
        if values and len(values) != len(lengths) and not rows_own:
            needed = (
                f"{len(lengths)} entries, one for each of stages.lengths" if lengths else "stages.lengths"
            )
            raise UserError(f"stages.{name}", f"needs {needed}", list(values))
    # of a stage's own recipe stages.lengths is empty, and so it may be in a recipe that does without its row's plan
    if ("scales" in plan["train"]) != scaled and recipe.stages.lengths != ():
        problem = "scaled and a stage that trains scales (stages.train) need each other"
        raise UserError("model.head", problem, recipe.value("model.head"))
    if not lengths:
        return
    if recipe.optim.epochs < len(lengths):
        problem = f"at least {len(lengths)}, one for each of stages.lengths"
        raise UserError("optim.epochs", problem, recipe.optim.epochs)
    for number in range(len(lengths)):
        schedule = plan["schedule"][number] if plan["schedule"] else "run"
        rate = plan["lr"][number] if plan["lr"] else 0.0
        if (schedule == "run") != (rate == 0):
            needed = "0" if schedule == "run" else "a number > 0"
            raise UserError("stages.lr", f"{needed} with stages.schedule = {schedule}", rate)
        name = plan["method"][number] if plan["method"] else "method"
        brought = {} if name in ("method", recipe.method) else METHODS[name].brought(recipe.data.name)
        for field, value in brought.items():
            if field.startswith(_ONE) and value != recipe.value(field):
                problem = f"{name} needs {field} = {value}, which is one for the whole run"
                raise UserError("stages.method", problem, name)
            if field == "feedback.rule":
                problem = f"the rule {value} of {name} is possible in the run's own method only"
                raise UserError("stages.method", problem, name)
        recipe.replace(changes_of(recipe, number))
