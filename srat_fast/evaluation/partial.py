"""What an interrupted evaluation leaves: the images judged so far, in a file named by all that they depend on."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from srat_fast.evaluation.survivors import Outcome
from srat_fast.record import write_atomically

#: Folder of a run for evaluations that are under way.
FOLDER = "evaluation"


def partial_path(run: Path, name: str, identity: dict[str, Any]) -> Path:
    """Where the state of one attack of one evaluation is kept."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return run / FOLDER / f"{name}-{digest[:16]}.npz"


def save_partial(path: Path, outcome: Outcome) -> None:
    """Write an outcome, atomically."""
    content = io.BytesIO()
    np.savez(
        content,
        predictions=outcome.predictions.numpy(),
        position=np.array([outcome.batch, outcome.round]),
        measured=np.array([outcome.seconds, outcome.overshoot]),
    )
    write_atomically(path, content.getvalue())


def load_partial(path: Path, images: int) -> Outcome | None:
    """The outcome that `save_partial` wrote."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as content:
            predictions = torch.from_numpy(content["predictions"].astype(np.int64))
            batch, number = (int(n) for n in content["position"])
            seconds, overshoot = (float(n) for n in content["measured"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    outcome = Outcome(predictions, batch, number, seconds, overshoot)
    return outcome if len(predictions) == images else None


def remove_partials(paths: list[Path]) -> None:
    """Take finished states away."""
    for path in paths:
        path.unlink(missing_ok=True)
