"""Packed sweeps: the same table and report, parts merged, and nothing written of a file that is not one."""

from __future__ import annotations

import hashlib
import json
import random
import socket
import tomllib
import zipfile
from pathlib import Path

import pytest

from srat_fast.errors import UserError
from srat_fast.report.build import _drawings
from srat_fast.report.collect import find_runs
from srat_fast.report.groups import group_runs
from srat_fast.report.summary import markdown
from srat_fast.sweep import pack as packing
from srat_fast.sweep.claims import Claims
from srat_fast.sweep.directory import SweepDirectory
from srat_fast.sweep.pack import MANIFEST, pack, unpack
from srat_fast.sweep.plan import Trial
from srat_fast.sweep.spec import spec_from_tree
from srat_fast.sweep.status import read_status
from srat_fast.sweep.table import build_table, to_markdown
from tests.report.conftest import accuracies, make_record, write_run

SPEC = "baseline = 'ce'\n[base]\ndataset = 'digits'\ndata_root = '{root}'\n[axes]\nmethod = ['ce', 'srat-ldam']\n"


def made(path: Path, seeds: int = 2) -> SweepDirectory:
    """A planned sweep, its images in a directory of this machine."""
    text = f"seeds = {seeds}\n" + SPEC.format(root=path.parent / "my images")
    return SweepDirectory.create(path, spec_from_tree(tomllib.loads(text), path, "t"), "t.toml")


def finish(sweep: SweepDirectory, trial: Trial, level: float = 0.5) -> None:
    record = make_record(robust=accuracies(level))
    record["recipe"] = sweep.plan.recipe(trial).resolve().to_dict()
    record["data"] = {"root": "kept"}
    run = write_run(sweep.run(trial), json.loads(json.dumps(record)))
    for name in ("model.safetensors", "samples.npz", "analysis.json", "analysis-best-train.json", "else.txt"):
        (run / name).write_text("{}" if name.endswith("json") else name)
    sweep.write_state(trial, {"status": "done", "attempts": [{"kind": "finished"}], "seconds": 60.0})


def stop(
    sweep: SweepDirectory, trial: Trial, epochs: int, *, checkpoint: bool = True, killed: bool = False
) -> None:
    record = {
        "status": "running" if killed else "interrupted",
        "recipe": sweep.plan.recipe(trial).resolve().to_dict(),
    }
    run = write_run(sweep.run(trial), record, epochs)
    if checkpoint:
        (run / "checkpoint").mkdir()
        (run / "checkpoint" / "state").write_text("large")
    if killed:
        (run / ".lock").write_text(socket.gethostname())
    state = (
        {"status": "running", "running": {"host": "elsewhere", "pid": 1}} if killed else {"status": "queued"}
    )
    sweep.write_state(trial, {"attempts": []} | state)


