"""Tables: statistics against plain formulas, the paper's numbers, marks, and every format."""

from __future__ import annotations

import csv
import json
import math
import re
import statistics
import sys
import tomllib
from pathlib import Path

import pytest

from srat_fast.errors import UserError
from srat_fast.published import COLUMNS, Published, departures, published
from srat_fast.recipe import Recipe
from srat_fast.sweep.directory import SweepDirectory
from srat_fast.sweep.plan import Plan
from srat_fast.sweep.spec import spec_from_tree
from srat_fast.sweep.status import read_status
from srat_fast.sweep.table import build_table, compare, holm, summarize, to_latex, to_markdown, write_table

VALUES = {"ce": [0.48, 0.50, 0.52], "srat-ldam": [0.63, 0.64, 0.68]}


def finished_sweep(path: Path, spec: str, values: dict, **record: object) -> SweepDirectory:
    """A sweep whose runs have finished with given accuracies; None where one has not."""
    sweep = SweepDirectory.create(path, spec_from_tree(tomllib.loads(spec), path, "t"), "t.toml")
    for trial in sweep.plan.trials:
        value = values[sweep.plan.recipe(trial).method][trial.seed]
        if value is None:
            continue
        part = {"overall": value, "under": value / 2, "well": value, "per_class": [value, 1 - value]}
        content = {
            "status": "finished", "standard": part, "robust": part | {"overall": value - 0.2}, "collapsed": None,
            "classes": ["cat", "dog"], "git_commit": "abc", "audit": {"verdict": "reliable"},
        }  # fmt: skip
        sweep.run(trial).mkdir(parents=True)
        (sweep.run(trial) / "record.json").write_text(json.dumps(content | record))
    return sweep


CIFAR = "seeds = 3\nbaseline = 'ce'\n[base]\ndataset = 'cifar10'\n[axes]\nmethod = ['ce', 'srat-ldam']"


def test_summary() -> None:
    values = [63.1, 64.0, 62.2, 65.5]
    found = summarize(values)
    assert found.n == 4
    assert found.mean == pytest.approx(statistics.mean(values))
    assert found.std == pytest.approx(statistics.stdev(values))
    assert min(values) <= found.low < found.mean < found.high <= max(values)
    assert summarize(values) == found, "the same resamples each time"
    wide = summarize(values, confidence=0.99)
    assert wide.low < found.low
    assert (summarize([1.0]).std, summarize([1.0]).low) == (None, None)
    assert summarize([]).n == 0
    assert math.isnan(summarize([]).mean)
    assert summarize([2.0, 2.0]).std == 0.0


def test_a_table_reads_each_cells_recipe_once(tmp_path, monkeypatch) -> None:
    sweep = finished_sweep(tmp_path / "s", CIFAR, VALUES)
    read, real = [], Plan.recipe
    monkeypatch.setattr(Plan, "recipe", lambda plan, trial: (read.append(trial.cell), real(plan, trial))[1])
    build_table(sweep)
    assert read == [0, 1]


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    import numpy as np

    generator = np.random.default_rng(0)
    hits = [
        found.low <= 0.0 <= found.high
        for found in (summarize(generator.normal(size=30).tolist(), 0.9) for _ in range(60))
    ]
    assert 0.75 < sum(hits) / len(hits) < 1.0


def test_paired_test() -> None:
    ours, base = {0: 5.0, 1: 6.0, 2: 8.0, 7: 99.0}, {0: 4.0, 1: 5.5, 2: 6.0, 9: 0.0}
    found = compare(ours, base)
    differences = [1.0, 0.5, 2.0]
    t = statistics.mean(differences) / (statistics.stdev(differences) / math.sqrt(3))
    assert (found.n, found.difference) == (3, pytest.approx(3.5 / 3))
    assert found.p == pytest.approx(
        1 - t / math.sqrt(2 + t * t)
    )  # Student's distribution with 2 degrees of freedom
    assert compare({0: 1.0}, {0: 2.0}).p is None
    assert compare({0: 1.0, 1: 2.0}, {0: 2.0, 1: 3.0}).p is None, "equal differences have no deviation"
    assert compare({0: 1.0}, {1: 2.0}).n == 0


def test_holms_correction() -> None:
    # the example of R's p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm"), out of order, and one that is no test
    found = holm([0.03, 0.01, None, 0.05, 0.02, 0.04])
    assert found[2] is None
    assert [p for p in found if p is not None] == pytest.approx([0.09, 0.05, 0.09, 0.08, 0.09])
    assert holm([0.7, 0.6]) == [1.0, 1.0]
    assert holm([None]) == [None]


