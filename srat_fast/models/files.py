"""Weights as safetensors files, which say what network they are of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from srat_fast.errors import UserError, one_of
from srat_fast.models.classifier import Classifier, CosineLinear
from srat_fast.recipe import ResolvedRecipe, starting_weights
from srat_fast.record import RECORD, write_atomically
from srat_fast.registry import model

#: Entry of a file's metadata that holds `Classifier.arguments` as JSON.
NETWORK = "network"


def save_model(path: Path, model: Classifier, metadata: dict[str, str]) -> str:
    """Write a model, atomically; its SHA-256."""
    content = model_bytes(model, metadata)
    write_atomically(path, content)
    return hashlib.sha256(content).hexdigest()


def model_bytes(model: Classifier, metadata: dict[str, str]) -> bytes:
    """A model as the content of a .safetensors file."""
    network = json.dumps(model.arguments(), sort_keys=True)
    return weights_bytes(model.state_dict(), metadata | {NETWORK: network})


def weights_bytes(state: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """The content of a .safetensors file: equal for equal tensors and metadata."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    content = safetensors.torch.save(plain, metadata)
    # The library writes the metadata in the order of a hash map, another one in each call.
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of eight
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def network_of(content: bytes) -> str | None:
    """What the content of a .safetensors file that was read without error says of its network."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]).get("__metadata__", {}).get(NETWORK)


def load_model(path: Path) -> Classifier:
    """A network in eval mode, float32 on the CPU, from the file that `save_model` wrote."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError("RUN", f"its weights cannot be read: {error.strerror}", str(path)) from None
    return model_from_bytes(content, path)


def model_from_bytes(content: bytes, path: Path) -> Classifier:
    """The same from the file's content; `path` is for messages."""
    try:
        state = safetensors.torch.load(content)
    except SafetensorError as error:
        raise UserError("RUN", f"its weights cannot be read: {error}", str(path)) from None
    return model_from_state(state, network_of(content), "RUN", path)


def model_from_state(
    state: dict[str, Tensor], network: str | None, field: str, path: Path, *, name: str | None = None
) -> Classifier:
    """A network in eval mode, float32 on the CPU, with the weights of a state dict; `field`, `path`: for messages.

    `network` is `Classifier.arguments` as JSON; a file that does not say is of the network `name`, else resnet18.
    """
    if name is not None and name not in model:
        raise UserError("model", one_of(model, name), name)
    of = name or "resnet18"
    try:
        arguments = _arguments_of(state, of) if network is None else json.loads(network)
        of = arguments["name"]
        if of not in model:
            known = f"one of {', '.join(model)} is known, others by --plugin FILE.py"
            raise UserError(field, f"its network {of} is not registered: {known}", str(path))
        if name not in (None, of):
            raise UserError(field, f"its weights are those of {of}, not of {name}", str(path))
        if "mean" in state:
            arguments |= {"mean": state["mean"].flatten(), "std": state["std"].flatten()}
        found = Classifier(**arguments)
        found.load_state_dict(state)
    except (KeyError, RuntimeError, IndexError, TypeError, ValueError) as error:
        reason = " ".join(str(error).replace("backbone.", "").split())[:200]
        raise UserError(field, f"its weights are not those of {of}: {reason}", str(path)) from None
    return found.eval()


def start_from(model: Classifier, recipe: ResolvedRecipe, classes: Sequence[str]) -> None:
    """Put the weights that `model.start` names into a network; a projection head that they lack stays as it is."""
    assert recipe.model.start is not None, "asked by the caller"
    path, sha256 = starting_weights(recipe.model.start)

    def refuse(problem: str) -> NoReturn:
        raise UserError("model.start", problem, recipe.model.start)

    content = path.read_bytes()
    if recipe.model.start_sha256 not in ("", sha256):
        refuse(f"its weights have the SHA-256 {sha256}, not {recipe.model.start_sha256} (model.start_sha256)")
    try:
        state = safetensors.torch.load(content)
    except SafetensorError as error:
        refuse(f"its weights cannot be read: {error}")
    given = model_from_state(state, network_of(content), "model.start", path)
    same = [a | {"projection_dim": None} for a in (given.arguments(), model.arguments())]
    if same[1].get("head") == "scaled":
        same[1].pop("head")
    for name in sorted({*same[0], *same[1]}):
        theirs, ours = (arguments.get(name) for arguments in same)
        if theirs != ours:
            refuse(f"its network has {name} {theirs}, this one {ours}")
    if given.normalize != model.normalize:
        refuse(f"its images are {'' if given.normalize else 'not '}normalised (model.normalize)")
    if isinstance(given.linear, CosineLinear) and bool(given.linear.shift.any()):
        refuse("its head has an adjustment for inference")
    if (told := path.parent / RECORD).is_file():
        try:
            record = json.loads(told.read_bytes())
        except ValueError:
            refuse(f"the {RECORD} beside it is damaged")
        _check_run(record, classes, refuse)
    own = model.state_dict()
    new = given.state_dict()
    model.load_state_dict(own | {n: w for n, w in new.items() if n in own and w.shape == own[n].shape})


def _check_run(record: dict[str, Any], classes: Sequence[str], refuse: Callable[[str], NoReturn]) -> None:
    """Classes of the run, and a last layer as it was trained."""
    if (theirs := record.get("classes")) != list(classes):
        refuse(f"its classes are others: {', '.join(theirs or [])[:100]}")
    adjusted = {"inference_prior": 0, "inference_norm": 0, "inference_counts": 0, "inference_scale": 1}
    for name, neutral in adjusted.items():
        if record["recipe"]["model"].get(name) not in (None, neutral):
            refuse(f"its head has an adjustment for inference (model.{name})")


def _arguments_of(state: dict[str, Tensor], name: str) -> dict[str, Any]:
    """The arguments of a network by the shapes of its weights: for files without `NETWORK`, which earlier versions
    and other programs write."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        published = Classifier(name, 2)
    head = f"{published.head_name}.weight"
    stem = next(key for key, weight in published.state_dict().items() if weight.dim() == 4)
    if f"{published.head_name}.shift" in state:
        raise ValueError("a cosine head's scale is in the header of its .safetensors file only")
    for key in (head, stem):
        if key not in state:
            raise ValueError(f"there is no {key}")
    classes, features = state[head].shape
    projection = state.get("projection.2.weight")
    return {
        "name": name,
        "classes": classes,
        "channels": state[stem].shape[1],
        "width": max(1, round(published.width * features / published.feature_dim)),
        "projection_dim": None if projection is None else projection.shape[0],
    }
