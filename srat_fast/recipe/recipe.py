"""The whole recipe, as written and as resolved: sections that agree with each other, and a fingerprint."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from srat_fast import plugins
from srat_fast.datasets import DATASETS
from srat_fast.errors import UserError, did_you_mean
from srat_fast.methods import METHODS, PLAIN_MEAN, RULES, UNWEIGHTED, Method
from srat_fast.recipe.fields import Section, checked, fields_of, kind_of, setting
from srat_fast.recipe.sections import (
    NEUTRAL,
    SECTIONS,
    Attack,
    Data,
    EvalAttack,
    Feedback,
    Loss,
    Model,
    Optim,
    ResolvedAttack,
    ResolvedData,
    ResolvedEvalAttack,
    ResolvedFeedback,
    ResolvedLoss,
    ResolvedModel,
    ResolvedOptim,
    ResolvedStages,
    Run,
    Stages,
)
from srat_fast.recipe.stages import check_stages
from srat_fast.record import MODEL, RECORD
from srat_fast.registry import threat

R = TypeVar("R", bound="Recipe")


@dataclass(frozen=True)
class Recipe(Section):
    """Everything that decides what a run computes. The default is the `paper` recipe.

    Attributes are the fields documented in `srat_fast.recipe.sections`; None stands for "auto" until `resolve`.

    Raises:
        UserError: a field is out of bounds, or two fields contradict each other.
    """

    plugin: tuple[str, ...] = setting(
        (), "files of one's own that register methods, losses or networks: code, run when the recipe is read; their "
        "content is part of the run's identity, not their paths", before=(),
    )  # fmt: skip
    method: str = setting(
        "srat-ldam", "what is trained: a row of Table 4 or another method of the field", choices=(METHODS,)
    )
    protocol: str = setting(
        "srat", "srat: attack, BatchNorm mode, schedule, augmentation and selection of the paper, so that the method "
        "alone differs; own: those of the method's authors where the recipe does not say otherwise",
        choices=("srat", "own"), before="srat",
    )  # fmt: skip
    seed: int = setting(
        0, "seed of the weights, the order, the augmentation and the attack's noise", low=0, high=2**31
    )
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    attack: Attack = field(default_factory=Attack)
    eval_attack: EvalAttack = field(default_factory=EvalAttack)
    loss: Loss = field(default_factory=Loss)
    feedback: Feedback = field(default_factory=Feedback)
    optim: Optim = field(default_factory=Optim)
    stages: Stages = field(default_factory=Stages)
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "plugin", _loaded(self.plugin)
        )  # before names that they register are checked
        super().__post_init__()
        _check_together(self)

    @property
    def row(self) -> Method:
        """The method's row after the overrides of `loss.base`, `loss.weighting` and `attack.examples`.

        Coefficients are numbers; a term whose coefficient is 0 is left out.
        """
        row = METHODS[self.method]
        loss = self.loss
        coefficients = {name: self.number(value) for name, value in row.terms.items()}
        return dataclasses.replace(
            row,
            base=row.base if loss.base == "method" else loss.base,
            weighting=row.weighting if loss.weighting == "method" else loss.weighting,
            terms={name: value for name, value in coefficients.items() if value != 0},
            adversarial=row.adversarial
            if self.attack.examples == "method"
            else self.attack.examples == "adversarial",
        )

    def number(self, value: float | str) -> float:
        """A number, or the value of the field of that name."""
        if not isinstance(value, str):
            return float(value)
        return float(self.value(value))

    def value(self, name: str) -> Any:
        """A field's value; of one that methods set, the row's where the recipe gives none."""
        section, _, leaf = name.rpartition(".")
        own = getattr(getattr(self, section) if section else self, leaf)
        neutral = FIELDS[name][1].neutral
        if own is not None or neutral is None:
            return own
        return METHODS[self.method].setting(name, self.data.name, neutral)

    @property
    def reduction(self) -> str:
        """`loss.reduction` with "method" spelled out: that of the base loss's or the feedback rule's authors."""
        if self.loss.reduction != "method":
            return self.loss.reduction
        plain = self.row.base in PLAIN_MEAN or self.value("feedback.rule") in PLAIN_MEAN
        return "batch" if plain else "weighted_mean"

    def resolve(self) -> ResolvedRecipe:
        """The recipe with every "auto" that other fields decide replaced by its value.

        `data.limit` and `data.test_limit` stay None for "all", `loss.weight_ratio` and the fields of JPEG and resized
        crops for "not used"; `run.device`, `run.precision`, `run.compile` and `run.capture` wait for the hardware.

        Raises:
            UserError: only the images tell their size (`srat_fast.data.plan.resolve_recipe` asks them).
        """
        filled = self.filled()
        if filled.data.image_size is None:
            raise UserError(
                "data.image_size", f"only the images of {self.data.name} tell it: give it", "auto"
            )
        return _rebuilt(ResolvedRecipe, filled, _RESOLVED)

    def filled(self) -> Recipe:
        """As `resolve`, but where only the images tell their size, it stays None with what follows from it."""
        return self.replace(self._fillings())

    def _fillings(self) -> dict[str, Any]:
        """The values of fields on "auto" that other fields decide."""
        facts, data, optim = DATASETS[self.data.name], self.data, self.optim
        size = data.image_size or facts.image_size or facts.resize_to
        epochs, milestones = optim.epochs, optim.milestones
        if milestones is None:
            # of a run too short for two drops, the ones that fall inside it remain
            milestones = tuple(sorted({m for m in (epochs * 8 // 10, epochs * 9 // 10) if 0 < m < epochs}))
        jpeg, resized = data.storage == "jpeg", data.augment == "resized-crop"
        brought = METHODS[self.method].brought(self.data.name)
        # of a row whose rule, head or term the recipe has switched off, what belongs to that goes with it
        needs = _needs(self) if brought else {}
        idle = {n for start, (useful, _) in needs.items() if not useful for n in _starting(start)}
        defaults: dict[str, Any] = (
            NEUTRAL
            | {n: v for n, v in brought.items() if n in NEUTRAL and n not in idle}
            | {
                "model.start_sha256": ""
                if self.model.start is None
                else starting_weights(self.model.start)[1],
                "data.subset_seed": self.seed,
                "data.image_size": size,
                "data.crop_padding": 0 if resized else None if size is None else size // 8,
                "data.crop_area": 0.08 if resized else None,
                "data.max_side": 2 * size if jpeg and size else None,
                "data.jpeg_quality": 90 if jpeg else None,
                "attack.step_size": _step(self.attack.threat, self.attack.epsilon, facts),
                "attack.loss": METHODS[self.method].inner,
                "eval_attack.threat": self.attack.threat,
                "eval_attack.epsilon": self.attack.epsilon,
                "eval_attack.step_size": _step(
                    self.eval_attack.threat or self.attack.threat,
                    self.eval_attack.epsilon or self.attack.epsilon,
                    facts,
                ),
                "optim.warmup_epochs": min(facts.warmup_cap, math.ceil(epochs / 4)),
                "optim.milestones": milestones,
                "optim.defer_epoch": milestones[0] if milestones else epochs,
                "optim.clip_norm": 1.0 if self.steep() else 0.0,
            }
        )
        if data.flip == "auto":
            defaults["data.flip"] = "on" if facts.flip else "off"
        values = flatten(self)
        return {n: v for n, v in defaults.items() if values[n] in (None, "auto")}

    def steep(self) -> bool:
        """Whether the base loss multiplies logits without a bound of their own: LDAM away from its cosine head."""
        return self.row.base == "ldam" and self.value("model.head") == "linear" and self.loss.ldam_scale > 1

    def replace(self, changes: dict[str, Any]) -> Recipe:
        """A copy with dotted fields changed."""
        _loaded(changes.get("plugin"))  # before names that they register are checked
        sections: dict[str, dict[str, Any]] = {}
        top: dict[str, Any] = {}
        for name, value in changes.items():
            require_field(name, value)
            section, _, leaf = name.rpartition(".")
            (sections.setdefault(section, {}) if section else top)[leaf] = value
        parts = {s: dataclasses.replace(getattr(self, s), **leaves) for s, leaves in sections.items()}
        changed = dataclasses.replace(self, **top, **parts)
        for section in ("attack", "eval_attack"):  # lengths mean something else in another ball
            before, after = (getattr(r, section).threat or r.attack.threat for r in (self, changed))
            for leaf in ("epsilon", "step_size") if before != after else ():
                name, value = f"{section}.{leaf}", getattr(getattr(changed, section), leaf)
                if value is not None and name not in changes:
                    raise UserError(name, f"is a length in {before}; give one in {after}", value)
        return changed

    def to_dict(self) -> dict[str, Any]:
        """The recipe as nested plain values, plug-ins as copies in the run's directory: what recipe.json holds."""
        copies = {"plugin": [plugins.copy_name(path) for path in self.plugin]}
        return json.loads(json.dumps(dataclasses.asdict(self) | copies))

    def fingerprint(self) -> str:
        """The run's identity: 12 hex digits over every resolved field that changes what is computed."""
        filled = {  # as `filled` has them, without the checks of a recipe's making: a plan asks ten thousand times
            name: float(value) if value is not None and kind_of(FIELDS[name][0]) is float else value
            for name, value in self._fillings().items()
        }
        values = flatten(self) | filled | {"plugin": plugins.digests(self.plugin)}
        specs = {name: spec for name, (_, spec) in FIELDS.items() if spec.identity}
        identity = {
            n: values[n] for n, spec in specs.items() if spec.before is None or values[n] != spec.before
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def _loaded(paths: Any) -> Any:
    """The absolute paths of plug-ins, which are loaded."""
    if not paths:
        return paths
    return plugins.use(checked("plugin", paths, tuple[str, ...], FIELDS["plugin"][1]))


class ResolvedRecipe(Recipe):
    """A recipe as it is run: nothing is left to "auto" but what the hardware decides."""

    data: ResolvedData
    model: ResolvedModel
    attack: ResolvedAttack
    eval_attack: ResolvedEvalAttack
    loss: ResolvedLoss
    feedback: ResolvedFeedback
    optim: ResolvedOptim
    stages: ResolvedStages

    def resolve(self) -> ResolvedRecipe:
        """Itself."""
        return self

    def filled(self) -> ResolvedRecipe:
        """Itself."""
        return self

    def replace(self, changes: dict[str, Any]) -> ResolvedRecipe:
        """A copy with dotted fields changed; one that is changed to "auto" is resolved again."""
        return _rebuilt(Recipe, self, SECTIONS).replace(changes).resolve()


def _rebuilt(kind: type[R], recipe: Recipe, sections: dict[str, type]) -> R:
    """The same fields as a recipe of another kind."""
    parts = {name: section(**vars(getattr(recipe, name))) for name, section in sections.items()}
    return kind(**(vars(recipe) | parts))


def starting_weights(start: str) -> tuple[Path, str]:
    """The file that `model.start` stands for, and its SHA-256."""
    path = Path(start)
    try:
        if path.is_dir():
            if (
                not (path / RECORD).is_file()
                or json.loads((path / RECORD).read_bytes()).get("status") != "finished"
            ):
                raise UserError("model.start", "is no finished run", start)
            path = path / MODEL
        if path.suffix != ".safetensors":
            raise UserError("model.start", "a run directory or a .safetensors file is needed", start)
        facts = path.stat()
        return path, _sha256(path, facts.st_size, facts.st_mtime_ns)
    except OSError as error:
        raise UserError("model.start", f"cannot be read: {error.strerror}", start) from None
    except ValueError:
        raise UserError("model.start", f"its {RECORD} is damaged", start) from None


@functools.lru_cache(maxsize=64)
def _sha256(path: Path, size: int, changed: int) -> str:
    """Of a file as it is: a plan asks once for each of its runs."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _step(ball: str, radius: float, facts: Any) -> float:
    """Step sizes of the paper belong to its threat model."""
    return facts.step_size if ball == Attack.threat else radius / 4


_RESOLVED: dict[str, type] = {
    "data": ResolvedData,
    "model": ResolvedModel,
    "attack": ResolvedAttack,
    "eval_attack": ResolvedEvalAttack,
    "loss": ResolvedLoss,
    "feedback": ResolvedFeedback,
    "optim": ResolvedOptim,
    "stages": ResolvedStages,
}

#: dotted name -> (annotation, spec), in the order of the sections.
FIELDS = {name: (annotation, spec) for name, annotation, spec in fields_of(Recipe)} | {
    f"{section}.{name}": (annotation, spec)
    for section, kind in SECTIONS.items()
    for name, annotation, spec in fields_of(kind)
}

_PARTS = [(name, *name.rpartition(".")[::2]) for name in FIELDS]


@functools.cache
def _starting(text: str) -> list[str]:
    """The fields whose names start so."""
    return [name for name in FIELDS if name.startswith(text)]


def flatten(recipe: Recipe) -> dict[str, Any]:
    """Dotted name -> value of every field."""
    parts = {section: getattr(recipe, section) for section in SECTIONS} | {"": recipe}
    return {name: getattr(parts[section], leaf) for name, section, leaf in _PARTS}


def require_field(name: str, value: Any, abbreviations: Iterable[str] = ()) -> None:
    """Refuse a dotted name that is no recipe field; a message may name an abbreviation too."""
    if name in FIELDS:
        return
    section = name.partition(".")[0]
    known = [f for f in FIELDS if f.startswith(section + ".")] or [f for f in FIELDS if "." not in f] + list(
        SECTIONS
    )
    hint = did_you_mean(name, [*FIELDS, *abbreviations]) or "; known are " + ", ".join(known)
    raise UserError(name, f"is not a recipe field{hint}", value)


def require_together(recipe: Recipe, processes: int) -> None:
    """Refuse what several processes of a run cannot do together."""
    run, batch = recipe.run, recipe.optim.batch_size
    if processes > 1 and run.engine == "reference":
        raise UserError("run.engine", f"fast is needed with {processes} processes", "reference")
    if processes > 1 and run.compile == "on":
        raise UserError("run.compile", "several processes are not compiled; auto or off", "on")
    if batch < processes:
        problem = f"at least an image a process is needed, {processes}; it is the batch of all together"
        raise UserError("optim.batch_size", problem, batch)


def _check_together(recipe: Recipe) -> None:
    """Refuse fields that contradict each other; a field that would do nothing is a mistake, not a preference."""
    _check_row(METHODS[recipe.method])
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
    _check_serving(data)
    _check_threats(recipe)
    _check_method(recipe)
    check_stages(recipe)
    device = recipe.run.device
    if device not in ("auto", "cpu", "cuda") and not (device.startswith("cuda:") and device[5:].isdecimal()):
        raise UserError("run.device", "auto, cpu, cuda or cuda:N", device)


def _check_row(row: Method) -> None:
    """Refuse a row, of a plug-in, that names fields which there are not, or sets what only a recipe does."""
    for name in (name for brought in (row.settings, *row.by_data.values()) for name in brought):
        if name in FIELDS and name not in NEUTRAL:
            problem = (
                f"its row sets {name}, which is the recipe's own: --set, a recipe's file or the row's `own`"
            )
            raise UserError("method", problem, row.name)
        if name not in FIELDS:
            problem = f"its row sets {name}, which is no field{did_you_mean(name, NEUTRAL)}"
            raise UserError("method", problem, row.name)
    for name in row.terms.values():
        if isinstance(name, str) and name not in FIELDS:
            problem = (
                f"its row takes a coefficient from {name}, which is no field{did_you_mean(name, FIELDS)}"
            )
            raise UserError("method", problem, row.name)


def _check_threats(recipe: Recipe) -> None:
    """Radius and step fit the threat model that they are measured in."""
    own, other = recipe.attack, recipe.eval_attack
    if other.threat not in (None, own.threat) and other.epsilon is None:
        raise UserError(
            "eval_attack.epsilon",
            f"a radius in {other.threat} is needed: attack.threat is {own.threat}",
            "auto",
        )
    for section, ball in ((own, own.threat), (other, other.threat or own.threat)):
        most = threat[ball].largest
        for name in ("epsilon", "step_size"):
            value = getattr(section, name)
            if value is not None and value > most:
                raise UserError(
                    section.prefix + name, f"a number > 0 and <= {most:g} with threat = {ball}", value
                )


def _check_method(recipe: Recipe) -> None:
    """Pieces of methods that do not go together, and fields that would do nothing."""
    row, value = recipe.row, recipe.value
    if recipe.protocol == "own" and not METHODS[recipe.method].own:
        raise UserError("protocol", f"no other one is known of {recipe.method}; srat is possible", "own")
    if recipe.protocol == "own" and METHODS[recipe.method].fine_tunes and recipe.model.start is None:
        problem = f"a run directory is needed: {recipe.method} as published goes on from a trained network"
        raise UserError("model.start", problem, "auto")
    if recipe.model.start is None and recipe.model.start_sha256:
        raise UserError(
            "model.start_sha256", "has an effect with model.start only", recipe.model.start_sha256
        )
    cosine = value("model.head") == "cosine"
    for start, (useful, needed) in _needs(recipe).items():
        for name in () if useful else _starting(start):
            section, _, leaf = name.rpartition(".")
            given = getattr(getattr(recipe, section), leaf)
            if given not in (None, FIELDS[name][1].before):
                raise UserError(name, f"has an effect with {needed} only", given)
    if cosine and (value("model.inference_norm") or value("model.inference_counts")):
        name = "model.inference_norm" if value("model.inference_norm") else "model.inference_counts"
        raise UserError(name, "a cosine head's weights have no length; 0 is needed", value(name))
    if recipe.attack.start == "half-uniform" and recipe.attack.threat != "linf":
        raise UserError(
            "attack.start", f"uniform or gaussian with attack.threat = {recipe.attack.threat}", "half-uniform"
        )
    if value("attack.radius") == "vector" and not value("attack.radius_factors"):
        raise UserError(
            "attack.radius_factors", "a number for each class is needed with attack.radius = vector", "auto"
        )
    if not row.adversarial and "kl" in row.terms:
        raise UserError(
            "attack.examples",
            "the term kl compares adversarial with clean images: adversarial is needed",
            "clean",
        )
    two, reads_both = (
        value("attack.stop") == "both",
        value("loss.branch") == "last-right" or "entropy" in row.terms,
    )
    if value("loss.branch") == "last-right" and not two:
        raise UserError(
            "loss.branch", "last-right needs attack.stop = both; adversarial is possible", "last-right"
        )
    if two and not reads_both:
        problem = (
            "has an effect with loss.branch = last-right or a term entropy only; first-wrong is one attack"
        )
        raise UserError("attack.stop", problem, "both")
    _check_feedback(recipe, row)
    if not row.adversarial and value("attack.radius") != "same":
        raise UserError(
            "attack.examples", "a radius by class is one of attacks: adversarial is needed", "clean"
        )
    policy, loader = value("data.policy"), recipe.data.loader
    if policy != "off" and loader != "memory":
        name = "data.policy" if recipe.data.policy else "data.loader"
        problem = (
            f"{policy} (data.policy) needs memory" if name == "data.loader" else "only --loader memory has it"
        )
        raise UserError(
            name, f"{problem}; off suits every loader", loader if name == "data.loader" else policy
        )
    if value("attack.radius") == "count" and value("attack.radius_strength") == 0:
        problem = "a number > 0 is needed with attack.radius = count: at 0 all radii are the same"
        raise UserError("attack.radius_strength", problem, 0.0)
    shares = ("loss.harl_mean", "loss.harl_variance", "loss.harl_share")
    if row.base == "harl" and not any(value(name) for name in shares):
        raise UserError(shares[0], f"{', '.join(shares)} are all 0: base loss harl needs one > 0", 0.0)
    if row.base in UNWEIGHTED and row.weighting != "none":
        raise UserError(
            "loss.weighting", f"base loss {row.base} has no class weights; none is needed", row.weighting
        )


def _needs(recipe: Recipe) -> dict[str, tuple[bool, str]]:
    """How names of fields begin that do nothing by themselves -> whether they have an effect here, and with what."""
    row, value = recipe.row, recipe.value
    cosine, prior = value("model.head") == "cosine", row.base == "adjusted"
    perturbed, terms = value("optim.awp_gamma") > 0, METHODS[recipe.method].terms
    rule = value("feedback.rule")

    def of_term(name: str) -> tuple[bool, str]:
        has = f"loss.{name}_weight > 0" if name in terms else f"a method that has the term {name}"
        return name in row.terms, has

    needs = {
        "model.head_": (cosine, "model.head = cosine"),
        "model.inference_scale": (cosine, "model.head = cosine"),
        "loss.adjusted_": (prior, "base loss adjusted"),
        "loss.harl_": (row.base == "harl", "base loss harl"),
        "loss.kl_factor": of_term("kl"),
        "loss.kl_target": of_term("kl"),
        "loss.tail_sign": of_term("tail"),
        "loss.graph_": (
            "graph" in terms and rule == "cgr",
            "feedback.rule = cgr" if "graph" in terms else "a method that has the term graph",
        ),
        "attack.stop": (row.adversarial, "adversarial training"),
        "attack.radius_ramp": (row.adversarial, "adversarial training"),
        "loss.branch": (row.adversarial, "adversarial training"),
        "attack.radius_strength": (value("attack.radius") == "count", "attack.radius = count"),
        "attack.radius_factors": (value("attack.radius") == "vector", "attack.radius = vector"),
        "attack.start": (recipe.attack.random_start, "attack.random_start = true"),
        "optim.select": (recipe.data.val_fraction > 0, "data.val_fraction > 0"),
        "optim.awp_epoch": (perturbed, "optim.awp_gamma > 0"),
        "optim.ema_every": (recipe.optim.ema_decay > 0, "optim.ema_decay > 0"),
        "optim.nesterov": (recipe.optim.momentum > 0, "optim.momentum > 0"),
    }
    for name in ("kl", "tail", "entropy", "etf"):
        needs[f"loss.{name}_weight"] = (name in terms, f"a method that has the term {name}")
    needs["optim.ema_gate"] = (
        recipe.optim.ema_every == "epoch" and recipe.optim.ema_decay > 0 and recipe.data.val_fraction > 0,
        "optim.ema_decay > 0, optim.ema_every = epoch and data.val_fraction > 0",
    )
    measured = ", ".join(name for name in RULES if name != "faal")
    for name in ("split", "images", "steps", "every", "start"):
        needs["feedback." + name] = (rule not in ("off", "faal"), f"feedback.rule = {measured}")
    needs["feedback.rates"] = (rule != "off", "a feedback.rule")
    needs |= {f"feedback.{name}_": (rule == name, f"feedback.rule = {name}") for name in RULES}
    return needs


def _check_feedback(recipe: Recipe, row: Method) -> None:
    """A rule that has what it measures and what it sets."""
    rule, value = recipe.value("feedback.rule"), recipe.value
    if rule == "off":
        return
    if not row.adversarial:
        problem = f"feedback.rule = {rule} goes by attacked images: adversarial is needed"
        raise UserError("attack.examples", problem, "clean")
    if row.weighting != "none":
        problem = f"feedback.rule = {rule} has class weights of its own; none is needed"
        raise UserError("loss.weighting", problem, row.weighting)
    if row.base in UNWEIGHTED:
        raise UserError("feedback.rule", f"base loss {row.base} has no class weights; off is needed", rule)
    if rule != "faal" and value("feedback.split") == "validation" and recipe.data.val_fraction == 0:
        problem = "data.val_fraction > 0 is needed with validation; training is possible"
        raise UserError("feedback.split", problem, "validation")
    if rule == "faal" and (recipe.attack.loss or row.inner) == "objective":
        problem = "the weights of feedback.rule = faal come after the attack; ce is possible"
        raise UserError("attack.loss", problem, "objective")


def _check_serving(data: Data) -> None:
    """Refuse what does not go together; a field that would do nothing is a mistake, not a preference."""
    jpeg, resized = data.storage == "jpeg", data.augment == "resized-crop"
    if jpeg and data.name != "folder":
        raise UserError("data.storage", f"the images of {data.name} are kept raw; jpeg is for folder", "jpeg")
    if jpeg and data.loader != "ffcv":
        raise UserError(
            "data.storage", "stored JPEG is read by --loader ffcv only; raw suits every loader", "jpeg"
        )
    size = data.image_size or 32
    if data.max_side is not None and jpeg and data.max_side < size:
        raise UserError("data.max_side", f"at least data.image_size = {size}", data.max_side)
    if resized and data.crop_padding:
        raise UserError("data.crop_padding", "has an effect with data.augment = crop only", data.crop_padding)
    used = {
        "max_side": (jpeg, "data.storage = jpeg"),
        "jpeg_quality": (jpeg, "data.storage = jpeg"),
        "crop_area": (resized, "data.augment = resized-crop"),
        "workers": (data.loader == "ffcv", "data.loader = ffcv"),
        "prepared": (data.loader == "ffcv", "data.loader = ffcv"),
    }
    for name, (useful, needed) in used.items():
        if not useful and getattr(data, name) is not None:
            raise UserError(f"data.{name}", f"has an effect with {needed} only", getattr(data, name))
