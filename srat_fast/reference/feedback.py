"""Class feedback, written again class by class on plain numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from srat_fast.recipe import ResolvedRecipe

Numbers = list[float]
State = dict[str, Any]
Seen = dict[str, Any]


class PlainRule:
    """A rule of `feedback.rule` on lists: state and effects."""

    def __init__(self, recipe: ResolvedRecipe, counts: list[int]) -> None:
        self._recipe, self._counts = recipe, counts
        self._begin, self._update, self._effects = FORMULAS[recipe.feedback.rule]
        self.state: State = self._begin(counts)

    def update(self, seen: Any) -> None:
        """Take in the figures of an epoch."""
        plain = {name: values.tolist() for name, values in vars(seen).items()}
        self.state = self._update(self.state, plain, self._recipe, self._counts)

    def effects(self) -> dict[str, Any]:
        """What is in force."""
        return self._effects(self.state, self._recipe)


def mean(values: Numbers) -> float:
    """Of a list."""
    return sum(values) / len(values)


def nothing(state: State, *more: object) -> State:
    """Of rules that measure nothing."""
    return {}


def frl_begin(counts: list[int]) -> State:
    """Three multipliers a class."""
    return {name: [0.0] * len(counts) for name in ("clean", "boundary", "radius")}


def frl(state: State, seen: Seen, recipe: ResolvedRecipe, counts: list[int]) -> State:
    """A class whose clean or boundary error exceeds the mean by more than d gets a larger multiplier."""
    d, classes = recipe.feedback.frl_slack, range(len(counts))
    errors = [1 - accuracy for accuracy in seen["clean"]]
    boundaries = [seen["clean"][c] - seen["robust"][c] for c in classes]
    moved: State = {}
    for name, values, rate in (("clean", errors, 0.05), ("boundary", boundaries, 0.1)):
        level = mean(values)
        multipliers = [max(0.0, state[name][c] + rate * (values[c] - level - d)) for c in classes]
        if sum(multipliers) > 0.5:
            total = sum(multipliers)
            multipliers = [0.5 * m / total for m in multipliers]
        moved[name] = multipliers
    level, rate = mean(boundaries), recipe.feedback.frl_radius_rate
    moved["radius"] = [state["radius"][c] + rate * (boundaries[c] - level - d) for c in classes]
    return moved


def frl_effects(state: State, recipe: ResolvedRecipe) -> dict[str, Any]:
    """C (1 / C + lambda_c - mean lambda), and the radii of remargin."""
    found: dict[str, Any] = {}
    for name, effect in (("clean", "weights"), ("boundary", "pair")):
        lambdas = state[name]
        found[effect] = [len(lambdas) * (1 / len(lambdas) + one - mean(lambdas)) for one in lambdas]
    if recipe.feedback.frl_radius_rate > 0:
        found["radii"] = [min(3.0, max(0.98, math.exp(2 * one))) for one in state["radius"]]
    return found


def cfa_begin(counts: list[int]) -> State:
    """Factors of 1 until the first figures."""
    return {"factors": [1.0] * len(counts)}


def cfa(state: State, seen: Seen, recipe: ResolvedRecipe, counts: list[int]) -> State:
    """lambda + robust accuracy."""
    return {"factors": [recipe.feedback.cfa_base + accuracy for accuracy in seen["robust"]]}


def cfa_effects(state: State, recipe: ResolvedRecipe) -> dict[str, Any]:
    """Radius by class; and of (1 - q) CE + q KL, with the coefficient beta on KL."""
    beta = recipe.row.terms.get("kl", 0.0)
    found = {"radii": state["factors"]}
    if beta > 0:
        shares = [1 - 1 / (1 + beta * factor) for factor in state["factors"]]
        found["weights"] = [1 - q for q in shares]
        found["pair"] = [q / beta for q in shares]
    return found


def wat_begin(counts: list[int]) -> State:
    """A weight of 1 for each class and for their mean."""
    return {"sums": [0.0] * (len(counts) + 1), "weights": [1.0] * (len(counts) + 1)}


def wat(state: State, seen: Seen, recipe: ResolvedRecipe, counts: list[int]) -> State:
    """Exponential weights of the summed losses."""
    beta, eta = recipe.row.terms.get("kl", 0.0), recipe.feedback.wat_rate
    losses = seen["attacked_loss"]
    if beta > 0:
        losses = [ce + beta * kl for ce, kl in zip(seen["loss"], seen["divergence"], strict=True)]
    sums = [old + new for old, new in zip(state["sums"], [*losses, mean(losses)], strict=True)]
    # against the largest: e^(eta l) of a long run has no number
    powers = [math.exp(eta * (s - max(sums))) for s in sums]
    return {"sums": sums, "weights": [len(counts) * p / sum(powers) for p in powers]}


def wat_effects(state: State, recipe: ResolvedRecipe) -> dict[str, Any]:
    """A class's own weight and that of the mean."""
    *own, common = state["weights"]
    weights = [w + common for w in own]
    return {"weights": weights, "pair": weights}


