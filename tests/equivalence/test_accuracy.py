"""The ladder's last rung: short runs of both engines end at the same accuracy, over several seeds.

Two runs from one seed part in float32 (the sign in PGD), so single runs cannot be compared. Over seeds the difference
of the two engines must be explained by chance: a paired t-test that would reject at p < 0.01, and a mean difference of
less than 6 points. The method leaves the separation loss out, whose loop over anchors would take the reference minutes.
"""

from __future__ import annotations

import scipy.stats

from srat_fast import build_recipe, train

SEEDS = range(5)
SHORT = {
    "data.name": "digits",
    "method": "drcb-ldam",
    "optim.epochs": 12,
    "optim.batch_size": 64,
    "model.width": 4,
    "attack.steps": 2,
    "attack.epsilon": 0.03,
    "attack.step_size": 0.02,
    "eval_attack.steps": 3,
    "run.precision": "fp32",
    "run.tensorboard": False,
}


def test_final_accuracies_agree_over_seeds(tmp_path) -> None:
    runs: dict[str, list[dict]] = {"fast": [], "reference": []}
    for engine, records in runs.items():
        for seed in SEEDS:
            recipe = build_recipe(None, SHORT | {"seed": seed, "data.subset_seed": 0, "run.engine": engine})
            records.append(train(recipe, tmp_path / f"{engine}-{seed}"))
    for kind in ("standard", "robust"):
        fast, slow = (
            [record[kind]["overall"] for record in runs[engine]] for engine in ("fast", "reference")
        )
        assert min(fast + slow) > 0.2, "both learn, or the comparison says nothing"
        difference = sum(fast) / len(fast) - sum(slow) / len(slow)
        assert abs(difference) < 0.06, (kind, fast, slow)
        assert scipy.stats.ttest_rel(fast, slow).pvalue > 0.01, (kind, fast, slow)
