"""An epoch in words and as points of curves: one line of metrics enters, text or numbers leave."""

from __future__ import annotations

from typing import Any

_CURVES = ("lr", "loss", "classification", "separation", "train_accuracy", "images_per_second")


def curve_points(metrics: dict[str, Any]) -> dict[str, float]:
    """The TensorBoard curves of one epoch.

    Args:
        metrics: a line of metrics.jsonl.

    Returns:
        Curve name -> value.
    """
    points = {f"train/{name}": metrics[name] for name in _CURVES}
    if "validation" in metrics:
        points |= {
            f"validation/{kind}": metrics["validation"][kind]["balanced"] for kind in ("standard", "robust")
        }
    return points


def epoch_line(title: str, metrics: dict[str, Any], epochs: int, seconds: float) -> str:
    """The summary that is printed after an epoch.

    Args:
        title: of the run, as several may print to one terminal.
        metrics: a line of metrics.jsonl.
        epochs: of the whole run.
        seconds: of training so far.

    Returns:
        One line: losses, accuracy, speed, time left.
    """
    done = metrics["epoch"] + 1
    left = (epochs - done) * seconds / done
    text = (
        f"{title}  epoch {done}/{epochs}  loss {metrics['loss']:.4f}  train acc {metrics['train_accuracy']:.1%}  "
        f"lr {metrics['lr']:.3g}  {metrics['images_per_second']:,.0f} img/s  {left:.0f} s left"
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
    if metrics.get("catastrophic_overfitting"):
        text += "  catastrophic overfitting: robust under the attack of training only"
    if metrics["nonfinite_gradients"]:
        text += f"  {metrics['nonfinite_gradients']} non-finite attack gradients"
    return text
