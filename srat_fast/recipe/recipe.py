"""The whole recipe: sections and method enter, cross-checked and resolved they leave, with a fingerprint."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import Any

from srat_fast import plugins
from srat_fast.datasets import DATASETS
from srat_fast.errors import UserError
from srat_fast.methods import METHODS, PLAIN_MEAN, Method
from srat_fast.recipe.fields import checked, setting
from srat_fast.recipe.section import Section, fields_of
from srat_fast.recipe.sections import Attack, Data, EvalAttack, Loss, Model, Optim, Run
from srat_fast.recipe.serving import check_serving, serving_defaults


@dataclass(frozen=True)
class Recipe(Section):
    """Everything that decides what a run computes. The default is the `paper` recipe.

    Attributes are the fields documented in `srat_fast.recipe.sections`; None stands for "auto" until `resolve`.

    Raises:
        UserError: a field is out of bounds, or two fields contradict each other.
    """

    plugin: tuple[str, ...] = setting(
        (), "files of one's own that register methods, losses or networks: code, run when the recipe is read; their "
        "content is part of the run's identity", identity=False,
    )  # fmt: skip
    method: str = setting("srat-ldam", "row of Table 4", choices=(METHODS,))
    seed: int = setting(
        0, "seed of the weights, the order, the augmentation and the attack's noise", low=0, high=2**31
    )
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    attack: Attack = field(default_factory=Attack)
    eval_attack: EvalAttack = field(default_factory=EvalAttack)
    loss: Loss = field(default_factory=Loss)
    optim: Optim = field(default_factory=Optim)
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        _load(self.plugin)  # before the names that they register are checked
        super().__post_init__()
        object.__setattr__(self, "plugin", plugins.use(self.plugin))
        _check_together(self)

    @property
    def row(self) -> Method:
        """The method's row after the overrides of `loss.base`, `loss.weighting` and `attack.examples`.

        Coefficients are numbers; a term whose coefficient is 0 is left out.
        """
        row = METHODS[self.method]
        coefficients = {name: self.number(value) for name, value in row.terms.items()}
        return dataclasses.replace(
            row,
            base=row.base if self.loss.base == "method" else self.loss.base,
            weighting=row.weighting if self.loss.weighting == "method" else self.loss.weighting,
            terms={name: value for name, value in coefficients.items() if value != 0},
            adversarial=row.adversarial
            if self.attack.examples == "method"
            else self.attack.examples == "adversarial",
        )

    def number(self, value: float | str) -> float:
        """A number, or the value of the field of that name."""
        if not isinstance(value, str):
            return float(value)
        section, _, leaf = value.rpartition(".")
        return float(getattr(getattr(self, section), leaf))

    @property
    def reduction(self) -> str:
        """`loss.reduction` with "method" spelled out: the authors take the plain mean for focal loss only."""
        if self.loss.reduction != "method":
            return self.loss.reduction
        return "batch" if self.row.base in PLAIN_MEAN else "weighted_mean"

    def resolve(self) -> Recipe:
        """The recipe with every "auto" that depends on other fields replaced by its value.

        `data.limit` and `data.test_limit` stay None for "all", `loss.weight_ratio` for "not used", the size of images
        that keep theirs until `srat_fast.data.plan.sized` has seen them; `run.device` and `run.precision` are
        resolved by the trainer, which sees the hardware.
        """
        facts = DATASETS[self.data.name]
        size = self.data.image_size or facts.image_size or facts.resize_to  # None: only the images tell
        epochs = self.optim.epochs
        milestones = self.optim.milestones
        if milestones is None:
            # of a run too short for two drops, the ones that fall inside it remain
            milestones = tuple(sorted({m for m in (epochs * 8 // 10, epochs * 9 // 10) if 0 < m < epochs}))
        return self.replace(
            {
                "data.subset_seed": _or(self.data.subset_seed, self.seed),
                "data.image_size": size,
                "data.flip": ("on" if facts.flip else "off") if self.data.flip == "auto" else self.data.flip,
                **serving_defaults(self.data, size),
                "attack.step_size": _or(self.attack.step_size, facts.step_size),
                "eval_attack.step_size": _or(self.eval_attack.step_size, facts.step_size),
                "eval_attack.epsilon": _or(self.eval_attack.epsilon, self.attack.epsilon),
                "optim.warmup_epochs": _or(
                    self.optim.warmup_epochs, min(facts.warmup_cap, math.ceil(epochs / 4))
                ),
                "optim.milestones": milestones,
                "optim.defer_epoch": _or(self.optim.defer_epoch, milestones[0] if milestones else epochs),
            }
        )

    def replace(self, changes: dict[str, Any]) -> Recipe:
        """A copy with dotted fields changed."""
        _load(changes.get("plugin", ()))  # before the names that they register are checked
        sections: dict[str, dict[str, Any]] = {}
        top: dict[str, Any] = {}
        for name, value in changes.items():
            require_field(name, value)
            section, _, leaf = name.rpartition(".")
            (sections.setdefault(section, {}) if section else top)[leaf] = value
        parts = {s: dataclasses.replace(getattr(self, s), **leaves) for s, leaves in sections.items()}
        return dataclasses.replace(self, **top, **parts)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as nested plain values, plug-ins as copies in the run's directory: what recipe.json holds."""
        copies = {"plugin": [plugins.copy_name(path) for path in self.plugin]}
        return json.loads(json.dumps(dataclasses.asdict(self) | copies))

    def fingerprint(self) -> str:
        """The run's identity: 12 hex digits over every resolved field that changes what is computed."""
        resolved = self.resolve()
        identity = {name: value for name, value in flatten(resolved).items() if FIELDS[name][1].identity}
        if self.plugin:
            identity["plugin"] = plugins.digests(self.plugin)
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def _load(paths: Any) -> None:
    plugins.use(checked("plugin", paths, tuple[str, ...], FIELDS["plugin"][1]))


