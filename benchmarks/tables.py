"""Tables of a GPU's measurement: rows of one device enter, Markdown leaves; "" where no row speaks of a table's matter.

The same tables stand in the summary of a measurement and, written by benchmarks/readme.py, in README.md and docs/.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from benchmarks.goals import judged
from benchmarks.rows import Row, latest

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


def table(head: list[str], lines: Iterable[list[str]]) -> str:
    """A Markdown table; "" without lines."""
    body = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *body]) if body else ""


def spread(row: Row, name: str = "ratio") -> str:
    """Median and quartiles of a ratio."""
    low, high = row[name]["quartiles"]
    return f"{row[name]['median']:.2f} ({low:.2f} to {high:.2f})"


def share(value: float | None) -> str:
    """A fraction in percent."""
    return "-" if value is None else f"{value:.1%}"


def goals(rows: list[Row]) -> str:
    """The goals of a GPU side by side with what was measured."""
    lines = [line for line in judged(rows) if not line[0].startswith("CPU")]
    return table(["goal", "measured", "met"], map(list, lines)) if any(m != "-" for _, m, _ in lines) else ""


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
    for size in dict.fromkeys((row["batch"], row["bn"]) for row in steps):
        mine = [row for row in steps if (row["batch"], row["bn"]) == size]
        against = {row["implementation"]: row for row in mine if row["reference"] == "eager"}
        ours = "captured" if any(row["implementation"] == "captured" for row in mine) else "shadow"
        product = {row["reference"]: row for row in mine if row["implementation"] == ours}
        if not against:
            continue
        base = next(iter(against.values()))
        rates = {name: row["images_per_second"] for name, row in against.items()}
        rates["eager"] = base["reference_images_per_second"]
        ratios = {name: spread(row) for name, row in against.items()} | {"eager": "1"}
        if "reference" in product:
            rates["reference"] = product["reference"]["reference_images_per_second"]
            ratios["reference"] = f"{rates['reference'] / rates['eager']:.2f} (of medians)"
        lines = [
            [f"`{name}`", words, f"{rates[name]:,.0f}", ratios[name], _of_product(product.get(name))]
            for name, words in RUNGS.items()
            if name in rates
        ]
        head = ["step", "what it is", "images/s", "times (a)", "the product, times this one"]
        parts.append(f"Batch {size[0]}, attack_bn {size[1]}:\n\n{table(head, lines)}")
    return "\n\n".join(parts)


def _of_product(row: Row | None) -> str:
    return "-" if row is None else spread(row)


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
    head = ["epochs", "batch", "attack_bn", "images", "seconds but compilation", "compilation", "training",
            "evaluation", "the rest", "images/s", "clean / robust"]  # fmt: skip
    return table(head, lines)


def packing(rows: list[Row]) -> str:
    """Several trials on one GPU at a time."""
    lines = [
        [str(row["trials"]), "yes" if row["mps"] else "no", f"{row['images_per_second']:,.0f}",
         f"{row['slowest_images_per_second']:,.0f}", spread(row), f"{row['peak_bytes'] / 2**30:.1f} GiB"]
        for row in latest(rows)
        if row["op"] == "packing"
    ]  # fmt: skip
    head = [
        "trials at a time",
        "MPS",
        "images/s, all",
        "the slowest",
        "times one alone (before, after)",
        "memory",
    ]
    return table(head, lines)


def network(rows: list[Row]) -> str:
    """FLOP/s of each stage of the network by pass."""
    parts = []
    for row in (row for row in latest(rows) if row["op"] == "network"):
        entries = {(part["stage"], part["pass"]): part for part in row["parts"]}
        passes = list(dict.fromkeys(part["pass"] for part in row["parts"]))
        lines = [
            [stage, *(_achieved(entries[stage, kind]) for kind in passes),
             f"{sum(entries[stage, kind]['share'] for kind in passes):.1%}"]
            for stage in dict.fromkeys(part["stage"] for part in row["parts"])
        ]  # fmt: skip
        head = ["stage", *(f"{kind}: TFLOP/s (µs)" for kind in passes), "share of a step"]
        title = (
            f"Batch {row['batch']}, attack_bn {row['bn']}, {row['precision']}, {row['steps']} attack steps:"
        )
        parts.append(f"{title}\n\n{table(head, lines)}")
    return "\n\n".join(parts)


def _achieved(part: Row) -> str:
    rate = "-" if part["tflops"] is None else f"{part['tflops']:.3g}"
    return f"{rate} ({part['microseconds']:,.0f})"


def profile(rows: list[Row], operations: int = 12) -> str:
    """Where a step's time goes: kinds of kernels, then the longest ones."""
    parts = []
    for row in (row for row in latest(rows) if row["op"] == "profile"):
        title = (
            f"Batch {row['batch']}, attack_bn {row['bn']}, {row['precision']}: {row['microseconds_a_step']:,.0f} µs a "
            f"step, {row['calls']:,.0f} kernels, host-bound share {row['host_share']:.1%}."
        )
        kinds = table(
            ["kind", "µs a step", "share"],
            ([kind, f"{of['microseconds']:,.0f}", share(of["share"])] for kind, of in row["kinds"].items()),
        )
        longest = table(
            ["kernel", "kind", "µs a step", "calls a step", "share"],
            (
                [f"`{one['name'][:70].replace('|', ' ')}`", one["kind"], f"{one['microseconds']:,.0f}",
                 f"{one['calls']:,.0f}", share(one["share"])]
                for one in row["operations"][:operations]
            ),
        )  # fmt: skip
        parts.append(f"{title}\n\n{kinds}\n\n{longest}")
    return "\n\n".join(parts)


