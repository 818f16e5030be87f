"""What the paper's text says, held against a sweep: kept, not kept, and not judged where runs are missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from srat_fast.cli.reproduce import _statements
from srat_fast.console import Console
from srat_fast.published import published
from srat_fast.recipe import Recipe
from srat_fast.sweep.directory import SweepDirectory
from srat_fast.sweep.reproduce import item_names, item_spec, load_item
from srat_fast.sweep.statements import statements

Accuracies = Callable[[Recipe], dict | None]


def accuracy(overall: float, well: float, under: float, per_class: list[float] | None = None) -> dict:
    return {"overall": overall, "well": well, "under": under, "per_class": per_class or [well, under]}


def reproduced(place: Path, item: str, of: Accuracies) -> SweepDirectory:
    """A sweep of an item with one seed; `of` gives the accuracy of a cell, for both kinds or by kind; None: no run."""
    sweep = SweepDirectory.create(place / item, item_spec(load_item(item), "paper", 1), item)
    for trial in sweep.plan.trials:
        found = of(sweep.plan.recipe(trial))
        if found is not None:
            found = found if "standard" in found else {"standard": found, "robust": found}
            classes = len(found["standard"]["per_class"])
            content = {"status": "finished", "classes": list(range(classes))} | found
            content["under"] = content["classes"][classes // 2 :]
            sweep.run(trial).mkdir(parents=True)
            (sweep.run(trial) / "record.json").write_text(json.dumps(content))
    return sweep


def verdicts(place: Path, item: str, of: Accuracies) -> list[bool | None]:
    return [s.kept for s in statements(item, reproduced(place, item, of))]


def bars(natural_under: float, zeros: int) -> Accuracies:
    def of(recipe: Recipe) -> dict:
        rare = [natural_under] * 5 if recipe.method == "natural" else [0.0] * zeros + [0.12] * (5 - zeros)
        common = 0.9 if recipe.method == "natural" else 0.8
        return accuracy(0.5, common, sum(rare) / 5, [common] * 5 + rare)

    return of


def test_the_ratios_and_the_zeros_of_figure_1(tmp_path) -> None:
    assert verdicts(tmp_path / "a", "fig1", bars(0.45, 3)) == [True, True]  # 2:1, 0.8 to 0.048, three at 0 %
    assert verdicts(tmp_path / "b", "fig1", bars(0.45, 0)) == [False, False]  # 0.8 to 0.12
    assert verdicts(tmp_path / "c", "fig1", bars(0.2, 5)) == [False, True]  # natural training at 4.5:1
    line = statements("fig1", SweepDirectory.open(tmp_path / "a" / "fig1"))[0].line()
    assert line.startswith(
        "kept: well- to under-represented standard accuracy is about 2:1 with natural and 16:1"
    )
    assert line.endswith("natural 90.00 to 45.00, 2.0:1, adversarial 80.00 to 4.80, 16.7:1")


def test_verdicts_are_printed_and_written(tmp_path, capsys) -> None:
    sweep = reproduced(tmp_path, "fig1", bars(0.45, 3))
    assert _statements("fig1", sweep, tmp_path, "paper", Console()) == ", statements.txt"
    said = (tmp_path / "statements.txt").read_text()
    assert len(said.splitlines()) == 2
    assert capsys.readouterr().out == said
    assert _statements("fig13", sweep, tmp_path, "paper", Console()) == ""


@pytest.mark.parametrize("item", ["fig2", "fig10", "fig11", "fig12"])
def test_the_trade_off_between_weights_1_and_150(item, tmp_path) -> None:
    def traded(share: float) -> Accuracies:
        def of(recipe: Recipe) -> dict:
            moved = share * min(recipe.loss.weight_ratio, 150) / 150
            return accuracy(0.5, 1 - 0.4 * moved, 0.6 * moved)

        return of

    assert verdicts(tmp_path / "a", item, traded(1.0)) == [True] * 4
    assert verdicts(tmp_path / "b", item, traded(0.3)) == [item != "fig2"] * 4, (
        "only Fig. 2's sizes are named"
    )
    assert verdicts(tmp_path / "c", item, traded(0.0)) == [False] * 4
    assert (
        verdicts(tmp_path / "d", item, lambda r: None if r.loss.weight_ratio == 150 else traded(1)(r))
        == [None] * 4
    )


def test_the_weights_of_figures_5_and_15(tmp_path) -> None:
    def rising(recipe: Recipe) -> dict:
        gain = recipe.loss.weight_ratio / 1000
        return accuracy(0.5 + gain, 0.8 - gain / 2, 0.2 + gain)

    def with_a_dip(recipe: Recipe) -> dict:
        dips = (recipe.method, recipe.loss.weight_ratio) == ("srat-focal", 78)
        return rising(recipe) | ({"overall": 0.4} if dips else {})

    assert verdicts(tmp_path, "fig5", rising) == [True] * 3
    found = statements("fig5", reproduced(tmp_path / "dip", "fig5", with_a_dip))
    assert [s.kept for s in found] == [True, False, True]
    assert "78: 40.00" in found[1].line()
    assert verdicts(tmp_path, "fig15", rising) == [True, True]
    assert verdicts(tmp_path / "flat", "fig15", lambda r: accuracy(0.5, 0.9, 0.2)) == [False, False]


def test_every_ratio_of_figure_16(tmp_path) -> None:
    def of(best_at_all: bool) -> Accuracies:
        def level(recipe: Recipe) -> dict:
            ahead = 0.01 if best_at_all or recipe.data.ratio < 50 else -0.01
            return accuracy(0.5 + (ahead if recipe.method == "srat-focal" else 0), 0.5, 0.5)

        return level

    assert verdicts(tmp_path / "a", "fig16", of(True)) == [True, True]
    assert verdicts(tmp_path / "b", "fig16", of(False)) == [False, False]


def as_printed(recipe: Recipe) -> dict:
    """The paper's own figures."""
    values = [number.mean / 100 for number in published(recipe)]
    return {
        kind: accuracy(overall, 0.5, under)
        for kind, overall, under in (("standard", *values[:2]), ("robust", *values[2:]))
    }


@pytest.mark.parametrize("item", [name for name in item_names() if name.startswith("table")])
def test_the_papers_own_tables_keep_it_where_they_say_so(item, tmp_path) -> None:
    for statement in statements(item, reproduced(tmp_path, item, as_printed)):
        assert statement.kept is ("above in 4 of 4 in the paper" in statement.figures)


def test_items_of_which_the_text_tells_no_figures(tmp_path) -> None:
    assert statements("fig7", reproduced(tmp_path, "fig7", lambda r: accuracy(0.5, 0.5, 0.5))) == []
    found = statements("table4", reproduced(tmp_path, "table4", lambda r: None))
    assert [s.kept for s in found] == [None] * 3
    assert found[0].line().startswith("not judged: srat-ce is above drcb-ce")
