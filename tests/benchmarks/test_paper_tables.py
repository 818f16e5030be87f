"""The page of the paper's claim: what it says without records, with made-up ones, and that it is up to date."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.paper.choices import difference, newcombe
from benchmarks.paper.page import NOTHING, content, rendered, write
from benchmarks.paper.rows import settings
from srat_fast.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
CLASSES = [f"class{k}" for k in range(10)]


def part(overall: float, under: float) -> dict:
    return {"overall": overall, "under": under, "well": 2 * overall - under, "per_class": [overall] * 10}


def run(
    results: Path,
    stage: str,
    method: str,
    four: tuple,
    speed: float = 10_000.0,
    ema: tuple = (),
    **fields: object,
) -> None:
    """One finished run of the paper's recipe with some fields changed; accuracies in percent."""
    named = {name.replace("__", "."): value for name, value in fields.items()}
    base = {"data.name": "folder", "data.imbalance": "exp", "data.ratio": 100, "method": method}
    recipe = Recipe().replace(base | {"run.device": "cuda"} | named).resolve().to_dict()
    a, b, c, d = (value / 100 for value in four)
    record = {
        "recipe": recipe, "status": "finished", "classes": CLASSES, "counts": [9] * 10, "well": [0, 1, 2, 3, 4],
        "under": [5, 6, 7, 8, 9], "test_images": 10_000, "standard": part(a, b), "robust": part(c, d),
        "collapsed": None, "images_per_second": speed, "mfu": 0.3, "peak_memory_bytes": 2**31, "device": "Fake GPU",
        "seconds": {"total": 250.0, "evaluation": 20.0, "compile": 40.0}, "versions": {"torch": "9.9"},
        "audit": {"verdict": "reliable"},
    }  # fmt: skip
    if ema:
        a, b, c, d = (value / 100 for value in ema)
        record["ema"] = {"standard": part(a, b), "robust": part(c, d), "collapsed": None}
    path = results / stage / f"{method}-{len(list(results.rglob('record.json')))}"
    path.mkdir(parents=True)
    (path / "record.json").write_text(json.dumps(record))


def manifest(results: Path, **slots: int) -> None:
    calls = [{"stage": stage, "slots": number} for stage, number in slots.items()]
    (results / "manifest.json").write_text(json.dumps({"smoke": False, "calls": calls}))


def test_without_a_record_it_says_so(tmp_path) -> None:
    assert content(tmp_path, []) == [NOTHING]
    text = "before\n<!-- paper -->\nold\n<!-- end -->\nafter"
    assert rendered(text, tmp_path, []) == f"before\n<!-- paper -->\n\n{NOTHING}\n\n<!-- end -->\nafter"


def test_the_page_is_written_with_its_figures(tmp_path) -> None:
    results, page = tmp_path / "results", tmp_path / "docs" / "paper.md"
    run(results, "exp", "ce", (48.5, 23.0, 27.0, 6.0))
    view = {"silhouette": 0.1, "silhouette_cosine": 0.2, "scatter_ratio": 0.3, "under_taken_by_well": None}
    analysis = {"images": 2000, "clean": view, "attacked": view}
    (next(results.glob("exp/*")) / "analysis.json").write_text(json.dumps(analysis))
    (results / "figures").mkdir()
    (results / "figures" / "tsne-exp.png").write_bytes(b"a picture")
    page.parent.mkdir()
    page.write_text("before\n<!-- paper -->\n<!-- end -->\nafter\n")
    write(results, page)
    text = page.read_text()
    assert "| `ce` | 0 | attacked | 0.100 | 0.200 | 0.300 | - |" in text
    assert "](tsne-exp.png)" in text
    assert (page.parent / "tsne-exp.png").read_bytes() == b"a picture"
    write(results, page)
    assert page.read_text() == text


def test_the_page_is_up_to_date() -> None:
    script = [sys.executable, str(ROOT / "benchmarks" / "paper" / "page.py"), "--check"]
    assert subprocess.run(script, check=False).returncode == 0, "run python benchmarks/paper/page.py"


