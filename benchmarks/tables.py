"""Tables of results as Markdown, for README.md, docs/ and `python benchmarks/tables.py FILE.jsonl`; imports no torch.

A table of result rows is "" where no row speaks of its matter. Tables of judged runs (audit, attacks) are made from
their records.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.rows import Row, latest, read
from srat_fast.record import audit_verdict, worst_class
from srat_fast.tables import Table

#: What a rung of the ladder is, in words; those of the goals' comparisons first.
RUNGS = {
    "reference": "the package's Algorithm 1: losses are Python loops",
    "eager": "(a) eager fp32, vectorised losses: what published code does",
    "autocast-only": "(b) the same with bf16 autocast and channels_last, nothing else",
    "compile-only": "(c) the same as (a) with torch.compile, nothing else",
    "input-gradients": "(a) without weight gradients in the attack",
    "autocast": "(b) without weight gradients in the attack",
    "shadow": "that, with weights cast once a batch in place of autocast in the attack, and our kernels",
    "compiled": "`shadow`, compiled",
    "captured": "`compiled`, as CUDA graphs: the product",
    "captured-max": "the product compiled by max-autotune",
}
FAST = ("shadow", "compiled", "captured", "captured-max")


def table(heads: Sequence[str], lines: Iterable[Sequence[str]], right: Sequence[int] = ()) -> str:
    """A Markdown table; "" without lines."""
    made = Table(*heads, rows=lines, right=right)
    return made.markdown() if made.rows else ""


def spread(row: Row) -> str:
    """Median and quartiles of a ratio."""
    low, high = row["ratio"]["quartiles"]
    return f"{row['ratio']['median']:.2f} ({low:.2f} to {high:.2f})"


def share(value: float | None) -> str:
    """A fraction in percent."""
    return "-" if value is None else f"{value:.1%}"


def machine_line(row: Row) -> str:
    """Device, limits and versions of a row in words."""
    named = ("power_limit", "torch", "triton", "driver", "commit")
    facts = (f"{name.replace('_', ' ')} {row[name]}" for name in named if row.get(name))
    return ", ".join([row["device"], *facts])


class Goal(NamedTuple):
    """A figure that is to be reached."""

    text: str  # with its bound
    bound: float
    match: Row  # fields that a row must have
    value: Callable[[Row], float | None]  # what of the row is compared
    least: bool = True  # the bound is the least, not the most
    unit: str = " x"
    best: bool = False  # the best of all matching rows counts, not the last one


def _ratio(row: Row) -> float:
    return float(row["ratio"]["median"])


def _rate(row: Row) -> float:
    return float(row["images_per_second"])


_PRODUCT = {"method": "srat-ldam", "implementation": "captured", "width": 64, "steps": 10, "search": None}
_STEP = _PRODUCT | {"op": "step", "precision": "bf16", "batch": 128, "bn": "batch"}
_LOSS = {
    "op": "srat_loss", "mode": "forward+backward", "implementation": "triton", "reference": "compiled",
    "launch": "graph", "classes": 10,
}  # fmt: skip
_SMALL, _LARGE = {"batch": 128, "dims": 128}, {"batch": 4096, "dims": 512}
_RUN = _PRODUCT | {"op": "run", "complete": True, "epochs": 200, "batch": 128, "bn": "batch"}
_PROFILE = {"op": "profile", "implementation": "captured", "batch": 128, "bn": "batch"}
_PACKING = {"op": "packing", "implementation": "captured", "width": 64}
_RATE = " images/s"

#: The strict reading of "over the eager fp32 reference" is against the rung "eager": the reference engine's losses are
#: Python loops, which flatter whatever is compared with it on a GPU.
GOALS = (
    Goal("batch 128, attack_bn batch: 10,000 images/s", 1e4, _STEP, _rate, unit=_RATE),
    Goal("batch 128, attack_bn running: 13,000 images/s", 1.3e4, _STEP | {"bn": "running"}, _rate, unit=_RATE),
    Goal(
        "batch 512, attack_bn running: 15,400 images/s", 1.54e4, _STEP | {"batch": 512, "bn": "running"}, _rate,
        unit=_RATE,
    ),
    Goal("batch 128: 12 x the eager fp32 step", 12, _STEP | {"reference": "eager"}, _ratio),
    Goal(
        "batch 128: 12 x the reference engine (its losses are Python loops)", 12, _STEP | {"reference": "reference"},
        _ratio,
    ),
    Goal("loss, B=128 D=128: 2 x compiled", 2, _LOSS | _SMALL, _ratio),
    Goal("loss, B=4096 D=512: 2 x compiled", 2, _LOSS | _LARGE, _ratio),
    Goal(
        "loss, B=4096 D=512: memory below one B x B matrix", 4096 * 4096 * 4, _LOSS | _LARGE,
        lambda row: row["peak_bytes"], least=False, unit=" bytes",
    ),
    Goal(
        "host-bound share below 5 %", 5, _PROFILE, lambda row: 100 * row["host_share"], least=False, unit=" %"
    ),
    Goal(
        "whole run of 200 epochs and its evaluation, compilation apart: below 300 s", 300, _RUN,
        lambda row: row["wall_without_compile"], least=False, unit=" s",
    ),
    Goal("several trials on one GPU: 1.3 x one after another", 1.3, _PACKING | {"mps": False}, _ratio, best=True),
    Goal(
        "several trials on one GPU, with MPS: 1.3 x one after another", 1.3, _PACKING | {"mps": True}, _ratio,
        best=True,
    ),
)  # fmt: skip


def judged(rows: Iterable[Row]) -> list[tuple[str, str, str]]:
    """(goal, measured, met) of every goal: "yes", "no", or "not measured" where no row speaks of it."""
    kinds = latest(rows)
    lines = []
    for goal in GOALS:
        matching = [row for row in kinds if all(row.get(k) == v for k, v in goal.match.items())]
        values = [value for value in map(goal.value, matching) if value is not None]
        value = (max(values) if goal.best else values[-1]) if values else None
        if value is None:
            lines.append((goal.text, "-", "not measured"))
            continue
        met = value >= goal.bound if goal.least else value < goal.bound
        lines.append(
            (goal.text, f"{value:,.{0 if value >= 1000 else 2}f}{goal.unit}", "yes" if met else "no")
        )
    return lines


def goals(rows: list[Row]) -> str:
    """The goals side by side with what was measured."""
    lines = judged(rows)
    return table(("goal", "measured", "met"), lines) if any(m != "-" for _, m, _ in lines) else ""


def shares(rows: list[Row]) -> str:
    """What each trick is worth: whole steps of every rung against (a), all measured in turns in one process."""
    parts = []
    steps = [
        row
        for row in latest(rows)
        if row["op"] == "step" and row["method"] == "srat-ldam"
        # the product in fp32 is another table's matter
        and not (row["implementation"] in FAST and row["precision"] == "fp32")
    ]  # fmt: skip
    for size in dict.fromkeys((row["batch"], row["bn"], row.get("search")) for row in steps):
        mine = [row for row in steps if (row["batch"], row["bn"], row.get("search")) == size]
        against = {row["implementation"]: row for row in mine if row["reference"] == "eager"}
        ours = "captured" if any(row["implementation"] == "captured" for row in mine) else "shadow"
        product = {row["reference"]: spread(row) for row in mine if row["implementation"] == ours}
        if not against:
            continue
        base = next(iter(against.values()))
        rates = {name: (row["images_per_second"], row["mfu"], spread(row)) for name, row in against.items()}
        rates["eager"] = (base["reference_images_per_second"], base["reference_mfu"], "1")
        if "reference" in product:
            row = next(r for r in mine if r["implementation"] == ours and r["reference"] == "reference")
            rate = row["reference_images_per_second"]
            ratio = f"{rate / base['reference_images_per_second']:.2f} (of medians)"
            rates["reference"] = (rate, row["reference_mfu"], ratio)
        lines = [
            (f"`{name}`", words, f"{rates[name][0]:,.0f}", share(rates[name][1]), rates[name][2],
             product.get(name, "-"))
            for name, words in RUNGS.items()
            if name in rates
        ]  # fmt: skip
        heads = ("step", "what it is", "images/s", "MFU", "times (a)", "the product, times this one")
        how = ", cuDNN searches among its kernels" if size[2] else ""
        parts.append(f"Batch {size[0]}, attack_bn {size[1]}{how}:\n\n{table(heads, lines)}")
    return "\n\n".join(parts)


def runs(rows: list[Row]) -> str:
    """Whole runs, seconds by what they were spent on; one that was ended early has no seconds but a speed."""
    lines = []
    for row in (row for row in latest(rows) if row["op"] == "run"):
        speed = "-" if row["images_per_second"] is None else f"{row['images_per_second']:,.0f}"
        name = [str(row["epochs"]), str(row["batch"]), row["bn"], row["pixels"]]
        if not row["complete"]:
            lines.append([*name, f"ended in epoch {row['epochs_done'] + 1}", *["-"] * 4, speed, "-"])
            continue
        seconds = [f"{row[f'{part}_seconds']:.1f}" for part in ("compile", "training", "evaluation", "other")]
        accuracy = "-"
        if row["pixels"] == "photographs":
            accuracy = f"{row['standard']['overall']:.1%} / {row['robust']['overall']:.1%}"
        lines.append([*name, f"{row['wall_without_compile']:.1f}", *seconds, speed, accuracy])
    heads = ("epochs", "batch", "attack_bn", "images", "seconds but compilation", "compilation", "training",
             "evaluation", "the rest", "images/s", "clean / robust")  # fmt: skip
    return table(heads, lines)


def leaks(rows: list[Row]) -> str:
    """Whether the attack's own labels meet the separation loss, after the first epochs."""
    lines = []
    for row in (row for row in latest(rows) if row["op"] == "leak"):
        equal = math.log(row["batch"] - 1)  # L_sep of features that are all the same
        ratios = [f"{row['scatter_ratio'][name]:.3f}" for name in ("clean", "attacked", "leak")]
        lines.append([
            f"`{row['method']}`", row["bn"], row["pixels"], str(row["epochs"]),
            f"{row['separation']:.2f} ({equal:.2f})", f"{row['classification']:.2f}", f"{row['train_accuracy']:.1%}",
            *ratios, "yes" if row["collapsed"] else "no",
        ])  # fmt: skip
    heads = ("method", "attack_bn", "images", "epochs", "L_sep (of equal features)", "L_cls", "training accuracy",
             "scatter ratio, clean", "attacked", "attacked by drawn labels", "one class")  # fmt: skip
    return table(heads, lines)


