"""Samples for reports: one image a class first, inside the ball, from a model whose mode is put back."""

from __future__ import annotations

import numpy as np
import torch

from srat_fast.data.arrays import ImageSet
from srat_fast.evaluation.accuracy import PgdSettings
from srat_fast.evaluation.samples import sample_examples, save_samples


def test_samples(device, tmp_path) -> None:
    generator = np.random.default_rng(0)
    images = ImageSet(
        generator.integers(0, 256, (12, 6, 6, 3), dtype=np.uint8),
        np.array([2, 2, 2, 2, 0, 0, 0, 1, 1, 0, 0, 0]),
    )
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(108, 3)).to(device).train()
    attack = PgdSettings(steps=3, step_size=4 / 255, epsilon=8 / 255)
    samples = sample_examples(model, images, attack, device=device, seed=0, count=5)
    assert samples["labels"].tolist() == [0, 1, 2, 0, 1]
    assert np.array_equal(samples["clean"], images.images[[4, 7, 0, 5, 8]])
    difference = samples["adversarial"].astype(int) - samples["clean"].astype(int)
    assert 0 < np.abs(difference).max() <= 8
    assert model.training
    logits = model(torch.from_numpy(samples["clean"]).permute(0, 3, 1, 2).float().to(device) / 255)
    assert samples["clean_predictions"].tolist() == logits.argmax(1).tolist()
    again = sample_examples(model, images, attack, device=device, seed=0, count=5)
    assert np.array_equal(samples["adversarial"], again["adversarial"])
    save_samples(tmp_path / "samples.npz", samples)
    with np.load(tmp_path / "samples.npz", allow_pickle=False) as stored:
        assert sorted(stored.files) == sorted(samples)
        assert float(stored["epsilon"]) == 8 / 255
