"""What all loaders share: windows of resized crops, their resampling, and their streams."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from srat_fast.data import policies
from srat_fast.data.arrays import ImageSet
from srat_fast.data.augment import Augmentation, Draws, as_input, centre_boxes, draw_boxes
from srat_fast.data.memory import MemoryLoader
from srat_fast.data.policies import Policy
from srat_fast.data.torchvision_import import torchvision
from srat_fast.errors import UserError
from srat_fast.recipe import build_recipe


def boxes(height: int, width: int, smallest: float, count: int = 4000, seed: int = 0) -> torch.Tensor:
    return draw_boxes(torch.tensor([[height, width]] * count), smallest, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("height", "width"), [(48, 48), (90, 30), (20, 200), (1, 1), (3, 1000)])
def test_windows_lie_inside_the_image(height, width) -> None:
    top, left, high, wide = boxes(height, width, 0.08).T
    assert high.min() >= 1
    assert wide.min() >= 1
    assert top.min() >= 0
    assert left.min() >= 0
    assert (top + high).max() <= height
    assert (left + wide).max() <= width


def test_area_ratio_and_place_have_the_right_distribution() -> None:
    top, left, high, wide = boxes(1000, 1000, 0.25, 20000).double().T
    share, ratio = high * wide / 1e6, (wide / high).log()
    # evenly spread over [0.25, 1], but that large and elongated windows do not fit and are drawn again
    assert 0.24 < share.min() < 0.26
    assert share.max() > 0.98
    assert torch.quantile(share[ratio.abs() < 0.02], 0.5) == pytest.approx(0.625, abs=0.03)
    assert ratio.abs().max() < np.log(4 / 3) + 0.01
    assert ratio.mean().abs() < 0.01
    room = (1000 - high) > 100
    assert (top / (1000 - high))[room].mean() == pytest.approx(0.5, abs=0.01)
    assert (left / (1000 - wide))[(1000 - wide) > 100].mean() == pytest.approx(0.5, abs=0.01)


def test_an_image_that_no_window_fits_gets_the_largest_centred_one() -> None:
    (box,) = boxes(30, 3000, 1.0, 1)
    assert box.tolist() == [0, 1480, 30, 40]
    (box,) = boxes(300, 30, 1.0, 1)
    assert box.tolist() == [130, 0, 40, 30]


def test_centre_boxes_are_the_largest_squares() -> None:
    assert centre_boxes(torch.tensor([[10, 20], [7, 4]])).tolist() == [[0, 5, 10, 10], [1, 0, 4, 4]]


def test_a_window_is_cut_and_resized_as_torch_does_it() -> None:
    """Against a plain crop and bilinear interpolation of one image at a time."""
    images = torch.randint(
        0, 256, (6, 12, 10, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    windows = torch.tensor(
        [[0, 0, 12, 10], [2, 3, 5, 4], [11, 9, 1, 1], [0, 5, 12, 5], [4, 0, 3, 10], [1, 1, 8, 8]]
    )
    mirrored = torch.tensor([False, False, True, True, False, True])
    seen = as_input(images, torch.arange(6), Draws(mirrored, None, windows), 0)
    for image, (top, left, high, wide), flip, result in zip(
        images.permute(0, 3, 1, 2).float() / 255, windows.tolist(), mirrored, seen, strict=True
    ):
        window = image[None, :, top : top + high, left : left + wide]
        expected = torch.nn.functional.interpolate(window, (12, 10), mode="bilinear", align_corners=False)[0]
        assert torch.allclose(result, expected.flip(2) if flip else expected, atol=1e-5)
    assert seen.is_contiguous(memory_format=torch.channels_last)


def test_the_memory_loader_serves_resized_crops(device) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1), dtype=np.uint8)
    loader = MemoryLoader(
        ImageSet(pixels, np.arange(20)), batch_size=8, device=device, crop_area=0.3, flip=True, shuffle=True
    )
    whole = [(i.cpu(), y.cpu()) for i, y in loader.epoch(2)]
    assert [len(y) for _, y in whole] == [8, 8, 4]
    assert all(i.min() >= 0 and i.max() <= 1 for i, _ in whole)
    again = [i.cpu() for i, _ in loader.epoch(2, 1)]
    torch.testing.assert_close(again, [i for i, _ in whole[1:]], rtol=0, atol=0)
    other = [i.cpu() for i, _ in loader.epoch(3)]
    assert not torch.equal(other[0], whole[0][0])


def test_streams_do_not_disturb_each_other() -> None:
    """Switching the flip off leaves order and crop as they are."""
    sizes = torch.full((50, 2), 8)
    both = Augmentation(seed=1, crop_padding=2, flip=True, shuffle=True)
    one = Augmentation(seed=1, crop_padding=2, shuffle=True)
    torch.testing.assert_close(both.order(4, torch.zeros(50)), one.order(4, torch.zeros(50)), rtol=0, atol=0)
    torch.testing.assert_close(both.draw(4, sizes).shift, one.draw(4, sizes).shift, rtol=0, atol=0)
    assert one.draw(4, sizes).mirrored is None


def draws_of(name: str, total: int, seed: int) -> list[tuple[list[int], list[list[float]]]]:
    """What `Policy.draw` takes from its stream for each image: whole numbers, and (chance, sign) of two operations."""
    generator = torch.Generator().manual_seed(seed)
    if name == "autoaugment":
        whole = torch.randint(25, (total,), generator=generator)[:, None]
    else:
        whole = torch.randint(14, (2, total), generator=generator).T
    chances = torch.rand(2, 2, total, generator=generator)  # [chance or sign, operation, image]
    return [(whole[k].tolist(), chances[:, :, k].T.tolist()) for k in range(total)]


@pytest.mark.parametrize(("name", "channels"), [("autoaugment", 3), ("randaugment", 1), ("randaugment", 3)])
def test_a_policy_is_torchvisions_on_the_same_draws(name, channels, device, monkeypatch) -> None:
    total, height, width = {"autoaugment": 500, "randaugment": 200}[name], 9, 8  # enough for each operation
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (total, height, width, channels), dtype=np.uint8)
    images[::3] //= 3  # narrow ranges, which autocontrast and equalize stretch
    policy, images = Policy(name, height, width), torch.from_numpy(images).to(device)
    drawn = policy.draw(total, torch.Generator().manual_seed(12))
    assert set(drawn.flatten().tolist()) == set(range(len(policy.settings))), "an operation is not compared"
    found = policy.apply(images, drawn)

    v2 = torchvision("transforms.v2", "tests")
    theirs = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10) if name == "autoaugment" else v2.RandAugment(2, 8)
    for k, (whole, chances) in enumerate(draws_of(name, total, 12)):
        randoms = []
        for step, (chance, sign) in enumerate(chances):
            if name == "autoaugment":
                operation, probability, _ = theirs._policies[whole[0]][step]
                randoms.append(chance)
                if chance > probability:
                    continue
            else:
                operation = list(theirs._AUGMENTATION_SPACE)[whole[step]]
            if theirs._AUGMENTATION_SPACE[operation][1]:
                randoms.append(sign)
        with monkeypatch.context() as patched:
            patched.setattr(torch, "randint", lambda *_, left=whole: torch.tensor(left.pop(0)))
            patched.setattr(torch, "rand", lambda *_, left=randoms: torch.tensor(left.pop(0)))
            expected = theirs(images[k].permute(2, 0, 1))
        assert not whole
        assert not randoms
        torch.testing.assert_close(
            found[k].permute(2, 0, 1), expected, rtol=0, atol=0, msg=str(policy.settings[int(drawn[0, k])])
        )


@pytest.mark.parametrize("name", ["autoaugment", "randaugment"])
def test_a_policy_comes_before_crop_and_flip_and_any_batch_can_be_the_first(
    name, device, monkeypatch
) -> None:
    monkeypatch.setattr(policies, "_BLOCK_PIXELS", 6 * 6 * 10)  # two batches a block
    generator = np.random.default_rng(0)
    images = ImageSet(generator.integers(0, 256, (23, 6, 6, 3), dtype=np.uint8), np.arange(23))

    def loader(policy: str) -> MemoryLoader:
        return MemoryLoader(
            images,
            batch_size=5,
            device=device,
            seed=3,
            crop_padding=1,
            flip=True,
            shuffle=True,
            policy=policy,
        )

    def epoch(policy: str, number: int, start: int = 0) -> list[torch.Tensor]:
        return [
            torch.cat((pixels.flatten(), labels)) for pixels, labels in loader(policy).epoch(number, start)
        ]

    whole = epoch(name, 1)
    assert [len(batch) for batch in whole] == [5 * 109] * 4 + [3 * 109]
    for start in range(6):
        torch.testing.assert_close(epoch(name, 1, start), whole[start:], rtol=0, atol=0)
    assert not torch.equal(whole[0], epoch(name, 2)[0])
    # the same crop and flip as without a policy: those of images that drew no operation are as before
    plain = list(loader("off").epoch(1))
    order = torch.cat([labels for _, labels in plain]).cpu()
    drawn = Policy(name, 6, 6).draw(23, Augmentation(3).generator("policy", 1))
    varied = torch.cat([pixels for pixels, _ in loader(name).epoch(1)]).cpu()
    untouched = (drawn == 0).all(dim=0)
    assert order.tolist() == torch.cat([labels for _, labels in loader(name).epoch(1)]).tolist()
    same = (varied == torch.cat([pixels for pixels, _ in plain]).cpu()).flatten(1).all(dim=1)
    assert same[untouched].all()
    assert not same[~untouched].all()


def test_a_policy_is_a_field_that_older_runs_did_not_have() -> None:
    plain = build_recipe(None, {"data.name": "digits"})
    assert plain.resolve().data.policy == "off"
    varied = plain.replace({"data.policy": "randaugment"})
    assert varied.resolve().data.policy == "randaugment"
    assert varied.fingerprint() != plain.fingerprint()
    with pytest.raises(UserError, match=r"data\.policy = 'autoaugment': only --loader memory has it"):
        plain.replace({"data.policy": "autoaugment", "data.loader": "ffcv"})


def test_balanced_draws_take_every_class_equally_often_and_its_images_in_turn() -> None:
    labels = torch.tensor([0] * 40 + [1] * 9 + [3] * 4)  # none of class 2
    augmentation = Augmentation(seed=1, shuffle=True, balanced=((2, 4),))
    torch.testing.assert_close(
        augmentation.order(1, labels), Augmentation(seed=1, shuffle=True).order(1, labels), rtol=0, atol=0
    )
    orders = [augmentation.order(number, labels) for number in (2, 3)]
    assert not torch.equal(*orders)
    for order in orders:
        assert len(order) == 53
        assert sorted(torch.bincount(labels[order])[[0, 1, 3]].tolist()) == [17, 18, 18]
        times = torch.bincount(order, minlength=53)
        for members in (times[:40], times[40:49], times[49:]):
            assert int(members.max() - members.min()) <= 1
    torch.testing.assert_close(orders[0], augmentation.order(2, labels), rtol=0, atol=0)