def packing(rows: list[Row]) -> str:
    """Several trials on one GPU at a time."""
    lines = [
        (str(row["trials"]), "yes" if row["mps"] else "no", f"{row['images_per_second']:,.0f}",
         f"{row['slowest_images_per_second']:,.0f}", spread(row), f"{row['peak_bytes'] / 2**30:.1f} GiB")
        for row in latest(rows)
        if row["op"] == "packing"
    ]  # fmt: skip
    heads = (
        "trials at a time",
        "MPS",
        "images/s, all",
        "the slowest",
        "times one alone (before, after)",
        "memory",
    )
    return table(heads, lines)


def evaluation(rows: list[Row]) -> str:
    """Evaluation and loaders, images a second against the plain way to do it."""
    names = {"evaluation": "attack", "folder-loader": "mode"}
    lines = []
    for row in (row for row in latest(rows) if row["op"] in names):
        what = f"{row['op']}, {row[names[row['op']]]}{', cuDNN searches' if row.get('search') else ''}"
        against = f"{spread(row)} x {row['reference']}"
        lines.append((what, row["implementation"], f"{row['images_per_second']:,.0f}", against))
    return table(("what", "implementation", "images/s", "against"), lines)


def kernels(rows: list[Row]) -> str:
    """Loss and image step, launched alone and replayed as a graph."""
    lines = [
        (row["op"], row["mode"], f"{row['batch']}, {row['dims']}, {row['classes']}", row["launch"],
         f"{row['microseconds']['median']:,.1f}", f"{spread(row)} x {row['reference']}",
         "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:,.1f} MiB")
        for row in latest(rows)
        if "launch" in row
    ]  # fmt: skip
    return table(("op", "mode", "B, D, C", "launch", "µs", "against", "memory"), lines)


