"""The model card of an export: Markdown that states what was measured, no more."""

from __future__ import annotations

from typing import Any

from srat_fast.methods import METHODS
from srat_fast.recipe import FIELDS, radius_title
from srat_fast.recipe.sections import Attack
from srat_fast.record import weights_title, worst_class
from srat_fast.registry import threat
from srat_fast.tables import Table, length, percent, visible

#: The card's name beside the exported files.
CARD = "MODEL_CARD.md"
_PROTOCOLS = {
    "srat": "srat: attack and schedule of the SRAT paper, but for what the recipe says",
    "own": "own: attack and schedule of the method's authors, but for what the recipe says",
}
_WEIGHTS = {
    "last": "the last epoch",
    "best": "the best epoch by validation",
    "ema": "the moving average of the weights",
}


def _shape(data: dict[str, Any]) -> str:
    if data["imbalance"] == "none":
        return "class counts as they are"
    return f"{data['imbalance']} imbalance, ratio {data['ratio']:g}"


def _accuracies(record: dict[str, Any], weights: str) -> list[tuple[str, str, dict[str, Any]]]:
    """(attack, images, accuracies) of these weights on the run's own test images, the run's own judgement first."""
    own = record if weights == "last" else record.get(weights, {})
    attack = record["recipe"]["eval_attack"]
    found = []
    for kind, name in (
        ("standard", "clean"),
        ("robust", f"PGD-{attack['steps']}, {radius_title(attack)}"),
    ):
        if kind in own:
            found.append((name, str(record["test_images"]), own[kind]))
    for entry in record.get("evaluations", []):
        if entry.get("weights", "last") != weights or not entry.get("same_data"):
            continue
        for name, result in entry["attacks"].items():
            if name != "clean":
                radius = (
                    f", eps {length(result['epsilon'])}"
                    if "epsilon" in result and " eps " not in name
                    else ""
                )
                found.append((f"{name}{radius} (evaluated later)", str(result["images"]), result))
    return found


def _training_images(recipe: dict[str, Any]) -> str:
    """What training saw: PGD examples or clean images."""
    attack = recipe["attack"]
    examples = attack.get("examples", "method")
    if examples == "method":
        examples = "adversarial" if METHODS[recipe["method"]].adversarial else "clean"
    if examples == "clean":
        return "clean"
    return (
        f"PGD-{attack['steps']} examples, {radius_title(attack, always=True)}, step {length(attack['step_size'])}, "
        f"BatchNorm statistics: {attack['bn']}"
    )


def _course(record: dict[str, Any]) -> list[list[str]]:
    """Rows on a training that began with other weights, or had stages."""
    rows = []
    if start := record["recipe"]["model"].get("start_sha256"):
        rows.append(["begun with", f"weights of another training (SHA-256 `{start}`)"])
    if stages := record.get("stages"):
        told = (
            f"{part['epochs']} epochs {part['method']}, {'adversarial' if part['adversarial'] else 'clean'} images, "
            f"{part['sampler']} draws, trained: {part['train']}"
            for part in stages
        )
        rows.append(["stages", "; ".join(told)])
    return rows


def _threat(evaluated: dict[str, Any]) -> str:
    """The ball that the model is judged in, with RobustBench's name of it."""
    name = evaluated.get("threat") or Attack.threat  # a record of an earlier version names none
    norm = threat[name].autoattack if name in threat else None
    return radius_title(evaluated, always=True) + (f'; RobustBench: `threat_model="{norm}"`' if norm else "")


#: What each inference adjustment does, in the order of their doing.
_ADJUSTMENTS = {
    "inference_norm": "w_c / ||w_c||^{:g} without bias",
    "inference_counts": "z_c / n_c^{:g}",
    "inference_scale": "cosines times {:g}",
    "inference_prior": "z_c - {:g} ln(n_c / N)",
}


def _last_layer(model: dict[str, Any]) -> list[list[str]]:
    """Rows on a last layer that is not as a linear one leaves training."""
    rows = []
    if model.get("head") == "scaled":
        rows.append(["last layer", "linear, the trained factors of its classes multiplied in"])
    elif model.get("head", "linear") != "linear":
        rows.append(
            ["last layer", f"{model['head']}, scale {model['head_scale']:g}, gamma {model['head_gamma']:g}"]
        )
    neutral = {name: FIELDS[f"model.{name}"][1].neutral for name in _ADJUSTMENTS}
    done = [
        text.format(model[name])
        for name, text in _ADJUSTMENTS.items()
        if model.get(name, neutral[name]) != neutral[name]
    ]
    if done:
        rows.append(["after training, in these weights", "; ".join(done)])
    return rows