def test_comparisons_are_corrected_over_the_table(tmp_path) -> None:
    spec = CIFAR.replace("'srat-ldam'", "'ldam', 'srat-ldam'")
    table = build_table(finished_sweep(tmp_path / "s", spec, VALUES | {"ldam": [0.5, 0.5, 0.55]}))
    entries = [entry for line in table.lines[1:] for entry in line.entries]
    assert [(e.kind, e.part) for e in entries[4:6]] == [("standard", "worst"), ("robust", "worst")]
    assert entries[4].summary.mean == pytest.approx(100 * (0.5 + 0.45 + 0.5) / 3), "the lower of two classes"
    assert len(entries) == 12
    assert [e.against.p_holm for e in entries] == holm([e.against.p for e in entries])
    smallest = min(entries, key=lambda e: e.against.p).against
    assert smallest.p_holm == pytest.approx(12 * smallest.p)
    assert f"p = {smallest.p:.2g} (Holm {smallest.p_holm:.2g})" in to_markdown(table)


def test_the_papers_numbers_stand_beside(tmp_path) -> None:
    sweep = finished_sweep(tmp_path / "s", CIFAR, VALUES)
    table = build_table(sweep)
    ce, srat = table.lines
    assert [e.paper.mean for e in srat.entries[:4]] == [63.11, 65.60, 34.22, 32.55]
    assert [e.paper.std for e in srat.entries[:4]] == [0.08, 1.94, 0.41, 1.70]
    assert srat.entries[0].summary.mean == pytest.approx(65.0)
    assert srat.entries[0].off == pytest.approx(65.0 - 63.11)
    assert ce.entries[0].against is None
    assert srat.entries[0].against.difference == pytest.approx(15.0)
    assert table.notes == []
    text = to_markdown(table)
    assert "| srat-ldam | 3 | 65.00 ± 2.65 (paper 63.11 ± 0.08: +1.89, p = 0.34) |" in text
    assert "Welch's t-test (the paper names no number of runs: 2 are taken" in text
    assert "; +15.00, p = " in text
    assert "cifar10 (exp, ratio 100)" in text


def test_welch_against_the_papers_deviation() -> None:
    ours, theirs = [60.0, 61.0, 63.0], Published(64.0, 1.2)
    mean, std = statistics.mean(ours), statistics.stdev(ours)
    a, b = std**2 / 3, 1.2**2 / 2  # the least number of runs that has a deviation
    freedom = (a + b) ** 2 / (a**2 / 2 + b**2 / 1)
    from scipy.stats import t

    assert theirs.p(mean, std, 3) == pytest.approx(2 * t.sf(abs(mean - 64.0) / math.sqrt(a + b), freedom))
    assert theirs.p(mean, None, 1) is None
    assert Published(64.0, None).p(mean, std, 3) is None
    assert Published(64.0, 0.0).p(mean, 0.0, 3) is None
    assert (theirs.text, Published(64.0, None).text) == ("64.00 ± 1.20", "64.00 ± -")


def test_deviations_that_the_paper_does_not_show(tmp_path) -> None:
    spec = CIFAR.replace("ce'", "srat-focal'").replace("[axes]", "imbalance = 'exp'\nratio = 10\n[axes]")
    values = {"srat-focal": [0.752, 0.753, 0.753], "srat-ldam": [0.63, 0.64, 0.68]}
    line = build_table(finished_sweep(tmp_path / "s", spec, values)).lines[0]
    assert [e.paper.std for e in line.entries[:4]] == [None] * 4, "0.00 throughout is one run"
    assert [e.p_paper for e in line.entries[:4]] == [None] * 4
    collapsed = published(Recipe().replace({"method": "cb-focal", "data.imbalance": "step"}))
    assert [number.std for number in collapsed] == [3.85, 0.0, 3.16, 0.0], "0.00 beside others is a deviation"
    illegible = published(Recipe().replace({"method": "srat-ce"}))
    assert [number.std for number in illegible] == [0.46, None, 0.43, 0.98]


def test_departures_are_of_the_set_that_a_run_stands_for() -> None:
    svhn = Recipe().replace({"data.name": "svhn", "method": "ce"})
    assert departures(svhn) == departures(svhn.resolve()) == []
    folder = svhn.replace({"data.name": "folder"})
    assert departures(folder, "cifar10") == []
    assert departures(folder, "svhn") == [
        "data.flip = on", f"attack.step_size = {2 / 255}", f"eval_attack.step_size = {2 / 255}"
    ]  # fmt: skip
    assert departures(svhn.replace({"optim.epochs": 4}).resolve()) == ["optim.epochs = 4"]
    assert departures(svhn.replace({"data.imbalance_base": "own"})) == []