def network(rows: list[Row]) -> str:
    """FLOP/s of each stage of the network by pass."""

    def achieved(part: Row) -> str:
        rate = "-" if part["tflops"] is None else f"{part['tflops']:.3g}"
        return f"{rate} ({part['microseconds']:,.0f})"

    parts = []
    for row in (row for row in latest(rows) if row["op"] == "network"):
        entries = {(part["stage"], part["pass"]): part for part in row["parts"]}
        stages, passes = (
            tuple(dict.fromkeys(part[name] for part in row["parts"])) for name in ("stage", "pass")
        )
        lines = [
            (stage, *(achieved(entries[stage, kind]) for kind in passes),
             f"{sum(entries[stage, kind]['share'] for kind in passes):.1%}")
            for stage in stages
        ]  # fmt: skip
        heads = ("stage", *(f"{kind}: TFLOP/s (µs)" for kind in passes), "share of a step")
        size = (
            f"Batch {row['batch']}, attack_bn {row['bn']}, {row['precision']}, {row['steps']} attack steps:"
        )
        parts.append(f"{size}\n\n{table(heads, lines)}")
    return "\n\n".join(parts)


def profile(rows: list[Row], operations: int = 12) -> str:
    """Where a step's time goes: kinds of kernels, then the longest ones."""
    parts = []
    for row in (row for row in latest(rows) if row["op"] == "profile"):
        title = (
            f"Batch {row['batch']}, attack_bn {row['bn']}, {row['precision']}: {row['microseconds_a_step']:,.0f} µs a "
            f"step, {row['calls']:,.0f} kernels, host-bound share {row['host_share']:.1%}."
        )
        kinds = (
            (kind, f"{of['microseconds']:,.0f}", share(of["share"])) for kind, of in row["kinds"].items()
        )
        longest = (
            (f"`{one['name'][:70].replace('|', ' ')}`", one["kind"], f"{one['microseconds']:,.0f}",
             f"{one['calls']:,.0f}", share(one["share"]))
            for one in row["operations"][:operations]
        )  # fmt: skip
        heads = ("kernel", "kind", "µs a step", "calls a step", "share")
        parts += [title, table(("kind", "µs a step", "share"), kinds), table(heads, longest)]
    return "\n\n".join(parts)


