"""WFM: its wavelets, the straight way, and the network at the paper's size (counted) and at a tiny one (run)."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import RFlowScheduler
from torch import Tensor

from mri_wavelet_flow.network import STEPS, WaveletFlow
from mri_wavelet_flow.objective import FlowObjective
from mri_wavelet_flow.wavelets import Haar


def tiny(**options) -> WaveletFlow:
    torch.manual_seed(0)
    network = WaveletFlow(**{"sequences": 3, "channels": (4, 8), "res_blocks": 1, "norm_groups": 2, **options}).eval()
    for parameter in network.parameters():  # a UNet that is all zeros at its end sees nothing
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network


def test_parameters_of_the_paper_s_network():
    with torch.device("meta"):
        network = WaveletFlow()
    assert sum(parameter.numel() for parameter in network.parameters()) == 81_775_752
    assert network.downsampling == 32


def test_haar_is_orthonormal_and_reconstructs():
    image = torch.rand(2, 3, 8, 6, 4, dtype=torch.double)
    plain, paper = Haar(lowest=1).double(), Haar().double()
    bands = plain(image)
    assert bands.shape == (2, 24, 4, 3, 2)
    close = {"rtol": 1e-6, "atol": 1e-6}  # the basis is of single precision
    torch.testing.assert_close(bands.square().sum(), image.square().sum(), **close)
    basis = plain.forwards.flatten(1)
    torch.testing.assert_close(basis @ basis.T, torch.eye(8, dtype=torch.double), **close)
    for haar in (plain, paper):
        torch.testing.assert_close(haar.inverse(haar(image)), image, **close)
    lowest = torch.zeros(24, dtype=torch.bool)
    lowest[::8] = True
    torch.testing.assert_close(paper(image)[:, lowest], bands[:, lowest] / 3, **close)
    torch.testing.assert_close(paper(image)[:, ~lowest], bands[:, ~lowest])


@pytest.mark.parametrize(("axis", "band"), [(2, 4), (3, 2), (4, 1)])
def test_a_step_along_an_axis_is_in_that_axis_band_alone(axis: int, band: int):
    sign = torch.tensor([1.0, -1.0]).reshape([2 if k == axis else 1 for k in range(5)])
    bands = Haar()(sign * torch.ones(1, 1, 2, 2, 2))[0, :, 0, 0, 0]
    expected = torch.zeros(8)
    expected[band] = 8**0.5
    torch.testing.assert_close(bands, expected)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_true_velocity_leads_straight_to_the_target(steps: int, monkeypatch: pytest.MonkeyPatch):
    network = tiny(steps=steps)
    subject = torch.rand(1, 3, 8, 8, 8).clamp(min=0.01)
    seen: list[tuple[int, Tensor]] = []

    def velocity(stack, x, target, timesteps):
        seen.append((int(timesteps[0]), x))
        return network.haar(subject[:, 2:] - (subject[:, :1] + subject[:, 1:2]) / 2)

    monkeypatch.setattr(network, "velocity", velocity)
    made = network.complete(subject, sources=[0, 1], targets=[2])
    torch.testing.assert_close(made[:, 2], subject[:, 2])
    assert len(seen) == steps and seen[0][0] == STEPS, "the start is at t = T, where training shows it"
    torch.testing.assert_close(seen[0][1], subject[:, :2].mean(1, keepdim=True))


class Recorded(torch.nn.Module):
    """A network that keeps what it is shown, and answers the truth if it has it."""

    def __init__(self, network: WaveletFlow) -> None:
        super().__init__()
        self.start, self.encode, self.haar = network.start, network.encode, network.haar
        self.answer: Tensor | None = None

    def forward(
        self, image: Tensor, *, given: Tensor, target_code: Tensor, x: Tensor, timesteps: Tensor, step: str
    ) -> Tensor:
        self.shown = {"source": given, "target": target_code, "x": x, "timesteps": timesteps}
        wanted = image[torch.arange(len(image)), target_code.argmax(1)][:, None]
        return self.haar(wanted - self.start(self.encode(image, given)))


@pytest.mark.parametrize("path", ["flow", "displacement"])
def test_training_shows_the_straight_way_and_ends_with_the_true_velocity(path: str):
    network, objective = Recorded(tiny()), FlowObjective(3, path=path, noise=0.0)
    image = torch.rand(4, 3, 8, 8, 8).clamp(min=0.01)
    torch.manual_seed(1)
    terms, samples = objective(network, {"image": image})
    assert terms["velocity"] == 0 and not samples
    shown, rows = network.shown, torch.arange(4)
    target = shown["target"].argmax(1)
    assert (shown["source"][rows, target] == 0).all() and (shown["source"].sum(1) >= 1).all()
    t = (shown["timesteps"] / STEPS)[:, None, None, None, None]
    start = (image * shown["source"][:, :, None, None, None]).sum(1, keepdim=True) / shown["source"].sum(1)[
        :, None, None, None, None
    ]
    torch.testing.assert_close(shown["x"], t * start + (1 - t) * image[rows, target][:, None])
    assert (t == 1).all() if path == "displacement" else len(t.unique()) == 4


def test_the_way_is_noised_but_not_its_ends(monkeypatch: pytest.MonkeyPatch):
    network, image = Recorded(tiny()), torch.full((2, 3, 16, 16, 16), 0.5)
    objective = FlowObjective(3, noise=0.5)
    for timestep, deviation in ((500, 0.25), (STEPS, 0.0)):
        times = torch.full((2,), timestep - 1)
        monkeypatch.setattr(RFlowScheduler, "sample_timesteps", lambda *_, times=times: times)
        objective(network, {"image": image})
        assert (network.shown["x"] - 0.5).std().item() == pytest.approx(deviation, rel=0.05)


def test_times_are_those_of_1_to_t():
    """The sampler's own are 0 to T - 1: the start would never be seen."""
    network, objective = Recorded(tiny()), FlowObjective(2, noise=0.0)
    image = torch.rand(512, 2, 2, 2, 2)
    objective(network, {"image": image})
    assert 1 <= network.shown["timesteps"].min() <= 20 and STEPS - 20 <= network.shown["timesteps"].max() <= STEPS


