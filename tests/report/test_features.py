"""t-SNE panels in a report: of runs that were analysed, with their separability; damaged analyses are passed over."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from srat_fast.report.build import build_report
from srat_fast.report.collect import find_runs
from srat_fast.report.figures.features import feature_drawings
from srat_fast.report.figures.paper import paper_drawing
from srat_fast.report.groups import group_runs
from tests.report.conftest import CLASSES, make_record, write_run


def analysed(run: Path, method: str, silhouette: float, suffix: str = "") -> Path:
    """Leave in a run what `srat-fast analyse` leaves, as far as the report reads it."""
    generator = np.random.default_rng(0)
    view = {"silhouette": silhouette, "scatter_ratio": 2.5}
    content = {"method": method, "classes": CLASSES, "under": [2, 3], "clean": view, "attacked": view}
    (run / f"analysis{suffix}.json").write_text(json.dumps(content))
    np.savez(
        run / f"features{suffix}.npz",
        labels=np.arange(40) % 4,
        index=np.arange(0, 40, 2),
        clean_embedding=generator.normal(size=(20, 2)),
        attacked_embedding=generator.normal(size=(20, 2)),
    )
    return run


def test_analysed_runs_are_set_side_by_side(tmp_path) -> None:
    for method, silhouette in (("natural", 0.625), ("ce", 0.125)):
        analysed(write_run(tmp_path / method, make_record(method=method)), method, silhouette)
    write_run(tmp_path / "focal", make_record(method="focal"))
    torn = analysed(write_run(tmp_path / "ldam", make_record(method="ldam")), "ldam", 0.75)
    (torn / "features.npz").write_bytes(b"torn")
    made = build_report([tmp_path])
    (clean,) = (path for path in made.directory.glob("figures/features-clean*.svg"))
    text = clean.read_text()
    assert "silhouette 0.625, scatter ratio 2.5" in text
    assert "silhouette 0.125" in text
    assert "silhouette 0.75" not in text
    assert list(made.directory.glob("figures/features-attacked*.png"))
    missing = {name for name, _, _ in made.missing}
    assert "fig3" not in missing
    assert "fig4" in missing, "without srat-ldam there is no Fig. 4"
    assert "natural training: silhouette 0.625" in (made.directory / "report.html").read_text()


def test_fig3_is_of_training_images_and_fig4_of_three_methods(tmp_path) -> None:
    for method in ("natural", "ce", "drcb-ldam", "srat-ldam"):
        run = analysed(write_run(tmp_path / method, make_record(method=method)), method, 0.25)
        if method in ("natural", "ce"):
            analysed(run, method, 0.5, "-train")
    (group,) = group_runs(find_runs([tmp_path]))
    training, clean, attacked = feature_drawings(group)
    assert (training.title, training.paper) == (
        "Penultimate features, t-SNE, clean imbalanced training images",
        ("fig3",),
    )
    titles = [axes.get_title().partition("\n")[0] for axes in training.draw().axes]
    assert titles == ["natural training", "adversarial training"]
    assert (clean.paper, attacked.paper) == (("fig4",), ())
    for name, drawing in (("fig3", training), ("fig4", clean)):
        found = paper_drawing(name, find_runs([tmp_path]))
        assert found is not None
        assert found.name == drawing.name


def test_analyses_of_earlier_versions_keep_fig3_and_say_what_it_lacks(tmp_path) -> None:
    for method in ("natural", "ce"):
        analysed(write_run(tmp_path / method, make_record(method=method)), method, 0.25)
    (group,) = group_runs(find_runs([tmp_path]))
    clean, _ = feature_drawings(group)
    assert clean.paper == ("fig3",)
    assert "The paper's Fig. 3 is of training images: srat-fast analyse --images train." in clean.caption


def test_without_analyses_there_are_none(study) -> None:
    made = build_report([study])
    assert not [name for name in made.figures if name.startswith("features")]
    assert {"fig3", "fig4"} <= {name for name, _, _ in made.missing}
