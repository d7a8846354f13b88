"""LoRA files: what merging makes of a layer, how layers are spelled, what is refused, and the option of the commands.

Against diffusers and PEFT: parity/test_lora_files.py.
"""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import difference, small_pipeline
from helpers_cli import edit, pixels
from helpers_training import config_of, finish
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.nn.functional import conv2d

import minip2p
from minip2p import checkpoints
from minip2p.cli import main, metadata
from minip2p.cli.arguments import loras
from minip2p.loading import lora_files

DOWN, OUR_DOWN = "unet.down_blocks.0.attentions.0", "unet.down.0.attention.0"
BLOCK, OUR_BLOCK = f"{DOWN}.transformer_blocks.0", f"{OUR_DOWN}.blocks.0"
LAYERS = {
    f"{BLOCK}.attn1.to_q": f"{OUR_BLOCK}.attentions.0.q",
    f"{BLOCK}.attn1.to_out.0": f"{OUR_BLOCK}.attentions.0.out",
    f"{BLOCK}.attn2.to_k": f"{OUR_BLOCK}.attentions.1.k",
    f"{BLOCK}.ff.net.0.proj": f"{OUR_BLOCK}.ff.into",
    f"{DOWN}.proj_in": f"{OUR_DOWN}.into",
    "unet.down_blocks.1.resnets.0.conv1": "unet.down.1.res.0.conv_1",
    "unet.down_blocks.0.downsamplers.0.conv": "unet.down.0.resample.conv",
    "unet.conv_in": "unet.conv_in",
    "text_encoder.text_model.encoder.layers.1.self_attn.out_proj": "text.layers.1.attention.out",
    "text_encoder.text_model.encoder.layers.0.mlp.fc2": "text.layers.0.linear_2",
}
"""a layer as diffusers names it -> as we do"""
ATTENTION = next(iter(LAYERS))
ORIGINAL = {
    DOWN: "unet.input_blocks.1.1",
    "unet.down_blocks.1.resnets.0.conv1": "unet.input_blocks.3.0.in_layers.2",
    "unet.down_blocks.0.downsamplers.0.conv": "unet.input_blocks.2.0.op",
    "unet.conv_in": "unet.input_blocks.0.0",
}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A small editor, as a file."""
    path = tmp_path_factory.mktemp("base") / "base.safetensors"
    checkpoints.write(path, "minip2p", small_pipeline().config, parts_of(small_pipeline()))
    return path


def parts_of(pipe) -> dict[str, dict[str, torch.Tensor]]:
    return {part: dict(network.state_dict()) for part, network in pipe.parts.items()}


def merged(base: Path, *files, dtype=torch.float32) -> dict[str, torch.Tensor]:
    """All tensors of the checkpoint with these LoRA files, under our names."""
    loaded = checkpoints.read(base)
    checkpoints.merge_lora(loaded, lora_files(files), dtype)
    return loaded.joined()


def lora_of(base: Path, rank: int = 3, seed: int = 0, layers=LAYERS) -> dict[str, torch.Tensor]:
    """Random halves for these layers, under PEFT's names."""
    g, tensors, found = torch.Generator().manual_seed(seed), checkpoints.read(base).joined(), {}
    for theirs, ours in layers.items():
        out, *into = tensors[f"{ours}.weight"].shape
        found[f"{theirs}.lora_A.weight"] = torch.randn(rank, *into, generator=g)
        found[f"{theirs}.lora_B.weight"] = torch.randn(out, rank, *[1] * len(into[1:]), generator=g)
    return found