def test_a_figure_far_from_the_papers_is_marked(tmp_path) -> None:
    values = {"ce": [0.484, 0.484, 0.484], "srat-ldam": [0.63, 0.64, 0.68]}
    ce, srat = build_table(finished_sweep(tmp_path / "s", CIFAR, values)).lines
    # ce: standard 48.40 / 24.20 and robust 28.40 / 24.20 against 48.40 / 23.04 and 26.94 / 6.17
    assert ce.marks == ["beyond both deviations from the paper: robust under +18.03 (p = 0.021)"]
    assert srat.marks == [
        "beyond both deviations from the paper: standard under -33.10 (p = 0.0055), robust overall +10.78 (p = 0.017)"
    ]
    one = build_table(finished_sweep(tmp_path / "1", CIFAR.replace("seeds = 3", "seeds = 1"), values)).lines[
        0
    ]
    assert one.marks == ["more than 2 points from the paper: robust under +18.03 (p -)"], (
        "one seed allows no test"
    )
    other = CIFAR.replace("[axes]", "epochs = 4\n[axes]")
    for line in build_table(finished_sweep(tmp_path / "o", other, values)).lines:
        assert line.marks == [], "another recipe's numbers are no target"


def test_the_same_images_in_another_form_have_the_papers_numbers_beside(tmp_path) -> None:
    folder = tmp_path / "images"
    for place in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (folder / place).mkdir(parents=True)
        for k in range(100):
            (folder / place / f"{k}.jpg").write_bytes(b"x")
    spec = CIFAR.replace("baseline", "published = 'cifar10'\nbaseline")
    spec = spec.replace("dataset = 'cifar10'", f"dataset = 'folder'\ndata_root = '{folder}'")
    table = build_table(finished_sweep(tmp_path / "s", spec, VALUES))
    assert [e.paper.mean for e in table.lines[1].entries[:4]] == [63.11, 65.60, 34.22, 32.55]
    assert table.notes == [], "the form of the images is no departure from the recipe"
    plan = SweepDirectory.open(tmp_path / "s").plan
    recipe = plan.recipe(plan.trials[0])
    assert published(recipe) is None, "unasked, a folder is not CIFAR-10"
    assert published(recipe.replace({"data.classes": "0,1"}), "cifar10") is None, (
        "two classes are another problem"
    )
    bad = spec_from_tree(tomllib.loads(spec.replace("'cifar10'", "'digits'")), tmp_path, "t")
    assert any(
        "published = 'digits': numbers are known of cifar10, cifar100, svhn" in problem
        for problem in bad.problems
    )


@pytest.mark.parametrize(
    ("by", "title"),
    [({}, "best balanced"), ({"by": "overall"}, "best overall"), ({"by": "worst"}, "best worst class")],
)
def test_the_best_epoch_is_labelled_by_what_chose_it(tmp_path, by, title) -> None:
    part = {"overall": 0.7, "under": 0.6, "well": 0.8, "per_class": [0.8, 0.6]}
    spec = CIFAR.replace("[axes]", "ratio = 50\n[axes]")
    best = {"standard": part, "robust": part} | by
    table = build_table(finished_sweep(tmp_path / "s", spec, VALUES, best=best))
    labels = [line.label for line in table.lines]
    assert labels == [f"{m}, {t} weights" for m in ("ce", "srat-ldam") for t in ("last", title)]


def test_every_kind_of_weights_has_its_row_and_runs_their_time(tmp_path) -> None:
    part = {"overall": 0.7, "under": 0.6, "well": 0.8, "per_class": [0.8, 0.6]}
    ema = {"standard": part, "robust": part, "collapsed": None, "audit": {"verdict": "suspicious"}}
    record = {"ema": ema, "seconds": {"total": 100.0}, "images_per_second": 12345.6}
    spec = CIFAR.replace("[axes]", "ratio = 50\n[axes]")
    table = build_table(finished_sweep(tmp_path / "s", spec, VALUES, **record))
    assert [line.label for line in table.lines] == [
        "ce",
        "ce, ema weights",
        "srat-ldam",
        "srat-ldam, ema weights",
    ]
    assert table.lines[3].entries[0].summary.mean == pytest.approx(70.0)
    assert table.lines[3].entries[0].against.difference == pytest.approx(0.0), (
        "against the baseline's average"
    )
    assert table.lines[3].marks == ["audit suspicious: all"]
    text = to_markdown(table)
    assert text.count("| srat-ldam | 3 | 12,346 | 100 |") == 1
    write_table(table, tmp_path / "t.csv")
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert {row["weights"] for row in rows} == {"last", "ema"}
    assert {row["images_per_second"] for row in rows} == {"12345.6"}


