"""Laws of the networks and their parts. Equality with other implementations is in tests/parity."""

import pytest
import torch
from conftest import randomise
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import interpolate

from minip2p.config import TextConfig, UNetConfig, VAEConfig, VisionConfig
from minip2p.models.clip import TextEncoder, VisionEncoder
from minip2p.models.unet import UNet
from minip2p.models.vae import AutoencoderKL, DiagonalGaussian
from minip2p.nn import attention as attention_module
from minip2p.nn.attention import Attention, Site, attend
from minip2p.nn.blocks import ATTENTION, FEED_FORWARD, TIME_INJECTION, Upsample
from minip2p.nn.embeddings import sinusoids
from minip2p.nn.norms import NORMS

SMALL = dict(widths=(16, 32), blocks=1, attention=("full", "full"), heads=2, text_width=12, norm_groups=4)


def run(unet: UNet, control=(), b=2):
    generator = torch.Generator().manual_seed(1)
    c = unet.config
    z, text = (torch.randn(2, *shape, generator=generator) for shape in ((c.in_channels, 6, 10), (5, c.text_width)))
    with torch.inference_mode():
        return unet(z[:b], torch.tensor([3.7, 900.0])[:b], text[:b], control)


class Counting:
    """A control that changes nothing, wants the probabilities of some sites, and remembers what it saw."""

    def __init__(self, wants=lambda site: False):
        self.wants, self.sites, self.maps = wants, [], []

    def inputs(self, q, k, v, site):
        self.sites.append(site)
        return q, k, v

    def needs_probs(self, site):
        return self.wants(site)

    def probs(self, p, site):
        self.maps.append((site, p))
        return p


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 9), st.integers(1, 9), st.integers(0, 10**6))
def test_the_fused_upsampling_is_the_plain_one(b, c, y, x, seed):
    torch.manual_seed(seed)
    layer, z = Upsample(c).double().eval(), torch.randn(b, c, y, x, dtype=torch.float64)
    plain = layer.conv(interpolate(z, scale_factor=2.0, mode="nearest"))
    layer.fuse()
    assert torch.allclose(layer(z), plain, atol=1e-12)
    assert layer.fused is not None and "fused" not in "".join(layer.state_dict())
    layer.train()
    assert torch.equal(layer(z), plain), "off while training"
    layer.fuse(False)
    assert torch.equal(layer.eval()(z), plain)


@pytest.mark.parametrize("kind", ["self", "cross"])
def test_explicit_attention_is_the_fused_one(kind):
    q, k, v = torch.randn(3, 2, 4, 7, 8, dtype=torch.float64).unbind()
    site = Site("mid", kind, 0)
    wants = Counting(lambda s: True)
    assert torch.allclose(attend(q, k, v, site, (wants,)), attend(q, k, v, site), atol=1e-12)
    ((_, p),) = wants.maps
    assert torch.allclose(p.sum(-1), torch.ones_like(p.sum(-1))) and p.shape == (2, 4, 7, 7)


def test_without_a_control_that_asks_no_softmax_is_explicit(monkeypatch):
    unet, calls = randomise(UNet(UNetConfig(**SMALL))), []
    fused = attention_module.scaled_dot_product_attention
    monkeypatch.setattr(
        attention_module, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or fused(*a, **k)
    )
    plain = run(unet)
    sites = len(calls)
    assert sites == sum(isinstance(m, Attention) for m in unet.modules())
    assert torch.equal(run(unet, (Counting(),)), plain), "a control that changes nothing changes nothing, bit for bit"
    assert len(calls) == 2 * sites
    some = Counting(lambda site: site.kind == "cross")
    assert torch.allclose(run(unet, (some,)), plain, atol=1e-5)
    assert len(calls) == 3 * sites - len(some.maps) and {site.kind for site, _ in some.maps} == {"cross"}