def dafa_begin(counts: list[int]) -> State:
    """Weights of 1."""
    return {"weights": [1.0] * len(counts)}


def dafa(state: State, seen: Seen, recipe: ResolvedRecipe, counts: list[int]) -> State:
    """Pair by pair, the worse class takes from the better one what it is taken for it."""
    p, weights = seen["probability"], [1.0] * len(counts)
    for i in range(len(counts)):
        for j in range(len(counts)):
            if p[i][i] < p[j][j]:
                moved = recipe.feedback.dafa_strength * p[i][j] * p[j][j]
                weights[i] += moved
                weights[j] -= moved
    return {"weights": [max(0.0, w) for w in weights]}


def dafa_effects(state: State, recipe: ResolvedRecipe) -> dict[str, Any]:
    """Of the clean cross-entropy and of the radius."""
    return {"weights": state["weights"], "radii": state["weights"]}


def cgr_begin(counts: list[int]) -> State:
    """Equal scores, and no edges."""
    return {"scores": [1.0] * len(counts), "graph": [[0.0] * len(counts) for _ in counts]}


def cgr(state: State, seen: Seen, recipe: ResolvedRecipe, counts: list[int]) -> State:
    """Smoothed scores and edges."""
    keep, classes = recipe.feedback.cgr_momentum, range(len(counts))
    level = mean(seen["robust"])
    raw = [max(level - seen["robust"][c], 0.0) + 0.5 * (1 - seen["robust"][c]) for c in classes]
    raw = [r / mean(raw) for r in raw] if sum(raw) > 0 else raw
    edges = [[0.0 for _ in classes] for _ in classes]
    unit = [[x / math.hypot(*centre) for x in centre] for centre in seen["centres"]]
    for i in classes:
        found = []
        for j in classes:
            if j != i:
                away = math.dist(unit[i], unit[j])
                rarity = math.sqrt(counts[j] / max(counts))
                found.append((seen["confusion"][i][j] * rarity / max(away, 1e-6), j))
        for strength, j in sorted(found, key=lambda edge: -edge[0])[:3]:
            edges[i][j] = strength
    there = [e for row in edges for e in row if e > 0]
    edges = [[min(5.0, e / mean(there)) if there else 0.0 for e in row] for row in edges]
    return {
        "scores": [keep * state["scores"][c] + (1 - keep) * raw[c] for c in classes],
        "graph": [[keep * state["graph"][i][j] + (1 - keep) * edges[i][j] for j in classes] for i in classes],
    }


def cgr_effects(state: State, recipe: ResolvedRecipe) -> dict[str, Any]:
    """Weights of mean 1 before and after they are bounded."""
    raw = [1 + score for score in state["scores"]]
    bounded = [min(3.0, max(0.25, r / mean(raw))) for r in raw]
    weights = [b / mean(bounded) for b in bounded]
    return {"weights": weights, "pair": weights, "graph": state["graph"]}


def faal(probabilities: list[Numbers], labels: list[int], divergence: float, rates: str) -> Numbers:
    """FAAL's weights of a batch: C times the worst distribution over classes in a KL ball around the uniform one."""
    classes = len(probabilities[0])
    scores = []
    for c in range(classes):
        own = [p for p, y in zip(probabilities, labels, strict=True) if y == c]
        margins = [max(p[k] for k in range(classes) if k != c) - p[c] for p in own]
        if rates == "balanced":
            scores.append(sum(margins))
        else:
            scores.append(mean(margins) if margins else -1.0)
    return [classes * p for p in worst(scores, divergence)]


def worst(scores: Numbers, divergence: float) -> Numbers:
    """p_c ~ 1 / (nu - a_c), nu by bisection on KL(uniform || p) = r."""
    top, spread = max(scores), max(scores) - min(scores)
    if spread == 0:
        return [1 / len(scores) for _ in scores]

    def distribution(log_gap: float) -> Numbers:
        raw = [1 / (math.exp(log_gap) + (top - a) / spread) for a in scores]
        return [r / sum(raw) for r in raw]

    low, high = -40.0, 40.0
    for _ in range(100):
        middle = (low + high) / 2
        p = distribution(middle)
        if -mean([math.log(len(p) * one) for one in p]) > divergence:
            low = middle
        else:
            high = middle
    return distribution(high)


#: rule -> what it begins with, what it does with figures, what it sets
FORMULAS: dict[str, tuple[Callable[..., State], Callable[..., State], Callable[..., dict[str, Any]]]] = {
    "off": (nothing, nothing, nothing),
    "faal": (nothing, nothing, nothing),
    "frl": (frl_begin, frl, frl_effects),
    "cfa": (cfa_begin, cfa, cfa_effects),
    "wat": (wat_begin, wat, wat_effects),
    "dafa": (dafa_begin, dafa, dafa_effects),
    "cgr": (cgr_begin, cgr, cgr_effects),
}
