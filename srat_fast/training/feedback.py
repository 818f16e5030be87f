"""Class feedback: figures of each class, measured between epochs, and the rules that steer training by them.

A rule sets some of: weights [C] of L_cls, pair [C] on the term kl, radii [C] on the attack's epsilon, graph [C, C].
`faal` alone goes by each batch: losses/objective.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from srat_fast.attacks.pgd import pgd
from srat_fast.data.arrays import ImageSet, in_memory
from srat_fast.data.imbalance import draw_subset
from srat_fast.data.memory import MemoryLoader
from srat_fast.data.split import DataSplit
from srat_fast.hardware import evaluating
from srat_fast.models.build import feedback_flops, measured_epochs
from srat_fast.models.classifier import Classifier
from srat_fast.ranks import ALONE, Ranks
from srat_fast.recipe import ResolvedRecipe
from srat_fast.registry import threat
from srat_fast.seeds import seed_for

Effects = Mapping[str, Sequence[float] | Tensor]


@dataclass(frozen=True)
class Figures:
    """What was measured of each class, float64 on the CPU; a class without images has the mean of the others.

    Attributes:
        images: of each class, [C].
        clean: share that is right without an attack, [C].
        robust: share that is right under it, [C].
        loss: cross-entropy of clean images, [C].
        attacked_loss: of attacked ones, [C].
        divergence: KL(p(x) || p(x')), [C].
        margin: max_k!=y p'_k - p'_y, [C].
        probability: p' of each class (column) on images of each class (row), [C, C].
        confusion: share of them that is taken for it, [C, C].
        centres: features of attacked images, [C, D].
    """

    images: Tensor
    clean: Tensor
    robust: Tensor
    loss: Tensor
    attacked_loss: Tensor
    divergence: Tensor
    margin: Tensor
    probability: Tensor
    confusion: Tensor
    centres: Tensor


@dataclass(frozen=True)
class Facts:
    """What a rule goes by beside figures: the recipe and the training images of each class."""

    recipe: ResolvedRecipe
    counts: Sequence[int]

    @property
    def kl_weight(self) -> float:
        """beta of TRADES; 0 where the objective has no such term."""
        return self.recipe.row.terms.get("kl", 0.0)


class Rule(Protocol):
    """A rule of a run. `state` is all that it remembers: tensors or lists, kept in checkpoints."""

    state: dict[str, Any]

    def update(self, seen: Figures) -> None:
        """Take in the figures of an epoch."""

    def effects(self) -> Effects:
        """What is in force, by the names of `SETS`."""


class Nothing:
    """Rules without anything to measure: off, faal."""

    def __init__(self, facts: Facts) -> None:
        self.state: dict[str, Any] = {}

    def update(self, seen: Figures) -> None:
        """Nothing."""

    def effects(self) -> Effects:
        """None."""
        return {}


class Frl:
    """FRL (Xu et al. 2021): multipliers of the constraints that no class's error exceeds the mean by more than d.

    Of clean errors, of boundary errors (clean - robust accuracy), and with a rate for them of the radii.
    """

    def __init__(self, facts: Facts) -> None:
        chosen = facts.recipe.feedback
        self._slack, self._radius_rate = chosen.frl_slack, chosen.frl_radius_rate
        zeros = torch.zeros(len(facts.counts), dtype=torch.float64)
        self.state = {"clean": zeros, "boundary": zeros.clone(), "radius": zeros.clone()}

    def update(self, seen: Figures) -> None:
        """lambda + rate * (error - mean - d), at least 0; the weights' multipliers together at most 1/2."""
        error, boundary = 1 - seen.clean, seen.clean - seen.robust
        beyond = boundary - boundary.mean() - self._slack
        for name, step in (
            ("clean", 0.05 * (error - error.mean() - self._slack)),
            ("boundary", 0.1 * beyond),
        ):
            moved = (self.state[name] + step).clamp(min=0)
            self.state[name] = moved * (0.5 / moved.sum()).clamp(max=1) if moved.sum() > 0 else moved
        self.state["radius"] = self.state["radius"] + self._radius_rate * beyond

    def effects(self) -> Effects:
        """Weights 1 + C (lambda_c - mean), radii e^(2 lambda_c) in [0.98, 3]."""
        classes = len(self.state["clean"])
        clean, boundary = (
            1 + classes * (self.state[name] - self.state[name].mean()) for name in ("clean", "boundary")
        )
        found = {"weights": clean, "pair": boundary}
        if self._radius_rate:
            found["radii"] = (2 * self.state["radius"]).exp().clamp(0.98, 3.0)
        return found


class Cfa:
    """CFA (Wei et al. 2023): radius and beta of a class times lambda + its robust accuracy.

    The objective is (1 - q) CE + q KL, q = beta / (1 + beta): pair is q / beta, which meets the coefficient beta.
    """

    def __init__(self, facts: Facts) -> None:
        self._base, self._beta = facts.recipe.feedback.cfa_base, facts.kl_weight
        self.state = {"factors": torch.ones(len(facts.counts), dtype=torch.float64)}

    def update(self, seen: Figures) -> None:
        """Robust accuracy alone."""
        self.state["factors"] = self._base + seen.robust

    def effects(self) -> Effects:
        """Without the term kl the radii alone."""
        factors = self.state["factors"]
        if not self._beta:
            return {"radii": factors}
        share = factors * self._beta / (1 + factors * self._beta)
        return {"radii": factors, "weights": 1 - share, "pair": share / self._beta}


class Wat:
    """WAT (Li and Liu 2023): hedge over the classes' summed losses and their mean's.

    w is proportional to exp(eta * sum over epochs of l), with sum C over C + 1 entries; a class has w_c + w_(C+1).
    """

    def __init__(self, facts: Facts) -> None:
        self._rate, self._beta = facts.recipe.feedback.wat_rate, facts.kl_weight
        classes = len(facts.counts)
        self.state = {
            "sums": torch.zeros(classes + 1, dtype=torch.float64),
            "weights": torch.ones(classes + 1, dtype=torch.float64),
        }

    def update(self, seen: Figures) -> None:
        """CE + beta KL, or the attacked images' cross-entropy where there is no such term."""
        loss = seen.loss + self._beta * seen.divergence if self._beta else seen.attacked_loss
        self.state["sums"] = self.state["sums"] + torch.cat([loss, loss.mean().reshape(1)])
        self.state["weights"] = len(loss) * (self._rate * self.state["sums"]).softmax(dim=0)

    def effects(self) -> Effects:
        """One weight for both terms."""
        weights = self.state["weights"][:-1] + self.state["weights"][-1]
        return {"weights": weights, "pair": weights}


class Dafa:
    """DAFA (Lee et al. 2024): of two classes, the one that is predicted worse takes from the other by similarity."""

    def __init__(self, facts: Facts) -> None:
        self._strength = facts.recipe.feedback.dafa_strength
        self.state = {"weights": torch.ones(len(facts.counts), dtype=torch.float64)}

    def update(self, seen: Figures) -> None:
        """Once: w_i += lambda P_ij P_jj and w_j -= the same for each pair with P_ii < P_jj; not below 0."""
        own = seen.probability.diagonal()
        moved = torch.where(own[:, None] < own, seen.probability * own, 0.0)  # [C, C]: i takes it from j
        self.state["weights"] = (1 + self._strength * (moved.sum(dim=1) - moved.sum(dim=0))).clamp(min=0)

    def effects(self) -> Effects:
        """The divergence is not weighted."""
        return {"weights": self.state["weights"], "radii": self.state["weights"]}


class Cgr:
    """CGR (2026): weights by smoothed errors, and a graph of the classes that each is taken for."""

    def __init__(self, facts: Facts) -> None:
        self._keep = facts.recipe.feedback.cgr_momentum
        counts = torch.tensor(list(facts.counts), dtype=torch.float64)
        self._share = (counts / counts.max()).sqrt()
        ones = torch.ones(len(counts), dtype=torch.float64)
        self.state = {"scores": ones, "graph": torch.zeros(len(counts), len(counts), dtype=torch.float64)}

    def update(self, seen: Figures) -> None:
        """Scores: shortfall of robust accuracy plus half the error under attack, mean 1. Graph: see `_edges`."""
        raw = (seen.robust.mean() - seen.robust).clamp(min=0) + 0.5 * (1 - seen.robust)
        raw = raw / raw.mean() if raw.mean() > 0 else raw
        keep = self._keep
        self.state["scores"] = keep * self.state["scores"] + (1 - keep) * raw
        self.state["graph"] = keep * self.state["graph"] + (1 - keep) * self._edges(seen)

    def _edges(self, seen: Figures) -> Tensor:
        """Confusion sqrt(n_j / n_max) / distance of unit centres; the largest three of a class, mean 1, at most 5."""
        unit = functional.normalize(seen.centres, dim=1)
        away = torch.cdist(unit, unit, compute_mode="donot_use_mm_for_euclid_dist")
        edges = seen.confusion * self._share / away.clamp(min=1e-6)
        edges.fill_diagonal_(0.0)
        kept = edges.topk(min(3, len(edges) - 1), dim=1)
        edges = torch.zeros_like(edges).scatter(1, kept.indices, kept.values)
        there = edges[edges > 0]
        return (edges / there.mean()).clamp(max=5.0) if len(there) else edges

    def effects(self) -> Effects:
        """Weights 1 + score at mean 1, in [0.25, 3], and again at mean 1."""
        weights = 1 + self.state["scores"]
        weights = (weights / weights.mean()).clamp(0.25, 3.0)
        weights = weights / weights.mean()
        return {"weights": weights, "pair": weights, "graph": self.state["graph"]}


RULES: dict[str, Callable[[Facts], Rule]] = {
    "off": Nothing, "frl": Frl, "cfa": Cfa, "wat": Wat, "dafa": Dafa, "cgr": Cgr, "faal": Nothing,
}  # fmt: skip


def sets(recipe: ResolvedRecipe) -> tuple[str, ...]:
    """What the recipe's rule sets by itself, beside weights."""
    chosen = recipe.feedback
    radii = chosen.rule in ("cfa", "dafa") or (chosen.rule == "frl" and chosen.frl_radius_rate > 0)
    return ("radii",) if radii else ()


def measure(
    model: Classifier,
    images: ImageSet,
    recipe: ResolvedRecipe,
    *,
    seed: int,
    device: torch.device,
    progress: Callable[[int], None] = lambda images: None,
    ranks: Ranks = ALONE,
) -> Figures:
    """Figures of each class under PGD on cross-entropy: eval mode, no autocast, the network as it is trained."""
    attack, classes = recipe.attack, model.linear.out_features
    ball, dtype = threat[attack.threat](attack.epsilon), model.linear.weight.dtype
    noise = torch.Generator(device).manual_seed(seed)
    sums: dict[str, Tensor] = {}
    loader = MemoryLoader(images, batch_size=recipe.run.eval_batch_size, device=device)
    with evaluating(model), torch.autocast(device.type, enabled=False):
        for number, (pixels, labels) in enumerate(loader.epoch()):
            x = pixels.to(dtype)
            # image by image, for other processes' too: training goes by it, which batches of evaluation must not change
            start = torch.cat([ball.random_start(image, noise) for image in x.split(1)])
            if number % ranks.size != ranks.rank:
                x, start, labels = x[:0], start[:0], labels[:0]
            attacked = pgd(
                model, x, labels, ball=ball, steps=recipe.feedback.steps or attack.steps,
                step_size=attack.step_size, start=start,
            )  # fmt: skip
            with torch.no_grad():
                each = _each(model, x, attacked, labels)
                member = functional.one_hot(labels, classes).double()  # [B, C]
                for name, values in each.items():
                    part = member.T @ values.double()
                    sums[name] = sums[name] + part if name in sums else part
            progress(len(pixels))
    counted = {name: ranks.sum_(total).cpu() for name, total in sums.items()}
    return _rates(counted)


def _each(model: Classifier, x: Tensor, attacked: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The figures of each image."""
    features = model.features(attacked)
    logs, attacked_logs = model(x).log_softmax(dim=1), model.classify(features).log_softmax(dim=1)
    index, p = labels[:, None], attacked_logs.exp()
    own = p.gather(1, index).squeeze(1)
    taken = attacked_logs.argmax(dim=1)
    return {
        "images": torch.ones_like(own),
        "clean": logs.argmax(dim=1) == labels,
        "robust": taken == labels,
        "loss": -logs.gather(1, index).squeeze(1),
        "attacked_loss": -attacked_logs.gather(1, index).squeeze(1),
        "divergence": (logs.exp() * (logs - attacked_logs)).sum(dim=1),
        "margin": p.scatter(1, index, -1.0).amax(dim=1) - own,
        "probability": p,
        "confusion": functional.one_hot(taken, p.shape[1]),
        "centres": features,
    }


def _rates(sums: dict[str, Tensor]) -> Figures:
    """Means over each class's images."""
    images = sums["images"]
    present = images > 0
    found = {"images": images}
    for name, total in sums.items():
        if name != "images":
            wide = _wide(total)
            rate = total / images.clamp(min=1.0)[wide]
            found[name] = torch.where(present[wide], rate, rate[present].mean(dim=0))
    return Figures(**found)


def as_published(seen: Figures, sizes: Sequence[int]) -> Figures:
    """The figures of `feedback.rates = balanced`, features aside: C times a class's sum over its images / all images.

    `sizes`: of the classes, whose measured images stand for all that they have.
    """
    share = torch.tensor(sizes, dtype=torch.float64) * len(sizes) / sum(sizes)
    own = ("images", "centres")
    return Figures(**{n: v if n in own else v * share[_wide(v)] for n, v in vars(seen).items()})


def _wide(values: Tensor) -> tuple[Any, ...]:
    """Index that makes [C] as wide as [C, ...]."""
    return (slice(None), *[None] * (values.dim() - 1))


class Feedback:
    """The feedback of one run: which images are measured and when, and its rule."""

    def __init__(
        self,
        recipe: ResolvedRecipe,
        split: DataSplit,
        rule: Callable[[Facts], Rule],
        ranks: Ranks = ALONE,
    ) -> None:
        self._recipe, self._chosen, self._ranks = recipe, recipe.feedback, ranks
        self._split = split
        self.rule = rule(Facts(recipe, split.counts))
        self._epochs = measured_epochs(recipe)
        self._images: ImageSet | None = None

    def due(self, epoch: int) -> bool:
        """Whether the end of an epoch (from 0) is one to measure at."""
        return epoch in self._epochs

    def warnings(self) -> list[str]:
        """That a rule never comes to measure anything."""
        if self._epochs or self._chosen.rule in ("off", "faal"):
            return []
        return [
            f"feedback.rule = {self._chosen.rule} measures nothing: feedback.start, feedback.every, optim.epochs and "
            "the stages leave no epoch to measure after"
        ]

    def flops(self, forward: int) -> int:
        """Of all measurements of the run."""
        return feedback_flops(forward, self._recipe, self._sizes())

    def after(
        self, epoch: int, model: Classifier, device: torch.device, progress: Callable[[int], None]
    ) -> dict[str, Any]:
        """Measure, let the rule go on, and say what was found and what it does: a line of metrics.jsonl."""
        seed = seed_for(self._recipe.seed, "feedback", epoch)
        images = self._measured()
        seen = measure(
            model, images, self._recipe, seed=seed, device=device, progress=progress, ranks=self._ranks
        )
        balanced = self._chosen.rates == "balanced"
        self.rule.update(as_published(seen, self._sizes()) if balanced else seen)
        told = ("clean", "robust", "loss", "attacked_loss", "divergence", "margin")
        return {
            "split": self._chosen.split,
            "images": [int(n) for n in seen.images],
            **{name: getattr(seen, name).tolist() for name in told},
            **self.told(),
        }

    def told(self) -> dict[str, list[float]]:
        """Weights, pair and radii in force, as plain numbers."""
        found = {name: torch.as_tensor(values) for name, values in self.rule.effects().items()}
        return {name: values.tolist() for name, values in found.items() if values.dim() == 1}

    def _measured(self) -> ImageSet:
        """At most `feedback.images` of each class, the same in every epoch."""
        if self._images is None:
            images = self._source()
            most = [self._chosen.images] * len(self._split.counts)
            chosen = draw_subset(images.labels, most, seed_for(self._recipe.seed, "feedback"))
            self._images = in_memory(images.select(chosen))
        return self._images

    def _sizes(self) -> list[int]:
        """Images of each class that are there to be measured."""
        return np.bincount(self._source().labels, minlength=len(self._split.counts)).tolist()

    def _source(self) -> ImageSet:
        return self._split.validation if self._chosen.split == "validation" else self._split.train

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"rule": dict(self.rule.state)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where another one stood."""
        self.rule.state = dict(state["rule"])
