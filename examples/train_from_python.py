"""Train two methods on handwritten digits and compare their classes. Takes half a minute on a CPU."""

import tempfile
from pathlib import Path

from srat_fast import build_recipe, train


def main(epochs: int = 20, width: int = 8) -> dict[str, dict]:
    """Train, print one line a method, return the records."""
    records = {}
    with tempfile.TemporaryDirectory() as folder:
        for method in ("ce", "srat-ldam"):
            recipe = build_recipe(
                "digits",
                {
                    "method": method,
                    "data.ratio": 10,  # the rarest class has 12 images, the largest 124
                    "optim.epochs": epochs,
                    "model.width": width,
                    "eval_attack.steps": 10,
                },
            )
            records[method] = train(recipe, Path(folder) / method)
            standard, robust = records[method]["standard"], records[method]["robust"]
            print(
                f"{method:10} clean {standard['overall']:.1%} (rare half {standard['under']:.1%}), "
                f"attacked {robust['overall']:.1%} (rare half {robust['under']:.1%})"
            )
    return records


if __name__ == "__main__":
    main()
