"""Plan and status of a sweep as text, and the status as JSON."""

from __future__ import annotations

from typing import Any

from srat_fast.console import Console
from srat_fast.sweep.directory import SweepDirectory
from srat_fast.sweep.local import Slot, free_memory
from srat_fast.sweep.plan import Plan, duration, estimate, memory
from srat_fast.sweep.status import STATUSES, Row, Status
from srat_fast.tables import Table

_CELLS = 30


def show_plan(
    console: Console, plan: Plan, slots: list[Slot], images_per_second: float | None, status: Status | None
) -> None:
    """The plan: cells, runs, slots and the time that they will take."""
    seeds: dict[int, list[int]] = {}
    for trial in plan.trials:
        seeds.setdefault(trial.cell, []).append(trial.seed)
    table = Table("cell", *plan.axes, "seeds", "images an epoch")
    for cell, values in list(enumerate(plan.cells))[:_CELLS]:
        mine = next((t for t in plan.trials if t.cell == cell), None)
        if mine is None:  # the same runs as another cell's
            continue
        images = mine.images // plan.recipe(mine).optim.epochs
        shown = [str(values.get(name, plan.recipes[cell].get(name, "default"))) for name in plan.axes]
        table.add(str(cell), *shown, ", ".join(map(str, seeds[cell])), str(images))
    if plan.search is None or plan.cells:
        console.say(plan.title)
        console.print(table)
    if plan.search is not None:
        ranges = [
            f"{name} in {entry['choices']}" if "choices" in entry
            else f"{name} from {entry['low']} to {entry['high']}{' (log)' if entry['log'] else ''}"
            for name, entry in plan.search["space"].items()
        ]  # fmt: skip
        early = (
            f"; hopeless runs end early, from epoch {plan.search['after']} on" if plan.search["after"] else ""
        )
        console.say(
            f"search: {plan.search['trials']} runs by {plan.search['sampler']}: {', '.join(ranges)}{early}"
        )
    if len(plan.cells) > _CELLS:
        console.say(f"and {len(plan.cells) - _CELLS} more cells")
    for note in plan.notes:
        console.say(note)
    waiting, running = plan.trials, []
    fixed = plan.search is None or plan.trials  # the trials of a search come one by one
    text = f"{len(plan.trials)} runs in {len(plan.cells)} cells" if fixed else "no run yet"
    if status is not None and status.counts["queued"] < len(plan.trials):
        waiting, running = status.waiting(), status.running()
        text += ": " + ", ".join(f"{status.counts[name]} {name}" for name in STATUSES if status.counts[name])
    guess = estimate(waiting, len(slots), status.finished() if status else (), images_per_second, running)
    gpus = len({slot.gpu for slot in slots if slot.gpu is not None}) * plan.gpus_per_trial
    if not slots:
        console.say(text)
        return
    names = ", ".join(slot.name for slot in slots[:4]) + (", ..." if len(slots) > 4 else "")
    each = f", {plan.gpus_per_trial} processes each" if plan.gpus_per_trial > 1 else ""
    console.say(f"{text}; {len(slots)} at a time ({names}){each}")
    hours = f", {guess.seconds * gpus / 3600:.1f} GPU hours" if gpus and guess.seconds is not None else ""
    console.say(_memory(plan, slots))
    known = guess.seconds is not None
    console.say(
        f"estimated time: {f'{duration(guess.seconds)}{hours} ({guess.source})' if known else guess.source}"
    )


def _memory(plan: Plan, slots: list[Slot]) -> str:
    """What the largest trial holds, and the trials of a processor together."""
    gpu, share = slots[0].gpu is not None, slots[0].share
    size, recipe = memory(plan, "cuda" if gpu else "cpu")
    model, together = recipe.model, size * share / 2**30
    each = "process" if gpu and plan.gpus_per_trial > 1 else "trial"
    text = (
        f"estimated memory: {size / 2**30:.1f} GiB a {each} ({model.name} of width {model.width}, batches of "
        f"{recipe.optim.batch_size})"
    )
    if slots[0].name.startswith("ray"):  # its nodes' memory is not known here
        return text
    text += f", {together:.1f} GiB {'a GPU' if gpu else 'in all'}"
    free = None if gpu else free_memory()
    if free is not None and size * share > free:
        text += f"; only {free / 2**30:.1f} GiB are free"
    return text


def _failure(row: Row) -> str:
    """The last lines of what ended a trial."""
    attempts = row.state.get("attempts") or [{}]
    return str(attempts[-1].get("traceback") or "")


def show_status(console: Console, sweep: SweepDirectory, status: Status, every: bool) -> None:
    """Counts, running trials and failures."""
    total = len(status.rows)
    counts = ", ".join(f"{status.counts[name]} {name}" for name in STATUSES if status.counts[name])
    console.say(f"{sweep.plan.title}: {total} runs: {counts}")
    running = status.of("running")
    if running:
        table = Table("running", "where", "epoch", "images/s", "attempt", right=(2, 3, 4))
        for row, progress in zip(running, status.running(), strict=True):
            where = str(row.state["running"].get("where", ""))
            host = str(row.state["running"]["host"]).partition(":")[0]
            attempt = str(len(row.state["attempts"]) + 1)
            epoch, speed = f"{progress.epoch}/{progress.epochs}", f"{progress.speed:,.0f}"
            table.add(row.trial.name, f"{host} {where}", epoch, speed, attempt)
        console.print(table)
        console.say(f"{sum(progress.speed for progress in status.running()):,.0f} images/s in all")
        guess = estimate(status.waiting(), len(running), status.finished(), running=status.running())
        console.say(f"left: {duration(guess.seconds)} ({guess.source})")
    for row in status.of("failed"):
        console.say(f"failed: {row.trial.name}: {row.state.get('reason')}")
        trace = _failure(row)
        if trace:
            console.say(trace)
        if sweep.log(row.trial).exists():  # of another machine's sweep it is not here
            console.say(f"    log: {sweep.log(row.trial)}")
    if every:
        table = Table("index", "id", "status", "attempts", "run", spare=("attempts", "id"))
        for row in status.rows:
            attempts = str(len(row.state.get("attempts", [])))
            table.add(str(row.trial.index), row.trial.id, row.status, attempts, row.trial.name)
        console.print(table)


def status_json(sweep: SweepDirectory, status: Status) -> dict[str, Any]:
    """The status for programs."""
    return {
        "title": sweep.plan.title,
        "counts": {name: status.counts[name] for name in STATUSES},
        "trials": [
            {
                "index": row.trial.index,
                "id": row.trial.id,
                "run": str(sweep.run(row.trial)),
                "status": row.status,
                "attempts": len(row.state.get("attempts", [])),
                "reason": row.state.get("reason"),
                "traceback": _failure(row) if row.status == "failed" else None,
                "epoch": row.progress.epoch if row.progress else 0,
                "images_per_second": (row.progress.speed if row.progress else 0.0)
                or row.state.get("images_per_second"),
            }
            for row in status.rows
        ],
    }
