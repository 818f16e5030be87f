"""How separable classes are: silhouettes, scatter ratio, t-SNE, rank correlations. No torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import spearmanr
from sklearn.manifold import TSNE
from sklearn.metrics import confusion_matrix, silhouette_samples

from srat_fast.data.imbalance import draw_subset, limited_counts

#: Points that a silhouette is taken of: its work grows with their square.
SILHOUETTE_POINTS = 10_000


def spread_sample(labels: np.ndarray, points: int, seed: int) -> np.ndarray:
    """At most so many points, as evenly over the classes as they allow."""
    if len(labels) <= points:
        return np.arange(len(labels))
    order = np.random.default_rng(seed).permutation(len(labels))
    rank = np.empty(len(labels), np.int64)  # of each point within its class, in the drawn order
    for label in np.unique(labels):
        members = order[labels[order] == label]
        rank[members] = np.arange(len(members))
    # the first of every class, then the second of every class, ...
    return np.sort(order[np.argsort(rank[order], kind="stable")][:points])


def proportional_sample(labels: np.ndarray, points: int, seed: int) -> np.ndarray:
    """At most so many points in the classes' own proportions, at least one a class; ascending indices."""
    if len(labels) <= points:
        return np.arange(len(labels))
    _, positions, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return draw_subset(positions, limited_counts(counts.tolist(), points, "--points"), seed)


def scatter_ratio(features: np.ndarray, labels: np.ndarray) -> float:
    """Between-class over within-class scatter.

    trace(S_B) / trace(S_W) with S_B = sum_c n_c (m_c - m)(m_c - m)^T and S_W = sum_i (x_i - m_c)(x_i - m_c)^T.
    """
    x = features.astype(np.float64)
    centre, between, within = x.mean(axis=0), 0.0, 0.0
    for label in np.unique(labels):
        members = x[labels == label]
        mean = members.mean(axis=0)
        between += len(members) * float(((mean - centre) ** 2).sum())
        within += float(((members - mean) ** 2).sum())
    if within == 0:
        return float("inf") if between > 0 else float("nan")
    return between / within


def silhouettes(features: np.ndarray, labels: np.ndarray, *, seed: int = 0) -> dict[str, Any]:
    """Mean silhouette, -1 (mixed) to 1 (well apart), with Euclidean distances and with angles."""
    index = spread_sample(labels, SILHOUETTE_POINTS, seed)
    x, y = features[index], labels[index]
    classes = int(labels.max()) + 1
    if not 2 <= len(np.unique(y)) < len(y):
        values = angles = np.full(len(y), np.nan)
    else:
        values = silhouette_samples(x, y)
        # a point at the origin (all rectifiers off) has no direction; it counts as undecided
        directed = np.linalg.norm(x, axis=1) > 0
        angles = np.zeros(len(y))
        if 2 <= len(np.unique(y[directed])) < int(directed.sum()):
            angles[directed] = silhouette_samples(x[directed], y[directed], metric="cosine")
    per_class = [float(values[y == c].mean()) if (y == c).any() else float("nan") for c in range(classes)]
    return {
        "silhouette": float(values.mean()),
        "silhouette_cosine": float(angles.mean()),
        "silhouette_per_class": per_class,
        "silhouette_points": len(y),
    }


def confusion(predictions: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Counts of (true, predicted)."""
    return confusion_matrix(labels, predictions, labels=np.arange(classes))


def rank_correlation(counts: list[int], per_class: list[float]) -> dict[str, float]:
    """Spearman's correlation of training images and accuracy over the classes."""
    pairs = [(n, a) for n, a in zip(counts, per_class, strict=True) if a == a]
    x, y = [n for n, _ in pairs], [a for _, a in pairs]
    if len(set(x)) < 2 or len(set(y)) < 2:
        return {"spearman": float("nan"), "p_value": float("nan")}
    result = spearmanr(x, y)
    return {"spearman": float(result.statistic), "p_value": float(result.pvalue)}


def taken_by(matrix: np.ndarray, victims: list[int], takers: list[int]) -> float:
    """Share of some classes' images that are named as one of some other classes."""
    of = matrix[victims].sum()
    return float(matrix[np.ix_(victims, takers)].sum() / of) if of else float("nan")


def embed(features: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """t-SNE in the plane (the paper's Figs. 3 and 4)."""
    perplexity = min(30.0, (len(features) - 1) / 3)
    return TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(features)
