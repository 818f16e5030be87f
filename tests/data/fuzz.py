"""Damaged image files, seeded: each must end in an image or in one line with the file's name.

    python -m tests.data.fuzz [FILES] [SEED]

prints counts by format and outcome, and exits with 1 where anything else came out.
"""

from __future__ import annotations

import io
import struct
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from srat_fast.data.folder import decode
from srat_fast.data.pixels import Notes
from srat_fast.errors import UserError

_SIZE = 16


def _exif(generator: np.random.Generator) -> bytes:
    """EXIF data with an orientation and entries of random tags, types, counts and values, in either byte order."""
    order = "<>"[generator.integers(2)]
    tags = [
        0x112,
        *generator.choice([0x102, 0x103, 0x11A, 0x11B, 0x128, 0x132, 0x8769, 0x8825, 0x9286, 0xA005], 5),
    ]
    entries = b""
    for tag in sorted(int(tag) for tag in tags):
        known = tag == 0x112 and generator.random() < 0.7
        kind = 3 if known else int(generator.integers(0, 14))
        count = 1 if known else int(generator.choice([0, 1, 2, 9, 2**31]))
        value = int(generator.integers(0, 10)) if known else int(generator.choice([0, 1, 8, 60, 2**32 - 5]))
        packed = struct.pack(order + "HH", value, 0) if known else struct.pack(order + "I", value)
        entries += struct.pack(order + "HHI", tag, kind, count) + packed
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(tags))
    tail = struct.pack(order + "I", int(generator.choice([0, 8, 60]))) + generator.bytes(24)
    return b"Exif\0\0" + head + entries + tail


def originals(generator: np.random.Generator) -> dict[str, list[bytes]]:
    """Small images of each format that this Pillow writes, in its modes and ways of storing them, with EXIF data."""
    grid = generator.integers(0, 256, (6, 9, 4), dtype=np.uint8)
    rgba = Image.fromarray(grid).resize((36, 24), Image.Resampling.BICUBIC)
    rgb, deep = rgba.convert("RGB"), Image.fromarray(np.asarray(rgba.convert("L")).astype(np.uint16) * 257)
    film = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}
    ways: dict[str, list[tuple[Image.Image, dict]]] = {
        "JPEG": [(rgb, {}), (rgb, {"progressive": True}), (rgb.convert("L"), {}), (rgb.convert("CMYK"), {})],
        "PNG": [(rgba, {}), (rgb.convert("P"), {"transparency": 3}), (rgb.convert("1"), {}), (deep, {}), (rgb, film)],
        "WEBP": [(rgb, {}), (rgba, {"lossless": True}), (rgb, film)],
        "TIFF": [
            *((rgb, {"compression": how}) for how in (None, "tiff_lzw", "tiff_deflate", "packbits", "jpeg")),
            (rgb.convert("1"), {"compression": "group4"}), (deep, {}), (rgb.convert("CMYK"), {}), (rgb, film),
        ],
        "GIF": [(rgb.convert("P"), {}), (rgb, film), (rgb.convert("P"), {"interlace": True, "transparency": 0})],
        "AVIF": [(rgb, {"speed": 10}), (rgba, {"speed": 10})],
        "JPEG2000": [(rgb, {}), (rgba, {"irreversible": True}), (rgb.convert("L"), {"no_jp2": True})],
    }  # fmt: skip
    Image.init()
    found: dict[str, list[bytes]] = {}
    for name in [name for name in ways if name in Image.SAVE]:
        found[name] = []
        for image, options in ways[name]:
            buffer = io.BytesIO()
            # TIFF keeps its tags in the same directory as the pixels': there damage alone has to do
            exif = {"exif": _exif(generator)} if name in ("JPEG", "PNG", "WEBP") else {}
            image.save(buffer, name, **options, **exif)
            found[name].append(buffer.getvalue())
    return found


def damaged(content: bytes, generator: np.random.Generator) -> bytes:
    """The same with some bytes changed, removed, repeated or cut off, more often near the beginning."""
    changed = bytearray(content)
    for _ in range(int(generator.integers(0, 6))):  # none: the EXIF data alone are wild
        reach = len(changed) if generator.random() < 0.5 else min(len(changed), 200)
        at = int(generator.integers(0, max(reach, 1)))
        length = int(generator.integers(1, 9))
        match int(generator.integers(0, 6)):
            case 0:
                changed[at : at + length] = generator.bytes(length)
            case 1:
                changed[at : at + 1] = (
                    bytes([changed[at] ^ (1 << int(generator.integers(8)))]) if changed else b""
                )
            case 2:
                changed[at : at + length] = bytes([int(generator.choice([0, 0x7F, 0x80, 0xFF]))]) * length
            case 3:
                del changed[at : at + length]
            case 4:
                changed[at:at] = changed[at : at + length]
            case _ if generator.random() < 0.3:
                del changed[at:]
    return bytes(changed)


def fuzz(folder: Path, files: int, seed: int) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Counts by (format, outcome), and what should not have come out."""
    generator = np.random.default_rng(seed)
    counts: Counter[tuple[str, str]] = Counter()
    wrong: list[str] = []
    sources: dict[str, list[bytes]] = {}
    for number in range(files):
        if number % 500 == 0:  # other EXIF data
            sources = originals(generator)
        name = list(sources)[number % len(sources)]
        whole = sources[name]
        content = damaged(whole[int(generator.integers(len(whole)))], generator)
        path = folder / f"{number}.{name.lower()}"
        path.write_bytes(content)
        notes = Notes()
        try:
            image = decode(path, _SIZE, notes)
            good = image.shape == (_SIZE, _SIZE, 3) and image.dtype == np.uint8
            outcome = "image" if good else f"an image {image.shape} {image.dtype}"
        except UserError as error:
            good = str(path) in str(error) and "\n" not in str(error)
            outcome = "one line" if good else f"not one line with its name: {error}"
        except Exception as error:  # what is looked for
            good, outcome = False, f"{type(error).__name__}: {error}"
        if notes.warned():
            counts[name, "warned"] += 1
        counts[name, outcome if good else "wrong"] += 1
        if not good:
            wrong.append(f"{path.name}: {outcome}")
        if good:
            path.unlink()
    return counts, wrong


def main() -> None:
    """The command line."""
    files = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with tempfile.TemporaryDirectory() as folder:
        counts, wrong = fuzz(Path(folder), files, seed)
    formats = sorted({name for name, _ in counts})
    for name in formats:
        print(
            f"{name:9}",
            *(f"{outcome} {counts[name, outcome]:6}" for outcome in ("image", "one line", "wrong", "warned")),
        )
    print(f"{files} files, seed {seed}: {len(wrong)} wrong", *wrong[:20], sep="\n")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
