from __future__ import annotations

import pytest
import torch

from common.blocks.hyperdecoder import HyperDecoder


def test_a_target_that_is_black_can_still_learn() -> None:
    """tanh of -12 is -1 to the bit, and its own gradient 0: whoever was there would stay."""
    torch.manual_seed(0)
    decoder = HyperDecoder(2, 1, [4, 8], 1, code_channels=4, bank_channels=2)
    x, code, image = torch.randn(2, 8, 4, 4), torch.rand(1, 4), torch.full((2, 1, 8, 8), 0.2)
    with torch.no_grad():
        decoder.last.conv.bias_bank.fill_(-12 / decoder.last.conv.bias_bank.shape[-1])
        decoder.last.conv.bias_mix.weight.zero_()
        decoder.last.conv.bias_mix.bias.fill_(1)
    assert (decoder(x, code) == -1).all()
    optimizer = torch.optim.Adam(decoder.parameters(), lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        (decoder(x, code) - image).abs().mean().backward()
        optimizer.step()
    made = decoder.eval()(x, code)
    assert made.detach().mean().item() == pytest.approx(0.2, abs=0.1)
    torch.testing.assert_close(decoder.train()(x, code), made)  # the image itself is the paper's
