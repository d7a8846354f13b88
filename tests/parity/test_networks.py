"""Our networks against diffusers' and transformers', with random weights, loaded through each of three layouts."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from minip2p import checkpoints
from minip2p.models.clip import CLIP, pooled
from minip2p.models.text_encoder import TextEncoder
from minip2p.models.unet import UNet
from minip2p.models.vae import AutoencoderKL

from .oracles import WORDS, clip_oracle, oracle, without_header

BOUND = 2e-5
NETWORKS = {"unet": UNet, "vae": AutoencoderKL, "text": TextEncoder}
LAYOUTS = ("diffusers", "safetensors", "ckpt", "minip2p")


@pytest.fixture(scope="module", params=["sd1", "sd2", "editor"])
def theirs(request):
    return oracle(request.param)


@pytest.fixture(scope="module", params=LAYOUTS)
def loaded(request, theirs, tmp_path_factory):
    """The oracle's weights as read from a folder that diffusers wrote, and from files made of it."""
    folder = tmp_path_factory.mktemp(request.param)
    theirs.save(folder / "diffusers")
    first = checkpoints.read(folder / "diffusers")
    if request.param == "diffusers":
        assert first.config == theirs.config
        return first
    if request.param == "minip2p":
        checkpoints.write(folder / "own.safetensors", "minip2p", first.config, first.parts)
        return checkpoints.read(folder / "own.safetensors")
    file = published(folder, first, request.param)
    again = checkpoints.read(file)
    sd2 = theirs.config.unet.linear_projection
    assert again.config == replace(
        without_header(theirs.config), text=replace(theirs.config.text, pad=0 if sd2 else WORDS - 1)
    )
    assert len(again.notes) == sd2
    return again


def published(folder, first, kind):
    """An original file with nothing of ours in its header, and with what published ones have beside the weights."""
    checkpoints.write(folder / "a.safetensors", "original", first.config, first.parts)
    tensors = load_file(folder / "a.safetensors")
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alphas = torch.cumprod(1 - betas, 0)
    tensors |= {"betas": betas, "alphas_cumprod": alphas, "sqrt_recip_alphas_cumprod": alphas.rsqrt()}
    if (
        first.config.text.activation == "gelu"
    ):  # OpenCLIP's whole tower: its last layer, which nobody runs, and its projection
        last = {n.replace("resblocks.2", "resblocks.3"): t.clone() for n, t in tensors.items() if "resblocks.2" in n}
        model = "cond_stage_model.model."
        tensors |= last | {model + "text_projection": torch.rand(128, 128), model + "logit_scale": torch.tensor(1.0)}
    else:
        tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(20)[None]
    if kind == "safetensors":
        save_file(tensors, folder / "b.safetensors")
        return folder / "b.safetensors"
    torch.save({"epoch": 3, "state_dict": tensors, "callbacks": {torch.nn.Linear: {"mode": "min"}}}, folder / "b.ckpt")
    return folder / "b.ckpt"


def network(loaded, part):
    with torch.device("meta"):
        module = NETWORKS[part](getattr(loaded.config, part))
    checkpoints.assign(module, loaded.parts[part], source=loaded.path, names=loaded.names[part])
    return module.eval()


def error(ours, theirs):
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@torch.inference_mode()
def test_unet(loaded, theirs):
    g = torch.Generator().manual_seed(1)
    z = torch.randn(3, theirs.config.unet.in_channels, 8, 12, generator=g)
    t, text = torch.tensor([0.0, 417.31, 998.7]), torch.randn(3, 7, 128, generator=g)
    assert error(network(loaded, "unet")(z, t, text), theirs.unet(z, t, text).sample) < BOUND


@torch.inference_mode()
def test_vae(loaded, theirs):
    vae, g = network(loaded, "vae"), torch.Generator().manual_seed(2)
    x, z = torch.rand(2, 3, 16, 28, generator=g) * 2 - 1, torch.randn(2, 4, 3, 5, generator=g)
    ours, wanted = vae.encode(x), theirs.vae.encode(x).latent_dist
    assert error(ours.mean, wanted.mean) < BOUND and error(ours.logvar, wanted.logvar) < BOUND
    assert error(vae.decode(z), theirs.vae.decode(z).sample) < BOUND


@torch.inference_mode()
def test_text_encoder(loaded, theirs):
    tokens = torch.randint(0, WORDS, (3, 20), generator=torch.Generator().manual_seed(3))
    wanted = theirs.text_encoder(tokens).last_hidden_state
    assert error(network(loaded, "text")(tokens), wanted) < BOUND


@torch.inference_mode()
def test_penultimate_layer():
    """`skip_last=1` is the tower of one layer less."""
    theirs = oracle("sd2").text_encoder
    tokens = torch.randint(0, WORDS, (2, 20), generator=torch.Generator().manual_seed(4))
    states = theirs(tokens, output_hidden_states=True).hidden_states[-2]
    norm = getattr(theirs, "text_model", theirs).final_layer_norm
    tower = TextEncoder(replace(oracle("sd2").config.text, skip_last=1)).eval()
    _, parts = originals(oracle("sd2"), "text")
    tower.load_state_dict(parts)
    assert error(tower(tokens), norm(states)) < BOUND


def originals(theirs, part):
    """Our config of an oracle's part, and its weights under our names, straight through the table."""
    from minip2p.checkpoints.clip import with_text_model
    from minip2p.checkpoints.tables import links, pull, text_rows

    return theirs.config, pull(
        with_text_model(theirs.parts[part].state_dict()), links(text_rows(theirs.config.text), 2)
    )[0]


@pytest.mark.parametrize("names", ["transformers", "openai", "minip2p"])
@torch.inference_mode()
def test_clip(names, tmp_path):
    """Features of both towers, with transformers' names, OpenAI's (fused, transposed) and our own file."""
    from minip2p.checkpoints.tables import LOGIT_SCALE, links, push, text_rows, vision_rows

    theirs, config = clip_oracle()
    theirs.save_pretrained(tmp_path / "clip")
    loaded = checkpoints.read(tmp_path / "clip")
    assert loaded.config == config
    if names == "openai":
        rows = {"text": text_rows(config.text), "vision": vision_rows(config.vision), "logit_scale": LOGIT_SCALE}
        tensors = {
            n: t.contiguous()
            for part, each in rows.items()
            for n, t in push(loaded.parts[part], links(each, 1)).items()
        }
        save_file(tensors, tmp_path / "openai.safetensors")
        loaded = checkpoints.read(tmp_path / "openai.safetensors")
        assert loaded.config == config
    if names == "minip2p":
        checkpoints.write(tmp_path / "own.safetensors", "minip2p", config, loaded.parts)
        loaded = checkpoints.read(tmp_path / "own.safetensors")
    with torch.device("meta"):
        ours = CLIP(loaded.config)
    checkpoints.assign(ours, loaded.joined(), source=loaded.path, names=loaded.joined_names())
    g = torch.Generator().manual_seed(5)
    tokens, pixels = torch.randint(0, WORDS - 1, (3, 20), generator=g), torch.randn(2, 3, 28, 28, generator=g)
    tokens[0, 3], tokens[1, 19], tokens[2, 7:] = WORDS - 1, WORDS - 1, WORDS - 1
    out = theirs(input_ids=tokens, pixel_values=pixels)
    unit = torch.nn.functional.normalize
    assert error(unit(pooled(ours.text, tokens), dim=-1), out.text_embeds) < BOUND
    assert error(unit(ours.vision(pixels), dim=-1), out.image_embeds) < BOUND
    assert torch.equal(ours.logit_scale, theirs.logit_scale)
