"""Reference of the recipe: its fields, the methods and the data sets as Markdown."""

from __future__ import annotations

import html
import inspect
import json
from pathlib import Path
from typing import Any

from srat_fast.cli.options import OPTION_FIELDS
from srat_fast.datasets import DATASETS
from srat_fast.methods import METHODS, PAPER, Method
from srat_fast.methods import rows as all_rows
from srat_fast.models.build import training_flops
from srat_fast.recipe import FIELDS, NAMED_RECIPES, SECTIONS, Recipe, build_recipe, flatten
from srat_fast.recipe.fields import Spec, allowed, kind_of

ROOT = Path(__file__).resolve().parents[2]


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table.

    Args:
        head: titles of the columns.
        rows: cells as Markdown; a "|" in one is escaped.

    Returns:
        The table's lines.
    """
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def prose(text: str) -> str:
    """Text from the code as Markdown: "<class>" is not a tag.

    Args:
        text: of a docstring or a help.

    Returns:
        The text with its angle brackets escaped outside of `code`.
    """
    parts = text.split("`")
    return "`".join(part if k % 2 else html.escape(part, quote=False) for k, part in enumerate(parts))


def shown(value: Any, spec: Spec) -> str:
    """A field's value as one would write it.

    Args:
        value: as the recipe holds it; None where it is left to "auto".
        spec: of the field.

    Returns:
        Such as "`8/255`" or "auto: the first milestone".
    """
    if value is None:
        return f"auto: {prose(spec.auto)}"
    if spec.fraction and abs(value * 255 - round(value * 255)) < 1e-9 and round(value * 255) > 0:
        return f"`{round(value * 255)}/255`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _field(name: str, recipes: dict[str, dict[str, Any]]) -> str:
    annotation, spec = FIELDS[name]
    default = shown(recipes["paper"][name], spec)
    others = [
        f"{recipe} {shown(values[name], spec)}"
        for recipe, values in recipes.items()
        if values[name] != recipes["paper"][name]
    ]
    options = [option for option, field in OPTION_FIELDS.items() if field == name]
    first = spec.doc.split()[0].rstrip(":,")  # "torch.compile" and "folder's" stay as they are
    meaning = prose(spec.doc[0].upper() + spec.doc[1:] if first.isalpha() else spec.doc)
    lines = [f"### `{name}`", "", f"{meaning}.", ""]
    lines.append(f"- Default: {default}" + (f"; recipe {', '.join(others)}" if others else ""))
    lines.append(f"- Allowed: {prose(allowed(kind_of(annotation), spec))}")
    if spec.unit:
        lines.append(f"- Unit: {spec.unit}")
    lines.append(f"- Source: {spec.source or 'ours'}")
    if options:
        lines.append(f"- Option: {', '.join(f'`{o}`' for o in options)}")
    identity = "yes" if spec.identity else "no: it does not change what is computed"
    lines.append(f"- Part of the run's identity: {identity}")
    return "\n".join(lines)


def field_reference() -> str:
    """Every field of every section.

    Returns:
        One heading a section, one a field.
    """
    recipes = {name: flatten(build_recipe(name)) for name in NAMED_RECIPES}
    parts = []
    for section in ("", *SECTIONS):
        about = inspect.getdoc(SECTIONS[section] if section else Recipe) or ""
        parts.append(f"## {section or 'Top level'}\n\n{about.splitlines()[0]}")
        parts += [_field(name, recipes) for name in FIELDS if name.rpartition(".")[0] == section]
    return "\n\n".join(parts)


def named_recipes() -> str:
    """The named recipes and in what they differ from `paper`.

    Returns:
        A table.
    """
    rows = []
    for name, (purpose, changes) in NAMED_RECIPES.items():
        differs = ", ".join(f"`{field}` {shown(value, FIELDS[field][1])}" for field, value in changes.items())
        rows.append((f"`{name}`", purpose, differs or "nothing"))
    return table(("recipe", "for", "differs from `paper` in"), rows)


def methods() -> str:
    """The methods of Table 4, a row each."""
    rows = [
        (
            f"`{m.name}`",
            m.title,
            m.base,
            m.weighting,
            "yes" if m.separation else "no",
            "yes" if m.adversarial else "no",
        )
        for m in all_rows()
        if m.family == PAPER
    ]
    return table(
        ("method", "in the paper", "base loss", "class weights", "separation loss", "adversarial"), rows
    )


def field_methods() -> str:
    """The field's other methods: a table, then a section each with source, settings and deviations."""
    others = [m for m in all_rows() if m.family != PAPER]
    families = [METHODS[name.replace("<name>", "ce")] for name in METHODS if "<" in name]
    table_rows = [(f"[`{m.name}`](#{m.name})", m.title, m.family, prose(m.source)) for m in others]
    table_rows += [
        (f"[`{_family(m)}`](#{_anchor(_family(m))})", "any row, changed", m.family, _origin(m))
        for m in families
    ]
    parts = [table(("method", "title", "group", "source"), table_rows)]
    parts += [_section(m, m.name, prose(m.source)) for m in others]
    parts += [_section(m, _family(m), _origin(m)) for m in families]
    return "\n\n".join(parts)