@pytest.fixture
def sweep(tmp_path) -> SweepDirectory:
    """Two runs finished, one stopped, one killed."""
    sweep = made(tmp_path / "there" / "sweep")
    first, second, third, fourth = sweep.plan.trials
    finish(sweep, first)
    finish(sweep, second, 0.6)
    stop(sweep, third, 5)
    stop(sweep, fourth, 2, killed=True)
    with (sweep.run(fourth) / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "torn')
    return sweep


def tree(path: Path) -> dict[str, bytes]:
    """All files below a directory."""
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def shown(path: Path) -> tuple[str, str, list[str]]:
    """What the table and a report say, without the reports' figures."""
    runs = find_runs([path])
    groups = group_runs(runs)
    return (
        to_markdown(build_table(SweepDirectory.open(path))),
        markdown(groups),
        [d.name for d in _drawings(groups, runs)],
    )


def test_an_unpacked_sweep_has_the_same_table_and_report(sweep, tmp_path, monkeypatch) -> None:
    file, runs, size = pack(sweep.path)
    assert (file, runs, size) == (sweep.path.with_name("sweep.zip"), 4, file.stat().st_size)
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        assert not [n for n in names if "safetensors" in n or "checkpoint" in n or n.endswith("else.txt")]
        assert not [n for n in names if str(tmp_path).encode() in archive.read(n)], "no place of a machine"
    other = tmp_path / "new" / "here"
    assert unpack(file, other) == (4, 0)
    assert shown(other) == shown(sweep.path)
    assert [p.name for p in other.parent.iterdir()] == ["here"]
    assert other.stat().st_mode == sweep.path.stat().st_mode
    assert read_status(SweepDirectory.open(other)).counts == {"done": 2, "interrupted": 2}
    for trial in sweep.plan.trials[:2]:
        for name in ("samples.npz", "metrics.jsonl", "analysis.json", "analysis-best-train.json"):
            assert (other / "runs" / trial.name / name).read_bytes() == (sweep.run(trial) / name).read_bytes()
    monkeypatch.chdir(sweep.path / "runs")
    assert pack(Path(".."))[0] == file, "beside the directory, whatever it is called by"
    again = tmp_path / "again.zip"
    assert pack(other, again) == (again, 4, size)
    assert again.read_bytes() == file.read_bytes(), "nothing is lost, and equal sweeps are equal bytes"
    assert unpack(file, sweep.path) == (0, 4), "over the sweep itself: nothing to do"


def test_parts_are_merged(tmp_path) -> None:
    parts = [made(tmp_path / name / "sweep") for name in "ab"]
    trials = parts[0].plan.trials
    assert trials == parts[1].plan.trials, "the same runs, wherever the images lie"
    finish(parts[0], trials[0])
    stop(parts[0], trials[1], 4)
    stop(parts[0], trials[2], 2)
    finish(parts[1], trials[1])
    stop(parts[1], trials[2], 3)
    finish(parts[1], trials[3])
    files = [pack(part.path)[0] for part in parts]
    trees = []
    for order in (files, files[::-1]):
        out = tmp_path / f"merged-{len(trees)}"
        added = [unpack(file, out) for file in order]
        assert sum(sum(counts) for counts in added) == 6
        assert read_status(SweepDirectory.open(out)).counts == {"done": 3, "interrupted": 1}
        (run,) = [SweepDirectory.open(out).run(trials[2])]
        assert len((run / "metrics.jsonl").read_text().splitlines()) == 3, "the one that is further"
        trees.append({name: content for name, content in tree(out).items() if not name.startswith("claims")})
    assert trees[0] == trees[1]
    grown = made(tmp_path / "c" / "sweep", seeds=3)
    finish(grown, next(t for t in grown.plan.trials if t.seed == 2))
    assert unpack(pack(grown.path)[0], tmp_path / "merged-0") == (1, 0)
    assert read_status(SweepDirectory.open(tmp_path / "merged-0")).counts == {
        "done": 4,
        "interrupted": 1,
        "queued": 1,
    }
    assert SweepDirectory.open(tmp_path / "merged-0").plan.trials[:4] == trials
    assert unpack(files[0], tmp_path / "merged-0") == (0, 3)


def refused(file: Path, directory: Path, says: str) -> None:
    before = tree(directory) if directory.is_dir() else None
    with pytest.raises(UserError, match=says):
        unpack(file, directory)
    after = tree(directory) if directory.is_dir() else None
    if after is not None:
        after = {name: content for name, content in after.items() if not name.startswith("claims")}
        before = {name: content for name, content in before.items() if not name.startswith("claims")}
    assert before == after
    assert not [p for p in directory.parent.glob(".*") if p.is_dir()]


def test_conflicts_are_refused_and_nothing_is_changed(tmp_path) -> None:
    mine, theirs = (made(tmp_path / name / "sweep") for name in "ab")
    trials = mine.plan.trials
    finish(theirs, trials[0])
    finish(theirs, trials[3])
    file, _, _ = pack(theirs.path)
    finish(mine, trials[3], 0.7)
    refused(file, mine.path, "finished there with other results than in FILE")
    finish(other := made(tmp_path / "c" / "sweep"), trials[1])
    stop(other, trials[3], 1)
    refused(file, other.path, "has a checkpoint there and is finished in FILE")
    running = made(tmp_path / "d" / "sweep")
    claims = Claims(running.path / "claims")
    claims.take(trials[0].id)
    refused(file, running.path, f"{trials[0].name} is being run there")
    claims.close()
    text = "seeds = 1\n[base]\ndataset = 'digits'\nmethod = 'focal'"
    SweepDirectory.create(tmp_path / "e", spec_from_tree(tomllib.loads(text), tmp_path, "t"), "t.toml")
    refused(file, tmp_path / "e", "holds another sweep: 4 of the 4 runs in FILE are not in it")
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "mine.txt").write_text("mine")
    refused(file, tmp_path / "f", "is not empty and not a sweep")
    refused(file, tmp_path / "f" / "mine.txt", "is not a directory")
    refused(tmp_path / "missing.zip", tmp_path / "new", "FILE = .*: cannot be read: No such file")
    refused(tmp_path / "f" / "mine.txt", tmp_path / "new", "is not a packed sweep, or damaged")
    refused(tmp_path, tmp_path / "new", "cannot be read: Is a directory")


