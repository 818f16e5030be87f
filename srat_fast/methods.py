"""The methods as rows of data; choices, tests and tables are driven by them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from srat_fast.errors import UserError, require_one_of
from srat_fast.registry import method as METHODS

WEIGHTINGS = ("none", "balanced", "deferred")
#: feedback rules: what they set is in `training/feedback.py`, faal's in `losses/objective.py`
RULES = ("frl", "cfa", "wat", "dafa", "cgr", "faal")
#: base losses and feedback rules whose published code takes the plain mean over the batch, not the weighted one
PLAIN_MEAN = ("focal", "cfa", "wat", "dafa", "cgr", "faal")
#: base losses without class weights: they weigh classes by themselves
UNWEIGHTED = ("harl",)
#: L_sep with the coefficient lambda
SEPARATION = {"separation": "loss.separation_weight"}


@dataclass(frozen=True)
class Method:
    """One row.

    Attributes:
        name: as given on the command line.
        base: the term that is L_cls: "ce", "focal", "ldam" or another of `srat_fast.registry.term`.
        weighting: "none", "balanced" (class weights from the first epoch) or "deferred" (from `optim.defer_epoch`).
        terms: further terms -> coefficient: a number, or the recipe field that holds it.
        inner: what the attack climbs unless `attack.loss` says another: an entry of `srat_fast.registry.inner`.
        adversarial: whether training images are PGD examples.
        title: the name in tables.
        family: heading of its group in tables: `PAPER` for the rows of Table 4.
        settings: recipe field -> value, for fields that say "the method's row": what makes it this method.
        by_data: data set -> settings that differ there.
        own: recipe field -> value of the authors' training, for `protocol = own`; the network is not among them.
        fine_tunes: whether `own` goes on from a trained network (`model.start`).
        source: publication, and the code that was read.
        notes: where the published code differs from its paper, or from this row.
    """

    name: str
    base: str
    weighting: str = "none"
    terms: Mapping[str, Any] = field(default_factory=dict, hash=False)
    adversarial: bool = True
    title: str = ""
    inner: str = "ce"
    family: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    by_data: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)
    own: Mapping[str, Any] = field(default_factory=dict, hash=False)
    source: str = ""
    notes: str = ""
    fine_tunes: bool = False

    def __post_init__(self) -> None:
        require_one_of("weighting", self.weighting, WEIGHTINGS)

    def setting(self, name: str, dataset: str, neutral: Any) -> Any:
        """What the row says of a recipe field on a data set, or `neutral`."""
        return self.brought(dataset).get(name, neutral)

    def brought(self, dataset: str) -> Mapping[str, Any]:
        """Recipe field -> value, of those that the row sets on a data set."""
        own = self.by_data.get(dataset)
        return dict(self.settings) | dict(own) if own else self.settings

    @property
    def separation(self) -> bool:
        """Whether L_sep is among the terms."""
        return "separation" in self.terms


#: family of the rows of Table 4
PAPER = "SRAT paper"
ROBUST, LONG_TAILED, JOINT, FAIR = (
    "adversarial training",
    "long-tailed learning",
    "long-tailed adversarial training",
    "class-wise adversarial training",
)


def rows() -> Iterator[Method]:
    """All rows, families such as "srat:<name>" left out: their members are as many as there are rows."""
    return (METHODS[name] for name in METHODS if "<" not in name)


def settings(name: str, dataset: str, own: bool = False) -> dict[str, Any]:
    """Recipe field -> value that a method brings along; nothing for one that is not known here."""
    if name.rpartition(":")[2] not in METHODS:  # also where a family's row is a plug-in's
        return {}
    row = METHODS[name]
    brought = {"attack.loss": row.inner} | dict(row.brought(dataset))
    return brought | dict(row.own) if own else brought


def order(name: str) -> tuple[int, int, str]:
    """Sort key of methods: the rows as they stand, then those with a prefix, by their row; unknown ones last."""
    known = list(METHODS)
    base = name.rpartition(":")[2]
    place = known.index(base) if base in known else len(known)
    return (0, place, name) if name == base and base in known else (1, place, name)


class _Bases:
    """The terms that some row has as its L_cls, rows of plug-ins included."""

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(row.base for row in rows()))


BASES = _Bases()

for _row in (
    Method("natural", "ce", "none", {}, False, "Natural training"),
    Method("ce", "ce", "none", {}, True, "CE"),
    Method("focal", "focal", "none", {}, True, "Focal"),
    Method("ldam", "ldam", "none", {}, True, "LDAM"),
    Method("cb-reweight", "ce", "balanced", {}, True, "CB-Reweight"),
    Method("cb-focal", "focal", "balanced", {}, True, "CB-Focal"),
    Method("drcb-ce", "ce", "deferred", {}, True, "DRCB-CE"),
    Method("drcb-focal", "focal", "deferred", {}, True, "DRCB-Focal"),
    Method("drcb-ldam", "ldam", "deferred", {}, True, "DRCB-LDAM"),
    Method("srat-ce", "ce", "deferred", SEPARATION, True, "SRAT-CE"),
    Method("srat-focal", "focal", "deferred", SEPARATION, True, "SRAT-Focal"),
    Method("srat-ldam", "ldam", "deferred", SEPARATION, True, "SRAT-LDAM"),
):
    METHODS(_row.name)(replace(_row, family=PAPER))


def _schedule(epochs: int, *milestones: int, decay: float = 0.1, **more: Any) -> dict[str, Any]:
    """Epochs and milestones of a published code, without warm-up unless it has one.

    Milestones count from 0: of codes that number epochs from 1 (TRADES, MART, TRADES-AWP, RoBal, AT-BSL, BAT, WAT,
    DAFA, CGR) one less.
    """
    named = {f"optim.{name}": value for name, value in more.items()}
    return {
        "optim.epochs": epochs, "optim.milestones": milestones, "optim.decay": decay, "optim.lr": 0.1,
        "optim.momentum": 0.9, "optim.batch_size": 128, "optim.warmup_epochs": 0, "optim.clip_norm": 0.0,
    } | named  # fmt: skip


def _attack(
    bn: str, start: str, steps: int = 10, step: float = 2 / 255, radius: float = 8 / 255
) -> dict[str, Any]:
    return {
        "attack.bn": bn, "attack.start": start, "attack.steps": steps, "attack.step_size": step,
        "attack.epsilon": radius,
    }  # fmt: skip


_KL = {"kl": "loss.kl_weight"}
_TRADES_ATTACK = _attack("running", "gaussian", step=0.007, radius=0.031)
_TRADES = _TRADES_ATTACK | _schedule(76, 74, weight_decay=2e-4) | {"eval_attack.step_size": 0.003}
_BALANCED = {"loss.adjusted_prior": 1.0}
_AT_BSL = _attack("running", "gaussian") | _schedule(100, 74, 89, 99, weight_decay=5e-4)
_ROBAL_ATTACK = _attack("running", "half-uniform", 5, 0.0078, 0.031) | {"eval_attack.step_size": 0.0078}
_ROBAL = _ROBAL_ATTACK | _schedule(80, 59, 74, weight_decay=2e-4, batch_size=64, schedule="compounding")
_COSINE = {"model.head": "cosine", "model.head_gamma": 1 / 32, "loss.adjusted_scale": 10.0}
#: a second stage on class-balanced draws, features as they are
_SECOND = {
    "stages.sampler": ("uniform", "balanced"),
    "stages.schedule": ("run", "cosine"),
    "stages.lr": (0.0, 0.1),
}
_ROBAL_SECOND = _ROBAL | {
    "optim.epochs": 81, "stages.lengths": (80, 1), "stages.schedule": ("run", "constant"),
}  # fmt: skip
_HARL = {"loss.harl_mean": 0.1, "loss.harl_variance": 0.1, "loss.harl_share": 0.1}
_TAET = _attack("running", "gaussian", step=0.003, radius=0.031) | _schedule(100, 75, 90, weight_decay=5e-4)
_BMS = "Ren et al. 2020 (balanced softmax)"

for _row in (
    Method(
        "trades", "ce", "none", _KL, True, "TRADES", "kl", ROBUST,
        {"loss.branch": "clean", "loss.kl_weight": 6.0}, own=_TRADES,
        source="Zhang et al. 2019; yaodongyu/TRADES 6e8e11b",
        notes="Its update forwards the clean batch twice, which moves BatchNorm's running statistics once more.",
    ),
    Method(
        "mart", "mart", "none", _KL, True, "MART", "ce", ROBUST,
        {"loss.kl_weight": 5.0, "loss.kl_factor": "wrongness"},
        own=_TRADES_ATTACK
        | _schedule(120, 74, 89, 99, lr=0.01, weight_decay=3.5e-3)
        | {"eval_attack.step_size": 0.003},
        source="Wang et al. 2020; YisenWang/MART 2d83e17",
        notes="beta 5 and the schedule are those of its ResNet-18; its WideResNet has 6. Its update forwards the clean "
        "batch first, which BatchNorm's running statistics see in that order.",
    ),
    Method(
        "awp", "ce", "none", {}, True, "AWP", "ce", ROBUST, {"optim.awp_gamma": 0.01},
        own=_attack("batch", "uniform") | _schedule(200, 100, 150, weight_decay=5e-4) | {"model.normalize": "dataset"},
        source="Wu et al. 2020; csdongxian/AWP a7acf5d",
        notes="The published code selects the epoch by test accuracy, forwards x' and x once more each a step, attacks "
        "the first batch of an epoch in eval mode and pads crops by reflection.",
    ),
    Method(
        "trades-awp", "ce", "none", _KL, True, "TRADES-AWP", "kl", ROBUST,
        {"loss.branch": "clean", "loss.kl_weight": 6.0, "optim.awp_gamma": 0.005},
        own=_attack("running", "gaussian") | _schedule(200, 99, 149, weight_decay=5e-4, awp_epoch=9),
        source="Wu et al. 2020; csdongxian/AWP a7acf5d",
        notes="The perturbation begins at the tenth epoch under its own protocol, at once under the paper's. Its "
        "update forwards x' first and x twice, which BatchNorm's running statistics see in that order.",
    ),
    Method(
        "he", "adjusted", "none", {}, True, "HE", "ce", ROBUST,
        {"model.head": "cosine", "model.head_scale": 10.0, "loss.adjusted_margin": 2.0},
        source="Pang et al. 2020; ShawnXYang/AT_HE dad6a41",
        notes="s = 10 is in the head, so the margin 0.2 on the cosine is 2 on the logit. Gains under attacks on "
        "cross-entropy vanish under DLR in the authors' own tracker.",
    ),
    Method(
        "trades-he", "adjusted", "none", _KL, True, "TRADES-HE", "kl", ROBUST,
        {
            "model.head": "cosine", "model.head_scale": 15.0, "loss.adjusted_margin": 3.0, "loss.branch": "clean",
            "loss.kl_weight": 6.0,
        },
        source="Pang et al. 2020; ShawnXYang/AT_HE dad6a41",
        notes="s = 15 is in the head; the margin 0.2 is 3 on the logit.",
    ),
    Method(
        "logit-adjust", "adjusted", "none", {}, True, "Logit adjustment", "ce", LONG_TAILED, _BALANCED, own=_ROBAL,
        source="Menon et al. 2021; as a baseline of wutong16/Adversarial_Long-Tail ab2f3a7",
        notes="At tau = 1 it is the balanced softmax, hence AT-BSL under one protocol; its own is RoBal's, whose head "
        "has a frozen random bias there.",
    ),
    Method(
        "post-hoc-la", "ce", "none", {}, True, "Post-hoc LA", "ce", LONG_TAILED, {"model.inference_prior": 1.0},
        own=_ROBAL, source="Menon et al. 2021; as a baseline of wutong16/Adversarial_Long-Tail ab2f3a7",
        notes="The adjustment is part of the network that is attacked.",
    ),
    Method(
        "tau-norm", "ce", "none", {}, True, "tau-normalisation", "ce", LONG_TAILED, {"model.inference_norm": 1.0},
        own=_ROBAL,
        source="Kang et al. 2020; facebookresearch/classifier-balancing f162ade; as a baseline of "
        "wutong16/Adversarial_Long-Tail ab2f3a7",
        notes="After training, without a stage of its own, and part of the network that is attacked. tau is 1, as "
        "RoBal's code has it; its authors choose it from 0 to 2 on the images that they report. To choose it on "
        "held-out ones (data.val_fraction), compare last.validation of runs that differ in model.inference_norm alone: "
        "they train the same weights.",
    ),
    Method(
        "crt", "ce", "none", {}, True, "cRT", "ce", LONG_TAILED,
        _SECOND | {"stages.lengths": (190, 10), "stages.train": ("all", "new-head")},
        own=_ROBAL_SECOND | {"stages.train": ("all", "head")},
        source="Kang et al. 2020; facebookresearch/classifier-balancing f162ade; rs-fine of "
        "wutong16/Adversarial_Long-Tail ab2f3a7",
        notes="Published on clean images, with a rate of 0.2 for batches of 512; RoBal's epoch of it goes on with the "
        "old head and moves the running statistics of its frozen features, which here stay.",
    ),
    Method(
        "lws", "ce", "none", {}, True, "LWS", "ce", LONG_TAILED,
        _SECOND | {"stages.lengths": (195, 5), "stages.train": ("all", "scales"), "model.head": "scaled"},
        own=_ROBAL_SECOND | {"stages.train": ("all", "scales")},
        source="Kang et al. 2020; facebookresearch/classifier-balancing f162ade; as a baseline of "
        "wutong16/Adversarial_Long-Tail ab2f3a7",
        notes="A factor for each class on its logit, bias included, as its authors' code has it; RoBal's drops the "
        "bias there, under its own protocol too it stays. Published on clean images; the factors decay as weights do.",
    ),
    Method(
        "rs-whole", "ce", "none", {}, True, "Class-balanced sampling", "ce", LONG_TAILED,
        {"stages.lengths": (1,), "stages.sampler": ("balanced",)},
        own=_ROBAL | {"optim.milestones": (45, 61)},
        source="as a baseline of wutong16/Adversarial_Long-Tail ab2f3a7",
        notes="An epoch has as many draws as there are images, and the images of a class come in turn. Published are "
        "25 epochs of C times the largest class, which at ratio 50 are 89 of these: its own protocol has RoBal's 80, "
        "the milestones (15 and 20 of 25) at their share.",
    ),
    Method(
        "cdt", "adjusted", "none", {}, True, "CDT", "ce", LONG_TAILED, {"loss.adjusted_temperature": 0.3}, own=_ROBAL,
        source="Ye et al. 2020; as a baseline of wutong16/Adversarial_Long-Tail ab2f3a7",
        notes="The temperatures are those of training, the attack's logits go without. Its own protocol is RoBal's, "
        "whose head has a frozen random bias there.",
    ),
    Method(
        "ldam-drw", "ldam", "deferred", {}, True, "LDAM-DRW", "ce", LONG_TAILED, {"model.head": "cosine"},
        own=_schedule(200, 160, 180, decay=0.01, weight_decay=2e-4, warmup_epochs=5, defer_epoch=160),
        source="Cao et al. 2019; kaidic/LDAM-DRW 2536330",
        notes="On a cosine head, as its authors have it; drcb-ldam is the SRAT authors' form on a linear one. Its "
        "logits are cosines, which weakens attacks on cross-entropy: read CW and AutoAttack.",
    ),
    Method(
        "robal-n", "adjusted", "none", _KL, True, "RoBal-N", "ce", JOINT,
        _COSINE | {
            "loss.adjusted_margin": 0.1, "loss.adjusted_prior": 1.2, "loss.kl_weight": 6.0,
            "model.inference_scale": 10.0, "model.inference_prior": 0.1,
        },
        {"cifar100": {
            "loss.adjusted_margin": 0.2, "loss.adjusted_prior": 0.0, "loss.kl_weight": 3.0,
            "model.inference_prior": 1.5,
        }},
        _ROBAL, "Wu et al. 2021; wutong16/Adversarial_Long-Tail ab2f3a7",
        "Its code multiplies the rate at every epoch from the 60th on, which stops training near the 62nd: "
        "optim.schedule = step is the rule that was meant. Its update forwards x' and x twice each, which moves "
        "BatchNorm's running statistics twice more.",
    ),
    Method(
        "robal-r", "adjusted", "none", _KL, True, "RoBal-R", "ce", JOINT,
        _COSINE | {
            "loss.adjusted_margin": 0.1, "loss.adjusted_margin_slope": 0.3, "loss.adjusted_prior": 1.5,
            "loss.kl_weight": 6.0,
        },
        {"cifar100": {
            "loss.adjusted_margin": 0.3, "loss.adjusted_margin_slope": 0.0, "loss.adjusted_prior": 0.0,
            "model.head_gamma": 1 / 16, "model.inference_scale": 10.0, "model.inference_prior": 1.7,
        }},
        _ROBAL, "Wu et al. 2021; wutong16/Adversarial_Long-Tail ab2f3a7",
        "Evaluated at scale 1 on CIFAR-10, which weakens attacks on cross-entropy: read CW and AutoAttack. Rate and "
        "forward passes are those of robal-n.",
    ),
    Method(
        "at-bsl", "adjusted", "none", {}, True, "AT-BSL", "ce", JOINT, _BALANCED, own=_AT_BSL,
        source=f"Yue et al. 2024, {_BMS}; NISPLab/AT-BSL 23f433e",
        notes="The published numbers are of the epoch that is best on the test set.",
    ),
    Method(
        "at-bsl-aua", "adjusted", "none", {}, True, "AT-BSL-AuA", "ce", JOINT,
        _BALANCED | {"data.policy": "autoaugment"}, own=_AT_BSL,
        source=f"Yue et al. 2024, {_BMS}; NISPLab/AT-BSL 23f433e",
        notes="AutoAugment's policy of CIFAR-10 before crop and flip, under either protocol: it makes the row.",
    ),
    Method(
        "at-bsl-ra", "adjusted", "none", {}, True, "AT-BSL-RA", "ce", JOINT,
        _BALANCED | {"data.policy": "randaugment"}, own=_AT_BSL,
        source=f"Yue et al. 2024, {_BMS}; NISPLab/AT-BSL 23f433e",
        notes="RandAugment(2, 8) before crop and flip, under either protocol.",
    ),
    Method(
        "reat", "adjusted", "none", {"tail": "loss.tail_weight"}, True, "REAT", "ce", JOINT,
        _BALANCED | {"loss.tail_weight": 1.0},
        own=_attack("running", "uniform") | _schedule(80, 60, 75, weight_decay=5e-4),
        source="Li et al. 2023; GuanlinLee/REAT a7909fd",
        notes="Its weights of the inner cross-entropy change no sign of a gradient where BatchNorm is in eval mode, as "
        "it is there, and are left out; the term on rare classes is as coded, a mean over all features, which draws "
        "them to other classes.",
    ),
    Method(
        "harl", "harl", "none", {}, True, "HARL", "ce", JOINT,
        _HARL, own=_TAET,
        source="Wang et al. 2025 (TAET); BuhuiOK/TAET-Two-Stage-... a374adf",
        notes="TAET's second stage from the first epoch on; a class that is absent from a batch counts with loss 0. "
        "Its code forwards the clean batch too, which moves BatchNorm.",
    ),
    Method(
        "taet", "harl", "none", {}, True, "TAET", "ce", JOINT,
        _HARL | {"stages.lengths": (40, 60), "stages.method": ("natural", "method")}, own=_TAET,
        source="Wang et al. 2025; BuhuiOK/TAET-Two-Stage-... a374adf",
        notes="Clean images first, then HARL, by one schedule and with the momentum kept. Published on images of 224 "
        "pixels and a test set as imbalanced as the training set. Its code forwards the clean batch once more in "
        "either stage, which moves BatchNorm.",
    ),
):  # fmt: skip
    METHODS(_row.name)(_row)

_FROM_TRADES = {"loss.branch": "clean", "loss.kl_weight": 6.0}
_FRL = {"loss.branch": "clean", "loss.kl_weight": 1.5, "feedback.rule": "frl"}
_HELD_OUT = {"feedback.split": "validation", "data.val_fraction": 0.06}
_FROM_SCRATCH = (
    "Published as a fine-tuning of a robust network, which its own protocol is (model.start); else it trains from the "
    "first epoch. "
)
_OWN_FRL = (
    _attack("running", "gaussian") | _schedule(40, lr=0.001, weight_decay=5e-4) | _HELD_OUT
    | {"feedback.images": 300, "feedback.steps": 20}
)  # fmt: skip
_FRL_NOTE = (
    "Errors are compared with the mean of the classes', the published ones with that of all images; the published code "
    "measures before an epoch, the first one included, and forwards the clean batch twice in an update. Held-out "
    "images and PGD-20 come with protocol = own."
)

for _row in (
    Method(
        "frl", "ce", "none", _KL, True, "FRL", "kl", FAIR, _FRL | {"feedback.frl_slack": 0.1},
        own=_OWN_FRL, fine_tunes=True,
        source="Xu et al. 2021; hannxu123/fair_robust a80547d",
        notes=f"{_FROM_SCRATCH}Reweighting alone. {_FRL_NOTE}",
    ),
    Method(
        "frl-remargin", "ce", "none", _KL, True, "FRL-Remargin", "kl", FAIR,
        _FRL | {"feedback.frl_slack": 0.07, "feedback.frl_radius_rate": 0.2}, own=_OWN_FRL, fine_tunes=True,
        source="Xu et al. 2021; hannxu123/fair_robust a80547d",
        notes=f"{_FROM_SCRATCH}{_FRL_NOTE} A class's step follows its radius; the published one is a quarter of the "
        "largest radius for all.",
    ),
    Method(
        "frl-tuned", "ce", "none", _KL, True, "TRADES, then FRL", "kl", FAIR,
        _FRL | {
            "feedback.frl_slack": 0.1, "stages.lengths": (160, 40), "stages.method": ("trades", "method"),
            "stages.schedule": ("run", "constant"), "stages.lr": (0.0, 0.001),
        },
        source="Xu et al. 2021; hannxu123/fair_robust a80547d",
        notes="FRL as published, a fine-tuning, with the network that it begins with in the same run: TRADES for "
        "160 of 200 epochs, whose rate has not fallen by then. From another run: frl with its own protocol.",
    ),
    Method(
        "cfa", "ce", "none", _KL, True, "CFA", "kl", FAIR,
        _FROM_TRADES | {"feedback.rule": "cfa", "feedback.start": 0.05},
        own=_attack("running", "gaussian") | _schedule(200, 100, 150, weight_decay=5e-4)
        | {
            "model.normalize": "dataset", "feedback.rates": "balanced", "data.val_fraction": 0.02,
            "optim.ema_decay": 0.88, "optim.ema_every": "epoch", "optim.ema_gate": 0.24,
        },
        source="Wei et al. 2023; PKU-ML/CFA 071f333",
        notes="Its TRADES form, radius (CCM) and regularisation (CCR) by class. The average (FAWA, the weights `ema`) "
        "needs held-out images and comes with protocol = own; its gate of 0.24 is meant for balanced CIFAR-10, and a "
        "rare class may never pass it; it goes by the attack of evaluation, PGD-20, the published one by PGD-10. "
        "Robust accuracy is measured after an epoch and not summed up over it; the published one is C times right over "
        "all, which is wrong for classes of different size and comes with protocol = own; here it is of images as they "
        "are under PGD on cross-entropy, there of those that training attacks by the divergence. A class's step "
        "follows its radius; the published one is the same for all. Its code pads crops by reflection, and forwards "
        "the clean batch twice more a step.",
    ),
    Method(
        "wat", "ce", "none", _KL, True, "WAT", "kl", FAIR, _FROM_TRADES | {"feedback.rule": "wat"},
        own=_TRADES_ATTACK | _schedule(100, 74, 89, 99, weight_decay=2e-4) | _HELD_OUT
        | {"feedback.images": 300, "feedback.rates": "balanced", "eval_attack.step_size": 0.003},
        source="Li and Liu 2023; the file worst_class_adversarial_train.py",
        notes="Weights of classes and of their mean add up, so that the loss is about twice that of TRADES, as "
        "published. Its own protocol takes held-out images for balanced; their share there is ours. They are attacked "
        "by PGD on cross-entropy, in the published code as training images are.",
    ),
    Method(
        "dafa", "ce", "none", _KL, True, "DAFA", "kl", FAIR,
        _FROM_TRADES | {"feedback.rule": "dafa", "feedback.start": 70 / 110},
        {"cifar100": {"feedback.dafa_strength": 1.5}},
        _TRADES_ATTACK | _schedule(110, 99, 104, weight_decay=5e-4, nesterov=True) | {"eval_attack.step_size": 0.003},
        "Lee et al. 2024; rucy74/DAFA c60ba83",
        "Once, after 64 % of the epochs. A class that gives more than it has is held at 0: among balanced classes none "
        "does, a frequent class that draws many rare ones can. Probabilities are those after that epoch, under PGD on "
        "cross-entropy; the published ones are gathered in its training steps. Its update forwards x' before x, which "
        "BatchNorm's running statistics see in that order.",
    ),
    Method(
        "cgr", "adjusted", "none", {"graph": "loss.graph_weight"}, True, "CGR", "objective", FAIR,
        _BALANCED | {
            "attack.radius": "count", "attack.radius_strength": 0.3, "attack.radius_ramp": 0.8,
            "loss.graph_weight": 0.05, "feedback.rule": "cgr", "feedback.every": 10, "feedback.steps": 20,
        },
        own=_attack("running", "uniform", step=0.007, radius=0.031) | _schedule(110, 99, 104, weight_decay=5e-4)
        | {"eval_attack.step_size": 0.003},
        source="arXiv 2608.09688, the file CGR_LT.py",
        notes="Its form on the balanced softmax. Published scores and graph come from the test images, attacked in "
        "steps of evaluation: here from training or held-out ones, in steps of training. Its code forwards the clean "
        "batch in train mode too, which moves BatchNorm, and draws a start in each class's own ball.",
    ),
    Method(
        "faal", "ce", "none", _KL, True, "FAAL", "ce", FAIR, {"feedback.rule": "faal"},
        own=_attack("running", "uniform") | _schedule(2, 1, lr=0.01, weight_decay=5e-4)
        | {"model.normalize": "dataset", "feedback.rates": "balanced"},
        fine_tunes=True,
        source="Zhang et al. 2024; TrustAI/FAAL b20ee9d",
        notes=f"{_FROM_SCRATCH}On cross-entropy; on TRADES with attack.loss kl, loss.branch clean, loss.kl_weight 6. "
        "The weights that its solver finds have a closed form. A class counts by its mean margin, not by the sum over "
        "its images, which is feedback.rates balanced and comes with protocol = own, as the two epochs do. Its code "
        "forwards the clean batch too, which moves BatchNorm, and selects the epoch by test accuracy.",
    ),
    Method(
        "bat", "ce", "none", {"entropy": "loss.entropy_weight"} | _KL, True, "BAT", "kl", FAIR,
        {
            "attack.stop": "both", "loss.branch": "last-right", "loss.kl_weight": 6.0, "loss.entropy_weight": 1.0,
        },
        own=_TRADES_ATTACK | _schedule(200, 74, 89, 99, weight_decay=2e-4) | {"eval_attack.step_size": 0.003},
        source="Sun et al. 2023; silvercherry/Improving-Robust-Fairness-via-Balance-Adversarial-Training 9bcee67",
        notes="Two attacks a batch, each from a start of its own: L_cls is that of the last iterate that is right, the "
        "divergence that of one step after the first that is wrong. The published code takes images that have ended "
        "out of the batch: here they stay in it, the same under attack.bn = running, at the cost of all steps.",
    ),
    Method(
        "faal-tuned", "ce", "none", _KL, True, "CE, then FAAL", "ce", FAIR,
        {
            "feedback.rule": "faal", "stages.lengths": (198, 2), "stages.method": ("ce", "method"),
            "stages.schedule": ("run", "half"), "stages.lr": (0.0, 0.01),
        },
        source="Zhang et al. 2024; TrustAI/FAAL b20ee9d",
        notes="FAAL as published, a fine-tuning of two epochs, with the network that it begins with in the same run. "
        "From another run: faal with its own protocol.",
    ),
    Method(
        "mcat", "ce", "none", {"etf": "loss.etf_weight"}, True, "MCAT", "ce", ROBUST, {"loss.etf_weight": 1.0},
        own=_attack("running", "uniform") | _schedule(200, weight_decay=5e-4) | {"attack.random_start": False},
        source="MCAT 2026; yneversky/MCAT f19c2af",
        notes="Its manifold term has no gradient as published and is left out: PGD training and the term on the head. "
        "Its rate never falls, and its epoch is selected by test accuracy.",
    ),
):  # fmt: skip
    METHODS(_row.name)(_row)


def require_effect(name: str) -> None:
    """Refuse a prefix that changes nothing, of what is asked for: records of earlier versions may have it."""
    prefix, colon, rest = name.partition(":")
    if not colon or prefix not in ("srat", "robustlt") or rest not in METHODS:
        return
    row = METHODS[rest]
    if prefix == "srat" and row.separation:
        raise UserError("method", f"{rest} has the separation loss itself", name)
    if prefix == "robustlt" and not row.adversarial:
        raise UserError("method", f"{rest} has no attack, so no radius", name)
    if prefix == "robustlt" and row.settings.get("attack.radius") == "count":
        raise UserError("method", f"{rest} has radii by class counts itself", name)
    require_effect(rest)


@METHODS("robustlt:<name>")
def _robustlt(name: str) -> Method:
    """A row with RobustLT's radius, larger for rare classes and growing over the first epochs."""
    row = METHODS[name]
    ramp = 1.0 if name.rpartition(":")[2] == "taet" else 0.8
    radius = {"attack.radius": "count", "attack.radius_strength": 0.3, "attack.radius_ramp": ramp}
    hundred = dict(row.by_data.get("cifar100", {})) | {
        "attack.radius_strength": 0.4,
        "attack.radius_ramp": 0.6,
    }
    own = _attack("frozen", "uniform") | _schedule(100, 75, 90, weight_decay=5e-4, nesterov=True)
    return replace(
        row, name=f"robustlt:{name}", title=f"{row.title} + RobustLT", family=JOINT,
        settings=dict(row.settings) | radius, by_data=dict(row.by_data) | {"cifar100": hundred},
        own=own | {"model.normalize": "dataset", "eval_attack.step_size": 1 / 255}, fine_tunes=False,
        source=f"RobustLT, CVPR 2026; zhang-lilin/RobustLT 2d63979; on {row.source or 'the SRAT paper'}",
        notes="The radius of training only; evaluation has one for all classes. Its code forwards each batch twice "
        "more in train mode, which moves BatchNorm; its AWP climbs by the optimiser with its momentum, here AWP is "
        "that of its authors.",
    )  # fmt: skip


@METHODS("srat:<name>")
def _srat(name: str) -> Method:
    """A row with SRAT's separation loss beside its own terms."""
    row = METHODS[name]
    return replace(
        row, name=f"srat:{name}", title=f"SRAT + {row.title}", terms=dict(row.terms) | SEPARATION, family=JOINT,
        source=f"the SRAT paper's separation loss on {row.source or 'its own row'}",
    )  # fmt: skip
