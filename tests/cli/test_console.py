"""The console belongs to the user: every table at every width, closed pipes, full disks, other encodings, Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from srat_fast.cli import main
from srat_fast.cli.analyse import _table
from srat_fast.cli.options import spelled_out
from srat_fast.cli.show import audit_table
from srat_fast.cli.train import show_record
from srat_fast.console import Console, interactive
from srat_fast.progress import Bar
from tests.report.conftest import accuracies, make_record, write_run
from tests.sweep.conftest import BASE, toml

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["cat [adult]", "[/b]", ":smile:", "a|b"]
INTERVALS = {"overall": [0.5, 0.6], "well": [0.5, 0.6], "under": [0.5, 0.6], "per_class": [[0.5, 0.6]] * 4}


class Terminal(io.StringIO):
    """What rich takes for a terminal; COLUMNS says how wide."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def study(tmp_path, monkeypatch) -> Path:
    """Two runs, a sweep's plan and images in a file, under names that look like markup."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERM", "xterm")
    for weight in (0.0, 2.0):
        changes = {"method": "cb-reweight", "loss.separation_weight": weight, "collapsed": 0}
        write_run(tmp_path / "runs" / f"[srat]-{weight}", make_record(**changes, classes=NAMES))
    (tmp_path / "spec.toml").write_text(toml(BASE))
    labels = np.repeat(np.arange(4), 3)
    images = np.zeros((12, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "d.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels,
             classes=np.array(NAMES))  # fmt: skip
    return tmp_path


COMMANDS = [
    "data show npz --data-root d.npz --imbalance none",
    "data show cifar10",
    "data prepare --dataset digits --loader memory",
    "doctor",
    "report runs --print-only",
    "theory --samples 1e3",
    "sweep plan spec.toml --out sweep",
    "sweep status sweep --all",
    "sweep table sweep --per-class",
    "reproduce table1",
]


def results() -> None:
    """What train, evaluate, audit and analyse print, from records."""
    judged = accuracies(0.5) | {"intervals": INTERVALS}
    extra = {
        "best": {"epoch": 3, "standard": judged, "robust": judged, "collapsed": 0},
        "standard": judged,
        "robust": judged,
    }
    seconds = {"total": 60.0, "attack": 1.0, "step": 1.0, "evaluation": 1.0}
    record = make_record(**extra, classes=NAMES, collapsed=1, seconds=seconds, warnings=["[bold]look[/bold]"])
    show_record(record, Path("runs/[srat]-1"), Console())
    check = {
        "name": "[b]gradient[/b]",
        "verdict": "passed",
        "figure": 0.1,
        "threshold": None,
        "found": "[i]some[/i] " * 9,
    }
    Console().print(audit_table({"checks": [check]}))
    one = {
        "accuracy": {"overall": 0.5, "under": 0.1}, "under_taken_by_well": 0.2, "silhouette": 0.3,
        "silhouette_cosine": 0.3, "scatter_ratio": 1.0, "count_correlation": {"spearman": None},
    }  # fmt: skip
    Console().print(_table({"runs/[srat]-1": {"clean": one, "attacked": one, "leak": one}}))


def everything(stream: io.StringIO, monkeypatch) -> str:
    """All that the commands print on a stream."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        results()
        for command in COMMANDS:
            with pytest.raises(SystemExit) as end:
                main(command.split())
            assert end.value.code == 0, command
    return stream.getvalue()


def tables(text: str) -> list[list[str]]:
    """Blocks of lines that begin with a bar."""
    found: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [block for block in found if block]


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_every_table_of_every_command(study, width, monkeypatch) -> None:
    """On a terminal no row is wider, no cell is broken and every row has as many bars."""
    from rich.cells import cell_len

    monkeypatch.setenv("COLUMNS", str(width))
    text = everything(Terminal(), monkeypatch)
    blocks = tables(text)
    for block in blocks:
        assert len({line.replace("\\|", "").count("|") for line in block}) == 1, block
        assert {cell_len(line) for line in block} == {cell_len(block[0])}
        assert cell_len(block[0]) <= width
        assert set(block[1]) <= set("|- :")
        assert not any(line.split("|")[1].strip() == "" for line in block), (
            "a row without its name is half a row"
        )
    assert ("left out at this width" in text) == (width in (60, 80, 200))
    assert (len(blocks) > 15) == (width > 20)
    if width == 20:
        assert "class: [/b]" in text
        assert "package: torch" in text