def forged(file: Path, out: Path, changes: dict[str, bytes | None]) -> Path:
    """A packed sweep with files changed, added or gone (None), its manifest made to fit unless it is among them."""
    with zipfile.ZipFile(file) as archive:
        files = {name: archive.read(name) for name in archive.namelist()} | changes
    files = {name: content for name, content in files.items() if content is not None}
    if MANIFEST not in changes:
        sums = {
            name: hashlib.sha256(content).hexdigest() for name, content in files.items() if name != MANIFEST
        }
        files[MANIFEST] = json.dumps({"format": 1, "files": sums}).encode()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return out


@pytest.mark.parametrize(
    "name",
    [
        "../out.json", "/tmp/out.json", "runs/../../out.json", "runs/x/record.json", "state/../plan.json",
        "claims/0", "state/out.json", "record.json", "runs/{run}/model.safetensors", "runs//record.json",
        "runs/{run}/checkpoint/record.json", "runs/{run}/../x/record.json", "runs/{run}/analysis-/../x.json",
        "runs\\x\\record.json",
    ],
)  # fmt: skip
def test_names_elsewhere_are_refused(sweep, tmp_path, name) -> None:
    file, _, _ = pack(sweep.path)
    name = name.format(run=sweep.plan.trials[0].name)
    bad = forged(file, tmp_path / "bad.zip", {name: b"{}"})
    refused(bad, tmp_path / "new" / "out", "which is no file of a sweep")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", ".hidden", "", "a/b", "x" * 300, 5])
def test_a_plan_whose_runs_lie_elsewhere_is_refused(sweep, tmp_path, name) -> None:
    file, _, _ = pack(sweep.path)
    plan = json.loads((sweep.path / "plan.json").read_text())
    plan["trials"][1][2] = name
    bad = forged(file, tmp_path / "bad.zip", {"plan.json": json.dumps(plan).encode()})
    refused(bad, tmp_path / "out", "has a run named|its plan.json is none")


def test_code_that_a_plan_names_is_never_run(sweep, tmp_path) -> None:
    """Also where it lies on this machine; what a plan holds itself must be what it says."""
    file, _, _ = pack(sweep.path)
    code = tmp_path / "mine.py"
    code.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    plan = json.loads((sweep.path / "plan.json").read_text())
    plan["recipes"][0]["plugin"] = [str(code)]
    bad = forged(file, tmp_path / "bad.zip", {"plan.json": json.dumps(plan).encode()})
    refused(bad, tmp_path / "out", "names plug-ins that it does not hold")
    for path, text in (("mine.py", code.read_text()), (str(code), "another")):
        entry = {"path": path, "text": text, "names": [["method", "mine"]], "methods": {}}
        plan["plugins"] = [entry | {"sha256": hashlib.sha256(code.read_bytes()).hexdigest()}]
        bad = forged(file, tmp_path / "bad.zip", {"plan.json": json.dumps(plan).encode()})
        refused(bad, tmp_path / "out", "the plug-in .* is another")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"plan.json": None}, "is not a packed sweep"),
        ({"plan.json": b"[]"}, "plan.json is damaged"),
        ({"plan.json": b'{"format": 9}'}, "its plan has format 9, not 1"),
        ({MANIFEST: b"[]"}, "is no JSON object"),
        ({MANIFEST: b'{"format": 2}'}, "has format 2, not 1"),
        ({MANIFEST: b'{"format": 1}'}, "names no files"),
        ({MANIFEST: None}, "is not a packed sweep"),
        ({MANIFEST: b'{"format": 1, "files": {}}'}, "its files are not those that its manifest names"),
        ({"state/{id}.json": b"[1]"}, "is no JSON object"),
        ({"state/{id}.json": b"[" * 100_000}, "is no JSON object"),
    ],
)
def test_other_content_is_refused(sweep, tmp_path, changes, says) -> None:
    file, _, _ = pack(sweep.path)
    named = {name.replace("{id}", sweep.plan.trials[0].id): content for name, content in changes.items()}
    refused(forged(file, tmp_path / "bad.zip", named), tmp_path / "out", says)


def test_a_file_with_another_checksum_is_refused(sweep, tmp_path) -> None:
    """One that zip's own sum fits."""
    file, _, _ = pack(sweep.path)
    with zipfile.ZipFile(file) as archive:
        manifest = archive.read(MANIFEST)
    name = f"runs/{sweep.plan.trials[0].name}/metrics.jsonl"
    bad = forged(file, tmp_path / "bad.zip", {name: b"{}\n", MANIFEST: manifest})
    refused(bad, tmp_path / "out", f"the checksum of '{name}' is another")


