"""The rules by hand, the way back, and what must stay 0 or must not become 0."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.data.mr_signal import Acquisition, brightest
from common.data.normalisation import DARKEST_TISSUE, RULES, ScaleSequencesd, tissue, unscale

# Air, and tissue of 1 to 100: the 99th percentile of all is 99, of the tissue 1 + 0.99 * 99, and so on.
IMAGE = torch.arange(101.0).view(1, 101, 1, 1)
BY_HAND = {
    # The foreground is above a tenth of 95.05: 10 to 100, of which 46 to 91 lie between 46 and 91.
    "trimmed_mean": (4.5 * (46 + 91) / 2, 0.0),
    "p99": (198.0, 0.0),
    "p99_foreground": (1.5 * 99.01, 0.0),
    "percentile": (99.505 - 1.495, 1.495),
    "minmax": (100.0, 0.0),
}


def scaled(image: torch.Tensor, rule: str, **more):
    available = torch.ones(len(image), dtype=torch.bool)
    return ScaleSequencesd(["image", *more], rule)({"subject": "sub-7", "image": image, "available": available, **more})


def test_every_rule_is_tested():
    assert BY_HAND.keys() == RULES.keys()


@pytest.mark.parametrize("rule", BY_HAND)
def test_rules_by_hand_and_the_way_back(rule: str):
    scale, offset = BY_HAND[rule]
    found = scaled(IMAGE, rule)
    assert (found["scale"].item(), found["offset"].item()) == pytest.approx((scale, offset), rel=1e-6)
    x = IMAGE.flatten()
    wanted = ((x - offset) / scale).clip(DARKEST_TISSUE, 1) * (x > 0)
    torch.testing.assert_close(found["image"].flatten(), wanted)
    back = unscale(found["image"], found["scale"], found["offset"]).flatten()
    kept = (wanted > DARKEST_TISSUE) & (wanted < 1)
    assert kept.sum() > 90 and back[0] == 0
    torch.testing.assert_close(back[kept], x[kept], rtol=1e-5, atol=0)
    torch.testing.assert_close(back[~kept][1:], wanted[~kept][1:] * scale + offset)  # what was clipped is at the bounds


@pytest.mark.parametrize("rule", RULES)
def test_dark_tissue_is_not_air(rule: str):
    image = torch.cat([torch.tensor([-5.0, 0.0, 1e-6, 0.01]).view(1, 4, 1, 1), IMAGE + 1], 1)
    found = scaled(image, rule)["image"].flatten()
    assert (found[:2] == 0).all() and (found[2:] > 0).all() and found.max() <= 1


def test_what_tissue_encloses_is_not_air():
    image = torch.zeros(1, 5, 5, 5)
    image[0, 1:4, 1:4, 1:4] = 10
    image[0, 2, 2, 2] = -1
    found = scaled(image, "p99_foreground")["image"]
    assert found[0, 2, 2, 2] == DARKEST_TISSUE and (found > 0).sum() == 27


def test_a_slice_has_the_tissue_that_three_of_it_have():
    """Liquor without signal is enclosed in a slice; air beside the head, and a notch of it, is not."""
    image = np.zeros((9, 9, 1))
    image[1:8, 1:8] = 10
    image[3:5, 3:5] = 0
    image[1:3, 6] = 0
    inside = tissue(image)
    assert inside[3:5, 3:5].all() and not inside[1:3, 6].any() and inside.sum() == 49 - 2
    for turned in (image, image.transpose(2, 0, 1), image.transpose(0, 2, 1)):
        axis = turned.shape.index(1)
        assert (tissue(turned.repeat(3, axis)) == tissue(turned).repeat(3, axis)).all()


def test_each_sequence_has_its_own_scale_and_a_missing_one_none():
    image = torch.cat([IMAGE, torch.zeros_like(IMAGE), 10 * IMAGE])
    available = torch.tensor([True, False, True])
    found = ScaleSequencesd("image", "p99")({"image": image, "available": available})
    assert found["scale"].tolist() == pytest.approx([198, 1, 1980]) and found["offset"].tolist() == [0, 0, 0]
    torch.testing.assert_close(found["image"][0], found["image"][2])
    assert (found["image"][1] == 0).all()


def brain(seed: int = 0) -> torch.Tensor:
    """[1, 24, 24, 24] with air around tissue of 300, as noisy as an image is."""
    image = torch.zeros(1, 24, 24, 24)
    inside = image[0, 3:21, 3:21, 3:21]
    inside += 300 + 40 * torch.randn(inside.shape, generator=torch.Generator().manual_seed(seed))
    return image


def median(found: dict) -> float:
    return found["image"][found["image"] > 0].median().item()


def test_air_of_an_image_that_lacks_is_not_looked_for(monkeypatch: pytest.MonkeyPatch):
    seen = []
    monkeypatch.setattr("common.data.normalisation.tissue", lambda image: seen.append(image.max()) or tissue(image))
    image = torch.zeros(3, 8, 8, 8)
    image[1, 2:6, 2:6, 2:6] = 5
    data = {"image": image, "available": torch.tensor([False, True, False])}
    scaled = ScaleSequencesd("image", "p99")(data)["image"]
    assert seen == [5] and scaled[1].any() and not scaled[0].any() and not scaled[2].any()


@pytest.mark.parametrize("factor", [2, 20, 1e4])
def test_bright_vessels_hardly_change_where_tissue_lies(factor: float):
    plain, bright = brain(), brain()
    tissue_voxels = bright.flatten().nonzero()[:, 0]
    bright.view(-1)[tissue_voxels[:: len(tissue_voxels) // (len(tissue_voxels) // 100)]] *= factor  # 1 % of them
    assert median(scaled(bright, "trimmed_mean")) == pytest.approx(median(scaled(plain, "trimmed_mean")), rel=0.01)
    if factor > 2:
        assert median(scaled(bright, "p99_foreground")) < 0.95 * median(scaled(plain, "p99_foreground"))


def test_noise_in_air_and_a_rim_hardly_change_where_tissue_lies():
    image = brain()
    noise = 9 * torch.randn(2, *image.shape, generator=torch.Generator().manual_seed(1))
    noisy = ((image + noise[0]).square() + noise[1].square()).sqrt()
    scales = [scaled(each, "trimmed_mean")["scale"].item() for each in (image, noisy)]
    assert scales[1] == pytest.approx(scales[0], rel=0.02)


def test_headroom_is_what_a_sequence_needs():
    images, names = brain().repeat(4, 1, 1, 1), ["T1", "t1ce", "T2", "anything"]
    data = {"image": images, "available": torch.ones(4, dtype=torch.bool)}
    found = ScaleSequencesd("image", "trimmed_mean", sequences=names)(data)["scale"]
    torch.testing.assert_close(found / found[0], torch.tensor([1, 1, 1.5, 1.5]))
    others = ScaleSequencesd("image", "p99_foreground", sequences=names)(data)["scale"]
    assert (others == others[0]).all(), "which other rules leave as they are"


def test_further_keys_take_the_first_key_s_scale():
    found = scaled(IMAGE, "p99_foreground", label=IMAGE / 2)
    assert found["scale"].item() == pytest.approx(1.5 * 99.01)
    torch.testing.assert_close(found["label"].flatten()[2:], found["image"].flatten()[2:] / 2)


@pytest.mark.parametrize(
    ("image", "rules"),
    [
        (torch.zeros(1, 5, 4, 3), RULES),
        (-torch.ones(1, 5, 4, 3), RULES),
        (torch.full((1, 5, 4, 3), 7.0), ["percentile"]),
        (torch.eye(200).view(1, 200, 200, 1), ["p99"]),  # tissue in less than 1 % of the voxels
    ],
    ids=["empty", "negative", "constant", "mostly air"],
)
def test_an_image_without_scale_is_an_error_that_names_it(image: torch.Tensor, rules):
    for rule in rules:
        with pytest.raises(ValueError, match=rf"sub-7: sequence 0 spans.*{rule}"):
            scaled(image, rule)


def test_unknown_rule():
    with pytest.raises(ValueError, match=r"'zscore'.*p99, p99_foreground, percentile"):
        ScaleSequencesd("image", "zscore")


def of_subject(images: torch.Tensor, available: list[bool], timings: list, rule: str = "p99_foreground") -> dict:
    data = {"image": images, "available": torch.tensor(available), "parameters": torch.tensor(timings)}
    return ScaleSequencesd("image", rule, per="subject")(data)


def test_one_scale_per_subject_keeps_what_the_timing_does():
    timings = [[2479.0, 9.62, 1055.0], [8000.0, 10.42, 0.0], [8142.0, 104.2, 0.0]]
    factors = torch.tensor([brightest(Acquisition(*timing)) for timing in timings]).view(3, 1, 1, 1)
    images = 900 * factors * torch.rand(3, 40, 40, 5, generator=torch.Generator().manual_seed(0))
    whole = of_subject(images, [True] * 3, timings)
    assert (whole["scale"] == whole["scale"][0]).all() and (whole["offset"] == 0).all()
    assert whole["scale"][0].item() == pytest.approx(1.5 * 900, rel=0.03), "1 is 1.5 times the signal of water"
    kept, mean = whole["image"].mean((1, 2, 3)), images.mean((1, 2, 3))
    torch.testing.assert_close(kept / kept[0], mean / mean[0], rtol=0.01, atol=0)
    dark = of_subject(images * torch.tensor([1.0, 0, 0]).view(3, 1, 1, 1), [True, False, False], timings)
    assert dark["scale"][0].item() == pytest.approx(whole["scale"][0].item(), rel=0.05), "whatever there is"
    assert (dark["image"][1:] == 0).all() and (dark["scale"] == dark["scale"][0]).all()


def test_one_scale_per_subject_is_the_median_of_the_votes():
    images, timing = IMAGE.repeat(3, 1, 1, 1) * torch.tensor([1.0, 2.0, 7.0]).view(3, 1, 1, 1), [8000.0, 10.0, 0.0]
    found = of_subject(images, [True] * 3, [timing] * 3, "percentile")
    assert found["scale"][0].item() == pytest.approx(2 * 99.505 / brightest(Acquisition(*timing)), rel=1e-5)


def test_unknown_extent_of_a_scale():
    with pytest.raises(ValueError, match="scale_per is 'study'"):
        ScaleSequencesd("image", per="study")
