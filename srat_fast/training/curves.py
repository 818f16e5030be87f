"""Curves of a run: a line an epoch, TensorBoard, signs of a network that has failed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from srat_fast.errors import MissingPackage
from srat_fast.recipe import ResolvedRecipe

#: Share of pixels whose gradient is exactly zero in the attack from which a network no longer reads its images.
DEAD = 0.9
_CURVES = ("lr", "loss", "train_accuracy", "images_per_second")


def curve_points(metrics: dict[str, Any], terms: Sequence[str]) -> dict[str, float]:
    """The TensorBoard curves of one epoch."""
    points = {f"train/{name}": metrics[name] for name in (*_CURVES, *terms)}
    if "validation" in metrics:
        points |= {
            f"validation/{kind}": metrics["validation"][kind]["balanced"] for kind in ("standard", "robust")
        }
    return points


def dead(metrics: dict[str, Any]) -> bool:
    """Whether an epoch's attacks met a network whose output does not depend on the images."""
    return (metrics.get("zero_gradient_share") or 0.0) >= DEAD


def epoch_line(title: str, metrics: dict[str, Any], epochs: int, seconds: float) -> str:
    """The summary that is printed after an epoch."""
    done = metrics["epoch"] + 1
    left = (epochs - done) * seconds / done
    stage = f"  stage {metrics['stage'] + 1}" if "stage" in metrics else ""
    text = (
        f"{title}  epoch {done}/{epochs}{stage}  loss {metrics['loss']:.4f}  "
        f"train acc {metrics['train_accuracy']:.1%}  lr {metrics['lr']:.3g}  "
        f"{metrics['images_per_second']:,.0f} img/s  {left:.0f} s left"
    )
    parts = metrics["seconds"]
    shares = [
        f"{name} {parts[name] / parts['total']:.0%}" for name in ("attack", "step", "data") if name in parts
    ]
    text += f"  ({', '.join(shares)}; {metrics['peak_memory_bytes'] / 2**30:.1f} GiB"
    text += ")" if metrics["mfu"] is None else f"; MFU {metrics['mfu']:.0%})"
    if "validation" in metrics:
        standard, robust = (metrics["validation"][kind]["balanced"] for kind in ("standard", "robust"))
        text += f"  validation {standard:.1%} clean, {robust:.1%} robust"
    if "average" in metrics:
        average = metrics["average"]
        text += f"  average {'taken' if average['taken'] else 'refused'} (worst class {average['worst']:.1%})"
    if metrics.get("catastrophic_overfitting"):
        text += "  catastrophic overfitting: robust under the attack of training only"
    if dead(metrics):
        text += "  dead features: the attack's gradient is zero"
    if metrics["nonfinite_gradients"]:
        text += f"  {metrics['nonfinite_gradients']} non-finite attack gradients"
    return text


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
        """Add one point to each curve."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, number)
            self._writer.flush()

    def close(self) -> None:
        """Finish the event file."""
        if self._writer is not None:
            self._writer.close()


#: Training accuracy on the attacked images from which, and robust accuracy up to which, the two contradict each other.
HIGH, NEAR_ZERO = 0.5, 0.05


def catastrophic_overfitting(
    recipe: ResolvedRecipe, epoch: int, train_accuracy: float, robust: dict[str, Any]
) -> bool | None:
    """Whether a model resists the attack of its training and no other (Wong et al. 2020, on one-step attacks)."""
    attack = recipe.attack
    if not recipe.row.adversarial or recipe.eval_attack.threat != attack.threat:
        return None
    if (
        attack.stop == "last-right" or epoch < attack.radius_ramp * recipe.optim.epochs
    ):  # training's is held back
        return None
    if recipe.eval_attack.epsilon > recipe.attack.epsilon * (1 + 1e-9):
        return None
    return train_accuracy >= HIGH and max(robust["overall"], robust["balanced"]) <= NEAR_ZERO


def overfitting_verdict(
    recipe: ResolvedRecipe, metrics: dict[str, Any], robust: dict[str, Any]
) -> dict[str, Any]:
    """The verdict on a run's last epoch, for its record."""
    validated = "validation" in metrics
    against = metrics["validation"]["robust"] if validated else robust
    verdict = catastrophic_overfitting(recipe, metrics["epoch"], metrics["train_accuracy"], against)
    warnings = []
    if verdict:
        warnings.append(
            f"catastrophic overfitting: {metrics['train_accuracy']:.0%} right under the attack of training, "
            f"{against['overall']:.0%} under PGD-{recipe.eval_attack.steps} on the "
            f"{'validation' if validated else 'test'} images; try more attack.steps or a smaller attack.step_size"
        )
    if dead(metrics):
        warnings.append(
            f"dead features: in the last epoch the attack's gradient is exactly zero at "
            f"{metrics['zero_gradient_share']:.0%} of the pixels, the network no longer reads its images; "
            "try optim.clip_norm = 1, a lower optim.lr or a longer optim.warmup_epochs"
        )
    return {"catastrophic_overfitting": verdict, "warnings": warnings}