def test_other_recipes_are_no_target(tmp_path) -> None:
    spec = CIFAR.replace("[axes]", "epochs = 4\nmodel.width = 16\n[axes]")
    table = build_table(finished_sweep(tmp_path / "s", spec, VALUES))
    (note,) = table.notes
    assert "model.width = 16, optim.epochs = 4" in note
    sweep = SweepDirectory.open(tmp_path / "s")
    recipe = sweep.plan.recipe(sweep.plan.trials[0])
    assert departures(recipe) == ["model.width = 16", "optim.epochs = 4"]
    assert published(recipe.replace({"data.ratio": 50})) is None
    assert len(COLUMNS) == len(published(recipe))


@pytest.mark.parametrize(
    ("record", "mark"),
    [
        ({"audit": {"verdict": "suspicious"}}, "audit suspicious: all"),
        ({"audit": None}, "not audited: all"),
        ({"collapsed": 1}, "collapsed to one class: all"),
        ({}, ""),
    ],
)
def test_marks(tmp_path, record, mark) -> None:
    unpublished = CIFAR.replace("[axes]", "ratio = 50\n[axes]")
    table = build_table(finished_sweep(tmp_path / "s", unpublished, VALUES, **record))
    assert [line.marks for line in table.lines] == [[mark] if mark else []] * 2
    assert mark in to_markdown(table)
    assert mark in to_latex(table)
    assert "Method & Overall & Under & Worst class & Overall & Under & Worst class" in to_latex(table)
    ours = next(line for line in to_latex(table).splitlines() if line.strip().startswith("CE"))
    worst = table.lines[0].entries[4].summary
    assert f"{worst.mean:.2f}" in ours.split("&")[3]


def test_runs_that_are_missing_are_marked_and_left_out(tmp_path) -> None:
    values = {"ce": [0.5, None, 0.6], "srat-ldam": [None, None, None]}
    table = build_table(finished_sweep(tmp_path / "s", CIFAR, values))
    assert table.lines[0].marks[0] == "2 of 3 runs finished"
    assert table.lines[0].entries[0].summary.mean == pytest.approx(55.0)
    assert table.lines[1].marks == ["0 of 3 runs finished"]
    assert "| srat-ldam | 0 | - (paper 63.11 ± 0.08) |" in to_markdown(table)


def test_axes_and_settings(tmp_path) -> None:
    spec = (
        "seeds = 3\nbaseline = 'ce'\n[base]\ndataset = 'digits'\n[axes]\nratio = [5, 10]\n"
        "method = ['ce', 'srat-ldam']\nattack.bn = ['batch', 'running']\nmodel.name = ['resnet18', 'wrn-28-10']"
    )
    table = build_table(finished_sweep(tmp_path / "s", spec, VALUES), per_class=True)
    assert list(table.settings()) == ["digits (exp, ratio 5)", "digits (exp, ratio 10)"]
    labels = [line.label for line in table.settings()["digits (exp, ratio 10)"]]
    assert labels == [
        f"{method}, bn = {bn}, model = {network}"
        for method in ("ce", "srat-ldam")
        for bn in ("batch", "running")
        for network in ("resnet18", "wrn-28-10")
    ]
    assert all(line.entries[0].paper is None for line in table.lines)
    assert [(e.kind, e.part) for e in table.lines[0].entries[6:]] == [
        ("standard", "class:cat"), ("standard", "class:dog"), ("robust", "class:cat"), ("robust", "class:dog")
    ]  # fmt: skip
    assert table.lines[0].entries[6].summary.mean == pytest.approx(50.0)
    assert "standard accuracy of each class" in to_markdown(table)


