"""Live curves: an epoch's numbers enter, TensorBoard event files leave. The one file that imports tensorboard."""

from __future__ import annotations

from pathlib import Path

from srat_fast.errors import MissingPackage


class Curves:
    """Writes scalars to a run directory; does nothing where it is switched off.

    Args:
        directory: receives events.out.tfevents.*.
        enabled: `run.tensorboard`.
        purge: the first epoch that is run again, whose older points TensorBoard drops; None for a new run.

    Raises:
        MissingPackage: switched on and tensorboard is not installed.
    """

    def __init__(self, directory: Path, enabled: bool, purge: int | None = None) -> None:
        self._writer = None
        if enabled:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise MissingPackage(
                    "tensorboard",
                    "run.tensorboard = true",
                    "pip install tensorboard, or --set run.tensorboard=false",
                ) from None
            self._writer = SummaryWriter(str(directory), purge_step=purge)

    def epoch(self, number: int, values: dict[str, float]) -> None:
        """Add one point to each curve.

        Args:
            number: the epoch.
            values: curve name -> value.
        """
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, number)
            self._writer.flush()

    def close(self) -> None:
        """Finish the event file."""
        if self._writer is not None:
            self._writer.close()
