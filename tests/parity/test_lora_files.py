"""LoRA files against diffusers with PEFT: what both read of one file, and what diffusers reads of ours."""

import copy

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

import minip2p
from minip2p.checkpoints import write_lora
from minip2p.nn.lora import add_lora, halves
from minip2p.training.diffusion import LORA_LAYERS

from .oracles import VOCABULARY, WORDS, oracle, relative, write_folder

BOUND = 1e-5
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
UNET_LAYERS = {
    "attention": ATTENTION,
    "all": [*ATTENTION, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2", "conv_shortcut"]
    + ["time_emb_proj", "downsamplers.0.conv", "upsamplers.0.conv", "linear_1", "conv_in", "conv_out"],
}
TEXT_LAYERS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]


@pytest.fixture(autouse=True)
def earlier_peft(monkeypatch):
    """transformers refuses a PEFT older than the newest, also for what has not changed."""
    monkeypatch.setattr("transformers.integrations.peft.MIN_PEFT_VERSION", "0.13.0", raising=False)


@pytest.fixture(scope="module", params=["editor", "sd2"])
def base(request, tmp_path_factory):
    """(name, folder) of a model: projections by convolutions and by linear layers."""
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, write_folder(oracle(request.param), folder / "base", VOCABULARY)


def theirs(name: str) -> StableDiffusionPipeline:
    """diffusers' pipeline of the oracle's UNet and text encoder, to which LoRA can be added."""
    nets = oracle(name)
    parts = {part: copy.deepcopy(getattr(nets, part)) for part in ("unet", "text_encoder")}
    more = dict.fromkeys(("tokenizer", "safety_checker", "feature_extractor"))
    return StableDiffusionPipeline(
        vae=nets.vae, scheduler=nets.scheduler, requires_safety_checker=False, **parts, **more
    )


def made(name: str, **how):
    """diffusers' pipeline with a random LoRA of PEFT in both networks."""
    pipe = theirs(name)
    for network, targets in ((pipe.unet, UNET_LAYERS["all"]), (pipe.text_encoder, TEXT_LAYERS)):
        network.add_adapter(LoraConfig(target_modules=targets, init_lora_weights=False, **how))
        randomise_lora(network)
    return pipe


def randomise_lora(network) -> None:
    torch.manual_seed(5)
    for name, weight in network.named_parameters():
        if "lora_A" in name or name.endswith(".down"):
            torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
        elif "lora_B" in name or name.endswith(".up"):
            torch.nn.init.normal_(weight, std=0.3)


def random_lora(name: str, layers: str) -> dict[str, torch.Tensor]:
    """A random LoRA of rank 4 under PEFT's names, with the prefixes that diffusers writes."""
    g, found = torch.Generator().manual_seed(6), {}
    for part, targets in (("unet", UNET_LAYERS[layers]), ("text_encoder", TEXT_LAYERS)):
        for layer, module in getattr(oracle(name), part).named_modules():
            if any(f".{layer}".endswith(f".{target}") for target in targets):
                out, *into = module.weight.shape
                scale = module.weight[0].numel() ** -0.5
                found[f"{part}.{layer}.lora_A.weight"] = scale * torch.randn(4, *into, generator=g)
                found[f"{part}.{layer}.lora_B.weight"] = 0.3 * torch.randn(out, 4, *[1] * len(into[1:]), generator=g)
    return found


