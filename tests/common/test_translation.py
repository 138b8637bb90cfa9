"""Completing subjects with a method whose arithmetic can be done by hand."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from common.layout import is_available
from common.translation import TranslationNetwork, select

OF_SOURCE, OF_TARGET, BIAS = torch.tensor([1.0, 0.5, 0.25]), torch.tensor([0.9, 0.6, 0.3]), 0.05


class Features(NamedTuple):
    features: Tensor


class Scaler(TranslationNetwork):
    """Multiplies by a factor of the source, then by one of the target; makes something of background too."""

    def __init__(self, **options) -> None:
        super().__init__(3, **options)
        self.encoded: list[tuple[int, ...]] = []
        self.decoded = 0

    def encode(self, image: Tensor, source: Tensor) -> Features:
        self.encoded.append(tuple(image.shape))
        return Features(image * (source @ OF_SOURCE).view(-1, *[1] * (image.ndim - 1)))

    def decode(self, representation: Features, target: Tensor) -> Tensor:
        self.decoded += 1
        x = representation.features
        return x * (target @ OF_TARGET).view(-1, *[1] * (x.ndim - 1)) + BIAS


def subjects(available: list[list[int]], size: tuple[int, ...] = (4, 6, 5)) -> Tensor:
    """Images [B, 3, *size] in [0.1, 1] with a column of background, -1 where not available."""
    image = 0.1 + 0.9 * torch.rand(len(available), 3, *size, generator=torch.Generator().manual_seed(0))
    image[:, :, 0] = 0
    present = torch.tensor(available, dtype=torch.bool)[(...,) + (None,) * 3]
    return torch.where(present, image, -1.0)


def by_hand(image: Tensor) -> Tensor:
    completed = torch.zeros_like(image)
    for b, subject in enumerate(image):
        present = [i for i in range(3) if subject[i].min() > -1]
        for j in range(3):
            sources = [i for i in present if i != j] or present
            if sources:
                made = OF_TARGET[j] * torch.stack([OF_SOURCE[i] * subject[i] for i in sources]).mean(0) + BIAS
                completed[b, j] = torch.where((subject > 0).any(0), made, 0)
    return completed


PATTERNS = [[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize("options", [{}, {"slices": 3}, {"slice_axis": -2}, {"spatial_dims": 3}])
def test_each_sample_is_completed_from_what_it_has(options: dict):
    image = subjects(PATTERNS)
    pred = Scaler(**options)(image)
    torch.testing.assert_close(pred, by_hand(image))
    assert (pred[3] == 0).all()  # nothing to start from
    assert (pred[:, :, 0] == 0).all() and (pred[:3, :, 1:] > 0).all()  # background and tissue


@pytest.mark.parametrize("j", range(3))
def test_a_sequence_is_not_made_from_itself_unless_alone(j: int):
    network, image = Scaler(), subjects([[1, 1, 1], [0, 1, 1], [0, 0, 0]])
    image[2, j] = image[0, j]  # alone
    changed = image.clone()
    changed[0, j, 1:] *= 0.5
    changed[2, j] *= 0.5
    before, after = network(image), network(changed)
    torch.testing.assert_close(after[0, j], before[0, j])
    torch.testing.assert_close(after, by_hand(changed))
    assert not torch.allclose(after[2, j], before[2, j])
    assert not torch.allclose(after[0, j - 1], before[0, j - 1])
    torch.testing.assert_close(after[1], before[1])  # neighbours in the batch do not mix


def test_a_window_of_background_is_available():
    image = subjects([[1, 1, 0]])
    image[:, 1] = 0
    assert is_available(image).tolist() == [[True, True, False]]


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"slices": 3}, {"spatial_dims": 3}])
def test_the_mean_is_over_the_sources_with_tissue_there(options: dict):
    network, image = Scaler(**options), subjects([[1, 1, 0]])
    image[:, 1, ..., 3:] = 0  # a slab that covers three of five slices
    alone = torch.where(torch.tensor([True, False, False]).view(1, 3, 1, 1, 1), image, -1.0)
    made = network.complete(image, sources=[0, 1], targets=[2])
    torch.testing.assert_close(made[..., 3:], network.complete(alone, sources=[0], targets=[2])[..., 3:])
    both = 0.3 * (image[:, 0] + 0.5 * image[:, 1]) / 2 + BIAS
    torch.testing.assert_close(made[:, 2, 1:, :, :3], both[:, 1:, :, :3])
    torch.testing.assert_close(network(image)[:, 2], made[:, 2])
    torch.testing.assert_close(network.translate(image, [0, 1], [2], fused=[([0, 1], 2)])[:, -1], made[:, 2])
    pred, spread = network.complete(image, [0, 1], [2], uncertainty=True).split(3, 1)
    torch.testing.assert_close(pred, made)
    assert not spread[:, 2, ..., 3:].any(), "one way to make it has no spread"
    values = 0.3 * torch.stack([image[:, 0], 0.5 * image[:, 1]])
    torch.testing.assert_close(spread[:, 2, 1:, :, :3], values.std(0)[:, 1:, :, :3])


@pytest.mark.parametrize(
    ("available", "sources", "targets"),
    [([1, 1, 1], [0, 1, 2], [0, 1, 2]), ([1, 0, 1], [0, 2], [1]), ([0, 1, 0], [1], [1, 2]), ([1, 1, 1], [0, 1], [2])],
)
def test_known_sources_and_targets(available: list[int], sources: list[int], targets: list[int]):
    network, image = Scaler(), subjects([available])
    used = torch.where(torch.tensor([i in sources for i in range(3)]).view(1, 3, 1, 1, 1), image, -1.0)
    general = network(used)
    network.encoded.clear()
    pred = network.complete(image, sources=sources, targets=targets)
    torch.testing.assert_close(pred[:, targets], general[:, targets])
    assert all((pred[:, j] == 0).all() for j in range(3) if j not in targets)
    assert len(network.encoded) == len(sources)


def test_every_source_is_encoded_once():
    network = Scaler()
    network(subjects(PATTERNS))
    assert network.encoded == [(4 * 5, 1, 4, 6)] * 3


@torch.no_grad()
@pytest.mark.parametrize("options", [{"slices": 3}, {"spatial_dims": 3}])
def test_uncertainty_is_the_deviation_over_the_sources(options: dict):
    network, image = Scaler(**options), subjects([[1, 1, 1]])
    pred, spread = network.complete(image, [0, 1, 2], [2, 0], uncertainty=True).split(3, 1)
    torch.testing.assert_close(pred, network.complete(image, [0, 1, 2], [2, 0]))
    made = [0.3 * OF_SOURCE[i] * image[:, i] for i in (0, 1)]  # of two values, it is their distance over the root of 2
    torch.testing.assert_close(spread[:, 2], (made[0] - made[1]).abs() / 2**0.5)
    assert (spread[:, 1] == 0).all() and (spread[:, :, 0] == 0).all() and (spread[:, 0, 1:] > 0).any()


def test_uncertainty_costs_no_more_than_the_image():
    network, image = Scaler(), subjects([[1, 1, 1]])
    network.complete(image, [0, 1, 2], [0, 1, 2], uncertainty=True)
    assert (len(network.encoded), network.decoded) == (3, 6)


@pytest.mark.parametrize(("available", "sources", "target"), [([1, 0, 1], [0, 2], 2), ([0, 1, 0], [1], 1)])
def test_one_source_has_no_spread(available: list[int], sources: list[int], target: int):
    network, image = Scaler(), subjects([available])
    pred, spread = network.complete(image, sources, [target], uncertainty=True).split(3, 1)
    assert spread[:, target].isnan().all() and torch.isfinite(pred).all()
    torch.testing.assert_close(pred, network.complete(image, sources, [target]))


def test_a_method_may_draw_its_variants():
    class Drawing(Scaler):
        def variants(self, representations, available):
            drawn = [Features(representations[0].features * share) for share in (0.5, 1.0, 2.5)]
            return [(each, available[:, 0]) for each in drawn]

    image = subjects([[1, 0, 0]])
    pred, spread = Drawing().complete(image, [0], [1], uncertainty=True).split(3, 1)
    each = [share * OF_SOURCE[0] * OF_TARGET[1] * image[:, 0] + BIAS for share in (0.5, 1.0, 2.5)]
    torch.testing.assert_close(pred[:, 1], torch.stack(each).mean(0) * (image[:, 0] > 0))
    torch.testing.assert_close(spread[:, 1], torch.stack(each).std(0) * (image[:, 0] > 0))


def test_uncertainty_needs_known_sources():
    with pytest.raises(ValueError, match="sources"):
        Scaler().complete(subjects([[1, 1, 1]]), uncertainty=True)


def test_translate_makes_every_pair():
    network, image = Scaler(), subjects([[1, 1, 1]] * 2)
    pred = network.translate(image, sources=[2, 0], targets=[1, 2])
    expected = [(OF_SOURCE[i] * OF_TARGET[j] * image[:, i] + BIAS) * (image[:, i] > 0) for i in (2, 0) for j in (1, 2)]
    torch.testing.assert_close(pred, torch.stack(expected, 1))
    assert len(network.encoded) == 2


def test_training_step_decodes_rows_target_by_target():
    network, image = Scaler(), torch.rand(2, 1, 4, 4)
    rows = (torch.tensor([1, 0]), torch.tensor([], dtype=torch.long), torch.tensor([1]))
    prediction, representation = network(image, network.codes[:2], rows, network.codes)
    first, second = representation.features
    torch.testing.assert_close(prediction, torch.stack([0.9 * second, 0.9 * first, 0.3 * second]) + BIAS)
    assert network.encoded == [(2, 1, 4, 4)]
    torch.testing.assert_close(select(representation, rows[0]).features, representation.features[[1, 0]])


@pytest.mark.parametrize("slice_axis", [-1, -2, -3])
@pytest.mark.parametrize("slices", [1, 3])
def test_slices_and_back(slices: int, slice_axis: int):
    network, volume = Scaler(slices=slices, slice_axis=slice_axis), torch.rand(2, 4, 6, 5)
    stacks = network.to_input(volume)
    depth, in_plane = volume.shape[slice_axis], [size for size in (4, 6, 5) if size != volume.shape[slice_axis]]
    assert stacks.shape == (2 * depth, slices, *in_plane)
    torch.testing.assert_close(network.from_output(stacks, 2), volume)
    for z in range(depth):
        for k in range(slices):
            neighbour = min(max(z + k - slices // 2, 0), depth - 1)
            torch.testing.assert_close(stacks[depth + z, k], volume[1].select(slice_axis, neighbour))


def test_volumes_and_back():
    network, volume = Scaler(spatial_dims=3, slices=3), torch.rand(2, 4, 6, 5)
    assert network.slices == 1 and network.to_input(volume).shape == (2, 1, 4, 6, 5)
    torch.testing.assert_close(network.from_output(network.to_input(volume), 2), volume)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("options", [{"slices": 3}, {"spatial_dims": 3}])
def test_trace_is_right_for_another_availability(options: dict):
    network = Scaler(**options)
    traced = torch.jit.trace(network, subjects(PATTERNS))
    other = subjects([[0, 0, 1], [1, 1, 1], [0, 0, 0], [0, 1, 1]])
    torch.testing.assert_close(traced(other), by_hand(other))


@pytest.mark.parametrize(("options", "named"), [({"slices": 2}, "slices is 2"), ({"spatial_dims": 4}, "is 4")])
def test_wrong_options(options: dict, named: str):
    with pytest.raises(ValueError, match=named):
        Scaler(**options)


@pytest.mark.parametrize(
    ("options", "size", "fits"),
    [
        ({}, (8, 4, 5), True),
        ({}, (8, 6, 4), False),
        ({"slice_axis": -2}, (8, 6, 4), True),
        ({"slice_axis": -3}, (5, 8, 4), True),
        ({"spatial_dims": 3}, (8, 4, 5), False),
        ({"spatial_dims": 3}, (8, 4, 4), True),
    ],
)
def test_size_must_be_a_multiple(options: dict, size: tuple[int, ...], fits: bool):
    network, image = Scaler(downsampling=4, **options), torch.rand(1, 3, *size)
    if fits:
        assert network(image).shape == image.shape
        return
    for call in (network, lambda image: network.translate(image, [0], [1])):
        with pytest.raises(ValueError, match=rf"{size[0]}, {size[1]}.*multiple of 4"):
            call(image)


@pytest.mark.parametrize("verb", ["encode", "decode"])
def test_a_method_must_write_its_verbs(verb: str):
    with pytest.raises(TypeError, match=f"TranslationNetwork does not say how it {verb}s"):
        getattr(TranslationNetwork(2), verb)(torch.zeros(1), torch.zeros(1))


def test_a_training_calls_methods_by_name_through_forward():
    class Named(Scaler):
        TRAINING_CALLS = ("twice",)

        def twice(self, image: Tensor, more: Tensor) -> Tensor:
            return 2 * image + more

    assert Named()(torch.ones(2), step="twice", more=torch.ones(2)).tolist() == [3, 3]
    for network, there in ((Named(), "twice"), (Scaler(), "none")):
        with pytest.raises(ValueError, match=f"step is 'encode'; it must be one of {there}"):
            network(torch.ones(2), step="encode")
