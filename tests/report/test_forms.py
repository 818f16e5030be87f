"""Each figure in the paper's own form: its panels, curves, order and ticks, from records made up for its spec."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from srat_fast.data.imbalance import split_by_frequency
from srat_fast.data.plan import base_counts, planned_counts
from srat_fast.published import paper_facts
from srat_fast.report.build import build_report
from srat_fast.report.collect import Run, find_runs
from srat_fast.report.figures.counts import shapes_drawings
from srat_fast.report.figures.forms import form_drawings
from srat_fast.report.figures.paper import paper_drawing
from srat_fast.report.groups import group_runs
from srat_fast.sweep.plan import make_plan
from srat_fast.sweep.reproduce import item_spec, load_item
from tests.report.conftest import make_record, write_run

FACTS = paper_facts()["figures"]
WEIGHTS = [1, 10, 25, 50, 75, 100, 150, 200]


def made_up(name: str, scale: str = "paper", seeds: int = 2) -> list[Run]:
    """Finished runs of an item: accuracies follow from class, weight, lambda, ratio and seed, not from training."""
    plan = make_plan(item_spec(load_item(name), scale, seeds), name)
    runs = []
    for trial in plan.trials:
        recipe = plan.recipe(trial).resolve()
        base, classes = base_counts(recipe)
        counts = planned_counts(recipe, base)
        well, under = split_by_frequency(counts)
        gain = min(recipe.loss.weight_ratio or 1, 150) / 150 + 0.02 * trial.seed
        gain -= 0.02 * recipe.loss.separation_weight + 0.001 * recipe.data.ratio
        level = {"ce": 0.85, "srat-ldam": 0.95, "srat-focal": 0.9}.get(recipe.method, 0.8)
        standard = [
            level - 0.01 * c - (0.2 * gain if c in well else 0.6 - 0.5 * gain) for c in range(len(base))
        ]
        standard = [min(max(value, 0.0), 1.0) for value in standard]
        record = make_record(
            recipe=recipe.to_dict(), classes=list(classes), counts=counts, well=well, under=under,
            **{
                kind: {
                    "overall": float(np.mean(values)),
                    "well": float(np.mean([values[c] for c in well])),
                    "under": float(np.mean([values[c] for c in under])),
                    "per_class": values,
                }
                for kind, values in (("standard", standard), ("robust", [value / 2 for value in standard]))
            },
        )  # fmt: skip
        runs.append(Run(Path(trial.name), record))
    return runs


def shown(name: str, runs: list[Run] | None = None) -> list[tuple[str, list[str], list[str]]]:
    """(title, curves, ticks) of each panel of a figure."""
    drawing = paper_drawing(name, made_up(name) if runs is None else runs)
    assert drawing is not None
    assert name in drawing.paper
    drawn = drawing.draw()
    return [
        (
            axes.get_title(),
            axes.get_legend_handles_labels()[1],
            [tick.get_text().strip() for tick in axes.get_xticklabels()],
        )
        for axes in drawn.axes
        if axes.axison
    ]


@pytest.mark.parametrize("name", ["fig1", "fig7", "fig8", "fig9"])
def test_three_panels_of_class_bars(name) -> None:
    panels = shown(name)
    assert [title for title, _, _ in panels] == [
        "natural training, standard",
        "adversarial training, standard",
        "adversarial training, robust",
    ], FACTS["fig1"]["panels"]
    for _, labels, ticks in panels:
        assert labels == ["well-represented", "under-represented"]
        assert (ticks[0], ticks[-1], len(ticks)) == ("airplane", "truck", 10)


def test_class_names_are_turned_only_where_they_are_long() -> None:
    for scale, turned in (("paper", 45), ("smoke", 0)):
        drawing = paper_drawing("fig1", made_up("fig1", scale, 1))
        assert drawing is not None
        for axes in drawing.draw().axes:
            assert {tick.get_rotation() for tick in axes.get_xticklabels()} == {turned}
            tops = [axes.transData.transform((0, height))[1] for height in (100, axes.get_ylim()[1])]
            assert tops[1] - tops[0] > 7, "the number above a bar of 100 % stays clear of the title"


@pytest.mark.parametrize("name", ["fig2", "fig10", "fig11", "fig12"])
def test_three_panels_against_the_weight_of_one_class(name) -> None:
    facts = FACTS[name]
    panels = shown(name)
    assert [title for title, _, _ in panels] == [
        "natural training, standard",
        "adversarial training, standard",
        "adversarial training, robust",
    ], FACTS["fig2"]["panels"]
    for _, curves, ticks in panels:
        assert curves == ["overall", f"{facts['well']} (well)", f"{facts['under']} (under)"]
        assert ticks == [str(weight) for weight in FACTS["fig2"]["weights"]] == list(map(str, WEIGHTS))
    drawing = paper_drawing(name, made_up(name))
    assert drawing is not None
    assert drawing.paper == (name,), "of the four pairs this is one"


def test_a_curve_shows_what_its_panel_says() -> None:
    runs = made_up("fig2")
    drawing = paper_drawing("fig2", runs)
    assert drawing is not None
    robust = drawing.draw().axes[2]
    line = robust.containers[2].lines[0]
    (weight, height) = list(zip(*line.get_data(), strict=True))[5]
    values = [
        run.record["robust"]["under"]
        for run in runs
        if run.method == "ce" and run.fields["loss.weight_ratio"] == weight
    ]
    assert (weight, len(values)) == (100, 2)
    assert height == pytest.approx(100 * np.mean(values))
    assert f"adversarial training, robust: overall 1: {100 * values[0]:.0f}"[:30] in drawing.text


def test_fig5_and_fig15_against_the_weight_of_half_the_classes() -> None:
    weights = ["10", "25", "50", "78", "100", "150", "200"]
    methods = FACTS["fig5"]["methods"]
    assert shown("fig5") == [
        ("standard accuracy", methods, weights),
        ("robust accuracy", methods, weights),
    ]
    curves = ["all 10 classes", "5 well-represented", "5 under-represented"]
    assert shown("fig15") == [(f"{panel} accuracy", curves, weights) for panel in FACTS["fig15"]["panels"]]
    # the runs of Fig. 5 hold those of Fig. 15
    assert shown("fig15", made_up("fig5")) == shown("fig15")


def test_fig6_has_a_panel_for_each_imbalance() -> None:
    panels = shown("fig6")
    assert [title for title, _, _ in panels] == FACTS["fig6"]["panels"]
    for _, curves, ticks in panels:
        assert curves == [f"{m}, {kind}" for m in FACTS["fig6"]["methods"] for kind in ("standard", "robust")]
        assert ticks == [str(k) for k in range(9)]
    drawing = paper_drawing("fig6", made_up("fig6"))
    assert drawing is not None
    assert len({axes.get_ylim() for axes in drawing.draw().axes}) == 1, "the panels can be compared"


def test_fig16_against_the_imbalance_ratio() -> None:
    first, second = FACTS["fig16"]["methods"]
    curves = [first, f"{first}, under", second, f"{second}, under"]
    ticks = ["5", "10", "20", "50", "100"]
    assert shown("fig16") == [("standard accuracy", curves, ticks), ("robust accuracy", curves, ticks)]


@pytest.mark.parametrize(("name", "data"), [("fig13", "cifar10"), ("fig14", "svhn")])
def test_counts_of_four_imbalances(name, data) -> None:
    drawing, *own = shapes_drawings(group_runs(made_up(name, seeds=1)))
    assert [len(d.draw().axes) for d in own] == ([4] if data == "svhn" else []), (
        "SVHN of each class's own count too"
    )
    assert drawing.paper == (name,)
    titles = [axes.get_title() for axes in drawing.draw().axes]
    assert titles == FACTS[name]["what"].removeprefix("class counts of ").split(", ")
    if data == "cifar10":
        assert drawing.text.startswith("step-10: airplane 5000,")
        assert drawing.text.endswith("truck 50.")


@pytest.mark.parametrize("name", ["fig1", "fig2", "fig5", "fig6", "fig15", "fig16"])
def test_smoke_scale_has_the_same_form(name) -> None:
    drawing = paper_drawing(name, made_up(name, "smoke", 1))
    assert drawing is not None
    assert drawing.draw().axes


def test_too_few_runs_make_no_figure() -> None:
    natural = [run for run in made_up("fig1") if run.method == "natural"]
    assert paper_drawing("fig1", natural) is None
    assert paper_drawing("fig13", natural) is None


def test_sweeps_of_earlier_versions_keep_their_figures() -> None:
    """They took drcb-ce and srat-ce for Figs. 5 and 15, other pairs for Fig. 2, exp-100 alone for Fig. 6."""
    for run in (runs := made_up("fig5")):
        run.recipe["method"] = {"srat-focal": "drcb-ce"}.get(run.method, run.method)
    runs = [run for run in runs if run.method != "srat-ldam"]
    found = [name for drawing in form_drawings(runs) for name in drawing.paper]
    assert found == ["fig5", "fig15", "fig15"], "a drawing of both halves for each method"
    for run in (runs := made_up("fig2")):
        run.recipe["data"]["classes"], run.record["classes"] = "horse,cat", ["horse", "cat"]
    (drawing,) = form_drawings(runs)
    assert drawing.paper == ("fig2", "fig10", "fig11", "fig12")
    runs = [run for run in made_up("fig6") if run.recipe["data"]["imbalance"] == "exp"]
    assert [drawing.paper for drawing in form_drawings(runs)] == [("fig6",)]


def test_a_report_names_what_it_has(tmp_path) -> None:
    for run in made_up("fig2", seeds=1) + made_up("fig1", seeds=1):
        write_run(tmp_path / run.path, json.loads(json.dumps(run.record)))
    made = build_report([tmp_path])
    missing = {name for name, _, _ in made.missing}
    assert {"fig1", "fig2"} <= {f"fig{n}" for n in range(1, 17)} - missing
    assert {"fig10", "fig15", "fig14"} <= missing
    assert all(command == f"srat-fast reproduce {name}" for name, _, command in made.missing)
    assert len(find_runs([tmp_path])) == 18
