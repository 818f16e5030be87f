"""Any common kind of pixels as RGB uint8: reading, converting, resizing, and what is said of a set afterwards."""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from srat_fast.data.notices import LOG
from srat_fast.errors import UserError

_MODES = {"1": "black and white", "L": "grayscale", "LA": "grayscale with transparency", "P": "palette",
          "PA": "palette", "RGBA": "RGBA", "RGBX": "RGBX", "CMYK": "CMYK", "I;16": "16-bit grayscale"}  # fmt: skip
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
#: Files named in a notice; of the others their number is told.
_NAMED = 3


class Unreadable(Exception):
    """An image that cannot be read, or that has no one meaning as RGB with 8 bits."""


class Notes:
    """What is said of a set once it is read: how many images were converted, and what Pillow warned of."""

    def __init__(self) -> None:
        self._kinds, self._warned, self._lock = Counter[str](), dict[str, list[str]](), threading.Lock()

    def add(self, kind: str, count: int = 1) -> None:
        """Images of a kind as `to_rgb` names it; several threads may add."""
        with self._lock:
            self._kinds[kind] += count

    def warn(self, message: str, name: str) -> None:
        """A warning of Pillow's about the image of that name."""
        with self._lock:
            names = self._warned.setdefault(" ".join(message.split()), [])
            if name not in names[-1:]:  # a tag that is read twice warns twice
                names.append(name)

    def warned(self) -> dict[str, list[str]]:
        """Pillow's warnings so far, each with the images that it was about."""
        return self._warned

    def tell(self, place: str) -> None:
        """One line for what was converted, one for each of Pillow's warnings."""
        if found := {kind: count for kind, count in sorted(self._kinds.items()) if kind and count}:
            text = ", ".join(f"{count} {kind}" for kind, count in found.items())
            total = sum(self._kinds.values())
            LOG.warning("%s: %d of %d images converted to RGB: %s", place, sum(found.values()), total, text)
        for message, names in self._warned.items():
            LOG.warning("%s: %s", some_of(sorted(names)), message)


def some_of(names: list[str]) -> str:
    """The first of some names, and how many more there are."""
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


class _Heard:
    """Pillow's warnings, for the thread that decodes: `catch_warnings` is for the whole process and not for threads."""

    def __init__(self) -> None:
        self._lock, self._users, self._mine, self._undo = threading.Lock(), 0, threading.local(), ExitStack()

    @contextmanager
    def here(self) -> Iterator[list[str]]:
        """What Pillow warns of in this thread while the block runs."""
        with self._lock:
            if self._users == 0:
                self._undo.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("always", module=r"PIL\.")
                if warnings.showwarning != self._show:  # another thread's catch_warnings may have put it back
                    self._before: Any = warnings.showwarning
                    warnings.showwarning = self._show  # type: ignore[assignment]  # passes on what it is given
            self._users += 1
        heard = self._mine.heard = list[str]()
        try:
            yield heard
        finally:
            self._mine.heard = None
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._undo.close()

    def _show(self, message: Warning | str, *rest: Any) -> None:
        heard = getattr(self._mine, "heard", None)
        if heard is None:
            self._before(message, *rest)
        else:
            heard.append(str(message))


_HEARD = _Heard()


@contextmanager
def decoding(name: str, notes: Notes) -> Iterator[None]:
    """Whatever a decoder raises leaves as `Unreadable`; what it warns of goes to the notes under the image's name."""
    with _HEARD.here() as heard:
        try:
            yield
        except (Unreadable, UserError):
            raise
        except UnidentifiedImageError:
            raise Unreadable("is not an image that can be read") from None
        except Image.DecompressionBombError as error:
            raise Unreadable(f"is too large: {error}") from None
        except MemoryError:
            raise Unreadable("needs more memory than there is") from None
        except (
            Exception
        ) as error:  # decoders raise whatever damaged bytes lead them to: struct.error, SyntaxError ...
            if isinstance(error, OSError) and error.errno is not None:
                raise Unreadable(f"cannot be read: {error.strerror}") from None
            text = " ".join(str(error).split()) or type(error).__name__
            raise Unreadable(f"is a damaged image: {text}") from error
    for message in heard:
        notes.warn(message, name)


