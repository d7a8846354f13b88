"""The four similarities against transformers' CLIP, from folders as published, with the paper's preprocessing."""

import json
import os
from functools import cache

import pytest
import torch
from conftest import randomise
from torch.nn.functional import cosine_similarity, interpolate
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

import minip2p
from minip2p.evaluation.metrics import similarities
from minip2p.text.bpe import BPE

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

pytestmark = pytest.mark.slow
BOUND = 1e-5

SHAPES = {  # patch, picture, widths, heads and layers of vision and text, projection; as ViT-B/32 ..., but thin
    "B/32": (32, 224, (48, 32), (3, 2), (3, 2), 32),
    "B/16": (16, 224, (48, 32), (3, 2), (2, 3), 32),
    "L/14": (14, 224, (64, 48), (4, 3), (4, 2), 48),
    "L/14@336": (14, 336, (32, 24), (2, 3), (1, 1), 24),
}
TEXTS_0 = [
    "a photo of a cat",
    "",
    "a very long tale of a red fox in the snow " * 20,
    "CAFÉ  &amp; 猫 👩\u200d🚀!!! <|endoftext|> what comes after the end",
]
TEXTS_1 = ["a generating of a cat", "a dog", "a very long tale of a blue fox in the snow " * 20, "naïve\n\ttabs; 12½ %"]


def pictures(seed: int) -> torch.Tensor:
    """(4, 3, 60, 97) in [0, 1], smooth and rough."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(4, 3, 60, 97, generator=generator)
    x[:2] = interpolate(torch.rand(2, 3, 5, 7, generator=generator), (60, 97), mode="bilinear")
    return x


@cache
def theirs(shape: str, activation: str = "quick_gelu", published: bool = True) -> CLIPModel:
    """transformers' model. The published configs say that a text ends at token 2, which stands for the highest id."""
    patch, size, widths, heads, layers, projection = SHAPES[shape]
    towers = [
        dict(
            hidden_size=widths[i],
            num_attention_heads=heads[i],
            num_hidden_layers=layers[i],
            intermediate_size=3 * widths[i],
            hidden_act=activation,
            projection_dim=projection,
        )
        for i in (0, 1)
    ]
    text = dict(vocab_size=49408, eos_token_id=2 if published else 49407, bos_token_id=0, pad_token_id=1)
    vision = dict(patch_size=patch, image_size=size)
    config = CLIPConfig(text_config=towers[1] | text, vision_config=towers[0] | vision, projection_dim=projection)
    return randomise(CLIPModel(config), seed=len(shape) + patch)


def folder_of(model: CLIPModel, path, one_file: bool):
    """As published: weights, config and the tokenizer, in vocab.json and merges.txt or in today's one file."""
    model.save_pretrained(path)
    if one_file:
        BPE.clip().save(path / "old")
        CLIPTokenizer.from_pretrained(path / "old").save_pretrained(path)
        for file in (path / "old").iterdir():
            file.unlink()
        assert (path / "tokenizer.json").exists() and not (path / "vocab.json").exists()
    else:
        BPE.clip().save(path)
    return path


@torch.inference_mode()
def expected(model: CLIPModel, path, images_0, images_1, texts_0, texts_1) -> list[torch.Tensor]:
    """(caption 0, caption 1, direction, image) by transformers' features and the paper's preprocessing."""
    tokenizer = CLIPTokenizer.from_pretrained(path)
    cut = dict(padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    size = model.config.vision_config.image_size
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    features = []
    for images, texts in ((images_0, texts_0), (images_1, texts_1)):
        x = interpolate(images, (size, size), mode="bicubic", align_corners=False)
        out = model(input_ids=tokenizer(texts, **cut).input_ids, pixel_values=(x - mean) / std)
        features += [out.image_embeds, out.text_embeds]
    i0, t0, i1, t1 = features
    return [cosine_similarity(a, b) for a, b in ((i0, t0), (i1, t1), (i1 - i0, t1 - t0), (i0, i1))]


def worst(ours, wanted) -> float:
    return max((a - b).abs().max().item() for a, b in zip(ours, wanted, strict=True))


@pytest.mark.parametrize(
    "shape, activation, published, one_file",
    [
        ("B/32", "quick_gelu", True, False),
        ("B/16", "quick_gelu", True, True),
        ("L/14", "quick_gelu", True, False),
        ("L/14", "gelu", False, True),
        ("L/14@336", "quick_gelu", False, False),
    ],
)
def test_similarities_of_published_folders(shape, activation, published, one_file, tmp_path):
    """Batches of pictures that are not square, with long and odd captions."""
    model = theirs(shape, activation, published)
    clip = minip2p.load_clip(folder_of(model, tmp_path, one_file))
    values = pictures(1), pictures(2), TEXTS_0, TEXTS_1
    wanted = expected(model, tmp_path, *values)
    assert worst(clip.similarities(*values), wanted) < BOUND
    assert torch.stack(wanted).std(dim=1).min() > 10 * BOUND  # what is compared differs from pair to pair


@pytest.mark.parametrize("pixels", ["paper", pytest.param("released", marks=pytest.mark.slow)])
def test_pairs_of_many_sizes_in_batches(pixels, tmp_path):
    """`metrics.similarities`, fed in [0, 1] as the paper's filter or in [-1, 1] as the authors' metric script."""
    model = theirs("B/32")
    clip = minip2p.load_clip(folder_of(model, tmp_path, one_file=True))
    images = [[x[:, : 60 - 9 * i, i:] for i, x in enumerate(pictures(seed))] for seed in (3, 4)]
    found = similarities(clip, *images, TEXTS_0, TEXTS_1, pixels=pixels, batch_size=3)
    fed = [[x if pixels == "paper" else 2 * x - 1 for x in each] for each in images]
    wanted = [
        expected(model, tmp_path, a[None], b[None], [t], [u]) for a, b, t, u in zip(*fed, TEXTS_0, TEXTS_1, strict=True)
    ]
    assert worst(found, map(torch.cat, zip(*wanted))) < BOUND


def test_the_two_ways_of_feeding_pixels_differ(tmp_path):
    clip = minip2p.load_clip(folder_of(theirs("B/32"), tmp_path, one_file=False))
    values = list(pictures(3)), list(pictures(4)), TEXTS_0, TEXTS_1
    paper, released = (similarities(clip, *values, pixels=pixels) for pixels in ("paper", "released"))
    assert worst(paper, released) > 100 * BOUND


def test_a_folder_without_a_tokenizer_has_clips_own(tmp_path):
    model = theirs("B/32")
    model.save_pretrained(tmp_path / "bare")
    BPE.clip().save(tmp_path / "words")
    values = pictures(1), pictures(2), TEXTS_0, TEXTS_1
    clip = minip2p.load_clip(tmp_path / "bare")
    assert worst(clip.similarities(*values), expected(model, tmp_path / "words", *values)) < BOUND


def test_old_weights_and_short_configs(tmp_path):
    """A pickle with index buffers, and a config that says only what is not transformers' default."""
    model = theirs("B/32")
    folder_of(model, tmp_path, one_file=False)
    tensors = model.state_dict() | {
        "text_model.embeddings.position_ids": torch.arange(77)[None],
        "vision_model.embeddings.position_ids": torch.arange(50)[None],
    }
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    heads = {"text_config": {"num_attention_heads": 2}, "vision_config": {"num_attention_heads": 3}}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip", **heads}))
    values = pictures(1), pictures(2), TEXTS_0, TEXTS_1
    wanted = expected(model, tmp_path, *values)
    assert worst(minip2p.load_clip(tmp_path).similarities(*values), wanted) < BOUND
