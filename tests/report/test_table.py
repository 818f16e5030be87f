"""The table: the paper's order and layout, audits beside the numbers, names readable on a narrow terminal."""

from __future__ import annotations

import pytest
from rich.console import Console

from srat_fast.report.collect import find_runs
from srat_fast.report.groups import group_runs
from srat_fast.report.summary import summary_tables
from tests.report.conftest import accuracies, make_record, write_run


def printed(root, width: int = 180) -> list[str]:
    console = Console(width=width, record=True, quiet=True)
    with console.capture() as capture:
        console.quiet = False
        for title, table in summary_tables(group_runs(find_runs([root]))):
            console.print(title, soft_wrap=True)
            console.print(table)
    return [line for line in capture.get().splitlines() if line.strip()]


def test_layout(study) -> None:
    title, header, _, *rows = printed(study)
    assert title.startswith(
        "digits (exp, ratio 10; 74 training, 40 test images), 80 epochs, protocol srat, robust = PGD-20"
    )
    assert [cell.strip() for cell in header.split("|")[1:-1]] == [
        "method", "seeds", "standard", "standard under", "robust", "robust under", "standard worst",
        "robust worst", "audit", "note",
    ]  # fmt: skip
    assert [cell.strip() for cell in rows[1].split("|")[1:-1]] == [
        "ce", "0, 1, 2", "90.00 ± 0.00", "85.00 ± 0.00", "53.00 ± 3.61", "48.00 ± 3.61", "80.00 ± 0.00",
        "43.00 ± 3.61", "not audited", "",
    ]  # fmt: skip
    assert [cell.strip() for cell in rows[3].split("|")[1:-1]] == ["ldam", "0", *"------", "-", "failed"]


def test_the_audit_stands_beside_the_number_that_it_is_about(tmp_path) -> None:
    best = {"standard": accuracies(0.7), "robust": accuracies(0.6)}
    record = make_record(method="ce", audit={"verdict": "suspicious"}, best=best)
    write_run(tmp_path / "ce", record)
    _, _, _, last, other = printed(tmp_path)
    assert last.split("|")[9].strip() == "suspicious"
    assert other.split("|")[9].strip() == "not audited"


@pytest.mark.parametrize("method", ["srat-ldam", "cb-reweight"])
def test_a_narrow_terminal_keeps_the_methods_names(tmp_path, method) -> None:
    for weight in (0.0, 2.0):
        write_run(tmp_path / f"{weight}", make_record(**{"method": method, "loss.separation_weight": weight}))
    text = "\n".join(printed(tmp_path, 80))
    assert f"| {method} " in text
    assert "| audit " in text
    assert "(loss.separation_weight=0)" in "\n".join(printed(tmp_path))
