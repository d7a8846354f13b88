"""Wide layers on a CPU: weights in oneDNN's order change nothing but the time."""

import copy
from dataclasses import replace

import pytest
import torch
from conftest import ROUNDING, difference, randomise
from safetensors.torch import load_file
from torch import nn

import minip2p
from minip2p import loading
from minip2p.config import UNetConfig
from minip2p.models.unet import UNet
from minip2p.nn import packed
from minip2p.pipeline.fingerprint import fingerprint

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch was built without oneDNN")
WIDE = UNetConfig(widths=(320, 320), blocks=1, attention=("full", "none"), heads=4, text_width=12, norm_groups=32)


def both() -> tuple[UNet, UNet]:
    """A network for inference with wide layers, and the same packed."""
    plain = loading.prepare(randomise(UNet(WIDE)))
    network = copy.deepcopy(plain)
    packed.pack(network)
    return plain, network


def inputs(b: int = 2) -> tuple[torch.Tensor, ...]:
    z = torch.randn(b, WIDE.in_channels, 6, 10).to(memory_format=torch.channels_last)
    return z, torch.tensor([3.7, 900.0])[:b], torch.randn(b, 5, WIDE.text_width)


def test_packing_changes_no_result_no_weight_and_no_fingerprint():
    plain, network = both()
    kinds = [type(module) for module in network.modules()]
    assert all(kind in kinds for kind in packed.PACKED.values())
    with torch.inference_mode():
        for b in (1, 2):
            z, t, text = inputs(b)
            assert difference(network(z, t, text), plain(z, t, text)) < ROUNDING
    ours, theirs = network.state_dict(), plain.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert fingerprint({"unet": network}) == fingerprint({"unet": plain})
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in plain.parameters())


def test_gradients_flow_through_packed_layers_to_their_inputs():
    plain, network = both()
    (z, t, text), gradients = inputs(), []
    for each in (network, plain):
        leaves = [x.clone().requires_grad_() for x in (z, text)]
        each(leaves[0], t, leaves[1]).square().sum().backward()
        gradients.append([x.grad for x in leaves])
    assert all(difference(a, b) < ROUNDING for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("layer", [nn.Linear(320, 320), nn.Conv2d(320, 320, 3)])
def test_what_is_narrow_in_half_precision_or_elsewhere_stays(layer):
    narrow = type(layer)(320, 319, *([] if isinstance(layer, nn.Linear) else [3]))
    half, elsewhere = copy.deepcopy(layer).to(torch.bfloat16), copy.deepcopy(layer).to("meta")
    network = nn.ModuleList([narrow, half, elsewhere, layer])
    packed.pack(network)
    assert [type(each).__name__.startswith("Packed") for each in network] == [False, False, False, True]


def test_a_loaded_pipeline_is_packed_and_saves_what_it_read(tmp_path):
    pipe = minip2p.load()
    unet = replace(WIDE, text_width=pipe.config.text.width, in_channels=16, out_channels=8)
    pipe = replace(pipe, config=replace(pipe.config, unet=unet), unet=randomise(UNet(unet)))
    loading.save(pipe, tmp_path / "wide.safetensors")
    for compiles in (False, True):
        again = minip2p.load(tmp_path / "wide.safetensors", compile=compiles)
        assert isinstance(again.unet.mid.res_1.conv_1, packed.PackedConv2d) is not compiles
        loading.save(again, tmp_path / "again.safetensors")
        wide, read = (load_file(tmp_path / f"{name}.safetensors") for name in ("wide", "again"))
        assert wide.keys() == read.keys() and all(torch.equal(wide[name], read[name]) for name in wide)
