"""srat-fast theory: verdicts, files, exit codes; a claim that fails is not passed over."""

from __future__ import annotations

import csv
import json

import pytest

from srat_fast.cli import main
from srat_fast.theory import claims, mixture


def call(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["theory", *arguments])
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


def test_verdicts_and_files(capsys, tmp_path) -> None:
    code, out, err = call(capsys, "--samples", "1e5", "--out", str(tmp_path / "t"))
    assert (code, err) == (0, "")
    for text in ("Lemma 3.1", "refuted", "every K > 1", "K < 244.5", "0.1764 at the lemma's b"):
        assert text in out
    names = {path.name for path in (tmp_path / "t").iterdir()}
    assert names == {
        "theory.json", "claims.csv", "lemma.csv", "errors.csv", "ranges.csv", "grid.csv",
        "lemma.svg", "lemma.png", "theorem-3-1.svg", "theorem-3-1.png", "theorem-3-2.svg", "theorem-3-2.png",
    }  # fmt: skip
    content = json.loads((tmp_path / "t/theory.json").read_text())
    assert content["as_expected"] is True
    rows = list(csv.DictReader((tmp_path / "t/grid.csv").read_text().splitlines()))
    assert len(rows) == len(content["grid"]) == 2 * 6 * 6 * 2
    assert (tmp_path / "t/lemma.png").read_bytes().startswith(b"\x89PNG")
    assert "mathdefault" not in (tmp_path / "t/theorem-3-1.svg").read_text(), (
        "a formula is shown as its source"
    )


def test_json_and_one_dimension(capsys) -> None:
    code, out, _ = call(capsys, "--samples", "1e4", "--json", "--d", "1", "--rho", "1", "--epsilon", "0")
    assert code == 0
    verdicts = {claim["name"]: claim["verdict"] for claim in json.loads(out)["claims"]}
    assert verdicts["Errors as printed"] == "the same"
    assert verdicts["Theorem 3.2, fixed rho"] == "empty"
    assert verdicts["Adversarial training"] == "no attack"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--sigma", "0.01"],
        ["--sigma", "1000"],
        ["--K", "1e300"],
        ["--K", "1.0000001"],
        ["--d", "200"],
        ["--rho", "1e9"],
    ],
    ids=" ".join,
)
def test_at_the_ends_nothing_is_called_false_that_cannot_be_told(arguments, capsys) -> None:
    """Classes that never or always overlap, ratios of no or of absurd imbalance: errors round to 0 or 1."""
    code, out, err = call(capsys, "--samples", "1e4", *arguments)
    assert (code, err) == (0, "")
    assert out.count("| fails ") == 1  # "S alone", as always


@pytest.mark.parametrize("wrong", ["threshold", "errors"])
def test_a_wrong_formula_is_found_and_is_code_1(wrong, capsys, monkeypatch) -> None:
    """The lemma without its factor 1/2, and the errors as printed: each must turn a verdict and the exit code."""
    right = mixture.Mixture
    if wrong == "threshold":
        half = right.threshold
        monkeypatch.setattr(right, "threshold", lambda self, ratio, weight=1.0: 2 * half(self, ratio, weight))
    else:
        monkeypatch.setattr(right, "errors", right.printed_errors)
    code, out, _ = call(capsys, "--samples", "1e5")
    assert code == 1
    assert "fails" in out


def test_every_claim_can_fail(capsys, monkeypatch) -> None:
    monkeypatch.setattr(claims, "gap_ranges", lambda one, two: [(5.0, 9.0)])
    monkeypatch.setattr(claims, "cost_ranges", lambda one, two, weight: [])
    code, out, _ = call(capsys, "--samples", "1e4")
    assert code == 1
    assert "in 0 of 12 pairs" in out


BAD = [
    (["--K", "1"], "--K = 1.0: a number > 1"),
    (["--rho", "0.5"], "--rho = 0.5: a number >= 1"),
    (["--eta", "-1"], "--eta = -1.0: a finite number > 0"),
    (["--sigma", "nan"], "--sigma = nan: a finite number > 0"),
    (["--d", "0"], "--d = 0: a finite number >= 1"),
    (["--epsilon", "2"], "--epsilon = 2.0: a number >= 0 and below eta = 1"),
    (["--S-grid", "1"], "--S-grid = (1.0,): at least two different numbers"),
    (["--S-grid", "1,b"], "--S-grid = '1,b': numbers separated by commas"),
    (["--K-grid", "2,1"], "--K-grid = 1.0: numbers > 1"),
    (["--samples", "few"], "--samples = 'few': a whole number"),
    (["--seed", "-1"], "--seed = -1: a whole number >= 0"),
    (["--out", "file/t"], "--out = 'file/t': cannot be written"),
]


@pytest.mark.parametrize(("arguments", "says"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_bad_input_is_one_line_and_code_2(arguments, says, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("in the way")
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