def _audit(record: dict[str, Any], weights: str) -> str:
    """What `srat-fast audit` found for these weights: in the record itself for the last ones, else in their part."""
    audit = (record if weights == "last" else record.get(weights) or {}).get("audit")
    if not audit:
        return (
            f"Not audited: `srat-fast audit` has not looked at the weights of {_WEIGHTS[weights]}. The robust "
            "accuracy above is unchecked."
        )
    lines = [f"Verdict: **{audit['verdict']}**."]
    lines += [f"- {problem}" for problem in audit.get("problems", [])]
    not_run = [str(name) for name in audit.get("not_run", [])]
    if not_run:
        lines.append(f"- not run: {', '.join(not_run)}")
    return "\n".join(lines)


def model_card(
    record: dict[str, Any],
    *,
    weights: str,
    files: list[dict[str, Any]],
    image: tuple[int, int],
    normalised: bool,
    checked_on: list[str],
) -> str:
    """The text of MODEL_CARD.md; `checked_on`: the kinds of batches on which the files were compared."""
    recipe = record["recipe"]
    data, optim, evaluated = recipe["data"], recipe["optim"], recipe["eval_attack"]
    channels, pixels = image
    classes, counts = record["classes"], record["counts"]
    inside = (
        "per-channel normalisation is inside the model"
        if normalised
        else "the model normalises nothing, as in the paper"
    )
    parts = [
        f"# {recipe['method']} on {data['name']} ({_shape(data)})",
        "An image classifier trained by srat-fast with the method "
        f"`{recipe['method']}`: {recipe['model'].get('name', 'resnet18')} of width {recipe['model']['width']}, "
        f"{len(classes)} classes. "
        f"These are the weights of {_WEIGHTS[weights]}"
        + (f": {weights_title(record, weights)}, by `optim.select`." if weights == "best" else "."),
        f"- Input: `[B, {channels}, {pixels}, {pixels}]`, float32, pixels in [0, 1]; {inside}.\n"
        f"- Output: logits `[B, {len(classes)}]`, classes in this order: {', '.join(map(visible, classes))}.",
        "## Loading",
        *(f"{file['title']} (`{file['file']}`):\n\n```python\n{file['snippet']}\n```" for file in files),
        "## Accuracies",
        "Percent, fp32, eager, eval mode. Under: the half of the classes with the fewest training images.",
        Table(
            "attack",
            "test images",
            "overall",
            "well",
            "under",
            "worst class",
            rows=[
                [
                    name,
                    images,
                    *(percent(values.get(part)) for part in ("overall", "well", "under")),
                    percent(worst_class(values)),
                ]
                for name, images, values in _accuracies(record, weights)
            ],
        ).markdown(),
        "## Audit",
        _audit(record, weights),
        "## Data",
        f"{sum(counts)} training images of {data['name']}, {_shape(data)}; "
        f"SHA-256 of all images and labels: `{record['data_checksum']}`.",
        Table(
            "class", "training images", rows=[[name, str(n)] for name, n in zip(classes, counts, strict=True)]
        ).markdown(),
        "## Recipe",
        Table(
            "",
            "",
            rows=[
                ["method, seed", f"{recipe['method']}, {recipe['seed']}"],
                ["protocol", _PROTOCOLS[recipe.get("protocol", "srat")]],
                *_last_layer(recipe["model"]),
                ["training images", _training_images(recipe)],
                *_course(record),
                [
                    "evaluation attack",
                    f"PGD-{evaluated['steps']}, {radius_title(evaluated, always=True)}, "
                    f"step {length(evaluated['step_size'])}",
                ],
                ["threat model", _threat(evaluated)],
                [
                    "optimiser",
                    f"SGD, lr {optim['lr']:g}, batch {optim['batch_size']}, {optim['epochs']} epochs",
                ],
                ["engine, precision", f"{recipe['run']['engine']}, {recipe['run']['precision']}"],
                *(
                    ["plug-in", f"`{name}` (SHA-256 `{entry['sha256']}`); `load(..., plugin=...)` runs it"]
                    for name, entry in zip(recipe.get("plugin", ()), record.get("plugins", ()), strict=True)
                ),
                ["fingerprint", f"`{record['fingerprint']}`"],
                ["versions", ", ".join(f"{name} {text}" for name, text in record["versions"].items())],
                ["commit", str(record["git_commit"])],
            ],
        ).markdown(),
        "All fields are in `recipe.toml` beside this card; `srat-fast train --recipe recipe.toml` trains it again.",
        "## Files",
        f"Each was read back after writing and its logits compared with the run's on {' and '.join(checked_on)} "
        "batches.",
        Table(
            "file",
            "format",
            "bytes",
            "SHA-256",
            "largest difference of a logit",
            rows=[
                [
                    f"`{file['file']}`",
                    file["format"],
                    str(file["bytes"]),
                    f"`{file['sha256']}`",
                    f"{file['difference']:.2g}",
                ]
                for file in files
            ],
        ).markdown(),
        "## Licence",
        "Not stated here: whoever publishes the weights chooses it, within the terms of the data.",
    ]
    return "\n\n".join(parts) + "\n"
