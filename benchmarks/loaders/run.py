"""Measure the loaders on a folder: `python benchmarks/loaders/run.py [--data-root DIR] [--images N]`.

Enters a folder data set (real images), or nothing (smooth random ones); leaves lines in
benchmarks/results/<device>.jsonl (--out DIR elsewhere), appended, and one printed line a result. Two cases: small
images raw with the padded crop, then the same enlarged to --large pixels, stored as JPEG, with the resized crop.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]  # a script's own folder is on the path, the repository's root is not

from benchmarks.engine.cases import rows  # noqa: E402
from benchmarks.engine.work import ON_GPU  # noqa: E402
from benchmarks.loaders.cases import HAS_FFCV, folder_case  # noqa: E402
from benchmarks.loaders.images import enlarged, synthetic  # noqa: E402
from benchmarks.measure import machine  # noqa: E402
from benchmarks.rows import RESULTS, append, path_for  # noqa: E402


def main() -> None:
    """Parse, measure, append."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data-root", type=Path, help="folder data set of 32-pixel images; random ones without"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--images", type=int, default=20000 if ON_GPU else 3000, help="of the small size")
    parser.add_argument("--large-images", type=int, default=5000 if ON_GPU else 600, help="of the large size")
    parser.add_argument("--large", type=int, default=224, help="pixels of the large size")
    parser.add_argument("--size", type=int, default=64, help="pixels that large images are cropped to")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each loader")
    arguments = parser.parse_args()
    about = machine()
    if not HAS_FFCV:
        print("ffcv is not installed (bash .ci/ffcv): it is not measured", file=sys.stderr)
    source = arguments.data_root
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        os.environ["SRAT_FAST_CACHE"] = str(folder / "cache")
        if source is None:
            small = synthetic(folder / "small", 32, arguments.images)
            large = synthetic(folder / "large", arguments.large, arguments.large_images)
        else:
            small = enlarged(source, folder / "small", None, arguments.images)
            large = enlarged(source, folder / "large", arguments.large, arguments.large_images)
        for case in (
            lambda: folder_case(small, 32, 32, arguments.batch, "crop", "raw"),
            lambda: folder_case(
                large, arguments.size, arguments.large, arguments.batch, "resized-crop", "jpeg"
            ),
        ):
            for row in rows(case(), arguments.rounds, 0.5):
                kind = "random" if source is None else "photographs"
                append(path_for(arguments.out, about["device"]), {**row, "pixels": kind} | about)
                ratio = row["ratio"]
                print(
                    f"{row['mode']}: {row['implementation']} {row['images_per_second']:,.0f} images/s, "
                    f"{ratio['median']:.2f} {ratio['quartiles']} x {row['reference']} "
                    f"({row['reference_images_per_second']:,.0f}); starts in {row['start_seconds']} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
