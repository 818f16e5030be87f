"""Pictures of a data set: bars of every class, and samples that are really of the class they stand beside."""

from __future__ import annotations

import re

import numpy as np
import pytest

from srat_fast.figures.canvas import UNDER, WELL, render
from srat_fast.figures.datasets import class_bars, sample_page


def bars(drawn) -> list[tuple[float, float, str]]:
    """(label, height, colour) of each bar."""
    (axes,) = drawn.axes
    return [
        (bar.get_x() + bar.get_width() / 2, bar.get_height(), colour)
        for container, colour in zip(axes.containers, (WELL, UNDER), strict=True)
        for bar in container
    ]


def test_bars_show_each_class_in_its_half() -> None:
    drawn = class_bars(["cat", "dog", "eel", "fox"], [40, 10, 5, 20], [1, 2], "a title")
    found = sorted((round(place, 6), height, colour) for place, height, colour in bars(drawn))
    assert found == [(0, 40, WELL), (1, 10, UNDER), (2, 5, UNDER), (3, 20, WELL)]
    text = render(drawn).decode()
    for word in (
        "cat",
        "dog",
        "eel",
        "fox",
        "a title",
        ">40<",
        "well-represented half",
        "under-represented half",
    ):
        assert word in text


def test_a_hundred_classes_are_numbered() -> None:
    drawn = class_bars([f"class{c}" for c in range(100)], list(range(100, 0, -1)), list(range(50, 100)), "t")
    assert len(bars(drawn)) == 100
    text = render(drawn).decode()
    assert "class7" not in text
    assert re.search(r">90<", text)


@pytest.mark.parametrize("channels", [1, 3])
def test_samples_stand_beside_their_class(channels) -> None:
    labels = np.repeat(np.arange(3), (20, 4, 1))
    images = np.full((25, 6, 6, channels), 50, np.uint8) * (labels[:, None, None, None] + 1).astype(np.uint8)
    drawn = sample_page(images, labels, ["a", "b", "c"], 5, "t")
    (axes,) = drawn.axes
    page = np.asarray(axes.images[0].get_array())
    assert page.shape == (3 * 8, 5 * 8, 3)
    for c, shown in enumerate((5, 4, 1)):
        strip = page[c * 8 : (c + 1) * 8]
        assert (strip == 50 * (c + 1)).sum() == shown * 36 * 3
        assert (strip == 255).sum() == strip.size - shown * 36 * 3  # the rest is white
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a (20)", "b (4)", "c (1)"]


def test_samples_are_spread_over_the_class() -> None:
    images = np.arange(100, dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(3, axis=3)
    (axes,) = sample_page(images, np.zeros(100, int), ["a"], 4, "t").axes
    assert axes.images[0].get_array()[1, 1::3, 0].tolist() == [0, 33, 66, 99]


def test_many_classes_take_several_columns() -> None:
    labels = np.arange(100)
    drawn = sample_page(np.zeros((100, 4, 4, 3), np.uint8), labels, [f"c{c}" for c in labels], 2, "t")
    assert [len(axes.get_yticklabels()) for axes in drawn.axes] == [25] * 4
    assert render(drawn, ".png").startswith(b"\x89PNG")
