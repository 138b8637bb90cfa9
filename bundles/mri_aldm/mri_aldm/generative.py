"""Weights that monai-generative 0.2.3 saved, for the classes that took its place in MONAI core.

python -m mri_aldm.generative OLD.pt NEW.pt --network "{'_target_': 'AutoencoderKL', 'spatial_dims': 3, ...}"
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.networks.blocks.spatialattention import SpatialAttentionBlock
from monai.networks.nets import VQVAE
from torch import Tensor, nn

from .common.inference.weights import read_state
from .common.options import run_command
from .common.training.checkpoints import save_atomically


def load_old_weights(network: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Core's VQVAE, AutoencoderKL or DiffusionModelUNet with an old state dict, equal in output to the old class.

    The old attention block has a projection `proj_attn` that its `forward` never applies, with weights that training
    never moved; core's `load_old_state_dict` puts them where core does apply them. Here that projection becomes the
    identity. The attention of the UNet's transformers did apply its own, and keeps it.

    Args:
        network: of core, with the old one's sizes.
        state: what the old one's `state_dict()` was; it is not changed.

    Raises:
        ValueError: the network is none of the three, or the weights are not of such a network.
    """
    if isinstance(network, VQVAE):
        missing = [name for name in network.state_dict() if name not in state]
    elif hasattr(network, "load_old_state_dict"):
        missing = []
    else:
        raise ValueError(f"{type(network).__name__} is not one that monai-generative's weights are carried over to.")
    try:
        if isinstance(network, VQVAE):
            network.load_state_dict(state)
        else:
            network.load_old_state_dict(dict(state))
    except (KeyError, RuntimeError) as error:
        names = ", ".join(missing[:3]) or str(error).splitlines()[-1].strip()
        raise ValueError(f"The weights are not of this {type(network).__name__} ({names}); give its sizes.") from None
    for block in network.modules():
        if isinstance(block, SpatialAttentionBlock):
            nn.init.eye_(block.attn.out_proj.weight)
            nn.init.zeros_(block.attn.out_proj.bias)
    return network


def convert(old: str, new: str, network: dict[str, Any]) -> None:
    """Writes the state dict of core's class for a file with the old one's.

    Args:
        old: the file with a state dict that monai-generative's class saved.
        new: the file to write.
        network: `_target_` and options of core's class, as in a bundle's configuration.
    """
    parser = ConfigParser({"network": network})
    state = read_state(old)
    save_atomically(load_old_weights(parser.get_parsed_content("network"), state).state_dict(), Path(new))


if __name__ == "__main__":
    run_command(convert)
