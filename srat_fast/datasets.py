"""Facts of each data set before it is there (counts, size, defaults), and how its imbalance is called."""

from __future__ import annotations

from dataclasses import dataclass

from srat_fast.registry import dataset as DATASETS

_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100 = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can "
    "castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin "
    "elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster "
    "man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck "
    "pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk "
    "skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger "
    "tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
)

#: Test images of each digit: the last ones of scikit-learn's order (its bundle has no split of its own).
DIGITS_TEST_PER_CLASS = 50


@dataclass(frozen=True)
class DatasetFacts:
    """Facts of one data set.

    Attributes:
        name: as given on the command line.
        train_counts: training images per class in label order; () where only the images tell (sets of one's own).
        classes: class names in label order; () likewise.
        image_size: height and width in pixels; None where the recipe or the images decide.
        channels: 1 or 3.
        step_size: PGD step, as a fraction of the pixel range (paper, Section 5: SVHN takes 1/255).
        flip: whether a mirrored image keeps its class (digits do not).
        source: where the images come from.
        resize_to: size that images of any size are brought to unless the recipe says another; None keeps theirs.
        reader: "module:function" of (root, image_size, mirror) -> `srat_fast.data.arrays.ImageArrays`.
        warmup_cap: longest automatic warm-up in epochs; small sets need more epochs for as many steps (method.md).
    """

    name: str
    train_counts: tuple[int, ...]
    classes: tuple[str, ...]
    image_size: int | None
    channels: int
    step_size: float
    flip: bool
    source: str
    reader: str
    resize_to: int | None = None
    warmup_cap: int = 5


_DIGIT_NAMES = tuple("0123456789")
_SKLEARN_DIGITS = (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)

for _facts in (
    DatasetFacts(
        "cifar10",
        (5000,) * 10,
        tuple(_CIFAR10.split()),
        32,
        3,
        2 / 255,
        True,
        "www.cs.toronto.edu/~kriz, 170 MB download",
        "srat_fast.data.sources:cifar10",
    ),
    DatasetFacts(
        "cifar100",
        (500,) * 100,
        tuple(_CIFAR100.split()),
        32,
        3,
        2 / 255,
        True,
        "www.cs.toronto.edu/~kriz, 169 MB download",
        "srat_fast.data.sources:cifar100",
    ),
    DatasetFacts(
        "svhn",
        (4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659),
        _DIGIT_NAMES,
        32,
        3,
        1 / 255,
        False,
        "ufldl.stanford.edu/housenumbers, 246 MB download",
        "srat_fast.data.sources:svhn",
    ),
    DatasetFacts(
        "digits",
        tuple(n - DIGITS_TEST_PER_CLASS for n in _SKLEARN_DIGITS),
        _DIGIT_NAMES,
        8,
        1,
        2 / 255,
        False,
        "scikit-learn's handwritten digits, no download",
        "srat_fast.data.sources:digits",
        warmup_cap=10,
    ),
    DatasetFacts(
        "folder",
        (),
        (),
        None,
        3,
        2 / 255,
        True,
        "train/<class>/* and test/<class>/* below --data-root",
        "srat_fast.data.sources:folder",
        resize_to=32,
    ),
    DatasetFacts(
        "npz",
        (),
        (),
        None,
        3,
        2 / 255,
        True,
        "a .npz file, or train.npz and test.npz, at --data-root",
        "srat_fast.data.sources:npz",
    ),
    DatasetFacts(
        "arrays",
        (),
        (),
        None,
        3,
        2 / 255,
        True,
        "images given to srat_fast.train(data=...)",
        "srat_fast.data.sources:given",
    ),
):
    DATASETS(_facts.name)(_facts)


def imbalance_label(imbalance: str, ratio: float) -> str:
    """An imbalance in a name: "exp-100", "none"."""
    return imbalance if imbalance == "none" else f"{imbalance}-{ratio:g}"


def imbalance_title(imbalance: str, ratio: float, base: str | None = None) -> str:
    """An imbalance in a title: "exp, ratio 100", "none"; a `data.imbalance_base` that is "own" is named."""
    own = " of each class's own count" if base == "own" else ""
    return imbalance if imbalance == "none" else f"{imbalance}, ratio {ratio:g}{own}"
