"""The paper's figures and which of our commands makes them: a report names those that its runs do not allow."""

from __future__ import annotations

from collections.abc import Collection

#: Figure -> (what it shows, what makes its runs).
PAPER_FIGURES = {
    "fig1": (
        "class-wise accuracy, natural against adversarial training, CIFAR-10",
        "srat-fast reproduce fig1",
    ),
    "fig2": ("two classes: accuracy against the weight ratio", "srat-fast reproduce fig2"),
    "fig3": (
        "penultimate features, t-SNE, by training",
        "srat-fast analyse RUN... for runs of natural and ce",
    ),
    "fig4": (
        "penultimate features, t-SNE, by method",
        "srat-fast analyse RUN... for runs of ce, drcb-ldam and srat-ldam",
    ),
    "fig5": ("accuracy against the weight ratio", "srat-fast reproduce fig5"),
    "fig6": ("accuracy against lambda (loss.separation_weight)", "srat-fast reproduce fig6"),
    "fig7": ("as fig1, another imbalance", "srat-fast reproduce fig7"),
    "fig8": ("as fig1, another imbalance", "srat-fast reproduce fig8"),
    "fig9": ("as fig1, another imbalance", "srat-fast reproduce fig9"),
    "fig10": ("as fig2, another pair of classes", "srat-fast reproduce fig10"),
    "fig11": ("as fig2, another pair of classes", "srat-fast reproduce fig11"),
    "fig12": ("as fig2, another pair of classes", "srat-fast reproduce fig12"),
    "fig13": ("class counts of the exponential imbalance", "srat-fast train --imbalance exp ..."),
    "fig14": ("class counts of the step imbalance", "srat-fast train --imbalance step ..."),
    "fig15": ("accuracy against the weight ratio, other settings", "srat-fast reproduce fig15"),
    "fig16": ("accuracy against the imbalance ratio", "srat-fast reproduce fig16"),
}


def missing_figures(present: Collection[str]) -> list[tuple[str, str, str]]:
    """The paper's figures that a report lacks.

    Args:
        present: names of those that it has, such as "fig6".

    Returns:
        (figure, what it shows, what makes it) of each missing one.
    """
    return [(name, *facts) for name, facts in PAPER_FIGURES.items() if name not in present]