def test_a_pipe_gets_every_cell_whatever_columns_says(study, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("FORCE_COLOR", "1")
    text = everything(io.StringIO(), monkeypatch)
    assert "left out" not in text
    assert "\x1b" not in text
    for block in tables(text):
        assert len({line.replace("\\|", "").count("|") for line in block}) == 1, block
    for name in ("cat [adult]", "[/b]", ":smile:", "a\\|b", "cb-reweight (loss.separation_weight=2)"):
        assert f"| {name} " in text, name
    for said in (
        "(srat-fast audit runs/[srat]-1)", "last: collapsed: class [/b] takes",
        "best balanced: collapsed: class", "[bold]look[/bold]", "[b]gradient[/b]",
        "[i]some[/i]", "best balanced (epoch 4): clean", "55.00 [50.0, 60.0]",
    ):  # fmt: skip
        assert said in text, said


@pytest.mark.parametrize(
    ("terms", "bn", "named"),
    [("separation", "batch", True), ("separation", "running", False), ("classification", "batch", False)],
)
def test_a_collapse_names_the_attack_that_does_not_leak(capsys, terms, bn, named) -> None:
    seconds = {"total": 60.0, "attack": 1.0, "step": 1.0, "evaluation": 1.0}
    judged = accuracies(0.5) | {"intervals": INTERVALS}
    changes = {"terms": [terms], "attack.bn": bn, "standard": judged, "robust": judged}
    show_record(make_record(**changes, collapsed=1, seconds=seconds), Path("runs/one"), Console())
    text = capsys.readouterr().out
    assert "takes more than 95 % of the predictions; try a lower optim.lr" in text
    assert ("attack.bn = running" in text) == named


def test_messages_show_what_a_terminal_would_obey(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["\x1b[31mtrain"])
    assert capsys.readouterr().err.startswith("error: No such command '\\x1b[31mtrain'")


@pytest.mark.parametrize(("term", "bar"), [("xterm", True), ("dumb", False), ("", False)])
def test_a_dumb_terminal_gets_lines(term, bar, monkeypatch) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert interactive(Console()) is bar


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
def test_a_bar_stays_on_one_line(width, monkeypatch) -> None:
    from srat_fast.progress import ProgressView

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys, "stdout", Terminal())
    console = Console()
    with ProgressView("[b]srat-ldam", console) as view:
        view.begin("training", 100)
        view.describe("epoch [/b] 100/200")
        view.advance(50, "loss 1.234  train acc 45.0%  MFU 12%")
        bar = view._live
        assert isinstance(bar, Bar)
        lines = console.render_lines(bar.get_renderable(), console.options, pad=False)
        text = "".join(segment.text for segment in lines[0])
    assert len(lines) == 1
    assert len(text) <= width
    assert ("epoch [/b] 100/200" in text) == (width > 20)
    assert "[b]srat" in text


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | more


def shell(command: str, cwd: Path, **more: str) -> subprocess.CompletedProcess:
    """A line of bash; `srat` is the program, $? of the first command of a pipe is the code."""
    script = f'set -o pipefail; srat() {{ "{sys.executable}" -m srat_fast "$@"; }}; {command}'
    return subprocess.run(
        ["bash", "-c", script], cwd=cwd, env=environment(**more), capture_output=True, text=True, check=False,
        encoding="latin-1",
    )  # fmt: skip


TRAIN = (
    "srat train --dataset npz --data-root d.npz --imbalance none --recipe smoke --epochs 2 --device cpu --out run "
    "--set model.width=8 --set eval_attack.steps=1 --set run.tensorboard=false"
)


def test_training_goes_on_when_nobody_listens(study) -> None:
    """A reader that takes one line, in an encoding that lacks the names."""
    ended = shell(f"{TRAIN} | head -1", study, PYTHONIOENCODING="ascii")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("srat-ldam on npz")
    assert json.loads((study / "run" / "record.json").read_text())["status"] == "finished"


def test_training_without_any_streams(study) -> None:
    ended = shell(f"{TRAIN} >&- 2>&- <&-", study)
    assert ended.returncode == 0
    assert json.loads((study / "run" / "record.json").read_text())["status"] == "finished"


def test_a_program_s_own_console_may_break_too(study, monkeypatch) -> None:
    import rich.console

    from srat_fast.progress import ProgressView

    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    for terminal in (False, True):
        with ProgressView("run", rich.console.Console(file=Broken(), force_terminal=terminal)) as view:
            view.line("one")
            view.begin("training", 10)
            view.advance(5)
            view.line("two")


@pytest.mark.parametrize(
    ("command", "code", "error"),
    [
        ("srat data show cifar10 | head -1", 0, ""),
        ("srat --help | head -1", 0, ""),
        (
            "srat data show cifar10 --json > /dev/full",
            1,
            "error: the output could not be written: No space left on device\n",
        ),
        ("srat data show cifar10 >&-", 0, ""),
        ("srat data show cifar11 2>/dev/full", 2, ""),
    ],
)
def test_output_that_cannot_be_written_is_no_traceback(command, code, error, tmp_path) -> None:
    ended = shell(command, tmp_path)
    assert (ended.returncode, ended.stderr) == (code, error)


def test_another_encoding(study) -> None:
    ended = shell("srat data show npz --data-root d.npz --imbalance none", study, PYTHONIOENCODING="latin-1")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.count("################") == 4


def test_the_home_directory_is_expanded(monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    given = [
        "train",
        "--out",
        "~/x",
        "--out=~/x",
        "--set",
        "data.root=~/x",
        "~",
        "a~/b",
        "./~/x",
        "--resume",
        "~x=~/y",
    ]
    assert spelled_out(given) == [
        "train", "--out", "/home/me/x", "--out=/home/me/x", "--set", "data.root=/home/me/x", "/home/me", "a~/b",
        "./~/x", "--resume=must", "~x=~/y",
    ]  # fmt: skip


def test_ctrl_c_while_the_commands_are_imported(monkeypatch) -> None:
    from srat_fast.__main__ import main as program

    class Pressed:
        def find_spec(self, name: str, path: object, target: object = None) -> None:
            if name == "srat_fast.cli":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "srat_fast.cli")
    monkeypatch.setattr(sys, "meta_path", [Pressed(), *sys.meta_path])
    with pytest.raises(SystemExit) as end:
        program()
    assert end.value.code == 130


def test_help_imports_little() -> None:
    """Neither torch nor what computes or draws; how long it takes is measured in benchmarks/."""
    heavy = (
        "torch",
        "numpy",
        "scipy",
        "matplotlib",
        "sklearn",
        "PIL",
        "rich",
        "jinja2",
        "yaml",
        "ray",
        "optuna",
    )
    code = (
        "import sys, srat_fast.cli\n"
        "try: srat_fast.cli.main(['--help'])\n"
        f"except SystemExit: sys.exit(', '.join(m for m in {heavy} if m in sys.modules) or 0)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment()
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "Train one model" in ended.stdout
