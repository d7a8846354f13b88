"""Laws of the networks and their parts. Equality with other implementations is in tests/parity."""

import pickle
from dataclasses import replace

import pytest
import torch
from conftest import ROUNDING, count_fused, difference, randomise
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import group_norm, interpolate, silu

from minip2p.config import CLIPConfig, DiTConfig, LlamaConfig, TextConfig, UNetConfig, VAEConfig, VisionConfig
from minip2p.models.clip import CLIP, TextEncoder, VisionEncoder, pooled
from minip2p.models.dit import DiT
from minip2p.models.llama import Llama
from minip2p.models.unet import UNet
from minip2p.models.vae import AutoencoderKL, DiagonalGaussian
from minip2p.nn.attention import ATTENTION, FEED_FORWARD, Attention, attend
from minip2p.nn.blocks import NORMS, TIME_INJECTION, GroupNorm, Upsample, norm_silu, sinusoids
from minip2p.nn.lora import add_lora
from minip2p.nn.site import Site

SMALL = dict(widths=(16, 32), blocks=1, attention=("full", "full"), heads=2, text_width=12, norm_groups=4)


def run(unet: UNet, control=(), b=2):
    generator = torch.Generator().manual_seed(1)
    c = unet.config
    z, text = (torch.randn(2, *shape, generator=generator) for shape in ((c.in_channels, 6, 10), (5, c.text_width)))
    with torch.inference_mode():
        return unet(z[:b], torch.tensor([3.7, 900.0])[:b], text[:b], control)


class Counting:
    """A control that changes nothing, needs the probabilities of some sites, and records what it sees."""

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
    unet, calls = randomise(UNet(UNetConfig(**SMALL))), count_fused(monkeypatch)
    plain = run(unet)
    sites = len(calls)
    assert sites == sum(isinstance(m, Attention) for m in unet.modules())
    assert torch.equal(run(unet, (Counting(),)), plain), "a control that changes nothing changes nothing, bit for bit"
    assert len(calls) == 2 * sites
    some = Counting(lambda site: site.kind == "cross")
    assert torch.allclose(run(unet, (some,)), plain, atol=ROUNDING)
    assert len(calls) == 3 * sites - len(some.maps) and {site.kind for site, _ in some.maps} == {"cross"}


def test_sites_are_numbered_in_the_order_in_which_they_run():
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


def map_counts(network, size):
    """The numbers of pixels of all attention maps, for latents of `size`."""
    seen = Counting(lambda site: True)
    text = torch.zeros(1, 5, network.config.text_width)
    with torch.inference_mode():
        network(torch.zeros(1, network.config.in_channels, *size), 5.0, text, (seen,))
    return {p.shape[2] for _, p in seen.maps}


@settings(deadline=None, max_examples=15)
@given(
    st.lists(st.sampled_from(sorted(ATTENTION)), min_size=3, max_size=3).filter(lambda w: set(w) != {"none"}),
    st.sampled_from(sorted(ATTENTION)),
    st.integers(1, 4),
    st.integers(1, 4),
)
def test_a_unet_says_how_large_its_maps_are(words, mid, y, x):
    config = UNetConfig(**SMALL | {"widths": (8, 8, 8), "attention": tuple(words)}, mid_attention=mid)
    sizes = UNet(config).map_sizes((4 * y, 4 * x))
    assert sizes == sorted(sizes, reverse=True)
    assert {a * b for a, b in sizes} == map_counts(UNet(config), (4 * y, 4 * x))


VAE = VAEConfig(widths=(8, 8), blocks=1, norm_groups=4)
TEXT = TextConfig(vocab_size=50, max_length=8, width=16, layers=2, heads=2, feed_forward=32, bos=48, eos=49, pad=49)
VISION = VisionConfig(image_size=16, patch_size=4, width=16, layers=1, heads=2, feed_forward=32, projection=5)
LLAMA = LlamaConfig(vocab_size=40, max_length=32, width=24, layers=2, heads=4, kv_heads=2, feed_forward=40)
TOKENS = torch.tensor([[3, 4, 39, 0]])


def images(c, seed=0):
    return torch.randn(1, c, 16, 16, generator=torch.Generator().manual_seed(seed))


def on_latents(network):
    return network(images(4), 7.0, torch.ones(1, 5, 12))


NETWORKS = {
    "unet": (lambda: UNet(UNetConfig(**SMALL)), on_latents),
    "unet, scale and shift": (lambda: UNet(UNetConfig(**SMALL, time_injection="scale_shift", norm="rms")), on_latents),
    "dit": (lambda: DiT(DiTConfig(width=16, depth=2, heads=2, text_width=12)), on_latents),
    "vae": (lambda: AutoencoderKL(VAE), lambda network: network.decode(network.encode(images(3)).mode())),
    "clip": (
        lambda: CLIP(CLIPConfig(text=replace(TEXT, projection=5), vision=VISION)),
        lambda network: network(images(3), TOKENS),
    ),
    "clip, gelu": (lambda: TextEncoder(replace(TEXT, activation="gelu")), lambda network: network(TOKENS)),
    "llama": (lambda: Llama(LLAMA), lambda network: network(TOKENS)),
}


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_pickles(name, lora):
    """As it is sent to a worker that is spawned."""
    make, run = NETWORKS[name]
    network = make()
    if lora:
        add_lora(network, 2, 4.0, ["q", "k", "v"])
    randomise(network)
    copy = pickle.loads(pickle.dumps(network))
    with torch.inference_mode():
        assert torch.equal(run(copy), run(network)) and run(network).count_nonzero()