def test_figures_beside_the_papers_and_those_far_from_them(tmp_path) -> None:
    run(tmp_path, "exp", "srat-ldam", (63.0, 65.0, 34.0, 30.0), ema=(64.0, 66.0, 35.0, 33.0))
    run(tmp_path, "exp", "ce", (48.5, 23.0, 27.0, 6.0))
    text = "\n".join(content(tmp_path, []))
    # the paper has 63.11/65.60 and 34.22/32.55
    row = (
        "| `srat-ldam` | 0 | 63.00 (paper 63.11 ± 0.08: -0.11, p -) | 65.00 (paper 65.60 ± 1.94: -0.60, p -) "
    )
    row += "| 34.00 (paper 34.22 ± 0.41: -0.22, p -) "
    assert row + "| **30.00 (paper 32.55 ± 1.70: -2.55, p -)** | reliable |" in text
    assert "(Welch, p < 0.05): `srat-ldam` robust under -2.55." in text
    assert "| `srat-ldam`, ema weights | 0 | 64.00 | 66.00 | 35.00 | 33.00 | not audited |" in text
    assert "`srat-ldam` - `ce` | +14.50 [+13.13, +15.86]; paper +14.71" in text
    assert "Measured on Fake GPU, torch 9.9." in text
    assert "| `ce` | 0 | 250 | 20 | 40 | 10,000 | 30.0 % | 2.0 | - |" in text


def test_nothing_far_is_said_too_and_another_recipe_has_no_target(tmp_path) -> None:
    run(tmp_path / "a", "exp", "ce", (48.5, 23.0, 27.0, 6.0))
    assert "No figure is more than 2 points from the paper or, over seeds," in "\n".join(
        content(tmp_path / "a", [])
    )
    run(tmp_path / "b", "exp", "ce", (40.0, 23.0, 27.0, 6.0), optim__epochs=100)
    text = "\n".join(content(tmp_path / "b", []))
    assert "(paper" not in text
    assert "Not the paper's recipe (`optim.epochs = 100`" in text


def test_seeds_are_gathered_and_compared_seed_by_seed(tmp_path) -> None:
    for seed, gain in ((0, 2.0), (1, 3.0), (2, 4.0)):
        run(tmp_path, "exp", "drcb-ldam", (60.0 + seed, 50.0, 30.0, 20.0), seed=seed)
        run(tmp_path, "exp", "srat-ldam", (60.0 + seed + gain, 50.0, 30.0, 20.0), seed=seed)
    run(tmp_path, "step", "ce", (40.0, 9.0, 30.0, 1.0), data__imbalance="step")
    exp, step = settings(tmp_path)
    assert (exp.imbalance, step.imbalance, exp.departures) == ("exp", "step", ())
    found = difference(exp.row("srat-ldam"), exp.row("drcb-ldam"), "standard", "overall")
    assert found.paired
    # Student's t with two degrees of freedom: 4.303 standard errors
    assert (found.points, found.high) == (pytest.approx(3.0), pytest.approx(3.0 + 4.3027 / 3**0.5, abs=1e-3))
    assert "+3.00 [+0.52, +5.48] *t*; paper +0.46" in "\n".join(content(tmp_path, []))


def test_newcombes_interval() -> None:
    # Newcombe 1998, table II (a): 56 of 70 and 48 of 80, method 10
    assert newcombe(56 / 70, 48 / 80, 70, 80) == (
        pytest.approx(0.0524, abs=5e-5),
        pytest.approx(0.3339, abs=5e-5),
    )
    low, high = newcombe(0.5, 0.5, 100)
    assert low == pytest.approx(-high)
    low, high = newcombe(0.0, 0.0, 100)
    assert 0.03 < high == -low < 0.04, "nothing right of either is no certainty"


@pytest.mark.parametrize(
    ("running", "slots", "verdict"),
    [
        ((63.0, 65.0, 34.0, 32.0), {"exp": 3, "choices": 3}, "**Yes: `srat-ldam`, attack.bn = running.**"),
        ((70.0, 70.0, 40.0, 31.9), {"exp": 3, "choices": 3}, "**No choice here is so.**"),
        ((70.0, 70.0, 33.9, 40.0), {"exp": 3, "choices": 3}, "**No choice here is so.**"),
        ((70.0, 70.0, 40.0, 40.0), {"exp": 3, "choices": 1}, "**No choice here is so.**"),
        ((70.0, 70.0, 40.0, 40.0), {}, "**No choice here is so.**"),
    ],
)
def test_a_fast_recipe_by_the_rule_only(tmp_path, running, slots, verdict) -> None:
    run(tmp_path, "exp", "srat-ldam", (63.0, 65.0, 34.0, 32.0))
    run(tmp_path, "choices", "srat-ldam", running, speed=13_000.0, attack__bn="running")
    run(tmp_path, "choices", "srat-ldam", (80.0, 80.0, 50.0, 50.0), speed=9_000.0, loss__reduction="batch")
    manifest(tmp_path, **slots)
    text = "\n".join(content(tmp_path, []))
    assert verdict in text
    assert ("13,000 (1.30 x)" in text) == (slots.get("choices") == 3), "speeds beside other numbers of runs"
    assert "| `srat-ldam`: the default | 63.00 | 65.00 | 34.00 | 32.00 | 10,000 | 250 |" in text