def _or(value: Any, fallback: Any) -> Any:
    return fallback if value is None else value


SECTIONS: dict[str, type] = {
    "data": Data,
    "model": Model,
    "attack": Attack,
    "eval_attack": EvalAttack,
    "loss": Loss,
    "optim": Optim,
    "run": Run,
}

#: dotted name -> (annotation, spec), in the order of the sections.
FIELDS = {name: (annotation, spec) for name, annotation, spec in fields_of(Recipe)} | {
    f"{section}.{name}": (annotation, spec)
    for section, kind in SECTIONS.items()
    for name, annotation, spec in fields_of(kind)
}


def flatten(recipe: Recipe) -> dict[str, Any]:
    """Dotted name -> value of every field."""
    values = {}
    for name in FIELDS:
        section, _, leaf = name.rpartition(".")
        values[name] = getattr(getattr(recipe, section) if section else recipe, leaf)
    return values


def require_field(name: str, value: Any) -> None:
    """Refuse a dotted name that is no recipe field."""
    if name in FIELDS:
        return
    import difflib

    near = difflib.get_close_matches(name, FIELDS, n=1)
    section = name.partition(".")[0]
    known = [f for f in FIELDS if f.startswith(section + ".")] or [f for f in FIELDS if "." not in f] + list(
        SECTIONS
    )
    hint = f"did you mean {near[0]}?" if near else "known are " + ", ".join(known)
    raise UserError(name, f"is not a recipe field; {hint}", value)


def _check_together(recipe: Recipe) -> None:
    """Refuse fields that contradict each other; a field that would do nothing is a mistake, not a preference."""
    loss, optim, data = recipe.loss, recipe.optim, recipe.data
    facts = DATASETS[data.name]
    if (loss.weight_ratio is None) == (loss.weight_rule == "ratio"):
        if loss.weight_ratio is None:
            raise UserError(
                "loss.weight_ratio", "a number > 0 is needed with loss.weight_rule = ratio", "auto"
            )
        raise UserError(
            "loss.weight_ratio", "has an effect with loss.weight_rule = ratio only", loss.weight_ratio
        )
    if loss.weight_ratio is not None and recipe.row.weighting == "none":
        raise UserError(
            "loss.weight_ratio",
            f"has no effect: method {recipe.method} is unweighted; set loss.weighting to balanced or deferred",
            loss.weight_ratio,
        )
    if data.image_size is not None and facts.image_size is not None and data.image_size != facts.image_size:
        raise UserError(
            "data.image_size",
            f"{data.name} has {facts.image_size}; only folder, npz and arrays are resized",
            data.image_size,
        )
    if data.mirror is not None and not data.mirror.startswith(("http://", "https://", "file://")):
        raise UserError(
            "data.mirror", "a base URL is needed: http://..., https://... or file:///...", data.mirror
        )
    if data.val_source == "balanced" and data.val_fraction == 0:
        raise UserError("data.val_source", "has an effect with data.val_fraction > 0 only", data.val_source)
    if data.val_source == "balanced" and data.imbalance == "none":
        raise UserError(
            "data.val_source",
            "data.imbalance = none leaves no images out; imbalanced is possible",
            "balanced",
        )
    if optim.warmup_epochs is not None and optim.warmup_epochs > optim.epochs:
        raise UserError("optim.warmup_epochs", f"at most optim.epochs = {optim.epochs}", optim.warmup_epochs)
    if optim.milestones is not None and list(optim.milestones) != sorted(set(optim.milestones)):
        raise UserError("optim.milestones", "increasing epochs are needed", list(optim.milestones))
    if recipe.run.engine == "reference" and recipe.run.precision == "bf16":
        raise UserError("run.precision", "the reference engine computes in fp32 only", "bf16")
    if recipe.run.engine == "reference":
        for name, value in (("run.compile", recipe.run.compile), ("run.capture", recipe.run.capture)):
            if value == "on":
                raise UserError(name, "the reference engine is eager", value)
    check_serving(data)
    device = recipe.run.device
    if device not in ("auto", "cpu", "cuda") and not (device.startswith("cuda:") and device[5:].isdecimal()):
        raise UserError("run.device", "auto, cpu, cuda or cuda:N", device)
