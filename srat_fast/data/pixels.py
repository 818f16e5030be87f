"""Pixels of any common kind: pictures or arrays enter, RGB uint8 leaves, with a count of what was converted."""

from __future__ import annotations

from collections import Counter

import numpy as np
from PIL import Image, ImageOps

from srat_fast.data.notices import LOG
from srat_fast.errors import UserError

_MODES = {"1": "black and white", "L": "grayscale", "LA": "grayscale with transparency", "P": "palette",
          "PA": "palette", "RGBA": "RGBA", "RGBX": "RGBX", "CMYK": "CMYK", "I;16": "16-bit grayscale"}  # fmt: skip


class Unreadable(Exception):
    """Pixels that have no one meaning as RGB with 8 bits."""


def to_rgb(image: Image.Image) -> tuple[Image.Image, str]:
    """A picture as RGB; transparency is dropped, as torchvision's readers do.

    Args:
        image: of any mode.

    Returns:
        (picture, what it was: "" for RGB, else words such as "grayscale").

    Raises:
        Unreadable: 32-bit pixels, whose range is not known.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "RGB":
        return image, ""
    if image.mode.startswith("I;16"):
        # Pillow's own conversion would cut off at 255, which makes nearly everything white
        deep = np.asarray(image).astype(np.uint16)
        return Image.fromarray((deep >> 8).astype(np.uint8)).convert("RGB"), _MODES["I;16"]
    if image.mode in ("I", "F"):
        raise Unreadable(f"has 32-bit pixels (mode {image.mode}); 8 or 16 bits a channel are read")
    kind = _MODES.get(image.mode, image.mode)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # a palette may hold transparent colours
    return image.convert("RGB"), kind


def fitted(image: Image.Image, size: int) -> np.ndarray:
    """The centre square of a picture, resized.

    Args:
        image: RGB.
        size: height and width, pixels.

    Returns:
        [size, size, 3] uint8.
    """
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), method=Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.uint8)


def images_to_rgb(images: np.ndarray, option: str, name: str) -> tuple[np.ndarray, str]:
    """A stack of images as RGB.

    Args:
        images: uint8 [N, H, W], or [N, H, W, C] with 1, 3 or 4 channels.
        option: named in errors.
        name: of the array, for errors.

    Returns:
        ([N, H, W, 3], what it was: "" for RGB, "grayscale" or "RGBA").

    Raises:
        UserError: another type or shape.
    """
    if images.dtype != np.uint8:
        raise UserError(
            option, f"its {name} must be uint8, 0 to 255 (floats: multiply and round), not {images.dtype}"
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3, 4) or 0 in images.shape:
        raise UserError(
            option,
            f"its {name} must be [N, H, W] or [N, H, W, C] with 1, 3 or 4 channels, not {list(images.shape)}",
        )
    channels = images.shape[3]
    if channels == 1:
        return np.repeat(images, 3, axis=3), "grayscale"
    return np.ascontiguousarray(images[..., :3]), "" if channels == 3 else "RGBA"


def resized(images: np.ndarray, size: int | None, option: str, name: str) -> np.ndarray:
    """A stack of images in the size that the recipe asks for.

    Args:
        images: [N, H, W, 3] uint8.
        size: height and width; None keeps them, and asks for squares.
        option: named in errors.
        name: of the array, for errors.

    Returns:
        [N, size, size, 3] uint8.

    Raises:
        UserError: not square, and no size to bring them to.
    """
    height, width = images.shape[1:3]
    if size is None and height != width:
        raise UserError(
            option, f"its {name} are {height} x {width} pixels; set data.image_size to resize to squares"
        )
    if size is None or (height, width) == (size, size):
        return images
    return np.stack([fitted(Image.fromarray(image), size) for image in images])


def tell_converted(kinds: Counter[str], total: int, place: str) -> None:
    """One warning a set that says how many images were not RGB.

    Args:
        kinds: what they were -> how many; "" (RGB) does not count.
        total: images of the set.
        place: the set, for the message.
    """
    found = {kind: count for kind, count in sorted(kinds.items()) if kind and count}
    if found:
        text = ", ".join(f"{count} {kind}" for kind, count in found.items())
        LOG.warning("%s: %d of %d images converted to RGB: %s", place, sum(found.values()), total, text)