def test_sites_are_numbered_as_data_meets_them():
    seen = Counting()
    run(randomise(UNet(UNetConfig(**SMALL))), (seen,))
    assert [s.index for s in seen.sites] == list(range(len(seen.sites)))
    assert [s.kind for s in seen.sites] == ["self", "cross"] * (len(seen.sites) // 2)
    assert [s.place for s in seen.sites] == ["down"] * 4 + ["mid"] * 2 + ["up"] * 8


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("injection", TIME_INJECTION)
@pytest.mark.parametrize("feed_forward", FEED_FORWARD)
def test_every_part_fits_every_other(norm, injection, feed_forward):
    config = UNetConfig(**SMALL, norm=norm, time_injection=injection, feed_forward=feed_forward)
    unet = randomise(UNet(config))
    out = run(unet)
    assert out.shape == (2, 4, 6, 10) and out.isfinite().all()
    assert out.std() > 1e-3 and not torch.allclose(out[0], out[1], atol=1e-3)
    assert torch.allclose(out[:1], run(unet, b=1), atol=1e-4), "a row does not depend on its batch"


@pytest.mark.parametrize("word", ATTENTION)
def test_attention_kinds(word):
    unet, seen = randomise(UNet(UNetConfig(**SMALL | {"attention": (word, word)}, mid_attention=word))), Counting()
    assert run(unet, (seen,)).isfinite().all()
    assert {site.kind for site in seen.sites} == set(ATTENTION[word])


@pytest.mark.parametrize("name", ["norm", "time_injection", "feed_forward", "mid_attention"])
def test_an_unknown_part_is_named_with_the_known_ones(name):
    with pytest.raises(ValueError, match="'wavelet': expected one of"):
        UNet(UNetConfig(**SMALL | {name: "wavelet"}))


def test_the_time_and_the_text_matter():
    unet = randomise(UNet(UNetConfig(**SMALL)))
    z, text = torch.randn(1, 4, 8, 8), torch.randn(1, 5, 12)
    with torch.inference_mode():
        a, b, c = unet(z, 10.0, text), unet(z, 10.25, text), unet(z, 10.0, text.roll(1, -1))
    assert not torch.allclose(a, b, atol=1e-6) and not torch.allclose(a, c, atol=1e-4)


def test_sinusoids_have_cosines_first():
    e = sinusoids(torch.tensor([0.0, 2.5]), 320)
    assert torch.equal(e[0], torch.cat([torch.ones(160), torch.zeros(160)]))
    assert e[1, 0] == torch.tensor(2.5).cos() and e[1, 160] == torch.tensor(2.5).sin()


def test_stable_diffusion_has_its_number_of_parameters():
    with torch.device("meta"):
        sizes = [
            sum(p.numel() for p in network.parameters())
            for network in (
                UNet(UNetConfig()),
                UNet(UNetConfig(in_channels=8)),
                AutoencoderKL(VAEConfig()),
                TextEncoder(TextConfig()),
            )
        ]
    assert sizes == [859_520_964, 859_532_484, 83_653_863, 123_060_480]


def test_the_autoencoder_keeps_a_picture_in_its_place():
    """Downsampling pads right and bottom: a change of one corner moves the latents of that corner most."""
    vae = randomise(AutoencoderKL(VAEConfig(widths=(8, 8, 8), blocks=1, norm_groups=4, latent_channels=3)))
    x = torch.zeros(1, 3, 24, 32)
    assert (
        vae.factor == 4
        and vae.encode(x).mode().shape == (1, 3, 6, 8)
        and vae.decode(torch.zeros(1, 3, 6, 8)).shape == x.shape
    )


def test_the_posterior():
    g = DiagonalGaussian(torch.tensor([[[[1.0]]], [[[0.0]]]]), torch.tensor([[[[0.0]]], [[[0.0]]]]))
    assert torch.equal(g.kl(), torch.tensor([0.5, 0.0]))
    draws = torch.stack([g.sample(torch.Generator().manual_seed(s)) for s in range(2000)])
    assert torch.allclose(draws.mean(0), g.mean, atol=0.1) and torch.allclose(
        draws.std(0), torch.ones(2, 1, 1, 1), atol=0.1
    )
    assert torch.equal(g.sample(torch.Generator().manual_seed(5)), g.sample(torch.Generator().manual_seed(5)))


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 7), st.integers(0, 10**6))
def test_text_is_read_causally(cut, seed):
    """What stands before a place does not depend on what stands after it."""
    config = TextConfig(
        vocab_size=50, max_length=8, width=16, layers=2, heads=2, feed_forward=32, bos=48, eos=49, pad=49
    )
    encoder = randomise(TextEncoder(config))
    tokens = torch.randint(0, 48, (1, 8), generator=torch.Generator().manual_seed(seed))
    other = tokens.clone()
    other[:, cut:] = (other[:, cut:] + 1) % 48
    with torch.inference_mode():
        a, b = encoder(tokens), encoder(other)
    assert torch.allclose(a[:, :cut], b[:, :cut], atol=1e-6) and not torch.allclose(a[:, cut:], b[:, cut:], atol=1e-4)


def test_pooling_takes_the_first_end():
    config = TextConfig(
        vocab_size=50, max_length=8, width=16, layers=1, heads=2, feed_forward=32, bos=48, eos=49, pad=49
    )
    encoder = randomise(TextEncoder(config))
    padded = torch.tensor([[48, 3, 4, 49, 49, 49, 49, 49]])
    with torch.inference_mode():
        assert torch.equal(encoder.pooled(padded), encoder(padded)[:, 3])
        assert torch.allclose(
            encoder.pooled(padded), encoder.pooled(torch.tensor([[48, 3, 4, 49, 0, 0, 0, 0]])), atol=1e-6
        )


def test_the_last_layer_can_be_left_out():
    config = TextConfig(
        vocab_size=50, max_length=8, width=16, layers=3, heads=2, feed_forward=32, bos=48, eos=49, pad=49
    )
    whole = randomise(TextEncoder(config))
    tokens = torch.randint(0, 48, (2, 8))
    penultimate = TextEncoder(TextConfig(**vars(config) | {"skip_last": 1})).eval()
    penultimate.load_state_dict(whole.state_dict())
    whole.layers = whole.layers[:2]
    with torch.inference_mode():
        assert torch.equal(penultimate(tokens), whole(tokens))


def test_the_vision_tower_sees_where_things_are():
    config = VisionConfig(image_size=16, patch_size=4, width=16, layers=1, heads=2, feed_forward=32, projection=5)
    tower = randomise(VisionEncoder(config))
    x = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        assert tower(x).shape == (2, 5) and not torch.allclose(tower(x), tower(x.flip(-1)), atol=1e-5)