def evaluation(rows: list[Row]) -> str:
    """Evaluation and loaders, images a second against the plain way to do it."""
    names = {"evaluation": "attack", "loader": "batch", "folder-loader": "mode"}
    lines = [
        [f"{row['op']}, {row[names[row['op']]]}", row["implementation"], f"{row['images_per_second']:,.0f}",
         f"{spread(row)} x {row['reference']}"]
        for row in latest(rows)
        if row["op"] in names
    ]  # fmt: skip
    return table(["what", "implementation", "images/s", "against"], lines)


def kernels(rows: list[Row]) -> str:
    """Loss and image step, launched alone and replayed as a graph."""
    lines = [
        [row["op"], f"{row['batch']}, {row['dims']}, {row['classes']}", row["launch"],
         f"{row['microseconds']['median']:,.1f}", f"{spread(row)} x {row['reference']}",
         "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:,.1f} MiB"]
        for row in latest(rows)
        if "launch" in row and row["op"] not in ("step", "profile")
    ]  # fmt: skip
    return table(["op", "B, D, C", "launch", "µs", "against", "memory"], lines)


def attempts(rows: list[Row]) -> str:
    """Variants of the step against the product: predicted and measured, as times faster."""
    lines = [
        [row["implementation"], f"{row['batch']}, {row['bn']}", f"{row['predicted']:.2f}", spread(row)]
        for row in latest(rows)
        if row["op"] == "attempt"
    ]
    return table(["attempt", "batch, attack_bn", "predicted", "measured, times the product"], lines)


def tests(rows: list[Row]) -> str:
    """How the tests ended, failed ones named."""
    found = [row for row in rows if row["op"] == "tests"]
    if not found:
        return ""
    row = found[-1]
    counts = ", ".join(f"{row[outcome]} {outcome}" for outcome in ("passed", "failed", "skipped"))
    counts += f" in {row['seconds']:.0f} s{'' if row['complete'] else ', ended before its end'}."
    return "\n".join([counts, *(f"- {failure}" for failure in row["failures"])])


#: Name in a page -> title, function.
TABLES: dict[str, tuple[str, Callable[[list[Row]], str]]] = {
    "goals": ("Goals", goals),
    "tests": ("Tests", tests),
    "shares": ("Each trick's share", shares),
    "runs": ("Whole runs", runs),
    "packing": ("Several trials on one GPU", packing),
    "evaluation": ("Evaluation and loaders", evaluation),
    "kernels": ("Kernels", kernels),
    "network": ("FLOP/s by stage of the network", network),
    "attempts": ("Attempts at more speed", attempts),
    "profile": ("Where a step's time goes", profile),
}