def tests(rows: list[Row]) -> str:
    """How the tests ended, failed ones named."""
    found = [row for row in rows if row["op"] == "tests"]
    if not found:
        return ""
    row = found[-1]
    counts = ", ".join(f"{row[outcome]} {outcome}" for outcome in ("passed", "failed", "skipped"))
    counts += f" in {row['seconds']:.0f} s{'' if row['complete'] else ', ended before its end'}."
    return "\n".join([counts, *(f"- {failure}" for failure in row["failures"])])


def startup(rows: list[Row]) -> str:
    """The start-up check on sound code and on planted faults."""
    lines = [
        (f"{row['method']} {row['bn']} {row['precision']} width {row['width']} batch {row['batch']}",
         f"{row['refused']} of {row['checks']}", ", ".join(f"{used:.2f}" for used in row["used"]),
         " ".join([f"{len(row['faults_passed'])} of {row['faults']}", *sorted(row["faults_passed"])]))
        for row in latest(rows)
        if row["op"] == "startup"
    ]  # fmt: skip
    return table(("case", "sound code refused", "share of a bound: median, worst", "faults passed"), lines)


def checkpoints(rows: list[Row]) -> str:
    """Saves and loads of a run's state."""
    lines = [
        (str(row["width"]), f"{row['bytes'] / 1e6:.1f} MB",
         *(f"{1e3 * row[name]:.1f} ms" for name in ("collect", "write", "load", "guard")))
        for row in latest(rows)
        if row["op"] == "checkpoint"
    ]  # fmt: skip
    return table(
        ("width", "bytes", "collected", "written, fsynced, read back", "loaded", "guard, a step"), lines
    )


def stages(rows: list[Row]) -> str:
    """How each question of `benchmarks/gpu.py` ended."""
    last = {row["name"]: row for row in rows if row["op"] == "stage"}
    lines = ((name, row["status"], f"{row['seconds']:.0f}") for name, row in last.items())
    return table(("question", "ended", "seconds"), lines)


