"""The authors' weights: their network, written out plainly with their tensor names, against ours; files that their
trainer wrote, and what their code makes with them, where MRI_DATA says where they are.
"""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.evaluation.scores import ScoreTable
from common.inference.released import architecture, released_state
from mri_seq2seq.network import Seq2Seq
from mri_seq2seq.released import carry_over

from .test_described import reason, run

WIDTHS, CODE, BANK = (4, 6, 8), 12, 5


def pad(x, size=1):
    return F.pad(x, (size,) * 4, mode="reflect")


class Hyper(nn.Module):
    def __init__(self, c_in, c_out, k):
        super().__init__()
        self.fc, self.fc_bias = nn.Linear(CODE, BANK), nn.Linear(CODE, BANK)
        self.param, self.b = nn.Parameter(torch.randn(c_out, c_in, k, k, BANK)), nn.Parameter(torch.randn(c_out, BANK))

    def forward(self, x, s):
        return F.conv2d(pad(x, self.param.shape[2] // 2), self.param @ self.fc(s)[0], self.b @ self.fc_bias(s)[0])


class Res(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(c, c, 3), nn.InstanceNorm2d(c), nn.LeakyReLU(0.2),
            nn.ReflectionPad2d(1), nn.Conv2d(c, c, 3), nn.InstanceNorm2d(c),
        )  # fmt: skip

    def forward(self, x):
        return x + self.conv_block(x)


class HyperRes(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv1, self.conv2 = Hyper(c, c, 3), Hyper(c, c, 3)

    def forward(self, x, s):
        return x + F.instance_norm(self.conv2(F.leaky_relu(F.instance_norm(self.conv1(x, s)), 0.2), s))


class LSTM(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.cell_list = nn.ModuleList(nn.ModuleDict({"conv": nn.Conv2d(2 * c, 4 * c, 3, padding=1)}) for _ in range(3))

    def forward(self, x):
        for cell in self.cell_list:
            hidden = memory = torch.zeros_like(x[:, 0])
            steps = []
            for frame in x.unbind(1):
                i, f, o, g = cell["conv"](torch.cat([frame, hidden], 1)).chunk(4, 1)
                memory = f.sigmoid() * memory + i.sigmoid() * g.tanh()
                hidden = o.sigmoid() * memory.tanh()
                steps.append(hidden)
            x = torch.stack(steps, 1)
        return x


class Released(nn.Module):
    def __init__(self, slices=3, blocks=2):
        super().__init__()
        sizes = [(slices, WIDTHS[0], 7, 1), (WIDTHS[0], WIDTHS[1], 3, 2), (WIDTHS[1], WIDTHS[2], 3, 2)]
        self.encoder = nn.ModuleDict(
            {
                "conv": nn.ModuleList(
                    nn.Sequential(
                        nn.Conv2d(a, b, k, s, k // 2, padding_mode="reflect"), nn.InstanceNorm2d(b), nn.LeakyReLU(0.2)
                    )
                    for a, b, k, s in sizes
                ),
                "res": nn.Sequential(*[Res(WIDTHS[2]) for _ in range(blocks)]),
            }
        )
        self.style_fc = nn.Sequential(nn.Linear(CODE, CODE), nn.LeakyReLU(0.2))
        self.enc_convlstm, self.dec_convlstm = LSTM(WIDTHS[2]), LSTM(WIDTHS[2])
        self.decoder = nn.ModuleDict(
            {
                "res": nn.ModuleList(HyperRes(WIDTHS[2]) for _ in range(blocks)),
                "convs": nn.ModuleList([Hyper(WIDTHS[2], WIDTHS[1], 3), Hyper(WIDTHS[1], WIDTHS[0], 3)]),
                "conv_last": Hyper(WIDTHS[0], slices, 7),
            }
        )

    def forward(self, x, code, frames):  # x [B, T, c, H, W] in [-1, 1]
        features = x.flatten(0, 1)
        for conv in self.encoder["conv"]:
            features = conv(features)
        features = self.encoder["res"](features).unflatten(0, x.shape[:2])
        features = self.enc_convlstm(features).mean(1, keepdim=True)
        y = self.dec_convlstm(features.repeat(1, frames, 1, 1, 1)).flatten(0, 1)
        s = self.style_fc(F.pad(code, (0, CODE - code.shape[1])))
        for res in self.decoder["res"]:
            y = res(y, s)
        for conv in self.decoder["convs"]:
            y = F.leaky_relu(F.instance_norm(conv(F.interpolate(y, scale_factor=2, mode="bilinear"), s)), 0.2)
        return self.decoder["conv_last"](y, s).tanh().unflatten(0, (len(x), frames))


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.save(Released().state_dict(), tmp_path / "theirs.pth")
    return tmp_path / "theirs.pth"


@pytest.mark.parametrize("time_points, frames", [(1, 1), (3, 2)])
def test_converted_weights_give_the_released_networks_output(theirs: Path, time_points: int, frames: int):
    released = Released()
    released.load_state_dict(torch.load(theirs, weights_only=True))
    state = released_state(theirs)
    network = Seq2Seq(4, lstm_layers=3, **architecture(state))
    network.load_state_dict(state, strict=False)
    released, network = released.double().eval(), network.double().eval()
    image, code = torch.rand(2, time_points, 3, 16, 20, dtype=torch.float64), network.codes[2:3]
    with torch.no_grad():
        wanted = (released(2 * image - 1, code, frames) + 1) / 2
        found = network.decode(network.encode(image, network.codes[:1]), code, frames=frames)
    torch.testing.assert_close(found, wanted, atol=1e-9, rtol=0)


def test_the_description_says_how_images_were_shown(theirs: Path, tmp_path: Path):
    carry_over(str(theirs), str(tmp_path / "released.pt"), "T1,T2,PD")
    described = json.loads((tmp_path / "released.json").read_text())
    assert described["sequences"] == ["T1", "T2", "PD"] and described["normalisation"] == "p99"
    assert described["axes"] == "PLS" and described["crop"] == [192, 192, -1]
    found = {name: described["network"][name] for name in ("sequences", "slices", "channels", "res_blocks")}
    assert found == {"sequences": 3, "slices": 3, "channels": [4, 6, 8], "res_blocks": 2}
    sizes = {name: described["network"][name] for name in ("lstm_layers", "code_channels", "bank_channels")}
    assert sizes == {"lstm_layers": 3, "code_channels": CODE, "bank_channels": BANK}


def test_a_training_goes_on_as_theirs(theirs: Path, tmp_path: Path, phantom_dir: Path):
    carry_over(str(theirs), str(tmp_path / "released.pt"))
    options = {"epochs": 1, "val_interval": 1, "num_workers": 0, "perceptual_weights": "none", "roi_size": [16, 16, 3]}
    folders = {"dataset_dir": phantom_dir, "ckpt_dir": tmp_path / "run", "output_dir": tmp_path / "eval"}
    run("mri_seq2seq", "train", init_weights=tmp_path / "released.pt", **folders, **options)
    described = json.loads((tmp_path / "run" / "model.json").read_text())
    assert described["axes"] == "PLS" and described["crop"] == [192, 192, -1] and described["normalisation"] == "p99"
    with pytest.raises(RuntimeError) as error:
        wrong = {"weights": tmp_path / "run" / "model.pt", "subjects#axes": "RAS"}
        run("mri_seq2seq", "inference", dataset_dir=phantom_dir, output_dir=tmp_path / "out", **wrong)
    assert "axes 'PLS', now 'RAS'" in reason(error.value)


def test_rivals_do_not_depend_on_the_networks_axes(workflow, tiny_weights: Path, phantom_dir: Path, tmp_path: Path):
    scores = []
    for axes in ("RAS", "PLS"):
        options = {"subjects#axes": axes, "weights": tiny_weights, "dataset_dir": phantom_dir, "disturbance": "motion"}
        made = workflow("mri_seq2seq", "train.json", "evaluate.json", output_dir=tmp_path / axes, **options)
        made.run()
        table = ScoreTable.read(tmp_path / axes)
        scores.append({(r["method"], r["source"], r["target"]): r["psnr"] for r in table.rows})
    ras, pls = scores
    assert ras.keys() == pls.keys() and {method for method, *_ in ras} == {"network", "copy", "map"}
    assert all(ras[key] == pytest.approx(pls[key], abs=1e-4) for key in ras if key[0] != "network")
    assert any(abs(ras[key] - pls[key]) > 1e-3 for key in ras if key[0] == "network"), "a network sees them turned"


def test_an_existing_file_is_not_replaced(theirs: Path, tmp_path: Path):
    carry_over(str(theirs), str(tmp_path / "ours.pt"))
    with pytest.raises(FileExistsError, match=r"ours.pt exists; name another"):
        carry_over(str(theirs), str(tmp_path / "ours.pt"))
    (tmp_path / "ours.pt").unlink()
    with pytest.raises(FileExistsError, match=r"ours.json exists; name another"):
        carry_over(str(theirs), str(tmp_path / "ours.pt"))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda state: {}, "has no encoder.conv.0.0.weight, .*it has nothing"),
        (lambda state: {"epoch": 3, **state, "style_fc.0.weight": 0}, "has no style_fc.0.weight, .*epoch, encoder"),
        (lambda state: {f"module.{name}": value for name, value in state.items()}, r"state dict of `net\.module`"),
        (lambda state: {"encoder.0.conv.weight": torch.ones(1)}, "project's names already: pass them as --weights"),
        (lambda state: {"imnet.layers.0.weight": torch.ones(1)}, "CRL's"),
        (lambda state: {**state, "quantize_conv.bias": torch.ones(3)}, "to_latent.bias: 3 .*mri_vq_seq2seq.rel"),
        (lambda state: {n: v for n, v in state.items() if n != "decoder.convs.1.b"}, "up.1.conv.bias_bank: absent"),
    ],
)
def test_other_files_are_refused(theirs: Path, tmp_path: Path, change, message: str):
    torch.save(change(torch.load(theirs, weights_only=True)), theirs)
    with pytest.raises(ValueError, match=message):
        carry_over(str(theirs), str(tmp_path / "ours.pt"))
    assert [path.name for path in tmp_path.iterdir()] == ["theirs.pth"], "nothing is left behind"


@pytest.mark.parametrize("axes", ["LPS", "SAR"])
def test_the_whole_route_gives_the_authors_images(mri_data: Path, tmp_path: Path, axes: str):
    """However a subject's files lie, what is written lies as they do."""
    (tmp_path / "data" / "P1").mkdir(parents=True)
    stored, other = (nib.orientations.axcodes2ornt(each) for each in ("LPS", axes))
    turn, turn_back = nib.orientations.ornt_transform(stored, other), nib.orientations.ornt_transform(other, stored)
    sources = []
    for name in ("T1", "T1Gd", "T2"):
        image = nib.load(mri_data / "ms_tcga-du-7294-atlas" / f"{name}.nii.gz").slicer[:, :, 66:78]
        sources.append(image.get_fdata() > 0)
        turned = image.as_reoriented(turn)
        nib.save(turned, tmp_path / "data" / "P1" / f"{name}.nii.gz")
    carry_over(str(mri_data / "parity" / "seq2seq_released_like.pth"), str(tmp_path / "released.pt"))
    folders = {"dataset_dir": tmp_path / "data", "output_dir": tmp_path / "out", "device": "cpu"}
    run("mri_seq2seq", "inference", weights=tmp_path / "released.pt", **folders)
    made = nib.load(tmp_path / "out" / "P1" / "P1_FLAIR.nii.gz")
    assert made.shape == turned.shape and np.array_equal(made.affine, turned.affine)
    found = made.as_reoriented(turn_back).get_fdata()[..., 1:-1]
    wanted = np.load(mri_data / "parity" / "seq2seq_flair_expected.npz")["flair"][..., 1:-1]
    tissue = np.all(sources, 0)[..., 1:-1]
    assert tissue.sum() > 150_000
    np.testing.assert_allclose(found[tissue], wanted[tissue], rtol=0, atol=1e-3 * np.ptp(wanted))
    assert not found[~np.any(sources, 0)[..., 1:-1]].any(), "what is made of air is nothing"