def _family(member: Method) -> str:
    return member.name.partition(":")[0] + ":<name>"


def _anchor(name: str) -> str:
    return name.replace("<", "").replace(">", "").replace(":", "-")


def _origin(member: Method) -> str:
    """The source without that of the row that stands for the family."""
    return prose(member.source.partition("; on ")[0].partition(" on its own")[0])


def _section(m: Method, name: str, source: str) -> str:
    lines = [f"### `{name}` {{ #{_anchor(name)} }}", "", f"{source}.", ""]
    objective = " + ".join([f"`{m.base}`", *(f"{_value(c)} x `{t}`" for t, c in m.terms.items())])
    if name == m.name:
        lines.append(f"- Objective: {objective}; the attack climbs `{m.inner}`; class weights: {m.weighting}")
    else:
        lines.append("- Objective and attack: the row's" + (f", and {objective}" if m.terms else ""))
    if m.settings:
        lines.append(f"- Settings: {_fields(m.settings)}")
    lines += [f"- On {data}: {_fields(changes)}" for data, changes in m.by_data.items()]
    lines.append(f"- `--protocol own`: {_fields(m.own)}" if m.own else "- `--protocol own`: none is known")
    lines.append(
        f"- Cost of a step, PGD-10 training being 1: {_cost(m) if name == m.name else 'that of the row'}"
    )
    if m.notes:
        lines.append(f"- Deviations: {prose(m.notes)}")
    return "\n".join(lines)


def _cost(m: Method) -> str:
    """By passes, and as measured where it was (benchmarks/field.py)."""
    ce, own = (
        training_flops(1, build_recipe("paper", {"method": name}).resolve()) for name in ("ce", m.name)
    )
    measured = json.loads((ROOT / "benchmarks/results/field-one-cpu-thread.json").read_text())["rows"]
    text = f"{own / ce:.2f} by passes"
    if m.name in measured:
        text += f", {measured[m.name]['ratio']:.2f} measured on one thread of a CPU"
    return text


def _value(coefficient: Any) -> str:
    return f"`{coefficient}`"


def _fields(changes: Any) -> str:
    return ", ".join(f"`{name}` {shown(value, FIELDS[name][1])}" for name, value in changes.items())


def data_sets() -> str:
    """What is known of each data set before it is there.

    Returns:
        A table with one row a data set.
    """
    rows = []
    for facts in DATASETS.values():
        size = f"{facts.image_size} px" if facts.image_size else "the recipe's"
        step = f"{round(facts.step_size * 255)}/255"
        images = str(sum(facts.train_counts)) if facts.train_counts else "as they are"
        classes = str(len(facts.classes)) if facts.classes else "as they are"
        flip = "yes" if facts.flip else "no"
        rows.append((f"`{facts.name}`", classes, images, size, step, flip, prose(facts.source)))
    return table(("name", "classes", "training images", "size", "PGD step", "flip", "source"), rows)
