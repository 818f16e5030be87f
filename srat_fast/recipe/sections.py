"""Sections of a recipe: every choice of a run as a frozen, checked field. Defaults are the `paper` recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srat_fast import registry
from srat_fast.datasets import DATASETS
from srat_fast.methods import BASES, RULES, WEIGHTINGS
from srat_fast.recipe.fields import Section, by_method, fields_of, setting
from srat_fast.tables import length


def largest_radius() -> float:
    """The largest radius of any threat model; each one's own bound is checked with the other fields."""
    return max(model.largest for model in registry.threat.values())


@dataclass(frozen=True)
class Data(Section):
    """Which images, how imbalanced, how served."""

    prefix = "data."
    name: str = setting("cifar10", "data set", choices=(DATASETS,), source="paper, Section 5")
    root: str = setting(
        "data", "directory that holds (or receives) the data set; for `folder` the one with train/ and test/, for "
        "`npz` the file", identity=False,
    )  # fmt: skip
    mirror: str | None = setting(
        None, "base URL (http, https or file) under which archives are looked for first; checksums hold all the same",
        auto="SRAT_FAST_MIRROR where it is set, then the publisher", identity=False,
    )  # fmt: skip
    classes: str = setting(
        "all", "classes to use: all, or names or labels separated by commas, the well-represented first",
        source="paper, Figs. 2, 10-12",
    )  # fmt: skip
    imbalance: str = setting(
        "exp", "shape of the class counts; none keeps them as they are", choices=("none", "exp", "step"),
        source="paper, Appendix A.1",
    )  # fmt: skip
    ratio: float = setting(
        100.0, "imbalance ratio K = largest / smallest class", low=1.0, source="paper, Table 4"
    )
    imbalance_base: str = setting(
        "smallest", "what the imbalance reduces: the smallest class's count for all, so that K is exact, or "
        "each class's own count, as the paper's text; they differ only for sets of uneven classes, such as svhn",
        choices=("smallest", "own"),
    )  # fmt: skip
    subset_seed: int | None = setting(
        None,
        "seed of the draw of the imbalanced subset",
        low=0,
        auto="the training seed",
        source="authors' code",
    )
    limit: int | None = setting(
        None, "at most this many training images, drawn after the imbalance; for trials", unit="images", low=1,
        auto="all",
    )  # fmt: skip
    test_limit: int | None = setting(
        None,
        "at most this many test images, evenly over the classes; for trials",
        unit="images",
        low=1,
        auto="all",
    )
    val_fraction: float = setting(
        0.0,
        "share of the training images held out to choose the best epoch; 0 is off",
        low=0.0,
        high=1.0,
        high_open=True,
    )
    val_source: str = setting(
        "imbalanced", "held-out images: the same share of each class, or balanced: equally many of each, from those "
        "that the imbalance left out (a class with too few left gives training images)",
        choices=("imbalanced", "balanced"),
    )  # fmt: skip
    loader: str = setting(
        "memory", "memory keeps the whole set on the device as uint8, ffcv reads it from a file; the same batches",
        choices=("memory", "ffcv"), identity=False,
    )  # fmt: skip
    workers: int | None = setting(
        None,
        "decoding threads of the ffcv loader",
        low=1,
        auto="1 on a CPU, else the cores, at most 8",
        identity=False,
    )
    prepared: str | None = setting(
        None, "directory of the files that the ffcv loader reads", auto="the cache directory", identity=False
    )
    storage: str = setting(
        "raw", "what the ffcv loader reads: raw pixels at image_size, or for `folder` JPEG at up to max_side pixels",
        choices=("raw", "jpeg"),
    )  # fmt: skip
    max_side: int | None = setting(
        None, "longer side of a stored JPEG; larger images are reduced to it", unit="pixels", low=8, high=65500,
        auto="twice image_size with storage = jpeg",
    )  # fmt: skip
    jpeg_quality: int | None = setting(
        None, "quality of a stored JPEG", low=1, high=100, auto="90 with storage = jpeg"
    )
    policy: str | None = by_method(
        "off", "augmentation policy before crop and flip: autoaugment, AutoAugment's of CIFAR-10; randaugment, "
        "RandAugment(2, 8); both as torchvision's tensors have them", choices=("off", "autoaugment", "randaugment"),
    )  # fmt: skip
    augment: str = setting(
        "crop", "crop: zero-padded random crop; resized-crop: random area and aspect ratio, resized to image_size",
        choices=("crop", "resized-crop"),
    )  # fmt: skip
    crop_area: float | None = setting(
        None, "smallest share of the area that a resized crop takes", low=0.0, low_open=True, high=1.0,
        auto="0.08 with augment = resized-crop, as torchvision",
    )  # fmt: skip
    image_size: int | None = setting(
        None, "height and width that images of one's own (folder, npz, arrays) are resized to", unit="pixels", low=4,
        auto="32 for folder, else the images' own",
    )  # fmt: skip
    crop_padding: int | None = setting(
        None, "zero padding of the random crop; 0 switches the crop off", unit="pixels", low=0,
        auto="image size / 8: 4 at 32", source="authors' code",
    )  # fmt: skip
    flip: str = setting(
        "auto", "random horizontal flip; auto is on except for sets of digits", choices=("auto", "on", "off"),
        source="authors' code",
    )  # fmt: skip