def to_rgb(image: Image.Image) -> tuple[Image.Image, str]:
    """(RGB picture, what it was: "" or words such as "grayscale"); transparency is dropped, as torchvision does."""
    sixteen = image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM")
    if sixteen and image.format == "TIFF":
        _require_full_range(image)
    image = _turned(image)
    if image.mode == "RGB":
        return image, ""
    if sixteen:
        # Pillow's own conversion would cut off at 255, which makes nearly everything white
        deep = np.asarray(image).astype(np.uint16)
        return Image.fromarray((deep >> 8).astype(np.uint8)).convert("RGB"), _MODES["I;16"]
    if image.mode in ("I", "F"):
        raise Unreadable(f"has 32-bit pixels (mode {image.mode}); 8 or 16 bits a channel are read")
    kind = _MODES.get(image.mode, image.mode)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # a palette may hold transparent colours
    try:
        return image.convert("RGB"), kind
    except ValueError:
        raise Unreadable(f"has pixels of mode {image.mode}, which cannot be made RGB") from None


def _require_full_range(image: Any) -> None:
    """Refuse 16-bit grey of a TIFF that Pillow gives as it is stored: 12 bits would be black, white as 0 inverted."""
    bits = image.tag_v2.get(ExifTags.Base.BitsPerSample, (16,))[0]
    if bits != 16:
        raise Unreadable(f"has grey levels of {bits} bits; 8 or 16 bits a channel are read")
    if image.tag_v2.get(ExifTags.Base.PhotometricInterpretation) == 0:
        raise Unreadable("has 16-bit grey levels with 0 as white, which are not read; 0 has to be black")


def _turned(image: Image.Image) -> Image.Image:
    """A copy, turned as its EXIF data say; not turned where they are damaged.

    Pillow's `exif_transpose` also writes the data anew, which fails for tags that nobody needs here.
    """
    image.load()
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow reads EXIF without checks: struct.error, ZeroDivisionError, TypeError ...
        turn = None
    return image.copy() if turn is None else image.transpose(turn)


def fitted(image: Image.Image, size: int) -> np.ndarray:
    """The centre square of an RGB picture, resized: [size, size, 3] uint8."""
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), method=Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.uint8)


def images_to_rgb(images: np.ndarray, option: str, name: str) -> tuple[np.ndarray, str]:
    """Images uint8 [N, H, W] or [N, H, W, 1, 3 or 4] as RGB [N, H, W, 3], and what they were: "" for RGB."""
    if images.dtype != np.uint8:
        raise UserError(
            option, f"its {name} must be uint8, 0 to 255 (floats: multiply and round), not {images.dtype}"
        )
    require_images(images.shape, option, name)
    if images.ndim == 3:
        images = images[..., None]
    channels = images.shape[3]
    if channels == 1:
        return np.repeat(images, 3, axis=3), "grayscale"
    return np.ascontiguousarray(images[..., :3]), "" if channels == 3 else "RGBA"


def require_images(shape: tuple[int, ...], option: str, name: str) -> None:
    """Refuse arrays that are no images, such as those with the channels first."""
    if len(shape) not in (3, 4) or (*shape, 1)[3] not in (1, 3, 4) or 0 in shape:
        problem = f"its {name} must be [N, H, W] or [N, H, W, C] with 1, 3 or 4 channels, not {list(shape)}"
        raise UserError(option, problem)


def resized(images: np.ndarray, size: int | None, option: str, name: str) -> np.ndarray:
    """Images [N, H, W, 3] in the size that the recipe asks for; None keeps theirs, and asks for squares."""
    height, width = images.shape[1:3]
    if size is None:
        require_square(images.shape, option, name)
    if size is None or (height, width) == (size, size):
        return images
    return np.stack([fitted(Image.fromarray(image), size) for image in images])


def require_square(shape: tuple[int, ...], option: str, name: str) -> int:
    """Height of images [N, H, W, ...] that no size was asked for."""
    if shape[1] != shape[2]:
        problem = f"its {name} are {shape[1]} x {shape[2]} pixels; set data.image_size to resize to squares"
        raise UserError(option, problem)
    return int(shape[1])


def require_same_size(train: int, test: int, option: str) -> int:
    """The one size of training and test images; neither is resized to the other's where none was asked for."""
    if train != test:
        sizes = f"{train} x {train} and {test} x {test}"
        raise UserError(option, f"train and test images differ in size: {sizes}; set data.image_size")
    return train
