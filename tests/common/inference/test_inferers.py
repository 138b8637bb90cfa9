"""Windows give what the whole volume gives, and nothing is computed that is not wanted."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from common.inference.inferers import (
    CompletionInferer,
    MatrixInferer,
    SlabInferer,
    available_sequences,
    resolve_targets,
    slab_starts,
)
from mri_seq2seq.network import Seq2Seq

NAMES = ["T1", "T2", "FLAIR"]
SHAPES = {-1: (8, 12, 7), -2: (8, 7, 12)}


def make(spatial_dims: int = 2, slices: int = 3, slice_axis: int = -1) -> Seq2Seq:
    torch.manual_seed(0)
    sizes = {"channels": [4, 8], "res_blocks": 1, "lstm_layers": 1, "code_channels": 4, "bank_channels": 2}
    return Seq2Seq(3, spatial_dims, slices, slice_axis=slice_axis, **sizes).eval()


def subject(*available: int, shape: tuple[int, ...] = SHAPES[-1]) -> torch.Tensor:
    """Noise with a corner of air; sequences that are not available are -1."""
    image = torch.rand(1, 3, *shape, generator=torch.Generator().manual_seed(1)) * 0.9 + 0.1
    image[:, :, :3, :3] = 0
    for i in set(range(3)) - set(available):
        image[:, i] = -1
    return image


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """How often Seq2Seq encodes which source and decodes which target."""
    found: Counter = Counter()
    encode, decode = Seq2Seq.encode, Seq2Seq.decode

    def counted_encode(self, image, source):
        found["encode", source.argmax().item()] += 1
        return encode(self, image, source)

    def counted_decode(self, representation, target):
        found["decode", target.argmax().item()] += 1
        return decode(self, representation, target)

    monkeypatch.setattr(Seq2Seq, "encode", counted_encode)
    monkeypatch.setattr(Seq2Seq, "decode", counted_decode)
    return found


@torch.no_grad()
@pytest.mark.parametrize("slab", [1, 2, 5, 100])
@pytest.mark.parametrize(("slices", "slice_axis"), [(1, -1), (3, -1), (3, -2), (5, -2)])
def test_slabs_equal_the_whole_volume(slices: int, slice_axis: int, slab: int):
    network, image = make(2, slices, slice_axis), subject(0, 2, shape=SHAPES[slice_axis])
    slabs = CompletionInferer(NAMES, roi_size=(), slab=slab).windows(network)
    torch.testing.assert_close(slabs(image, network), network(image), rtol=0, atol=1e-5)
    if slab == 2 and slices > 1:  # the test would see a wrong neighbour
        wrong = SlabInferer(slab, slices // 2 - 1, slice_axis)(image, network)
        assert (wrong - network(image)).abs().max() > 1e-3


@torch.no_grad()
def test_every_third_slab_from_the_middle_one():
    """Eleven slices in slabs of two: slabs 0 to 5, the middle one 2, so 2 and 5 of them."""
    assert (
        slab_starts(11, 2, 3) == [4, 10] and slab_starts(11, 2) == [0, 2, 4, 6, 8, 10] and slab_starts(1, 4, 9) == [0]
    )
    network, image = make(2, 3, -1), subject(0, 2, shape=(8, 8, 11))
    made, whole = SlabInferer(2, 1, every=3)(image, network), network(image)
    kept = torch.tensor([4, 5, 10])
    torch.testing.assert_close(made[..., kept], whole[..., kept], rtol=0, atol=1e-5)
    made[..., kept] = 0
    assert not made.any()


def test_a_slice_axis_that_counts_from_the_front_is_refused():
    """Network and slabs would otherwise cut along different axes: one sees [B, X, Y, Z], the other [B, S, X, Y, Z]."""
    with pytest.raises(ValueError, match="slice_axis is 2"):
        make(slice_axis=2)


@torch.no_grad()
@pytest.mark.parametrize(("available", "targets", "wanted"), [((0, 2), None, [1]), ((0,), "all", [0, 1, 2])])
def test_completion_computes_the_wanted_targets_only(calls: Counter, available, targets, wanted):
    network, image = make(), subject(*available)
    made = CompletionInferer(NAMES, targets)(image, network)
    sources = {j: [i for i in available if i != j] or [j] for j in wanted}
    expected = {("encode", i): 1 for i in available} | {("decode", j): len(sources[j]) for j in wanted}
    assert calls == expected
    torch.testing.assert_close(made[:, wanted], network(image)[:, wanted])
    assert all((made[:, j] == 0).all() for j in range(3) if j not in wanted)
    assert (made[:, wanted].amax(1)[image[:, list(available)].amax(1) <= 0] == 0).all(), "air stays 0"


@torch.no_grad()
def test_an_available_target_is_made_from_the_others():
    network = make()
    made = CompletionInferer(NAMES, "T1")(subject(0, 1), network)
    torch.testing.assert_close(made[:, 0], network.translate(subject(0, 1), [1], [0])[:, 0])


@torch.no_grad()
@pytest.mark.parametrize("slab", [1, 3, 100])
def test_uncertainty_comes_as_further_channels(slab: int):
    network, image = make(), MetaTensor(subject(0, 2), affine=np.diag([2.0, 3, 4, 1]))
    windows = {"roi_size": (), "slab": slab}
    made = CompletionInferer(NAMES, ["T2", "FLAIR"], uncertainty="true", **windows)(image, network)
    assert made.shape == (1, 6, *image.shape[2:]) and torch.equal(made.affine, image.affine)
    pairs = network.translate(image.as_tensor(), [0, 2], [1])
    both = (image[:, [0, 2]] > 0).all(1).as_tensor()
    torch.testing.assert_close(made[:, 4].as_tensor()[both], pairs.std(1)[both], rtol=0, atol=1e-5)
    assert made[:, 5].isnan().all(), "T1 alone is left to make FLAIR from"
    image_alone = CompletionInferer(NAMES, ["T2", "FLAIR"], uncertainty="False", **windows)(image, network)
    torch.testing.assert_close(made[:, :3], image_alone)


def test_an_unknown_target_is_known_at_once():
    with pytest.raises(ValueError, match=r"T3.*T1, T2, FLAIR"):
        CompletionInferer(NAMES, "T3")


def test_uncertainty_is_a_switch():
    with pytest.raises(ValueError, match="uncertainty is 'yes'"):
        CompletionInferer(NAMES, uncertainty="yes")


def test_nothing_missing_calls_no_network(calls: Counter):
    image = MetaTensor(subject(0, 1, 2), affine=np.diag([2.0, 3, 4, 1]))
    made = CompletionInferer(NAMES)(image, make())
    assert not calls and made.shape == image.shape and (made == 0).all()
    assert torch.equal(made.affine, image.affine)


@torch.no_grad()
def test_availability_is_decided_on_the_whole_image():
    """A slab of air from a scan that is there does not make the scan missing."""
    network, image = make(slices=1), subject(0, 1)
    image[:, 0, ..., :4] = 0
    made = CompletionInferer(NAMES, inferer=SlabInferer(2, 0))(image, network)
    torch.testing.assert_close(made, CompletionInferer(NAMES)(image, network), rtol=0, atol=1e-5)


@torch.no_grad()
def test_matrix_rows_are_sources(calls: Counter):
    network, image = make(), subject(0, 2)
    matrix = MatrixInferer(NAMES, SlabInferer(3))(image, network).unflatten(1, (3, 3))
    assert calls == {("encode", i): 3 for i in (0, 2)} | {("decode", j): 6 for j in range(3)}, "three slabs"
    for i in (0, 2):
        torch.testing.assert_close(matrix[:, i], network.translate(image, [i], range(3)), rtol=0, atol=1e-5)
        assert matrix[:, i].std() > 0 and (matrix[:, i].amax(1)[image[:, i] == 0] == 0).all()
    assert (matrix[:, 1] == 0).all()


@torch.no_grad()
def test_matrix_with_several_sources_and_several_steps():
    network, image = make(), subject(0, 1, 2)
    inferer = MatrixInferer(NAMES, SlabInferer(3), multi_source=True, paths=[["T1", "T2", "FLAIR"], ["T2", "T1", "T2"]])
    assert inferer.routes[9:] == [((1, 2), (), 0), ((0, 2), (), 1), ((0, 1), (), 2), ((0,), (1,), 2), ((1,), (0,), 1)]
    made = inferer(image, network)
    torch.testing.assert_close(made[:, 9:12], network.complete(image), rtol=0, atol=1e-5)
    for channel, i, via, j in ((12, 0, 1, 2), (13, 1, 0, 1)):
        between = network.translate(image, [i], [via]).repeat(1, 3, 1, 1, 1)
        twice = network.translate(between, [via], [j])
        torch.testing.assert_close(made[:, channel], twice[:, 0], rtol=0, atol=1e-5)
    fewer = inferer(subject(1, 2), network)
    assert (fewer[:, 12] == 0).all() and fewer[:, 13].std() > 0, "a path needs its first sequence only"


@torch.no_grad()
def test_fused_rows_reuse_what_the_pairs_were_made_of(calls: Counter):
    made = MatrixInferer(NAMES, SlabInferer(3), multi_source=True)(subject(0, 2), make())
    assert calls == {("encode", i): 3 for i in (0, 2)} | {("decode", j): 6 for j in range(3)}, "three slabs"
    torch.testing.assert_close(made[:, 10], made[:, [1, 7]].mean(1), rtol=0, atol=1e-5)  # T2 from T1 and FLAIR


@torch.no_grad()
def test_subsets_are_what_completion_makes_of_fewer_images():
    torch.manual_seed(0)
    sizes = {"channels": [4, 8], "res_blocks": 1, "lstm_layers": 1, "code_channels": 4, "bank_channels": 2}
    network, inferer = Seq2Seq(4, **sizes).eval(), MatrixInferer([*NAMES, "PD"], multi_source="subsets")
    assert len(inferer.routes) == 16 + 4 + 4 * 3 and inferer.routes[20] == ((1, 2), (), 0)
    image = torch.rand(1, 4, 8, 12, 3, generator=torch.Generator().manual_seed(1))
    made = inferer(image, network)
    for channel, (sources, _, target) in enumerate(inferer.routes[16:], 16):
        fewer = network.complete(image, sources=sources, targets=[target])[:, target]
        torch.testing.assert_close(made[:, channel], fewer, rtol=0, atol=1e-5)
    image[:, 2] = -1
    fewer = inferer(image, network)
    there = [k for k in range(20, 32) if 2 not in inferer.routes[k].sources]
    assert fewer[:, 20:].flatten(2).any(2)[0].nonzero()[:, 0].add(20).tolist() == there


def test_of_two_sequences_each_is_made_from_the_other_once():
    assert len(MatrixInferer(NAMES[:2], multi_source=True).routes) == 4


@pytest.mark.parametrize("paths", ["T1,T2,FLAIR", ["T1", "T2", "FLAIR"], [["T1", "T2", "FLAIR"]]])
def test_one_path_needs_no_list_of_paths(paths):
    assert MatrixInferer(NAMES, paths=paths).routes[9:] == [((0,), (1,), 2)]


def test_bad_paths():
    with pytest.raises(ValueError, match="T1 > T2 is no multi-step"):
        MatrixInferer(NAMES, paths=[["T1", "T2"]])
    with pytest.raises(ValueError, match="DWI"):
        MatrixInferer(NAMES, paths=[["T1", "DWI", "T2"]])


@torch.no_grad()
def test_3d_windows():
    network, image = make(3), subject(0, 1, shape=(8, 8, 20))
    inferer = CompletionInferer(NAMES, roi_size=(8, 8, 8))
    made = inferer(image, network)
    assert made.shape == image.shape and torch.isfinite(made).all() and made[:, 2].std() > 0
    assert (made[:, :2] == 0).all()
    network.complete = lambda image, sources, targets: image[:, :1].repeat(1, 3, 1, 1, 1)
    torch.testing.assert_close(inferer(image, network)[:, 2], image[:, 0])


@pytest.mark.parametrize(
    ("targets", "wanted"),
    [
        (None, [1]),
        ("all", [0, 1, 2]),
        ("FLAIR", [2]),
        (["FLAIR", "T1"], [2, 0]),
        (("T2",), [1]),
        ("T2,T1", [1, 0]),
        ([], []),
    ],
)
def test_resolve_targets(targets, wanted: list[int]):
    assert resolve_targets(targets, NAMES, available=[0, 2]) == wanted


def test_bad_targets_and_subjects():
    with pytest.raises(ValueError, match=r"DWI.*T1, T2, FLAIR"):
        resolve_targets(["T1", "DWI"], NAMES, [0])
    with pytest.raises(ValueError, match="batch of 2"):
        available_sequences(subject(0).repeat(2, 1, 1, 1, 1))
    with pytest.raises(ValueError, match="none of the sequences"):
        CompletionInferer(NAMES)(subject(), make())