def test_files(tmp_path) -> None:
    table = build_table(finished_sweep(tmp_path / "s", CIFAR, VALUES))
    for kind in ("md", "csv", "parquet", "tex"):
        write_table(table, tmp_path / f"t.{kind}")
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert len(rows) == 12, "two methods, six accuracies"
    assert float(rows[6]["mean"]) == pytest.approx(65.0)
    assert (rows[6]["paper"], rows[0]["p"], rows[6]["baseline"]) == ("63.11", "", "ce")
    assert (rows[6]["paper_std"], rows[6]["p_paper"][:4]) == ("0.08", "0.34")
    import pyarrow.parquet

    assert pyarrow.parquet.read_table(tmp_path / "t.parquet").to_pylist()[6]["mean"] == pytest.approx(65.0)
    tex = (tmp_path / "t.tex").read_text()
    assert "SRAT-LDAM\\tnote{c} & 65.00 $\\pm$ 2.65 & 63.11 $\\pm$ 0.08 &" in tex
    assert tex.count("\\begin") == tex.count("\\end")
    assert tex.count("{") == tex.count("}")
    with pytest.raises(UserError, match="a file ending in"):
        write_table(table, tmp_path / "t.html")
    with pytest.raises(UserError, match="cannot be written"):
        write_table(table, tmp_path / "none" / "t.md")


def test_parquet_without_its_package(tmp_path, monkeypatch) -> None:
    table = build_table(finished_sweep(tmp_path / "s", CIFAR, VALUES))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"needs the package pyarrow.*pip install 'srat-fast\[parquet\]'"):
        write_table(table, tmp_path / "t.parquet")
    assert not (tmp_path / "t.parquet").exists()


def test_table_command(tmp_path, stage) -> None:
    finished_sweep(stage.out, CIFAR, VALUES)
    code, text = stage.call("sweep", "table", str(stage.out), "--baseline", "srat-ldam", "--out", "a.tex")
    assert code == 0, text
    assert "difference from srat-ldam" in text
    assert (stage.path / "a.tex").exists()
    for options, says in (
        (["--baseline", "focal"], "--baseline = 'focal': this sweep runs ce, srat-ldam"),
        (["--confidence", "1"], "--confidence = 1.0: a number > 0 and < 1"),
        (["--out", "a.html"], "a file ending in .md, .csv, .parquet, .tex"),
    ):
        code, text = stage.call("sweep", "table", str(stage.out), *options)
        assert code == 2
        assert says in text
        assert text.count("\n") == 1


@pytest.mark.parametrize(
    "content", ["{", "[1]", '{"status": "finished"}', '{"status": "finished", "standard": {}}']
)
def test_a_damaged_record_is_named_and_left_out(content, tmp_path) -> None:
    values = {"ce": [0.5, 0.6, 0.7], "srat-ldam": [0.6, 0.7, 0.8]}
    sweep = finished_sweep(tmp_path / "s", CIFAR, values)
    trial = sweep.plan.trials[0]
    (sweep.run(trial) / "record.json").write_text(content)
    data = build_table(sweep)
    assert data.notes[0] == f"left out, its record.json is damaged: {trial.name}"
    assert sorted(len(line.seeds) for line in data.lines) == [2, 3]
    sweep.state_path(trial).write_text("[]")
    assert sweep.state(trial)["status"] == "queued"
    assert len(read_status(sweep).rows) == 6


def test_further_attacks_stand_beside_one_another(tmp_path) -> None:
    """Whether a gain survives AutoAttack; what was evaluated on other images, and clean images, do not count."""
    sweep = finished_sweep(tmp_path / "s", CIFAR, VALUES)
    for trial in sweep.plan.trials:
        own = sweep.plan.recipe(trial).method == "srat-ldam"
        path = sweep.run(trial) / "record.json"
        record = json.loads(path.read_text())

        def entry(overall: float, **changes: object) -> dict:
            row = {"overall": overall, "under": overall / 2, "images": 500, "epsilon": 8 / 255}
            row["per_class"] = [overall, overall / 4, None]
            attacks = {"clean": row | {"epsilon": None}, "autoattack": row, "worst-case": row}
            return {"weights": "last", "same_data": True, "attacks": attacks} | changes

        level = (0.3 if own else 0.2) + trial.seed / 100
        record["evaluations"] = [
            entry(0.9),
            entry(level),
            entry(0.8, same_data=False),
            entry(0.7, weights="ema"),
        ]
        if own or trial.seed == 0:
            path.write_text(json.dumps(record))
    text = to_markdown(build_table(sweep))
    assert "robust accuracy under further attacks (srat-fast evaluate): overall; under; worst class" in text
    heads = "autoattack eps 8/255, 500 images | worst-case eps 8/255, 500 images"
    assert f"| method | {heads} |" in re.sub(" +", " ", text)
    assert re.search(r"\| ce +\| +20\.00; 10\.00; 5\.00 \|", text), text
    assert re.search(r"\| srat-ldam +\| +31\.00 ± 1\.00; 15\.50 ± 0\.50; 7\.75 ± 0\.25 \|", text), text
    assert "further attacks" not in to_markdown(build_table(finished_sweep(tmp_path / "t", CIFAR, VALUES)))