@pytest.fixture
def file(base, tmp_path) -> Path:
    save_file(lora_of(base), tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def test_a_merged_layer_is_its_base_and_the_two_small_layers_in_a_row(base, file):
    """Linear ones and convolutions of 1x1, 3x3 and stride 2; layers without a LoRA keep each bit."""
    before, after, small = checkpoints.read(base).joined(), merged(base, (file, 0.7)), load_file(file)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {f"{name}.weight" for name in LAYERS.values()}
    for theirs, ours in LAYERS.items():
        was, now = before[f"{ours}.weight"], after[f"{ours}.weight"]
        down, up = small[f"{theirs}.lora_A.weight"], small[f"{theirs}.lora_B.weight"]
        x = torch.randn(2, was.shape[1], 6, 6) if was.ndim == 4 else torch.randn(2, was.shape[1])
        if was.ndim == 2:
            change, wanted = x @ (now - was).T, x @ down.T @ up.T
        else:
            change, wanted = conv2d(x, now - was, stride=2), conv2d(conv2d(x, down, stride=2), up)
        assert difference(change, 0.7 * wanted) < 1e-5, theirs


def spelled(name: str, kind: str) -> str:
    layer, half = name.removesuffix(".weight").split(".lora_")
    other = {"A": "down", "B": "up"}[half]
    if kind == "adapter's name":
        return f"{layer}.lora_{half}.default_0.weight"
    if kind == "no text_model":
        return name.replace("text_model.", "")
    if kind == "lora.down":
        return f"{layer}.lora.{other}.weight"
    if kind == "lora_linear_layer":
        return f"{layer}.lora_linear_layer.{other}.weight"
    if kind == "processor":
        place, _, leaf = layer.removesuffix(".0").rpartition(".")
        leaf = {"out_proj": "to_out"}.get(leaf, leaf)
        attends = leaf.startswith("to_")
        return f"{place}.processor.{leaf}_lora.{other}.weight" if attends else f"{layer}.lora.{other}.weight"
    if kind == "the first diffusers":
        return spelled(name, "processor").removeprefix("unet.")
    if kind == "original":
        start = next((start for start in ORIGINAL if layer.startswith(start)), "")
        layer = ORIGINAL.get(start, "") + layer.removeprefix(start)
    layer = layer.replace("unet.", "lora_unet_").replace("text_encoder.", "lora_te_").replace(".", "_")
    return f"{layer}.lora_{other}.weight"


@pytest.mark.parametrize(
    "kind",
    ["kohya", "original", "adapter's name", "no text_model", "lora.down", "lora_linear_layer", "processor"]
    + ["the first diffusers"],
)
@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_all_spellings_of_a_file_are_one(kind, ending, base, file, tmp_path):
    tensors = {spelled(name, kind): tensor for name, tensor in load_file(file).items()}
    other = tmp_path / f"b.{ending}"
    save_file(tensors, other) if ending == "safetensors" else torch.save(tensors, other)
    one, two = merged(base, file), merged(base, other)
    assert not tensors.keys() & load_file(file).keys() or kind == "no text_model"
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_weight_of_zero_changes_no_bit(base, file):
    before, after = checkpoints.read(base).joined(), merged(base, (file, 0))
    assert all(before[n].numpy().tobytes() == after[n].numpy().tobytes() for n in before)


@settings(max_examples=5)
@given(first=st.floats(-2, 2), second=st.floats(-2, 2))
def test_two_files_commute_and_add(first, second, base, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()
    for name, seed, rank in (("one", 1, 2), ("two", 2, 5)):
        if not (folder / f"{name}.safetensors").exists():
            save_file(lora_of(base, rank, seed), folder / f"{name}.safetensors")
    one, two = (folder / "one.safetensors", first), (folder / "two.safetensors", second)
    before, ab, ba, a, b = (merged(base, *files) for files in ((), (one, two), (two, one), (one,), (two,)))
    for name in (f"{each}.weight" for each in LAYERS.values()):
        torch.testing.assert_close(ab[name], ba[name], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ab[name] - before[name], a[name] + b[name] - 2 * before[name], rtol=1e-4, atol=1e-4)


CONFIG = {"unet.r": 3, "unet.lora_alpha": 6, "unet.alpha_pattern": {"attn1.to_q": 12, "^conv_in": 1.5}}


@pytest.mark.parametrize(
    "alpha, header, scale, of_conv_in, of_text",
    [
        (None, {}, 1, 1, 1),
        (1.5, {}, 0.5, 1, 1),
        (None, CONFIG, 4, 0.5, 1),
        (1.5, CONFIG, 0.5, 0.5, 1),
        (None, CONFIG | {"unet.use_rslora": True, "text_encoder.lora_alpha": 9}, 12 / 3**0.5, 1.5 / 3**0.5, 3),
    ],
)
def test_alpha_is_the_files_own_then_pefts_then_the_rank(alpha, header, scale, of_conv_in, of_text, base, tmp_path):
    chosen = {n: o for n, o in LAYERS.items() if n in (ATTENTION, "unet.conv_in") or n.startswith("text")}
    tensors = lora_of(base, layers=chosen)
    own = {} if alpha is None else {f"{ATTENTION}.alpha": torch.tensor(alpha)}
    files = [tmp_path / "a.safetensors", tmp_path / "plain.safetensors"]
    save_file(tensors | own, files[0], {"lora_adapter_metadata": json.dumps(header)} if header else None)
    save_file(tensors, files[1])
    before, after, plain = merged(base), merged(base, files[0]), merged(base, files[1])
    for theirs, ours in chosen.items():
        wanted = scale if theirs == ATTENTION else of_text if theirs.startswith("text") else of_conv_in
        name = f"{ours}.weight"
        assert difference(after[name] - before[name], wanted * (plain[name] - before[name])) < 1e-5, theirs


def test_sums_are_rounded_once(base, file, tmp_path):
    """To the dtype asked for, or to the checkpoint's own: also of weights that lie there in half precision."""
    loaded = checkpoints.read(base)
    checkpoints.write(tmp_path / "half.safetensors", "minip2p", loaded.config, loaded.parts, dtype=torch.float16)
    half, name = tmp_path / "half.safetensors", "unet.conv_in.weight"
    full = merged(half, (file, 0.3))[name]
    assert full.dtype == torch.float32 and not torch.equal(full.half().float(), full)
    for dtype in (None, torch.float16):
        assert torch.equal(merged(half, (file, 0.3), dtype=dtype)[name], full.half())
    with pytest.raises(checkpoints.CheckpointError, match="weight with the LoRA merged in .* too large for float16"):
        merged(half, (file, 1e5), dtype=None)


def refused(base: Path, path: Path, match: str) -> None:
    with pytest.raises(checkpoints.CheckpointError, match=match) as error:
        minip2p.load(base, lora=path)
    assert "\n" not in str(error.value) and path.name in str(error.value)


Q = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
K = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
PAIR = {f"{Q}.lora_down.weight": (4, 32), f"{Q}.lora_up.weight": (32, 4)}
XL = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight"


@pytest.mark.parametrize(
    "shapes, match",
    [
        (
            PAIR | {"unet.nothing.lora_A.weight": (2, 3)},
            "1 of 3 .* no layer of this unet and text encoder: e.g. unet.noth",
        ),
        (PAIR | {"global_step": (1,)}, "1 of 3 tensors belong to no layer.*global_step; expected layers such as unet_"),
        (PAIR | {f"{K}.alpha": ()}, "1 layers have an alpha and nothing else"),
        (PAIR | {f"{K}.lora_up.weight": (32, 4)}, "1 layers lack a half: .*to_k.lora_up.weight is there, its down"),
        ({f"{Q}.lora_down.weight": (4, 32)}, "1 layers lack a half: .*lora_down.weight is there, its up"),
        (PAIR | {f"{Q}.lora_up.weight": (32, 5)}, r"down \(A\) is \(4, 32\), up \(B\) is \(32, 5\); expected one rank"),
        (PAIR | {f"{Q}.lora_down.weight": (4, 40)}, r"for a layer of shape \(32, 40\), this model's is \(32, 32\)"),
        (PAIR | {f"{Q}.lora_down.weight": (4, 32, 3, 3)}, r"for a layer of shape \(32, 32, 3, 3\)"),
        (PAIR | {f"{Q}.lora_down.weight": (4,)}, "expected one rank in both"),
        (PAIR | {f"{Q}.lora_down.weight": (0, 32), f"{Q}.lora_up.weight": (32, 0)}, "expected one rank in both"),
        (PAIR | {f"{Q.replace('lora_unet_', 'unet.')}.lora_A.weight": (4, 32)}, "are for one layer"),
        (PAIR | {f"{Q}.alpha": (2,)}, "alpha is no positive number"),
        (
            {XL: (4, 2048), XL.replace("down.w", "up.w"): (640, 4)},
            r"texts of width 2048 \(Stable Diffusion XL\).* width 32",
        ),
        (PAIR | {f"{K}.lora_down.weight": (4, 768)}, r"texts of width 768 \(Stable Diffusion 1\), by .*to_k"),
        ({"lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (4, 768)}, "Stable Diffusion XL"),
        (
            {f"{Q}.hada_w1_a": (4, 4), f"{Q}.hada_w1_b": (4, 4)},
            "LoHa, e.g. .*hada_w1_a, .* not read; expected LoRA: lora_A",
        ),
        ({f"{Q}.lokr_w1": (4, 4)}, "LoKr"),
        (PAIR | {f"{Q}.dora_scale": (32, 1)}, "DoRA"),
        (PAIR | {f"unet.{K}.lora_magnitude_vector": (32,)}, "DoRA"),
        (PAIR | {f"{Q}.lora_mid.weight": (4, 4, 3, 3)}, "Tucker"),
        (PAIR | {f"unet.{Q}.lora_B.bias": (32,)}, "with biases"),
        (PAIR | {"unet.conv_in.diff": (4,)}, "differences of whole layers"),
        ({"text_encoder.text_model.embeddings.token_embedding.lora_embedding_A": (4, 400)}, "LoRA of embeddings"),
        ({"text_encoder.text_model.embeddings.token_embedding.lora_A.weight": (4, 32)}, "no layer"),
        (PAIR | {"unet.conv_norm_out.lora_A.weight": (4, 32)}, "no layer"),
        ({"unet.conv_in.weight": (4, 4)}, "holds no LoRA, but e.g. unet.conv_in.weight; expected lora_A and lora_B"),
        ({}, "holds no LoRA, but nothing"),
    ],
)
def test_what_is_not_merged_is_named(shapes, match, base, tmp_path):
    save_file({name: torch.ones(shape) for name, shape in shapes.items()}, tmp_path / "x.safetensors")
    refused(base, tmp_path / "x.safetensors", match)


def test_values_that_are_not_merged(base, file, tmp_path):
    tensors, path = load_file(file), tmp_path / "x.safetensors"
    for change, header, match in (
        ({f"{ATTENTION}.lora_A.weight": torch.full((3, 32), torch.nan)}, None, "to_q.lora_A.weight holds NaN"),
        ({f"{ATTENTION}.alpha": torch.tensor(-1.0)}, None, "alpha is no positive number"),
        ({f"{ATTENTION}.alpha": torch.tensor(torch.inf)}, None, "alpha is no positive number"),
        ({}, {"lora_adapter_metadata": "{"}, "lora_adapter_metadata: not JSON"),
        ({}, {"lora_adapter_metadata": '{"unet.lora_alpha": "x"}'}, "lora_alpha = 'x': expected a number"),
        ({}, {"lora_adapter_metadata": '{"unet.use_dora": true}'}, "use_dora = True"),
        ({}, {"lora_adapter_metadata": '{"unet.alpha_pattern": {"(a+)+": 1}}'}, r"alpha_pattern has '\(a\+\)\+'"),
        ({}, {"minip2p": '{"whole": 3}'}, "whole: 3: expected a list"),
    ):
        save_file(tensors | change, path, header)
        refused(base, path, match)
    for weight in (float("nan"), 1e7, "1"):
        with pytest.raises(ValueError, match=r"weight of .*a.safetensors"):
            minip2p.load(base, lora=(file, weight) if weight != "1" else [(file, weight)])
    with pytest.raises(FileNotFoundError, match="none.safetensors: no such LoRA file"):
        minip2p.load(base, lora="none.safetensors")
    with pytest.raises(FileNotFoundError, match="pytorch_lora_weights.safetensors: no such LoRA file"):
        minip2p.load(base, lora=base.parent)
    save_file({f"base_model.model.{n.removeprefix('unet.')}": t for n, t in tensors.items() if "unet" in n}, path)
    with pytest.raises(checkpoints.CheckpointError, match="adapter_config.json: no such file"):
        minip2p.load(base, lora=path)


def test_damaged_files_are_refused_or_read(base, file, tmp_path):
    """In one line; never another error."""
    whole, rng, errors = file.read_bytes(), random.Random(0), 0
    loaded = checkpoints.read(base)
    length = int.from_bytes(whole[:8], "little") + 8
    for _ in range(100):
        broken = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            broken[rng.randrange(length)] = rng.randrange(256)
        (tmp_path / "x").write_bytes(broken)
        try:
            checkpoints.merge_lora(replace(loaded, parts={**loaded.parts}), [(tmp_path / "x", 1.0)], None)
        except (checkpoints.CheckpointError, FileNotFoundError) as error:
            errors += "\n" not in str(error)
    assert errors > 50


# What is written


def test_what_is_written_is_read_as_it_was(tmp_path, base):
    """To the bit, for a UNet under diffusers' names and for another denoiser under ours."""
    loaded, path = checkpoints.read(base), tmp_path / "lora.safetensors"
    layers = {
        "down.0.attention.0.blocks.0.attentions.0.q": (torch.randn(2, 32), torch.randn(32, 2)),
        "up.1.attention.0.out": (torch.randn(2, 32), torch.randn(32, 2)),
    }
    checkpoints.write_lora(path, loaded.config, layers, ["conv_in", "the text encoder"], {"done": {"steps": 3}})
    assert set(load_file(path)) == {
        f"unet.{layer}.lora_{half}.weight"
        for layer in (ATTENTION.removeprefix("unet."), "up_blocks.1.attentions.0.proj_out")
        for half in "AB"
    }
    read = checkpoints.lora.read_lora(path, loaded)
    assert {place for place in read} == {("unet", f"{name}.weight") for name in layers}
    for name, (down, up) in layers.items():
        layer = read["unet", f"{name}.weight"]
        assert torch.equal(layer.down, down) and torch.equal(layer.up, up) and layer.scale == 1
    assert "not all that was trained: conv_in, the text encoder learned without LoRA" in loaded.notes[0]
    parts = loaded.parts | {"dit": loaded.parts["unet"]}
    dit = replace(loaded, config=replace(loaded.config, denoiser="dit"), parts=parts)
    checkpoints.write_lora(path, dit.config, layers, [], {})
    assert checkpoints.lora.read_lora(path, dit).keys() == {("dit", f"{name}.weight") for name in layers}
    refused(base, path, "no layer of this unet and text encoder: e.g. dit.down.0")


def test_a_run_writes_its_lora(text2image, pairs, tmp_path):
    """Merged into what the run started from it is the run's model, which is rounded to float16. Here the inputs for the
    source image were new: they are in the model alone, and loading says so."""
    words = ["lora_rank=2", "lora_alpha=5", "lora_also=('conv_in',)", "train.steps=2", "train.learning_rate=0.02"]
    finish(config_of(pairs, text2image, *words), tmp_path, text2image)
    lora, model = tmp_path / "lora.safetensors", checkpoints.read(tmp_path / "model.safetensors").joined()
    with_lora, before = merged(text2image, lora), checkpoints.read(text2image).joined()
    whole = {"unet.conv_in.weight", "unet.conv_in.bias"}
    for name in model.keys() - whole:
        assert difference(with_lora[name], model[name].float()) < 2e-3, name
    changed = {name for name in before if not torch.equal(before[name], with_lora[name])}
    assert len(changed) == len(load_file(lora)) / 2 > 10 and not changed & whole
    notes = minip2p.load(text2image, lora=lora).notes
    assert any("not all that was trained: conv_in learned without LoRA" in note for note in notes)
    assert json.loads(checkpoints.files.open_weights(lora).metadata["minip2p"])["done"]["steps"] == 2


# The option


def test_words_of_the_option(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a:2").touch()
    words = {
        "a.safetensors": ("a.safetensors", 1),
        "a.safetensors:0.8": ("a.safetensors", 0.8),
        "a:-1e-1": ("a", -0.1),
        "a:.5": ("a", 0.5),
        r"C:\a.safetensors": (r"C:\a.safetensors", 1),
        r"C:\a.safetensors:2": (r"C:\a.safetensors", 2),
        "a:2": ("a:2", 1),  # a file of that name
        "a:2:0.5": ("a:2", 0.5),
        "a:b": ("a:b", 1),
        "a:nan": ("a:nan", 1),
        ":0.5": (":0.5", 1),
    }
    assert loras(tuple(words)) == list(words.values())


def test_edits_record_the_lora_and_are_made_again(here, base, capsys):
    """Twice the option; the picture elsewhere, where its files are given anew."""
    layers = {n: o for n, o in LAYERS.items() if n != "unet.conv_in"}
    for name, seed in (("one", 1), ("two", 2)):
        save_file(lora_of(here / "editor.safetensors", 2, seed, layers), f"{name}.safetensors")
    assert edit(output="base.png") == 0
    assert edit("--lora", "one.safetensors:0", output="zero.png") == 0
    assert edit("--lora", "one.safetensors:0.5", "--lora", "two.safetensors") == 0
    assert (pixels("base.png") == pixels("zero.png")).all() and (pixels("base.png") != pixels("out.png")).any()
    wanted = [{"path": "one.safetensors", "weight": 0.5}, {"path": "two.safetensors", "weight": 1.0}]
    assert metadata.read(Path("out.png"))["weights"]["lora"] == wanted
    assert main(["show", "--again", "out.png"]) == 0
    Path("other").mkdir()
    shutil.move("out.png", "other/out.png")
    moved = ["show", "--again", "other/out.png", "--weights", "editor.safetensors", "--input", "in.png", "--overwrite"]
    given = [word for name in ("one", "two") for word in ("--lora", f"{name}.safetensors")]
    assert main([*moved]) == 2 and main([*moved, *given[:2]]) == 2
    errors = capsys.readouterr().err
    assert "no such LoRA file" in errors and "1 files are given; 2 were merged" in errors
    assert main([*moved, *given[2:], *given[:2]]) == 2 and "have changed since" in capsys.readouterr().err
    assert main([*moved, *given]) == 0


def test_convert_merges_and_the_provenance_says_so(here, capsys):
    save_file(lora_of(here / "editor.safetensors"), "one.safetensors")
    how = ["convert", "--weights", "editor.safetensors"]
    assert main([*how, "--lora", "one.safetensors:0.5", "--output", "m.safetensors"]) == 0
    whole = minip2p.load("m.safetensors")
    assert whole.provenance["lora"] == [{"file": "one.safetensors", "weight": 0.5}]
    assert whole.fingerprint == minip2p.load("editor.safetensors", lora=("one.safetensors", 0.5)).fingerprint
    again = minip2p.load("m.safetensors", lora="one.safetensors").provenance["lora"]
    assert [each["weight"] for each in again] == [0.5, 1.0]
    assert main(["info", "--weights", "one.safetensors"]) == 2 and "--lora" in capsys.readouterr().err