class ResolvedData(Data):
    """With the draw's seed and the size of the images."""

    subset_seed: int
    image_size: int
    crop_padding: int
    policy: str


@dataclass(frozen=True)
class Model(Section):
    """The network."""

    prefix = "model."
    name: str = setting(
        "resnet18",
        "network in its CIFAR form; timm:<name> is one of the package timm",
        choices=(registry.model,),
        before="resnet18",
        source="paper, Section 5",
    )
    width: int = setting(
        64,
        "size of the network, 64 for the published one: channels of a ResNet's stem; a WideResNet's k is that of its "
        "name times width / 64",
        low=1,
        source="authors' code",
    )
    feature_dim: int = setting(128, "output of the projection head", low=1, source="authors' code")
    normalize: str = setting(
        "none", "per-channel normalisation inside the model, by the training images' mean and deviation",
        choices=("none", "dataset"), source="authors' code",
    )  # fmt: skip
    start: str | None = setting(
        None, "run directory (its last weights) or .safetensors file to begin with, for fine-tuning: of the same "
        "network, classes and normalisation, which come with it", auto="weights of the seed", identity=False, before="",
    )  # fmt: skip
    start_sha256: str | None = setting(
        None, "SHA-256 of the weights that model.start gives", auto="that of the file", before=""
    )
    head: str | None = by_method(
        "linear", "last layer; cosine: head_scale <f/|f|, w/(|w| + head_gamma)>, without bias, 0 for zeros; scaled: "
        "linear times a factor for each class, 1 until a stage trains them (stages.train)",
        choices=("linear", "cosine", "scaled"), source="Pang et al. 2020; Wu et al. 2021; scaled: Kang et al. 2020",
    )  # fmt: skip
    head_scale: float | None = by_method(
        1.0, "factor on the cosines: part of the network, attacked and exported with it", low=0.0, low_open=True,
    )  # fmt: skip
    head_gamma: float | None = by_method(
        0.0, "added to the norm of each class's weight", low=0.0, source="Wu et al. 2021, code"
    )
    inference_prior: float | None = by_method(
        0.0, "tau of post-hoc logit adjustment, z_c - tau log(n_c / N): in all that is judged and saved, after "
        "inference_norm, inference_counts and inference_scale; training goes on without", low=0.0,
        source="Menon et al. 2021",
    )  # fmt: skip
    inference_scale: float | None = by_method(
        1.0, "factor on the cosines of a cosine head before inference_prior", low=0.0, low_open=True,
        source="Wu et al. 2021, code",
    )  # fmt: skip
    inference_norm: float | None = by_method(
        0.0, "tau of tau-normalisation: w_c / |w_c|^tau, no bias", low=0.0, source="Kang et al. 2020"
    )
    inference_counts: float | None = by_method(
        0.0, "tau of z_c / n_c^tau", low=0.0, source="Wu et al. 2021, code"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start is not None:  # a trial of a sweep may have another working directory
            object.__setattr__(self, "start", str(Path(self.start).expanduser().absolute()))


class ResolvedModel(Model):
    """With the weights that it begins with, and the head and the adjustment of the method."""

    start_sha256: str
    head: str
    head_scale: float
    head_gamma: float
    inference_prior: float
    inference_scale: float
    inference_norm: float
    inference_counts: float


@dataclass(frozen=True)
class Attack(Section):
    """The inner maximisation of training: PGD."""

    prefix = "attack."
    threat: str = setting(
        "linf", "threat model: the ball around each image in which an attack may move, and the measure of epsilon and "
        "step_size: linf, every pixel by itself; l2, Euclidean", choices=(registry.threat,), before="linf",
        source="paper, Section 5",
    )  # fmt: skip
    steps: int = setting(10, "PGD steps", low=1, source="paper, Section 5")
    step_size: float | None = setting(
        None, "step alpha", unit="pixel range", low=0.0, low_open=True, high=largest_radius, fraction=True,
        auto="2/255, svhn 1/255; in another ball than the paper's a quarter of epsilon", source="paper, Section 5",
    )  # fmt: skip
    epsilon: float = setting(
        8 / 255, "radius of the ball; with attack.threat = l2 and no radius beside it 0.5, a Euclidean length over all "
        "pixels and channels", unit="pixel range", low=0.0, low_open=True, high=largest_radius, fraction=True,
        source="paper, Section 5",
    )  # fmt: skip
    bn: str = setting(
        "batch", "batch: train mode, running statistics updated on each pass; running: eval mode; frozen: batch "
        "statistics, the running ones left alone", choices=("batch", "running", "frozen"), source="authors' code",
    )  # fmt: skip
    loss: str | None = setting(
        None, "what is maximised: ce: unweighted cross-entropy on raw logits; objective: the weighted w*L_cls; margin: "
        "that of CW; kl: divergence from the clean prediction",
        choices=(registry.inner,), auto="the method's row, ce for those of the paper",
        source="authors' code; the paper's text says w*L",
    )  # fmt: skip
    random_start: bool = setting(True, "start at random", source="authors' code")
    start: str = setting(
        "uniform", "how a random start is drawn: uniform in the ball; gaussian: x + 0.001 N(0, 1), not clipped; "
        "half-uniform: x + epsilon U[0, 1), not clipped, with threat = linf",
        choices=("uniform", "gaussian", "half-uniform"), before="uniform",
        source="authors' code; gaussian: TRADES; half-uniform: RoBal",
    )  # fmt: skip
    radius: str | None = by_method(
        "same", "epsilon of an image: same for all; count: more for rare classes, epsilon times (1 - radius_strength) "
        "+ radius_strength s_c / sum(pi s), s_c = sqrt(ln(n_max / n_c)); vector: times radius_factors; steps follow",
        choices=("same", "count", "vector"), source="RobustLT, code",
    )  # fmt: skip
    radius_strength: float | None = by_method(
        0.0, "share of the radius that follows the count, with radius = count", low=0.0, high=1.0,
        source="RobustLT, code",
    )  # fmt: skip
    radius_ramp: float | None = by_method(
        0.0, "share of the epochs in which the radius grows from 0: times min(epoch / (radius_ramp epochs), 1); 0 is "
        "off", low=0.0, high=1.0, source="RobustLT, code",
    )  # fmt: skip
    radius_factors: tuple[float, ...] | None = by_method(
        (), "factor on epsilon of each class, with radius = vector", low=0.0
    )
    stop: str | None = by_method(
        "off", "early stop, image by image: first-wrong, one step after an iterate that is misclassified; last-right, "
        "at the iterate before it; both: two attacks, x' of the first and beside it x_c of the second",
        choices=("off", "first-wrong", "last-right", "both"), source="BAT, code",
    )  # fmt: skip
    examples: str = setting(
        "method", "what training sees: adversarial or clean images; method takes the method's row",
        choices=("method", "adversarial", "clean"),
    )  # fmt: skip


class ResolvedAttack(Attack):
    """With the step of the data set and the inner loss of the method."""

    step_size: float
    loss: str
    radius: str
    radius_strength: float
    radius_ramp: float
    radius_factors: tuple[float, ...]
    stop: str


@dataclass(frozen=True)
class EvalAttack(Section):
    """PGD of the reported robust accuracy: fp32, eager, eval mode."""

    prefix = "eval_attack."
    threat: str | None = setting(
        None, "threat model", choices=(registry.threat,), auto="attack.threat", before="linf",
        source="paper, Section 5",
    )  # fmt: skip
    steps: int = setting(20, "PGD steps", low=1, source="paper, Section 5")
    step_size: float | None = setting(
        None, "step alpha", unit="pixel range", low=0.0, low_open=True, high=largest_radius, fraction=True,
        auto="2/255, svhn 1/255; in another ball than the paper's a quarter of epsilon", source="paper, Section 5",
    )  # fmt: skip
    epsilon: float | None = setting(
        None, "radius of the ball", unit="pixel range", low=0.0, low_open=True, high=largest_radius, fraction=True,
        auto="attack.epsilon", source="paper, Section 5",
    )  # fmt: skip


class ResolvedEvalAttack(EvalAttack):
    """With the step of the data set and a radius."""

    threat: str
    step_size: float
    epsilon: float


@dataclass(frozen=True)
class Loss(Section):
    """The objective of Eq. 7."""

    prefix = "loss."
    base: str = setting("method", "L_cls; method takes the method's row", choices=("method", BASES))
    weighting: str = setting(
        "method", "class weights: never, from the first epoch, or from optim.defer_epoch; method takes its row's",
        choices=("method", *WEIGHTINGS),
    )  # fmt: skip
    weight_rule: str = setting(
        "class-balanced", "class-balanced (Cui et al. 2019), inverse (n_max/n_c) or ratio (1 : weight_ratio)",
        choices=("class-balanced", "inverse", "ratio"), source="authors' code",
    )  # fmt: skip
    beta: float = setting(
        0.9999, "beta of the class-balanced rule", low=0.0, high=1.0, high_open=True, source="authors' code"
    )
    weight_ratio: float | None = setting(
        None, "weight of an under-represented class, a well-represented one has 1; with weight_rule = ratio",
        low=0.0, low_open=True, auto="not used", source="paper, Figs. 2, 5",
    )  # fmt: skip
    reduction: str = setting(
        "method", "mean over the batch: sum(w l)/sum(w), sum(w l)/n (Eq. 7), or method: as the authors' code, "
        "which is weighted_mean but batch for focal loss",
        choices=("method", "weighted_mean", "batch"), source="authors' code",
    )  # fmt: skip
    ldam_max_margin: float = setting(
        0.5, "largest margin, that of the rarest class", low=0.0, source="Cao et al. 2019, authors' code"
    )
    ldam_scale: float = setting(
        30.0,
        "s, factor on the margin-shifted logits",
        low=0.0,
        low_open=True,
        source="Cao et al. 2019, authors' code",
    )
    focal_gamma: float = setting(1.0, "gamma of the focal loss", low=0.0, source="authors' code")
    focal_weighting: str = setting(
        "inside", "the class weight outside (correct) or inside the focal factor's p", choices=("outside", "inside"),
        source="authors' code",
    )  # fmt: skip
    separation_weight: float = setting(
        2.0,
        "lambda of Eq. 7, for methods with separation; 0 switches it off",
        low=0.0,
        source="paper, Fig. 6",
    )
    temperature: float = setting(0.07, "tau of Eq. 6", low=0.0, low_open=True, source="authors' code")
    empty_anchors: str = setting(
        "drop", "anchors with no positive: left out of the mean, or counted as 0", choices=("drop", "zero"),
        source="ours: the authors' code gives NaN",
    )  # fmt: skip
    separation_features: str = setting(
        "projection", "z of Eq. 6: the projection head's output or the penultimate features",
        choices=("projection", "penultimate"), source="authors' code",
    )  # fmt: skip
    branch: str | None = by_method(
        "adversarial", "images of L_cls: adversarial ones, or beside them the clean ones or attack.stop's last right",
        choices=("adversarial", "clean", "last-right"), source="TRADES, BAT, code",
    )  # fmt: skip
    adjusted_scale: float | None = by_method(
        1.0,
        "s of base adjusted: cross-entropy of s (z_c / T_c - Delta_y [c = y]) + b_c",
        low=0.0,
        low_open=True,
    )
    adjusted_margin: float | None = by_method(
        0.0, "m: Delta_c = m + adjusted_margin_slope / s ln(n_c / n_min)", low=0.0
    )
    adjusted_margin_slope: float | None = by_method(
        0.0, "tau_m: larger margins for frequent classes", low=0.0
    )
    adjusted_prior: float | None = by_method(
        0.0, "tau_b: b_c = tau_b ln(n_c / N); 1 is the balanced softmax", low=0.0, source="Menon et al. 2021"
    )
    adjusted_temperature: float | None = by_method(
        0.0, "tau: T_c = (n_max / n_c)^tau", low=0.0, source="Ye et al. 2020"
    )
    kl_weight: float | None = by_method(
        0.0, "coefficient of the term kl: mean of KL(p(x) || p(x'))", low=0.0, source="Zhang et al. 2019"
    )
    kl_factor: str | None = by_method(
        "one", "factor on each image's divergence; wrongness: 1 - p_y(x)", choices=("one", "wrongness"),
        source="wrongness: Wang et al. 2020",
    )  # fmt: skip
    kl_target: str | None = by_method(
        "attached", "whether p(x) has a gradient", choices=("attached", "detached"), source="TRADES, code"
    )
    kl_factors: tuple[float, ...] | None = by_method(
        (), "factor on the divergence of each class; none for 1", low=0.0
    )
    harl_mean: float | None = by_method(
        0.0, "alpha of base harl: mean of the classes' losses", low=0.0, source="TAET, code"
    )
    harl_variance: float | None = by_method(
        0.0, "beta of base harl: their variance", low=0.0, source="TAET, code"
    )
    harl_share: float | None = by_method(
        0.0, "gamma of base harl: sum of their squared shares", low=0.0, source="TAET, code"
    )
    tail_weight: float | None = by_method(
        0.0, "coefficient of the term tail on the features of the rarest third", low=0.0, source="REAT, code"
    )
    tail_sign: str | None = by_method(
        "coded", "coded: nearer to other classes, farther from the own, as the published code minimises it; reversed",
        choices=("coded", "reversed"), source="REAT, code",
    )  # fmt: skip
    graph_weight: float | None = by_method(
        0.0, "coefficient of the term graph: margins of 0.5 to the classes that rule cgr found confused", low=0.0,
        source="CGR, code",
    )  # fmt: skip
    entropy_weight: float | None = by_method(
        0.0, "coefficient of the term entropy: KL(p(x') || uniform), and with attack.stop = both that of x_c too",
        low=0.0, source="BAT, code",
    )  # fmt: skip
    etf_weight: float | None = by_method(
        0.0, "coefficient of the term etf: cosines of the head's weights against those of a simplex", low=0.0,
        source="MCAT, code",
    )  # fmt: skip


class ResolvedLoss(Loss):
    """With the settings of the method's row."""

    branch: str
    adjusted_scale: float
    adjusted_margin: float
    adjusted_margin_slope: float
    adjusted_prior: float
    adjusted_temperature: float
    kl_weight: float
    kl_factor: str
    kl_target: str
    kl_factors: tuple[float, ...]
    harl_mean: float
    harl_variance: float
    harl_share: float
    tail_weight: float
    tail_sign: str
    graph_weight: float
    entropy_weight: float
    etf_weight: float


@dataclass(frozen=True)
class Feedback(Section):
    """What training learns of its classes between epochs, and does about it."""

    prefix = "feedback."
    rule: str | None = by_method(
        "off", "what turns the figures of each class into class weights, factors on the term kl or radii; faal: of "
        "each batch by itself; the others: of images that are measured after an epoch",
        choices=("off", *RULES),
    )  # fmt: skip
    split: str | None = by_method(
        "training", "images that are measured: training images as they are, or held-out ones (data.val_fraction)",
        choices=("training", "validation"),
    )  # fmt: skip
    images: int | None = by_method(100, "at most so many of them a class, drawn once", unit="images", low=1)
    steps: int | None = by_method(
        0,
        "PGD steps on them, with the radius and step of attack and cross-entropy; 0 for attack.steps",
        low=0,
    )
    every: int | None = by_method(1, "measured after every so many epochs", unit="epochs", low=1)
    start: float | None = by_method(
        0.0, "share of the epochs before the first measurement", low=0.0, high=1.0
    )
    rates: str | None = by_method(
        "count", "figure of a class: count, sum over its own images / their number; balanced, C times the sum / all "
        "images, as published code that assumes equal classes",
        choices=("count", "balanced"), source="balanced: CFA and WAT, code",
    )  # fmt: skip
    frl_slack: float | None = by_method(
        0.1, "d of rule frl: what a class's error may exceed the mean by", low=0.0, source="FRL, code"
    )
    frl_radius_rate: float | None = by_method(
        0.0, "rate at which rule frl moves the radii (remargin); 0 is off", low=0.0, source="FRL, code"
    )
    cfa_base: float | None = by_method(
        0.5, "lambda of rule cfa: radius and beta of a class times lambda + its robust accuracy", low=0.0,
        source="CFA, code",
    )  # fmt: skip
    wat_rate: float | None = by_method(
        0.1, "eta of rule wat: weights by exp(eta x summed losses)", low=0.0, source="WAT, code"
    )
    dafa_strength: float | None = by_method(
        1.0, "lambda of rule dafa: what similar classes give each other", low=0.0, source="DAFA, code"
    )
    cgr_momentum: float | None = by_method(
        0.8, "share of the old scores and graph that rule cgr keeps", low=0.0, high=1.0, high_open=True,
        source="CGR, code",
    )  # fmt: skip
    faal_divergence: float | None = by_method(
        0.5, "r of rule faal: largest KL(uniform || weights)", low=0.0, low_open=True, source="FAAL, code"
    )


class ResolvedFeedback(Feedback):
    """With the settings of the method's row."""

    rule: str
    split: str
    images: int
    steps: int
    every: int
    start: float
    rates: str
    frl_slack: float
    frl_radius_rate: float
    cfa_base: float
    wat_rate: float
    dafa_strength: float
    cgr_momentum: float
    faal_divergence: float


@dataclass(frozen=True)
class Optim(Section):
    """SGD and its schedule."""

    prefix = "optim."
    lr: float = setting(0.1, "learning rate after warm-up", low=0.0, low_open=True, source="paper, Section 5")
    momentum: float = setting(0.9, "momentum", low=0.0, high=1.0, high_open=True, source="authors' code")
    weight_decay: float = setting(5e-4, "weight decay on all parameters", low=0.0, source="authors' code")
    batch_size: int = setting(
        128, "images a step; the last partial batch is kept", low=1, source="authors' code"
    )
    epochs: int = setting(200, "passes over the training images", low=1, source="paper, Section 5")
    warmup_epochs: int | None = setting(
        None, "epochs of linear warm-up, lr * (epoch + 1) / warmup_epochs", low=0,
        auto="a quarter of the epochs, at most 5 (digits 10)", source="authors' code",
    )  # fmt: skip
    milestones: tuple[int, ...] | None = setting(
        None, "epochs (from 0) at which the rate is multiplied by decay", low=1,
        auto="80 % and 90 % of the epochs: 160 and 180 of 200", source="paper, Section 5",
    )  # fmt: skip
    decay: float = setting(
        0.01, "factor at each milestone", low=0.0, low_open=True, high=1.0, source="paper, Section 5"
    )
    defer_epoch: int | None = setting(
        None, "epoch (from 0) from which deferred weights apply", low=0, auto="the first milestone: 160 of 200",
        source="paper, Section 5",
    )  # fmt: skip
    clip_norm: float | None = setting(
        None, "largest L2 norm of the whole gradient; 0 is off. LDAM's s = 30 on a linear head makes it 30 times as "
        "long, and unclipped its first steps at the paper's rates end every feature (docs/explanation/method.md)",
        low=0.0, auto="1 for LDAM on a linear head with loss.ldam_scale > 1, else off", source="authors' code: off",
    )  # fmt: skip
    ema_decay: float = setting(
        0.0, "decay of an exponential moving average of the weights, evaluated beside the last; 0 is off",
        low=0.0, high=1.0, high_open=True,
    )  # fmt: skip
    ema_every: str = setting(
        "step", "how often the average takes the weights in", choices=("step", "epoch"), before="step"
    )
    ema_gate: float = setting(
        0.0, "the average, BatchNorm's statistics with it, begins with and takes in only epochs in which every class "
        "has at least so much robust accuracy on held-out images (FAWA); 0 is off: it takes in all", low=0.0, high=1.0,
        before=0.0, source="CFA, code",
    )  # fmt: skip
    select: str = setting(
        "balanced", "what the best epoch is best in, on attacked held-out images: balanced, the mean "
        "of the classes' robust accuracies; overall, that of all images; worst, the smallest of a class",
        choices=("balanced", "overall", "worst"), before="balanced",
    )  # fmt: skip
    nesterov: bool = setting(False, "Nesterov momentum", before=False, source="RobustLT, code")
    schedule: str = setting(
        "step", "step: the rate times decay at each milestone; compounding: times decay at every epoch from the first "
        "milestone on, which freezes the weights soon after it, as RoBal's code does",
        choices=("step", "compounding"), before="step",
    )  # fmt: skip
    awp_gamma: float | None = by_method(
        0.0, "adversarial weight perturbation: its length over the weight's, layer by layer; 0 is off", low=0.0,
        source="Wu et al. 2020",
    )  # fmt: skip
    awp_epoch: int | None = by_method(
        0, "epoch (from 0) from which weights are perturbed", low=0, source="Wu et al. 2020"
    )


class ResolvedOptim(Optim):
    """With the epochs of the schedule, and the weight perturbation of the method."""

    awp_gamma: float
    awp_epoch: int

    warmup_epochs: int
    milestones: tuple[int, ...]
    defer_epoch: int
    clip_norm: float


@dataclass(frozen=True)
class Stages(Section):
    """A plan of stages, one after the other; lists of one entry a stage, or empty."""

    prefix = "stages."
    lengths: tuple[int, ...] | None = by_method(
        (),
        "epochs of each stage; where they do not add up to optim.epochs, its shares; none for no plan",
        low=1,
    )
    method: tuple[str, ...] | None = by_method(
        (), "row of each stage with all that it sets but for the network and the images; method is the run's own",
        choices=("method", registry.method),
    )  # fmt: skip
    examples: tuple[str, ...] | None = by_method(
        (), "what each stage sees: adversarial or clean images; method takes its row's",
        choices=("method", "adversarial", "clean"),
    )  # fmt: skip
    sampler: tuple[str, ...] | None = by_method(
        (), "uniform: each image once an epoch; balanced: as many draws, of each class equally many, of its images in "
        "turn", choices=("uniform", "balanced"), source="balanced: Kang et al. 2020",
    )  # fmt: skip
    train: tuple[str, ...] | None = by_method(
        (), "what is trained: all; or with features as they are, their BatchNorm in eval mode in attack and update: "
        "head, new-head, a head from new weights, or scales, the factors of model.head = scaled",
        choices=("all", "head", "new-head", "scales"), source="Kang et al. 2020",
    )  # fmt: skip
    schedule: tuple[str, ...] | None = by_method(
        (), "rate: that of optim for this epoch of the run; or stages.lr, constant, falling to 0 by a cosine, or a "
        "tenth from half of the stage on", choices=("run", "constant", "cosine", "half"),
    )  # fmt: skip
    lr: tuple[float, ...] | None = by_method(
        (), "first rate of a stage with a schedule of its own, 0 of the others", low=0.0
    )


class ResolvedStages(Stages):
    """With the plan of the method."""

    lengths: tuple[int, ...]
    method: tuple[str, ...]
    examples: tuple[str, ...]
    sampler: tuple[str, ...]
    train: tuple[str, ...]
    schedule: tuple[str, ...]
    lr: tuple[float, ...]


@dataclass(frozen=True)
class Run(Section):
    """Where and how a run is executed."""

    prefix = "run."
    device: str = setting("auto", "cpu, cuda or cuda:N; auto takes a GPU where there is one", identity=False)
    precision: str = setting(
        "auto", "bf16: autocast for the body of the network (head, loss and images stay fp32); auto takes bf16 where "
        "the fast engine's processor computes in it",
        choices=("auto", "bf16", "fp32"),
    )  # fmt: skip
    engine: str = setting(
        "fast",
        "fast: the optimised code; reference: slow, straight-line Algorithm 1 in fp32",
        choices=("fast", "reference"),
    )
    compile: str = setting(
        "auto", "torch.compile for the attack's and the update's passes; auto: for runs long enough to earn it back",
        choices=("auto", "on", "off"),
    )  # fmt: skip
    compile_mode: str = setting(
        "auto", "how long torch.compile searches: default, about a minute on a GPU; max-autotune, several; "
        "auto is default",
        choices=("auto", "default", "max-autotune"), identity=False,
    )  # fmt: skip
    capture: str = setting(
        "auto",
        "the attack and the update as one CUDA graph each; auto: on a GPU",
        choices=("auto", "on", "off"),
    )
    batch_norm: str = setting(
        "sync", "BatchNorm of a run on several processes (torchrun): sync, statistics of the whole batch, as in one "
        "process; local: of each process's share, so that results depend on their number, running ones averaged",
        choices=("sync", "local"), before="sync",
    )  # fmt: skip
    peer_seconds: float = setting(
        600.0, "longest wait of one process of a run for another, at the start and in a step", unit="s", low=0.0,
        low_open=True, identity=False, before=600.0,
    )  # fmt: skip
    deterministic: bool = setting(False, "bit-equal weights for equal seeds on one machine")
    profile: bool = setting(
        False,
        "profile a few of the first steps: profile.json and profile.txt in the run directory",
        identity=False,
    )
    checkpoint_minutes: float = setting(
        10.0, "save the state at the first step after so long; 0 is off (a stop and the end of training save anyway)",
        unit="minutes", low=0.0, identity=False,
    )  # fmt: skip
    checkpoint_epochs: int = setting(
        0, "save the state every so many epochs; 0 is off", unit="epochs", low=0, identity=False
    )
    watchdog_seconds: float = setting(
        0.0, "end the process (exit code 124, stacks in hang.txt) when no step ends for so long; 0 is off",
        unit="s", low=0.0, identity=False,
    )  # fmt: skip
    tensorboard: bool = setting(True, "write TensorBoard event files", identity=False)
    eval_batch_size: int = setting(500, "images a step of evaluation", low=1, identity=False)


SECTIONS: dict[str, type[Section]] = {
    "data": Data,
    "model": Model,
    "attack": Attack,
    "eval_attack": EvalAttack,
    "loss": Loss,
    "feedback": Feedback,
    "optim": Optim,
    "stages": Stages,
    "run": Run,
}
#: Fields that a method's row may set, and their value where neither it nor the recipe gives one.
NEUTRAL = {
    section.prefix + name: spec.neutral
    for section in SECTIONS.values()
    for name, _, spec in fields_of(section)
    if spec.neutral is not None
}


def radius_title(attack: Mapping[str, Any], *, always: bool = False) -> str:
    """ "eps 8/255" of a recorded attack, behind its threat model where that is not the paper's (or `always`)."""
    name = attack.get("threat") or Attack.threat  # a record of an earlier version names none
    title = registry.threat[name].title if name in registry.threat else name
    shown = f"{title} " if always or name != Attack.threat else ""
    return f"{shown}eps {length(attack['epsilon'])}"
