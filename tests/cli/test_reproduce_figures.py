"""`srat-fast reproduce`: the list of all items with their cost, figures that need no run, all items, and bad input."""

from __future__ import annotations

import json
import xml.dom.minidom
from pathlib import Path

import pytest

from srat_fast.cli import main, reproduce
from srat_fast.cli.reproduce import _figure
from srat_fast.console import Console
from srat_fast.errors import UserError
from srat_fast.report.collect import find_runs
from srat_fast.sweep import reproduce as items
from srat_fast.sweep.directory import SweepDirectory
from srat_fast.sweep.reproduce import field_names, item_names, item_spec, load_item
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
    costs = {row[0]: (row[1], row[3]) for row in rows[1:] if not row[0].startswith("-")}
    assert list(costs) == item_names() + field_names()
    assert (costs["fig13"], costs["fig14"]) == (("0", "0"), ("0", "0"))
    assert costs["table1"][0] == "11"
    assert all(float(hours) > 0 for name, (_, hours) in costs.items() if name.startswith("table"))
    assert "all: 275 runs, of which 24 are those of items above and trained once: about" in out
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
        (["--list", "--images-per-second", "nan"], "--images-per-second = nan: a number > 0"),
        (["all", "--folder", "jpeg"], "--folder = 'jpeg': has the images of one set; all items need three"),
        (["all", "--scale", "smoke", "--data-root", "d"], "--data-root = 'd': has no effect: smoke scale"),
        (["all", "--scale", "large"], "--scale = 'large': one of smoke, paper"),
        (["all", "--scale", "smoke", "--engine", "x"], "--engine = 'x': one of local, ray"),
    ],
)
def test_bad_input_is_one_line_and_code_2(arguments, says, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys, *arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert says in err
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


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


class MadeUp:
    """Takes the place of `run_spec`: finished runs are made up, not trained; `ends` has the exit codes of items."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.ends: dict[str, int | UserError] = {}

    def __call__(self, spec, item, directory, console, *, opened, **options) -> int:
        end = self.ends.get(item, 0)
        if isinstance(end, UserError):
            raise end
        sweep = SweepDirectory.create(directory, spec, item)
        if opened is not None:
            opened(sweep)
        for trial in sweep.plan.trials if end == 0 else sweep.plan.trials[:1]:
            if not sweep.run(trial).exists():
                recipe = sweep.plan.recipe(trial).resolve().to_dict()
                write_run(sweep.run(trial), make_record(method=recipe["method"], recipe=recipe))
                self.made.append(item)
        return end


@pytest.fixture
def made_up(monkeypatch, tmp_path) -> MadeUp:
    """`reproduce all` of three items, the runs of fig15 among those of fig5."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(items, "item_names", lambda: ["fig5", "fig13", "fig15"])
    found = MadeUp()
    monkeypatch.setattr(reproduce, "run_spec", found)
    return found


@pytest.fixture
def no_pictures(monkeypatch) -> None:
    """Drawing takes seconds."""

    class Report:
        figures = ()

    monkeypatch.setattr("srat_fast.report.build.build_report", lambda directories, out: Report())
    monkeypatch.setattr("srat_fast.figures.canvas.render", lambda drawn, suffix: b"")


SMOKE = ("all", "--scale", "smoke", "--seeds", "1")


def rows_of(out: str) -> list[list[str]]:
    lines = [line for line in out.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def test_all_trains_equal_runs_once(made_up, capsys) -> None:
    code, out, _ = call(capsys, *SMOKE)
    assert code == 0
    assert made_up.made == ["fig5"] * 9
    assert rows_of(out)[1:] == [
        ["fig5", "9", "0", "done", "4 of 9"],
        ["fig13", "0", "0", "done", "-"],
        ["fig15", "3", "3", "done", "0 of 2"],
    ]
    place = Path("reproduce/all-smoke")
    assert "| fig15 | 3 | 3 | done | 0 of 2 |" in (place / "summary.md").read_text()
    assert "on digits, after a few epochs" in out
    for name in ("fig5", "fig15"):
        made = {path.name for path in (place / name).iterdir()}
        assert {f"{name}.png", "table.md", "table.csv", "table.tex", "statements.txt", "report"} <= made
    links = list((place / "fig15" / "runs").iterdir())
    assert {link.resolve().parent for link in links} == {(place / "fig5" / "runs").resolve()}
    assert len(find_runs([place / "fig15"])) == 3
    assert len(find_runs([place])) == 9, "a run that is linked is one run"
    report = (place / "fig15" / "report" / "report.html").read_text()
    assert all(link.name in report for link in links)


@pytest.mark.usefixtures("no_pictures")
def test_all_goes_on_after_an_item_that_fails(made_up, capsys) -> None:
    made_up.ends = {"fig5": 1, "fig13": 0, "fig15": UserError("--out", "is full of mice", "x")}
    code, out, _ = call(capsys, *SMOKE)
    assert code == 1
    assert rows_of(out)[1:] == [
        ["fig5", "9", "0", "a run failed; no picture", "0 of 9, 9 not judged"],
        ["fig13", "0", "0", "done", "-"],
        ["fig15", "0", "0", "--out = 'x': is full of mice; no picture", "-"],
    ]
    assert out.endswith(
        "not done: fig5, fig15; the same command goes on, and tries a failed run again after "
        "srat-fast sweep retry reproduce/all-smoke/ITEM\n"
    )
    made_up.ends = {}
    assert call(capsys, *SMOKE)[0] == 0
    assert made_up.made == ["fig5"] * 9
    Path("reproduce/all-smoke/fig15/plan.json").write_text("{")  # of one item, not of all
    code, out, _ = call(capsys, *SMOKE)
    assert code == 1
    assert [row[3] for row in rows_of(out)[1:]][:2] == ["done", "done"]
    assert "not done: fig15;" in out


@pytest.mark.usefixtures("no_pictures")
def test_all_ends_at_once_where_every_item_would_fail(made_up, capsys) -> None:
    made_up.ends = {"fig5": UserError("--gpus", "visible here: none", "7")}
    code, out, err = call(capsys, *SMOKE)
    assert (code, made_up.made) == (2, [])
    assert err == "error: --gpus = '7': visible here: none\n"
    assert "fig13" not in out


@pytest.mark.usefixtures("no_pictures")
def test_all_stops_when_asked_and_goes_on(made_up, capsys) -> None:
    for stop in (130, 143, 3):
        made_up.ends = {"fig5": stop}
        code, out, _ = call(capsys, *SMOKE)
        assert (code, made_up.made) == (stop, ["fig5"])
        assert out.endswith("stopped in fig5: the same command goes on\n")
        assert not Path("reproduce/all-smoke/summary.md").exists()
    made_up.ends = {}
    assert call(capsys, *SMOKE)[0] == 0
    assert made_up.made == ["fig5"] * 9


def test_all_at_paper_scale_is_a_plan_until_it_is_run(made_up, no_pictures, capsys) -> None:
    code, out, _ = call(capsys, "all", "--seeds", "1", "--images-per-second", "20000")
    assert code == 0
    assert [row[:3] for row in rows_of(out)[1:]] == [
        ["fig5", "21", "0"],
        ["fig13", "0", "0"],
        ["fig15", "7", "7"],
    ]
    assert "all: 28 runs, of which 7 are those of items above and trained once: about 1.5 GPU hours" in out
    assert out.endswith("not run: --run does; --scale smoke tries everything in minutes\n")
    assert not list(Path().iterdir())
    assert call(capsys, "all", "--seeds", "1", "--run", "--data-root", "there")[0] == 0
    assert made_up.made == ["fig5"] * 21
    record = next(Path("reproduce/all-paper/fig15/runs").glob("*/record.json"))
    assert json.loads(record.read_text())["recipe"]["data"]["root"].endswith("/there")
