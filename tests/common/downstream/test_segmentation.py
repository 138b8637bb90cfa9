"""Regions, the small U-Net and its scores."""

from __future__ import annotations

import math

import pytest
import torch
from monai.transforms import Compose

from common.downstream.regions import BRATS, Regions
from common.downstream.segmenter import (
    Settings,
    _batched,
    create_network,
    predict,
    region_loss,
    score,
    stacks,
    train,
)

NAMES = ["whole", "core", "enhancing"]


def test_regions_of_a_label_map_and_back() -> None:
    label = torch.tensor([0, 1, 2, 3]).view(1, 4, 1, 1)
    channels = Regions().channels(label)
    assert channels[..., 0, 0].tolist() == [[0, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1]]
    assert Regions().nested(channels)[0, :, 0, 0].tolist() == [0, 2, 1, 3]
    assert Regions().nested(torch.tensor([0.0, 0.9, 0.1]).view(3, 1)).item() == 2  # a core outside the whole
    assert torch.equal(Regions().channels(label), Regions().channels(torch.where(label == 3, 4, label)))


def test_labels_of_nnunet() -> None:
    regions = Regions()
    regions.check_nested()
    assert regions.labels() == {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}
    assert Regions("lesion=1").labels() == {"background": 0, "lesion": 1}
    with pytest.raises(ValueError, match="core is not within enhancing"):
        Regions("enhancing=3,core=1+3").check_nested()


@pytest.mark.parametrize("text", ["whole", "whole=x", "whole=1,whole=2", "whole=0+1", ""])
def test_regions_that_say_nothing(text: str) -> None:
    with pytest.raises(ValueError, match="regions is"):
        Regions(text)


def test_three_and_four_together_are_not_guessed() -> None:
    label = torch.tensor([3, 4]).view(1, 2, 1, 1)
    with pytest.raises(ValueError, match="sub-07 has both 3 and 4"):
        Regions(BRATS).channels(label, "sub-07")
    assert Regions("whole=1+2+3+4,core=1+3").channels(label).sum() == 3


def test_known_dice_and_surface_distance() -> None:
    """Single voxels 3 apart of 2 mm; a box and its half; nothing and nothing; something and nothing."""
    prediction, truth = torch.zeros(2, 4, 8, 8, 8)
    prediction[0, 1, 1, 1] = truth[0, 4, 1, 1] = 1
    truth[1, 2:6, 2:4, 2:4] = prediction[1, 2:4, 2:4, 2:4] = 1
    truth[3, 0, 0, 0] = 1
    found = score(prediction, truth, ["apart", "half", "none", "missed"], [2, 2, 2])
    assert found["apart_dice"] == 0 and found["apart_assd"] == pytest.approx(6)
    assert found["half_dice"] == pytest.approx(2 / 3)
    # All voxels are surface: of the 16 true ones 8 are on it, 4 one voxel off and 4 two; of the 8 predicted, all.
    assert found["half_assd"] == pytest.approx((4 * 2 + 4 * 4) / 24)
    assert found["none_dice"] == 1 and found["none_assd"] == 0
    assert found["missed_dice"] == 0 and found["missed_assd"] == pytest.approx(math.dist([0] * 3, [16] * 3))


def test_stacks_have_the_neighbours_of_each_slice() -> None:
    image = torch.arange(2 * 3.0).view(2, 1, 1, 3)
    assert stacks(image, 1).shape == (3, 2, 1, 1)
    assert stacks(image, 3)[:, :, 0, 0].tolist() == [[0, 0, 1, 3, 3, 4], [0, 1, 2, 3, 4, 5], [1, 2, 2, 4, 5, 5]]


def test_codes_are_shown_one_hot() -> None:
    network = create_network(1, 2, (2, 2, 2), codes=5)
    seen = network[0](torch.tensor([[[[0.0, 4.0]]]]))
    assert seen[0, :, 0].T.tolist() == [[1, 0, 0, 0, 0], [0, 0, 0, 0, 1]]
    assert network(torch.zeros(1, 1, 16, 16)).shape == (1, 2, 16, 16)


def test_regions_that_lie_in_each_other_cost_nothing_if_they_are_right() -> None:
    target = torch.zeros(1, 2, 4, 4)
    target[0, 0, :3], target[0, 1, 1] = 1, 1
    right = 40 * target - 20
    assert region_loss(right, target) < 1e-4
    wrong = right.clone()
    wrong[0, 1, 1] = -20  # the inner one is missed
    assert region_loss(wrong, target) > 1


def _cases() -> list[dict[str, torch.Tensor]]:
    """A bright ball in noise."""
    torch.manual_seed(0)
    places = torch.stack(torch.meshgrid(*[torch.arange(16.0)] * 2, torch.arange(6.0), indexing="ij"))
    balls = [((places - torch.tensor([x, 8.0, 3.0]).view(3, 1, 1, 1)).square().sum(0) < 9).float() for x in (5, 10)]
    return [{"image": ball[None] + 0.1 * torch.randn(2, 16, 16, 6), "label": ball[None]} for ball in balls]


def test_a_training_learns_from_slices_and_their_neighbours() -> None:
    settings = Settings(steps=30, batch_size=4, slices=3, filters=(4, 8, 8), learning_rate=0.03)
    first, second = _cases()
    network, _ = train([first], Compose([]), settings, regions=1, name="ball")
    made = predict(network, second["image"], 3)
    assert made.shape == (1, 16, 16, 6)
    assert score(made > 0.5, second["label"], ["ball"], [1, 1, 1])["ball_dice"] > 0.8


def test_a_training_of_the_same_seed_is_the_same() -> None:
    """And prepares a subject once."""
    settings, asked = Settings(steps=3, batch_size=2, filters=(4, 4, 4)), []
    made = [
        train(_cases(), lambda case: asked.append(1) or case, settings._replace(seed=k), regions=1, name="ball")
        for k in (0, 0, 1)
    ]
    weights = [list(network.state_dict().values()) for network, _ in made]
    assert all(map(torch.equal, weights[0], weights[1])) and made[0][1] == made[1][1] != made[2][1]
    assert len(asked) == 3 * 2


def test_a_batch_has_slices_of_subjects_of_any_size() -> None:
    first, second = _cases()
    wider = {name: torch.nn.functional.pad(image, (0, 2, 0, 4)) for name, image in second.items()}
    settings = Settings(steps=6, batch_size=8, filters=(4, 4, 4))
    assert math.isfinite(train([first, wider], Compose([]), settings, regions=1, name="ball")[1])
    ones = {"image": torch.ones(2, 4, 4), "label": torch.ones(1, 4, 4)}
    batch = _batched([[ones], [{name: torch.ones(len(each), 6, 8) for name, each in ones.items()}]])
    assert batch["image"].min() == 1 and batch["label"][0].sum() == 16  # what is not there goes on, and is no lesion


@pytest.mark.parametrize("options", [{"steps": 0}, {"slices": 2}, {"filters": (8, 8)}, {"epochs": 3}])
def test_settings_that_train_nothing(options: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Settings.of(options)
