"""`srat-fast reproduce`: the list of all items with their cost, figures that need no run, and bad input."""

from __future__ import annotations

import xml.dom.minidom

import pytest

from srat_fast.cli import main
from srat_fast.cli.reproduce import _figure
from srat_fast.console import Console
from srat_fast.sweep.directory import SweepDirectory
from srat_fast.sweep.reproduce import item_names, item_spec, load_item
from tests.report.conftest import make_record, write_run


def call(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["reproduce", *arguments])
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


def test_the_list_has_every_item_and_its_cost(capsys) -> None:
    code, out, _ = call(capsys, "--list", "--seeds", "1", "--images-per-second", "20000")
    assert code == 0
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("| ")
    ]
    costs = {row[0]: (row[1], row[2]) for row in rows[1:] if not row[0].startswith("-")}
    assert list(costs) == item_names()
    assert (costs["fig13"], costs["fig14"]) == (("0", "0"), ("0", "0"))
    assert costs["table1"][0] == "11"
    assert all(float(hours) > 0 for name, (_, hours) in costs.items() if name.startswith("table"))
    assert "1 seed(s), training at 20,000 PGD-10 images/s a GPU (as given)" in out


@pytest.mark.parametrize(
    ("name", "scale", "titles"),
    [
        ("fig13", "paper", ["step-10", "step-100", "exp-10", "exp-100", "5000", "1391"]),
        (
            "fig14",
            "paper",
            ["step-10", "exp-100 of each class's own count", "4659", "13861"],
        ),
        ("fig13", "smoke", ["step-10", "exp-100"]),
    ],
)
def test_class_counts_need_no_run(name, scale, titles, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = call(capsys, name, "--scale", scale)
    assert code == 0
    place = tmp_path / "reproduce" / f"{name}-{scale}"
    assert {path.name for path in place.iterdir()} == {f"{name}.svg", f"{name}.png", f"{name}.pdf"}
    assert f"{name}.svg, .png and .pdf; no run is needed for it" in out
    text = (place / f"{name}.svg").read_text()
    xml.dom.minidom.parseString(text)
    assert [title for title in titles if f">{title}<" not in text] == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "ITEM: is missing: one of table1"),
        (["fig17"], "ITEM = 'fig17': one of table1"),
        (["fig1", "--list"], "ITEM = 'fig1': has no place beside --list"),
        (["--list", "--images-per-second", "0"], "--images-per-second = 0.0: a number > 0"),
    ],
)
def test_bad_input_is_one_line_and_code_2(arguments, says, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err
    assert not list(tmp_path.iterdir())


def test_a_target_in_the_way_is_one_line(capsys, tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    code, _, err = call(capsys, "fig13", "--out", str(tmp_path / "file"))
    assert (code, err.count("\n")) == (2, 1)
    assert "--out" in err


def test_the_figure_is_of_the_runs_that_have_finished(tmp_path) -> None:
    sweep = SweepDirectory.create(tmp_path / "fig1", item_spec(load_item("fig1"), "smoke", 1), "fig1")
    console = Console()
    for trial, says in zip(
        sweep.plan.trials,
        ("; no fig1 before more runs have finished", "; fig1.svg, .png and .pdf in the paper's form"),
        strict=True,
    ):
        recipe = sweep.plan.recipe(trial).resolve().to_dict()
        write_run(sweep.run(trial), make_record(method=recipe["method"], recipe=recipe))
        assert _figure("fig1", sweep.path, console) == says
    assert len(list(sweep.path.glob("fig1.*"))) == 3


def test_a_figure_names_the_methods_that_it_lacks(tmp_path) -> None:
    sweep = SweepDirectory.create(tmp_path / "fig5", item_spec(load_item("fig5"), "smoke", 1), "fig5")
    for trial in sweep.plan.trials:
        recipe = sweep.plan.recipe(trial).resolve().to_dict()
        if recipe["method"] != "srat-ldam":
            write_run(sweep.run(trial), make_record(method=recipe["method"], recipe=recipe))
    assert _figure("fig5", sweep.path, Console()).endswith(
        "in the paper's form without srat-ldam, which has no finished run"
    )
