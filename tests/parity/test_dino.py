"""DINO against transformers' vision transformer, which the published weights were converted to, and its own file."""

import json

import pytest
import torch
from conftest import randomise
from transformers import ViTConfig, ViTModel

from minip2p import checkpoints
from minip2p.config import VisionConfig
from minip2p.loading import load_dino
from parity.oracles import relative

BOUND = 1e-5
SHAPES = {  # width, heads, layers, feed-forward, picture, patch: dino_vits16, thin; heads that are not of 64; one layer
    "as vits16": (128, 2, 3, 512, 224, 16),
    "small heads": (48, 3, 2, 96, 32, 8),
    "one layer": (64, 1, 1, 80, 48, 16),
}


def theirs(shape: str) -> ViTModel:
    """All weights random: norms, biases, class token and positions too."""
    width, heads, layers, inner, size, patch = SHAPES[shape]
    config = ViTConfig(
        hidden_size=width,
        num_attention_heads=heads,
        num_hidden_layers=layers,
        intermediate_size=inner,
        image_size=size,
        patch_size=patch,
        layer_norm_eps=1e-6,
    )
    return randomise(ViTModel(config, add_pooling_layer=False), seed=width)


def authors_names(model: ViTModel) -> dict[str, torch.Tensor]:
    """The tensors as the authors' file has them, q, k and v in one; by the names that the model has in memory."""
    plain = {
        "embeddings.patch_embeddings.projection": "patch_embed.proj",
        "embeddings.cls_token": "cls_token",
        "embeddings.position_embeddings": "pos_embed",
        "layernorm": "norm",
    }
    inner = {"attention.o_proj": "attn.proj", "layernorm_before": "norm1", "layernorm_after": "norm2", "mlp": "mlp"}
    found, stacked = {}, {}
    for name, tensor in model.named_parameters():
        if name.startswith("layers."):
            _, i, rest = name.split(".", 2)
            if rest.split(".")[1] in ("q_proj", "k_proj", "v_proj"):
                stacked.setdefault(f"blocks.{i}.attn.qkv.{rest.split('.')[2]}", {})[rest.split(".")[1]] = tensor
                continue
            before = next(before for before in inner if rest.startswith(f"{before}."))
            found[f"blocks.{i}.{inner[before]}{rest.removeprefix(before)}"] = tensor
        else:
            before = next(before for before in plain if name.startswith(before))
            found[plain[before] + name.removeprefix(before)] = tensor
    parts = ("q_proj", "k_proj", "v_proj")
    return found | {name: torch.cat([each[part] for part in parts]) for name, each in stacked.items()}


@pytest.mark.parametrize(
    "shape, layout",
    [*((shape, "transformers") for shape in SHAPES), ("as vits16", "authors"), ("one layer", "authors")],
)
def test_features(shape, layout, tmp_path):
    """Of a batch of three. Their own file does not say its number of heads: those published have heads of 64."""
    model, size = theirs(shape), SHAPES[shape][4]
    if layout == "authors":
        torch.save({name: tensor.detach() for name, tensor in authors_names(model).items()}, tmp_path / "dino.pth")
        dino = load_dino(tmp_path / "dino.pth")
    else:
        model.save_pretrained(tmp_path)
        dino = load_dino(tmp_path)
    x = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        wanted = model(pixel_values=x).last_hidden_state[:, 0]
        assert relative(dino(x), wanted) < BOUND
        assert relative(wanted[:1], wanted[1:]) > 100 * BOUND  # features of one picture differ from another's


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda t: t.pop("blocks.1.attn.qkv.bias"), "missing: layers.1.attention.q.bias"),
        (lambda t: t.update(head=torch.zeros(3)), "unknown beside those of dino: head"),
        (lambda t: t.update(pos_embed=torch.zeros(1, 6, 48)), "position .*is"),
        (lambda t: t.pop("pos_embed"), "looks like a DINO, but .*pos_embed"),
        (lambda t: t.update(norm=t.pop("norm.weight")), "unknown beside"),
    ],
)
def test_a_file_that_does_not_fit_is_named(change, words, tmp_path):
    tensors = {name: tensor.detach() for name, tensor in authors_names(theirs("small heads")).items()}
    change(tensors)
    torch.save(tensors, tmp_path / "dino.pth")
    with pytest.raises(checkpoints.CheckpointError, match=words) as error:
        load_dino(tmp_path / "dino.pth")
    assert str(tmp_path / "dino.pth") in str(error.value)


def test_a_config_with_another_activation_is_refused(tmp_path):
    theirs("one layer").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_act": "relu"}))
    with pytest.raises(checkpoints.CheckpointError, match="hidden_act"):
        load_dino(tmp_path)


def test_the_published_size_is_recognised(tmp_path):
    """dino_vits16 has 21.7 million parameters in 12 layers of 384 channels."""
    from minip2p.checkpoints.dino import dino_rows
    from minip2p.checkpoints.tables import links, push
    from minip2p.models.dino import DINO

    small = VisionConfig(
        image_size=224, patch_size=16, width=384, layers=12, heads=6, feed_forward=1536, activation="gelu"
    )
    with checkpoints.on_meta():
        network = DINO(small)
    assert sum(p.numel() for p in network.parameters()) == 21_665_664
    tensors = push(
        {n: torch.zeros(p.shape, dtype=torch.half) for n, p in network.named_parameters()}, links(dino_rows(small), 1)
    )
    torch.save(tensors, tmp_path / "dino_deitsmall16_pretrain.pth")
    found = checkpoints.read(tmp_path / "dino_deitsmall16_pretrain.pth").config
    assert (found.width, found.layers, found.heads, found.feed_forward, found.image_size) == (384, 12, 6, 1536, 224)