@torch.inference_mode()
def answers(unet, text_encoder, channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of either library's networks, to the same inputs."""
    g = torch.Generator().manual_seed(4)
    z, text = torch.randn(2, channels, 8, 12, generator=g), torch.randn(2, 7, 128, generator=g)
    prediction, states = (
        unet(z, torch.tensor([3.0, 871.0]), text),
        text_encoder(torch.randint(0, WORDS, (2, 20), generator=g)),
    )
    return getattr(prediction, "sample", prediction), getattr(states, "last_hidden_state", states)


def compare(folder, name: str, file, pipe, weight: float, bound: float = BOUND) -> None:
    """Our model with the file, and diffusers' pipeline, answer alike; and not as without the file."""
    channels = oracle(name).config.unet.in_channels
    own, nets = minip2p.load(folder, lora=[(file, weight)]), oracle(name)
    wanted = answers(pipe.unet, pipe.text_encoder, channels)
    without = answers(nets.unet, nets.text_encoder, channels)
    for ours, right, before in zip(answers(own.unet, own.text_encoder, channels), wanted, without, strict=True):
        assert relative(ours, right) < bound, relative(ours, right)
        assert relative(before, right) > 0.03, relative(before, right)


def read_by_them(name: str, file, weight: float):
    pipe = theirs(name)
    pipe.load_lora_weights(file.parent, weight_name=file.name, adapter_name="a")
    pipe.set_adapters(["a"], [weight])
    return pipe


@pytest.mark.slow
def test_files_of_todays_diffusers(base, tmp_path):
    """Alpha is in the header: 6 at rank 4, another one for some layers; what divides it is the rank, or its root."""
    name, folder = base
    pipe = made(name, r=4, lora_alpha=6, alpha_pattern={"to_k": 3, "fc1": 1}, use_rslora=name == "sd2")
    parts = {"unet": pipe.unet, "text_encoder": pipe.text_encoder}
    layers = {f"{part}_lora_layers": get_peft_model_state_dict(network) for part, network in parts.items()}
    StableDiffusionPipeline.save_lora_weights(tmp_path, **layers, **_collate_lora_metadata(parts))
    compare(folder, name, tmp_path, pipe, 1.0)
    file = tmp_path / "pytorch_lora_weights.safetensors"
    compare(folder, name, file, read_by_them(name, file, 0.8), 0.8)


def spelled(kind: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """PEFT's names as others spell them."""
    found = {}
    for name, tensor in tensors.items():
        layer, _, half = name.removesuffix(".weight").rpartition(".lora_")
        half = {"A": "down", "B": "up"}[half]
        text = layer.startswith("text_encoder.")
        if kind == "kohya":
            layer = layer.replace("text_encoder.", "lora_te_").replace("unet.", "lora_unet_")
            layer = layer.replace("lora_te_encoder", "lora_te_text_model_encoder").replace(".", "_")
            found[f"{layer}.lora_{half}.weight"] = tensor
            found[f"{layer}.alpha"] = torch.tensor(2.5)
        elif text:
            found[f"{layer}.lora_linear_layer.{half}.weight"] = tensor
        else:
            place, _, leaf = layer.removesuffix(".0").rpartition(".")
            found[f"{place}.processor.{leaf}_lora.{half}.weight"] = tensor
    return found


@pytest.mark.parametrize(
    "base, kind, layers",
    [("editor", "kohya", "all"), ("sd2", "kohya", "all"), ("sd2", "processor", "attention")],
    indirect=["base"],
)
def test_files_of_kohya_and_of_earlier_diffusers(kind, layers, base, tmp_path):
    """Convolutions of 1x1 and 3x3; kohya's alpha is not the rank (and the same everywhere: diffusers loses others)."""
    name, folder = base
    file = tmp_path / "a.safetensors"
    save_file(spelled(kind, random_lora(name, layers)), file)
    compare(folder, name, file, read_by_them(name, file, 0.8), 0.8)


@pytest.mark.parametrize("base", ["sd2"], indirect=True)
def test_adapters_that_peft_saves(base, tmp_path):
    """One network in a folder, its alpha in adapter_config.json."""
    name, folder = base
    pipe = theirs(name)
    adapter = get_peft_model(pipe.unet, LoraConfig(target_modules=ATTENTION, r=2, lora_alpha=3))
    randomise_lora(adapter)
    adapter.save_pretrained(tmp_path)
    own = minip2p.load(folder, lora=tmp_path).unet
    channels = oracle(name).config.unet.in_channels
    wanted = answers(adapter, pipe.text_encoder, channels)[0]
    assert relative(answers(own, pipe.text_encoder, channels)[0], wanted) < BOUND


def test_what_we_train_is_read_by_diffusers(base, tmp_path):
    """Our layers with LoRA, our file merged by us, and our file in diffusers are one function (alpha 5, rank 3)."""
    name, folder = base
    pipe, file = minip2p.load(folder, inference=False), tmp_path / "lora.safetensors"
    add_lora(pipe.unet, 3, 5.0, LORA_LAYERS)
    randomise_lora(pipe.unet)
    write_lora(file, pipe.config, halves(pipe.unet), [], {})
    diffusers, nets = theirs(name), oracle(name)
    diffusers.load_lora_weights(tmp_path, weight_name=file.name)
    channels = nets.config.unet.in_channels
    live, wanted, merged, before = (
        answers(unet, nets.text_encoder, channels)[0]
        for unet in (pipe.unet, diffusers.unet, minip2p.load(folder, lora=file).unet, nets.unet)
    )
    assert relative(live, wanted) < BOUND and relative(merged, wanted) < BOUND and relative(before, wanted) > 0.03