def test_the_unet_is_monai_s():
    network = tiny()
    options = {"attention_levels": [False, False], "norm_num_groups": 2, "num_head_channels": 2, "num_res_blocks": 1}
    plain = DiffusionModelUNet(3, 24, 8, channels=(4, 8), num_class_embeds=3, resblock_updown=True, **options)
    plain.load_state_dict(network.unet.state_dict())
    x, t, classes = torch.randn(2, 24, 4, 4, 4), torch.tensor([1, 900]), torch.tensor([2, 0])
    with torch.no_grad():
        torch.testing.assert_close(network.unet(x, t, class_labels=classes), plain(x, t, class_labels=classes))


def test_a_subset_in_all_out():
    network = tiny()
    subject = torch.rand(1, 3, 8, 8, 8).clamp(min=0.01)
    subject[:, 1] = -1
    with torch.no_grad():
        made = network(subject)
        alone = subject.clone()
        alone[:, 0] = -1
        itself = network(alone)
    assert made.shape == subject.shape and made.min() >= 1e-3 and made.max() <= 1
    torch.testing.assert_close(itself[:, 2], subject[:, 2])  # of which nothing is to be made
    with torch.no_grad():
        other = network.complete(subject, sources=[0], targets=[1])
    assert not torch.allclose(other[:, 1], made[:, 1], atol=1e-3), "two sources are not one"


def test_a_word_that_is_not_known_is_an_error():
    with pytest.raises(ValueError, match="path is 'curve'; choose one of flow, displacement"):
        tiny(path="curve")
    assert len(tiny(path="displacement", steps=9).way) == 1