#: Name in a page -> title, function.
TABLES: dict[str, tuple[str, Callable[[list[Row]], str]]] = {
    "goals": ("Goals", goals),
    "tests": ("Tests", tests),
    "shares": ("Each trick's share", shares),
    "runs": ("Whole runs", runs),
    "leaks": ("The separation loss and the attack's labels", leaks),
    "packing": ("Several trials on one GPU", packing),
    "evaluation": ("Evaluation and loaders", evaluation),
    "kernels": ("Kernels", kernels),
    "network": ("FLOP/s by stage of the network", network),
    "profile": ("Where a step's time goes", profile),
    "startup": ("Start-up check", startup),
    "checkpoints": ("Checkpoints", checkpoints),
    "stages": ("Questions", stages),
}


def measured_on(rows: Iterable[Row]) -> str:
    """The machines of rows, in words."""
    return f"Measured on {'; '.join(dict.fromkeys(map(machine_line, rows)))}."


def summary(rows: list[Row]) -> str:
    """Everything that was measured, goals first."""
    parts = [f"## {title}\n\n{text}" for title, make in TABLES.values() if (text := make(rows))]
    return "\n\n".join(["# Results", *([measured_on(rows)] if rows else []), *parts]) + "\n"


def audit_table(run: Path) -> str:
    """Every check of a run's audit, with its verdict in one line below."""
    record = json.loads((run / "record.json").read_text(encoding="utf-8"))
    report = record["audit"]
    checks = report["checks"]
    failed = ", ".join(check["name"] for check in checks if check["verdict"] == "failed")
    verdict = audit_verdict(record) + (f": {failed}" if failed else "")
    attack, method = report["attack"], record["recipe"]["method"]
    of = f"`{method}`, {attack['name']} at eps {attack['epsilon']:g}, {report['subset']} test images"
    lines = table(("check", "verdict", "found"), ((c["name"], c["verdict"], c["found"]) for c in checks))
    return f"{lines}\n\n{of}, on {report['device']}: **{verdict}**."


def attacks_of(record: dict[str, Any]) -> dict[str, Row]:
    """Rows of all evaluations of the last epoch on all test images at the run's radius; later ones replace earlier."""
    radius, rows = record["recipe"]["eval_attack"]["epsilon"], {}
    for entry in record.get("evaluations", []):
        if entry.get("weights", "last") == "last":
            for name, row in entry["attacks"].items():
                if row["images"] == record["test_images"] and row.get("epsilon", radius) == radius:
                    rows[name] = row
    return rows


def attack_table(folders: Iterable[Path]) -> str:
    """Attacks by methods: overall, under and worst class in percent, with the overall 95 % interval."""

    def order(name: str) -> tuple[int, str, list[float]]:
        """Clean first, AutoAttack last, between them by kind and numbers."""
        kind, _, numbers = name.partition("-")
        place = {"clean": 0, "autoattack": 2}.get(name, 1)
        return place, kind.replace("pgd", "a"), [float(n) for n in re.findall(r"[0-9.]+", numbers)]

    def cells(row: Row | None) -> tuple[str, ...]:
        if row is None:
            return "-", "-", "-"
        low, high = row["intervals"]["overall"]
        worst = 100 * (worst_class(row) or 0.0)
        overall = f"{100 * row['overall']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        return overall, f"{100 * row['under']:.1f}", f"{worst:.1f}"

    records = [json.loads((folder / "record.json").read_text(encoding="utf-8")) for folder in folders]
    found = {record["recipe"]["method"]: attacks_of(record) for record in records}
    names = sorted({name for rows in found.values() for name in rows if name != "worst-case"}, key=order)
    heads = (
        "attack",
        *(head for method in found for head in (method, f"{method}, under", f"{method}, worst class")),
    )
    lines = [(name, *(cell for rows in found.values() for cell in cells(rows.get(name)))) for name in names]
    return table(heads, lines, right=range(1, len(heads)))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python benchmarks/tables.py FILE.jsonl: a file of benchmarks/results/")
    print(summary(read(Path(sys.argv[1]))), end="")