def test_a_name_twice_and_sizes_out_of_bounds(sweep, tmp_path, monkeypatch) -> None:
    file, _, _ = pack(sweep.path)
    twice = tmp_path / "twice.zip"
    twice.write_bytes(file.read_bytes())
    with zipfile.ZipFile(twice, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("plan.json", b"{}")
    refused(twice, tmp_path / "out", "a name is there twice")
    stored = forged(file, tmp_path / "stored.zip", {})
    with zipfile.ZipFile(stored, "w") as archive:
        archive.writestr(MANIFEST, "{}")
        archive.writestr("plan.json", "{}")
    refused(stored, tmp_path / "out", "stored otherwise")
    monkeypatch.setattr(packing, "LARGEST", 100)
    refused(file, tmp_path / "out", "is larger")
    with pytest.raises(UserError, match=r"plan\.json is too large for an archive"):
        pack(sweep.path, tmp_path / "more.zip")
    monkeypatch.setattr(packing, "LARGEST_SUM", 100)
    refused(file, tmp_path / "out", "is too large for a packed sweep")
    assert not (tmp_path / "more.zip").exists()


def test_damage_is_refused_or_without_effect(sweep, tmp_path) -> None:
    """Truncated, with bits flipped, with bytes put in or taken out: 300 files."""
    file, _, _ = pack(sweep.path)
    whole = file.read_bytes()
    unpack(file, tmp_path / "good")
    good = tree(tmp_path / "good")
    generator = random.Random(0)
    bad, out = tmp_path / "bad.zip", tmp_path / "out"
    refusals: list[str] = []
    for number in range(300):
        content = bytearray(whole)
        place = generator.randrange(len(whole))
        kind = number % 4
        if kind == 0:
            content = content[:place]
        elif kind == 1:
            content[place : place + generator.randrange(1, 20)] = generator.randbytes(generator.randrange(20))
        else:  # also in the directory of names, at the end
            place = place if kind == 2 else len(whole) - 1 - generator.randrange(min(2000, len(whole)))
            content[place] ^= 1 << generator.randrange(8)
        bad.write_bytes(content)
        try:
            unpack(bad, out)
        except UserError as error:
            refusals.append(error.line())
            assert not out.exists()
        else:
            assert tree(out) == good, "what came through is whole"
            for path in sorted(out.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            out.rmdir()
        assert not list(tmp_path.glob(".*"))
    assert len(refusals) > 200, "but for dates and the like all are noticed"
    assert not [line for line in refusals if "\n" in line]


def test_the_commands_and_going_on(stage, monkeypatch, capsys) -> None:
    """Another machine goes on with what was packed, its images lying elsewhere."""
    stage.spec(seeds=[0], base={"dataset": "digits", "data_root": str(stage.path / "here"), "device": "cpu"})
    spec, options = str(stage.path / "spec.toml"), ("--cpu-slots", "2", "--min-free", "0")
    stage.behave({"else": ["nonfinite:in epoch 1"]})
    assert stage.here(monkeypatch, "sweep", spec, "--out", str(stage.out), *options) == 1
    assert stage.here(monkeypatch, "sweep", "pack", str(stage.out), "--out", str(stage.path / "a.zip")) == 0
    assert "a.zip: 2 run(s), 0.0" in capsys.readouterr().out
    other = stage.path / "other"
    assert stage.here(monkeypatch, "sweep", "unpack", str(stage.path / "a.zip"), str(other)) == 0
    assert f"{other}: 2 run(s) from" in capsys.readouterr().out
    assert SweepDirectory.open(other).plan.recipes[0]["data.root"] == "here"
    stage.behave({})
    stage.spec(seeds=[0], base={"dataset": "digits", "data_root": str(stage.path / "moved"), "device": "cpu"})
    assert stage.here(monkeypatch, "sweep", "retry", str(other)) == 0
    assert stage.here(monkeypatch, "sweep", spec, "--out", str(other), *options) == 0
    assert read_status(SweepDirectory.open(other)).counts == {"done": 2}
    roots = {tomllib.loads(p.read_text())["data"]["root"] for p in (other / "recipes").iterdir()}
    assert roots == {str(stage.path / "moved")}
    assert stage.here(monkeypatch, "sweep", "unpack", spec, str(stage.path / "new")) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: FILE = {spec!r}: is not a packed sweep")
    assert said.count("\n") == 1
    assert (
        stage.here(monkeypatch, "sweep", "pack", str(stage.out), "--out", str(stage.path / "no" / "a.zip"))
        == 2
    )
    assert "error: --out = " in capsys.readouterr().err
    assert stage.here(monkeypatch, "sweep", "pack", str(stage.path)) == 2
    assert "is not a sweep" in capsys.readouterr().err
