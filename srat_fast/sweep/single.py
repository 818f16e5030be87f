"""One trial by its index: a sweep and a number enter; that trial, run here with all that is visible, leaves."""

from __future__ import annotations

from srat_fast.errors import UserError
from srat_fast.sweep.claim import Claims
from srat_fast.sweep.directory import SweepDirectory
from srat_fast.sweep.driver import Options
from srat_fast.sweep.local import LocalEngine
from srat_fast.sweep.prepare import prepare_data
from srat_fast.sweep.slots import Slot, cores, visible_gpus
from srat_fast.sweep.view import SweepView


def run_single(sweep: SweepDirectory, index: int, view: SweepView) -> int:
    """Run the trial with an index, on the first visible GPU, else on all CPU cores.

    Args:
        sweep: the sweep.
        index: from 0.
        view: told of everything.

    Returns:
        The exit code, as of the whole sweep; 0 too where the trial is finished already.

    Raises:
        UserError: no such trial, or another process runs it.
    """
    if not 0 <= index < len(sweep.plan.trials):
        raise UserError("INDEX", f"0 to {len(sweep.plan.trials) - 1} are in this sweep", index)
    trial = sweep.plan.trials[index]
    holder = Claims(sweep.path / "claims").holder(trial.id)
    if holder is not None:
        driver = holder["driver"]
        who = f"{driver['host'].partition(':')[0]}, process {driver['pid']}" if driver else "another process"
        raise UserError("INDEX", f"{trial.name} is being run by {who}", index)
    gpus = visible_gpus() if str(sweep.plan.recipe(trial).run.device) != "cpu" else []
    slot = Slot(gpus[0], None, 1, f"gpu {gpus[0]}") if gpus else Slot(None, cores(), 1, "cpu")
    prepare_data(sweep, [trial], view.line)
    code = LocalEngine(sweep, [slot], view, Options(), only=[trial]).run()
    if code == 0 and sweep.state(trial)["status"] == "failed":
        return 1
    return code
