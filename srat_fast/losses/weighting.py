"""Class weights and LDAM margins from training images per class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def class_balanced_weights(counts: Sequence[int], beta: float = 0.9999) -> np.ndarray:
    """Weights by the effective number of images (Cui et al. 2019), the largest class at 1.

        E_c = (1 - beta^n_c) / (1 - beta),   w_c = max(E) / E_c

    Args:
        counts: n_c >= 1.
        beta: in [0, 1); 0 gives ones.

    Returns:
        [C] float64; 78.89 for the rarest class of CIFAR-10 exp-100.
    """
    # expm1 and log1p keep the digits that 1 - 0.9999^n loses
    effective = np.expm1(np.asarray(counts) * np.log1p(beta - 1)) if beta > 0 else np.full(len(counts), -1.0)
    return effective[np.argmin(effective)] / effective


def inverse_weights(counts: Sequence[int]) -> np.ndarray:
    """Weights by inverse frequency, w_c = n_max / n_c.

    Args:
        counts: n_c >= 1.

    Returns:
        [C] float64.
    """
    array = np.asarray(counts, dtype=np.float64)
    return array.max() / array


def ratio_weights(under: Sequence[int], classes: int, ratio: float) -> np.ndarray:
    """An explicit ratio, as in Figs. 2, 5, 10-12 and 15: 1 for well-represented classes, `ratio` for the others.

    Args:
        under: labels of the under-represented classes.
        classes: C.
        ratio: their weight.

    Returns:
        [C] float64.
    """
    weights = np.ones(classes)
    weights[list(under)] = ratio
    return weights


def ldam_margins(counts: Sequence[int], max_margin: float = 0.5) -> np.ndarray:
    """LDAM's margins (Cao et al. 2019), m_c proportional to n_c^(-1/4), the largest of them `max_margin`.

    Args:
        counts: n_c >= 1.
        max_margin: of the rarest class.

    Returns:
        [C] float64.
    """
    raw = np.asarray(counts, dtype=np.float64) ** -0.25
    return raw * (max_margin / raw.max())