@pytest.mark.parametrize("make", [lambda: NETWORKS["unet"][0](), lambda: NETWORKS["dit"][0]()])
def test_the_initial_prediction_is_zero(make):
    assert on_latents(make()).count_nonzero() == 0


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


def test_the_autoencoders_sizes():
    vae = randomise(AutoencoderKL(VAEConfig(widths=(8, 8, 8), blocks=1, norm_groups=4, latent_channels=3)))
    x = torch.zeros(1, 3, 24, 32)
    assert vae.config.factor == 4 and vae.encode(x).mode().shape == (1, 3, 6, 8)
    assert vae.decode(torch.zeros(1, 3, 6, 8)).shape == x.shape


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
def test_the_text_encoder_is_causal(cut, seed):
    """States do not depend on later tokens."""
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


def test_pooling_takes_the_first_end_of_text():
    config = TextConfig(
        vocab_size=50, max_length=8, width=16, layers=1, heads=2, feed_forward=32, bos=48, eos=49, pad=49
    )
    encoder = randomise(TextEncoder(config))
    padded = torch.tensor([[48, 3, 4, 49, 49, 49, 49, 49]])
    with torch.inference_mode():
        assert torch.equal(pooled(encoder, padded), encoder(padded)[:, 3])
        assert torch.allclose(
            pooled(encoder, padded), pooled(encoder, torch.tensor([[48, 3, 4, 49, 0, 0, 0, 0]])), atol=1e-6
        )


def test_the_last_layer_can_be_skipped():
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


def channels_last(*shape: int, offset: float = 0.0) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + offset
    return x.to(memory_format=torch.channels_last)


def exact_norm(x: torch.Tensor, norm: GroupNorm) -> torch.Tensor:
    return group_norm(x.double().contiguous(), norm.num_groups, norm.weight.double(), norm.bias.double(), norm.eps)


@pytest.mark.parametrize("offset", [0.0, 3.0, 100.0])
@pytest.mark.parametrize(
    "shape", [(1, 32, 256, 256), (1, 64, 211, 223), (3, 64, 37, 41), (2, 640, 8, 8), (2, 32, 1, 7)]
)
def test_group_norm_in_channels_last_memory_is_exact_for_any_size_and_mean(shape, offset):
    """PyTorch's kernel is 5e-6 off for the first of these, 1e-3 with the offset; an offset itself costs digits of x."""
    norm, x = randomise(GroupNorm(32, shape[1], eps=1e-6)), channels_last(*shape, offset=offset)
    with torch.no_grad():
        y = norm(x)
        assert difference(y, exact_norm(x, norm)) < 1e-6 * (1 + offset) and y.stride() == x.stride()
        assert difference(norm(x.contiguous()), exact_norm(x, norm)) < 1e-6 * (1 + offset)
        assert torch.equal(norm_silu(norm, x), silu(y)) and torch.equal(x, channels_last(*shape, offset=offset))


@pytest.mark.parametrize("offset", [0.0, 10.0])
def test_group_norm_in_channels_last_memory_has_exact_gradients(offset):
    norm, x = randomise(GroupNorm(8, 32, eps=1e-6)), channels_last(2, 32, 80, 48, offset=offset).requires_grad_()
    towards = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    inputs = x, norm.weight, norm.bias
    ours = torch.autograd.grad(norm(x), inputs, towards)
    exact = torch.autograd.grad(exact_norm(x, norm), inputs, towards.double())
    assert ours[0].stride() == x.stride()
    for a, b in zip(ours, exact, strict=True):
        assert difference(a, b) < 1e-5 * (1 + offset)


def test_group_norm_computes_its_moments_in_float32_for_half_precision():
    """The mean of 20,000 numbers near 100 is lost where it is summed in bfloat16."""
    norm, x = GroupNorm(2, 4, eps=1e-6), channels_last(1, 4, 200, 100, offset=100.0).bfloat16()
    exact = exact_norm(x, norm)
    with torch.no_grad():
        assert difference(norm.bfloat16()(x), exact) < 0.01 * 2
        with torch.autocast("cpu", torch.bfloat16):
            assert difference(norm.float()(x), exact) < 0.01 * 2


def test_nothing_is_computed_in_place_where_a_norm_gives_back_its_input_or_gradients_are_wanted():
    x = channels_last(1, 4, 3, 3)
    with torch.no_grad():
        y = norm_silu(torch.nn.Identity(), x)
    assert torch.equal(x, channels_last(1, 4, 3, 3)) and not torch.equal(x, y)
    norm_silu(GroupNorm(2, 4), x).sum().backward()


@pytest.mark.slow
def test_group_norm_compiles_and_stays_exact():
    norm, x = randomise(GroupNorm(8, 16, eps=1e-6)), channels_last(1, 16, 64, 64, offset=3.0)
    with torch.no_grad():
        assert difference(torch.compile(norm, fullgraph=True)(x), exact_norm(x, norm)) < 1e-5
