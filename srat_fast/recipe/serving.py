"""How images are stored, served and augmented: a `data` section enters; its defaults, or what contradicts, leave."""

from __future__ import annotations

from typing import Any

from srat_fast.errors import UserError
from srat_fast.recipe.sections import Data


def serving_defaults(data: Data, size: int | None) -> dict[str, Any]:
    """Values of the fields that depend on the loader, the storage and the augmentation."""
    jpeg, resized = data.storage == "jpeg", data.augment == "resized-crop"
    defaults = {
        "crop_padding": 0 if resized else None if size is None else size // 8,
        "crop_area": 0.08 if resized else None,
        "max_side": 2 * size if jpeg and size else None,
        "jpeg_quality": 90 if jpeg else None,
    }
    return {
        f"data.{name}": default if getattr(data, name) is None else getattr(data, name)
        for name, default in defaults.items()
    }


def check_serving(data: Data) -> None:
    """Refuse what does not go together; a field that would do nothing is a mistake, not a preference."""
    jpeg, resized = data.storage == "jpeg", data.augment == "resized-crop"
    if jpeg and data.name != "folder":
        raise UserError("data.storage", f"the images of {data.name} are kept raw; jpeg is for folder", "jpeg")
    if jpeg and data.loader != "ffcv":
        raise UserError(
            "data.storage", "stored JPEG is read by --loader ffcv only; raw suits every loader", "jpeg"
        )
    size = data.image_size or 32
    if data.max_side is not None and jpeg and data.max_side < size:
        raise UserError("data.max_side", f"at least data.image_size = {size}", data.max_side)
    if resized and data.crop_padding:
        raise UserError("data.crop_padding", "has an effect with data.augment = crop only", data.crop_padding)
    used = {
        "max_side": (jpeg, "data.storage = jpeg"),
        "jpeg_quality": (jpeg, "data.storage = jpeg"),
        "crop_area": (resized, "data.augment = resized-crop"),
        "workers": (data.loader == "ffcv", "data.loader = ffcv"),
        "prepared": (data.loader == "ffcv", "data.loader = ffcv"),
    }
    for name, (useful, needed) in used.items():
        if not useful and getattr(data, name) is not None:
            raise UserError(f"data.{name}", f"has an effect with {needed} only", getattr(data, name))
