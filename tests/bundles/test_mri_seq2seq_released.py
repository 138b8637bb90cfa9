"""The released network, written out plainly with the authors' tensor names, against ours with converted weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mri_seq2seq.network import Seq2Seq
from mri_seq2seq.released import convert, convert_file

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


def ours():
    return Seq2Seq(4, channels=WIDTHS, res_blocks=2, code_channels=CODE, bank_channels=BANK)


@pytest.mark.parametrize("time_points, frames", [(1, 1), (3, 2)])
def test_converted_weights_give_the_released_networks_output(time_points, frames):
    torch.manual_seed(0)
    released, network = Released().double().eval(), ours().double().eval()
    network.load_state_dict(convert(released.state_dict()))
    image, code = torch.rand(2, time_points, 3, 16, 20, dtype=torch.float64), network.codes[2:3]
    with torch.no_grad():
        wanted = (released(2 * image - 1, code, frames) + 1) / 2
        found = network.decode(network.encode(image, network.codes[:1]), code, frames=frames)
    torch.testing.assert_close(found, wanted, atol=1e-9, rtol=0)


def test_an_existing_file_is_not_replaced(tmp_path):
    torch.save(Released().state_dict(), tmp_path / "theirs.pt")
    convert_file(str(tmp_path / "theirs.pt"), str(tmp_path / "ours.pt"))
    ours().load_state_dict(torch.load(tmp_path / "ours.pt", weights_only=True))
    with pytest.raises(FileExistsError, match="name another"):
        convert_file(str(tmp_path / "theirs.pt"), str(tmp_path / "ours.pt"))
