"""Hyperparameter search with Optuna over a spec's [search.space].

The only file that imports optuna, which is the sampler (TPE or random) and stops trials early by asynchronous
successive halving. Its journal lies in the sweep's directory, so that a search goes on like any other sweep. Each
suggestion becomes a trial of the plan; its value is the balanced robust accuracy on validation images after its last
epoch.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from srat_fast.errors import MissingPackage, UserError
from srat_fast.record import METRICS
from srat_fast.sweep.directory import JOURNAL, SweepDirectory
from srat_fast.sweep.driver import Driver, Options
from srat_fast.sweep.outcome import Action
from srat_fast.sweep.plan import Trial, suggested
from srat_fast.sweep.process import TrialProcess
from srat_fast.sweep.spec import is_integer
from srat_fast.sweep.status import SweepView

try:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
except ImportError:
    raise MissingPackage("optuna", "a search", "pip install 'srat-fast[search]'") from None

#: Of a suggestion: the id of its run; that its driver died before the plan had it.
_RUN, _LOST = "run", "lost"
_RUNNING, _FAIL = optuna.trial.TrialState.RUNNING, optuna.trial.TrialState.FAIL


def validation_values(sweep: SweepDirectory, trial: Trial) -> dict[int, float]:
    """Epochs done -> balanced robust accuracy in [0, 1] on validation images."""
    values = {}
    try:
        lines = (sweep.run(trial) / METRICS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    for line in lines:
        try:
            epoch = json.loads(line)
            values[int(epoch["epoch"]) + 1] = float(epoch["validation"]["robust"]["balanced"])
        except (ValueError, KeyError, TypeError):  # torn, or without validation
            continue
    return values


def _end_at_a_line(journal: Path) -> None:
    """Take a torn last line away, of a full disk or a power cut, on which Optuna would go on writing."""
    if journal.exists():
        content = journal.read_bytes()
        os.truncate(journal, content.rfind(b"\n") + 1)


class SearchDriver(Driver):
    """A queue that Optuna fills."""

    def __init__(self, sweep: SweepDirectory, view: SweepView, options: Options) -> None:
        super().__init__(sweep, view, options)
        assert sweep.plan.search is not None
        self.settings = sweep.plan.search
        if not self.claims.take("search"):
            raise UserError("--out", "another process runs this search", str(sweep.path))
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        _end_at_a_line(sweep.path / JOURNAL)
        seed, after = self.settings["seed"], self.settings["after"]
        samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
        pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
        if after:
            pruner = optuna.pruners.SuccessiveHalvingPruner(
                min_resource=after, reduction_factor=self.settings["factor"]
            )
        storage = JournalStorage(JournalFileBackend(str(sweep.path / JOURNAL)))
        known = len(sweep.plan.trials)  # a search that goes on must not suggest the same again
        self.study = optuna.create_study(
            storage=storage, study_name="search", direction="maximize", load_if_exists=True,
            sampler=samplers[self.settings["sampler"]](seed=seed + known), pruner=pruner,
        )  # fmt: skip
        self._live: dict[str, optuna.trial.Trial] = {}
        self._reported: dict[str, int] = {}
        self._take_up()
        made = self.study.get_trials(
            deepcopy=False
        )  # by nobody else from now on: counted without reading it again
        self._made = sum(_LOST not in suggestion.user_attrs for suggestion in made)

    def _take_up(self) -> None:
        """What was under way when the last driver ended: goes on, or is told to Optuna if it had ended."""
        for frozen in self.study.get_trials(deepcopy=False, states=(_RUNNING,)):
            trial = self.sweep.by_id.get(str(frozen.user_attrs.get(_RUN)))
            if trial is None:  # suggested, but not yet in the plan: another takes its place
                optuna.trial.Trial(self.study, frozen._trial_id).set_user_attr(_LOST, True)
                self.study.tell(frozen.number, state=_FAIL)
                continue
            self._live[trial.id] = optuna.trial.Trial(self.study, frozen._trial_id)
            self._reported[trial.id] = max(frozen.intermediate_values, default=0)
            status = self.sweep.state(trial)["status"]
            if status in ("done", "failed", "pruned"):
                self._tell(trial, status)

    @property
    def left(self) -> int:
        """Suggestions that are still to be made."""
        return max(0, int(self.settings["trials"]) - self._made)

    @property
    def left_over(self) -> bool:
        """Whether trials are not done, or not suggested, that this driver does not run."""
        return super().left_over or self.left > 0

    def next_trial(self) -> Trial | None:
        """The next trial: one that waits, else a new suggestion."""
        trial = super().next_trial()
        while trial is None and not self.closed and self.left > 0:
            try:
                self._make_suggestion()
            except OSError as error:
                self.disk_error(error)
            trial = super().next_trial()
        return trial

    def _make_suggestion(self) -> None:
        """Ask Optuna for values, and queue the run that they are."""
        suggestion = self.study.ask()
        self._made += 1
        values = {
            name: self._suggest(suggestion, name, entry) for name, entry in self.settings["space"].items()
        }
        try:
            fields, added = suggested(self.sweep.plan, values)
        except UserError as error:  # the values contradict each other
            self.view.line(f"not run: {values}: {error.line()}")
            self.study.tell(suggestion, state=_FAIL)
            return
        suggestion.set_user_attr(_RUN, added.id)  # before the plan has it: each of its runs has a suggestion
        if added.id not in self.sweep.by_id:
            self.sweep.append(values, fields, added)
            self._live[added.id] = suggestion
            self.queue.append(added)
            return
        value = validation_values(
            self.sweep, self.sweep.by_id[added.id]
        )  # the same values again: the same run
        done = self.sweep.state(added)["status"] == "done" and value
        self.study.tell(suggestion, value[max(value)] if done else None, state=None if done else _FAIL)

    @staticmethod
    def _suggest(suggestion: optuna.trial.Trial, name: str, entry: dict[str, Any]) -> Any:
        if "choices" in entry:
            return suggestion.suggest_categorical(name, entry["choices"])
        if is_integer(name):
            return suggestion.suggest_int(name, int(entry["low"]), int(entry["high"]), log=entry["log"])
        return suggestion.suggest_float(name, float(entry["low"]), float(entry["high"]), log=entry["log"])

    def watch(self, process: TrialProcess) -> None:
        """Report a running trial's validation accuracy to the pruner; stop the trial where others are ahead of it."""
        live = self._live.get(process.trial.id)
        if live is None or process.asked:
            return
        reported = self._reported.get(process.trial.id, 0)
        try:
            for epoch, value in validation_values(self.sweep, process.trial).items():
                if epoch > reported:
                    live.report(value, epoch)
                    self._reported[process.trial.id] = epoch
                    if live.should_prune():
                        process.pruned = True
                        process.stop()
                        return
        except OSError as error:
            self.disk_error(error)

    def settle(self, trial: Trial, action: Action | None, state: dict[str, Any]) -> None:
        """Count a trial's end and tell Optuna."""
        super().settle(trial, action, state)
        if action is not None and action.status in ("done", "failed", "pruned"):
            try:
                self._tell(trial, action.status)
            except OSError as error:  # the next driver tells it
                self.disk_error(error)

    def _tell(self, trial: Trial, status: str) -> None:
        live = self._live.pop(trial.id, None)
        values = validation_values(self.sweep, trial)
        if live is None:
            return
        if status == "done" and values:
            self.study.tell(live, values[max(values)])
        else:
            self.study.tell(live, state=optuna.trial.TrialState.PRUNED if status == "pruned" else _FAIL)

    def waiting_trials(self) -> list[Trial]:
        """As of a sweep; suggestions still to be made count as the last one that was."""
        return super().waiting_trials() + self.sweep.plan.trials[-1:] * self.left

    def exit_code(self) -> int:
        """As of a sweep; the best trial is said in a line."""
        complete = [
            trial
            for trial in self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
            if trial.user_attrs.get(_RUN) in self.sweep.by_id
        ]
        if complete:
            best = max(complete, key=lambda t: float(t.value or 0.0))
            shown = [
                f"{name} = {value:.4g}" if isinstance(value, float) else f"{name} = {value}"
                for name, value in best.params.items()
            ]
            self.view.line(
                f"best of {len(complete)} by validation: {100 * float(best.value or 0):.2f} %: {', '.join(shown)} "
                f"({self.sweep.by_id[best.user_attrs[_RUN]].name})"
            )
        return super().exit_code()
