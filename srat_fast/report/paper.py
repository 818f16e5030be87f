"""The paper's figures and which of our commands makes them: a report names those that its runs do not allow."""

from __future__ import annotations

from collections.abc import Collection

_SHOWN = {
    "fig1": "accuracy of each class, natural against adversarial training, CIFAR-10 step-100",
    "fig2": "cat and horse: accuracy against the weight of horse",
    "fig3": "t-SNE of the imbalanced training images of cat and horse, natural and adversarial training",
    "fig4": "t-SNE of the features of ce, drcb-ldam and srat-ldam",
    "fig5": "accuracy of the three SRAT methods against the weight of the rare classes, step-100",
    "fig6": "accuracy of the three SRAT methods against lambda, step-100 and exp-100",
    "fig7": "as Fig. 1, step-10",
    "fig8": "as Fig. 1, exp-100",
    "fig9": "as Fig. 1, exp-10",
    "fig10": "as Fig. 2, automobile and truck",
    "fig11": "as Fig. 2, bird and frog",
    "fig12": "as Fig. 2, dog and deer",
    "fig13": "class counts of CIFAR-10, step-10, step-100, exp-10, exp-100",
    "fig14": "class counts of SVHN, step-10, step-100, exp-10, exp-100",
    "fig15": "srat-ldam: accuracy of all, well- and under-represented classes against the weight, step-100",
    "fig16": "drcb-focal and srat-focal: accuracy against the imbalance ratio",
}
#: Figure -> (what it shows, what makes it).
PAPER_FIGURES = {name: (shown, f"srat-fast reproduce {name}") for name, shown in _SHOWN.items()}


def missing_figures(present: Collection[str]) -> list[tuple[str, str, str]]:
    """The paper's figures that a report lacks.

    Args:
        present: names of those that it has, such as "fig6".

    Returns:
        (figure, what it shows, what makes it) of each missing one.
    """
    return [(name, *facts) for name, facts in PAPER_FIGURES.items() if name not in present]
