"""Sets of latents: what the autoencoder gives for each crop, by any process, and training on them."""

import io
import json
import pickle
import random
import shutil
import tarfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import contents, small_config, small_pipeline
from PIL import Image

from minip2p.cli import main
from minip2p.data.edits import Edits, open_edits
from minip2p.data.images import to_tensor
from minip2p.data.latents import Latents
from minip2p.data.split import split
from minip2p.data.tars import make_tar
from minip2p.datagen.precompute import Settings, crops_of, encode_unit, precompute
from minip2p.training.config import DiffusionTraining, TrainConfig
from minip2p.training.data import Example, LatentDataset, Mixture
from minip2p.training.pairs import open_set, pairs_stage, read_texts

FEW = Settings(size=32, resize=(32, 40), crops=2, unit=3, batch=5)
ONE = replace(FEW, crops=1, flips=False, unit=16)
TEXTS = ["make it night", "", "färbe es blau 🏠", "make it night", " add\ta\nboat ", "🏳️‍🌈", "x" * 3000]
SIZES = [(48, 40), (40, 52), (33, 70), (64, 32), (32, 32), (90, 41), (50, 47)]
"""(width, height)"""


def write_set(folder: Path, texts=TEXTS, sizes=SIZES) -> Path:
    """Pairs of noise in the authors' layout; the second's target has another shape than its source."""
    rng = np.random.default_rng(0)
    for i, text in enumerate(texts):
        at = folder / f"{i:07}"
        at.mkdir(parents=True)
        (at / "prompt.json").write_text(json.dumps({"input": f"Caption {i}", "edit": text, "output": "after"}))
        for side in (0, 1):
            w, h = sizes[i % len(sizes)]
            shape = (h + 9, w, 3) if (i, side) == (1, 1) else (h, w, 3)
            Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(at / f"{7 + i}_{side}.png")
    return folder


@pytest.fixture(scope="module")
def pipe():
    return small_pipeline()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_set(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def edits(data) -> Edits:
    return open_edits(data)


def itself(pipe):
    return pipe


def made(pipe, edits: Edits, out: Path, given: Settings = FEW, **how) -> list[str]:
    mark = read_texts(edits, how.get("skip_broken", False)).mark
    return [
        unit.name.removesuffix(".tar")
        for unit in precompute(partial(itself, pipe), edits, given, out, data=mark, **how)
    ]


@pytest.fixture(scope="module")
def whole(pipe, edits, tmp_path_factory) -> Path:
    """What an uninterrupted run makes."""
    out = tmp_path_factory.mktemp("whole")
    assert made(pipe, edits, out) == ["00000000", "00000003", "00000006"]
    return out


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


# What is in it


@torch.no_grad()
@pytest.mark.parametrize("flips, crops, batch", [(True, 2, 1), (True, 3, 5), (False, 3, 64)])
def test_each_array_is_the_posterior_of_its_crop(pipe, edits, flips, crops, batch):
    """Each picture encoded by itself, its crop cut out by hand."""
    given = replace(FEW, flips=flips, crops=crops, batch=batch)
    for i, (text, array) in enumerate(encode_unit(pipe.vae, edits, range(len(edits)), given)):
        pair, plans = edits[i], crops_of(edits.key(i), given)
        assert array.shape == (given.variants, 3, 4, 8, 8) and array.dtype == np.float16 and text.key == edits.key(i)
        assert [crop.flip for crop in plans] == [bool(v % 2) and flips for v in range(given.variants)]
        for v, (crop, stored) in enumerate(zip(plans, array, strict=True)):
            w, h = pair.source.size
            w, h = (round(side * crop.side / min(w, h)) for side in (w, h))
            left, top = round(crop.left * (w - 32)), round(crop.top * (h - 32))
            assert 0 <= left <= w - 32 and 0 <= top <= h - 32 and crop.side in range(32, 41)
            expected = []
            for picture in (pair.source, pair.target.resize(pair.source.size, Image.Resampling.LANCZOS)):
                x = to_tensor(picture.resize((w, h), Image.Resampling.LANCZOS))[:, top : top + 32, left : left + 32]
                expected.append(pipe.vae.encode(2 * (x.flip(-1) if flips and v % 2 else x)[None] - 1))
            source, target = expected
            expected = torch.cat([source.mode(), target.mean, torch.exp(target.logvar / 2)])
            torch.testing.assert_close(torch.from_numpy(stored).float(), expected, rtol=2e-3, atol=2e-4)


def test_the_crops_of_a_pair_never_change():
    given = Settings()
    first = crops_of("0000012/7", given)[0]
    assert (first.side, first.left, first.top, first.flip) == (271, 0.1092151584049672, 0.1816094674590618, False)
    assert crops_of("0000012/7", replace(given, crops=2, batch=3, unit=9)) == crops_of("0000012/7", given)[:4]
    others = [crops_of(key, replace(given, seed=seed)) for key in ("0000012/7", "0000012/8", "é") for seed in (0, 1)]
    assert len({crop.left for each in others for crop in each}) == 6 * given.crops
    assert {crop.side for i in range(200) for crop in crops_of(f"{i}", given)} == set(range(256, 289))


def test_tars_are_read_as_webdataset_reads_them(whole, edits):
    """KEY.json and KEY.npy of one sample follow each other, as numpy reads files."""
    numbers = []
    for tar in sorted(whole.glob("*.tar")):
        with tarfile.open(tar) as file:
            members = file.getmembers()
            assert {(m.mtime, m.uid, m.gid) for m in members} == {(0, 0, 0)}
            names = [member.name for member in members]
            states = [name for name in names if name.endswith(".text.npy")]
            members = [member for member in members if member.name not in states]
            for text, array in zip(members[::2], members[1::2], strict=True):
                key = text.name.removesuffix(".json")
                assert array.name == f"{key}.npy" and tar.stem <= key
                numbers.append(int(key))
                told, item = json.loads(file.extractfile(text).read()), edits.text(int(key))
                expected = {name: getattr(item, name) for name in ("key", "instruction", "group", "input")}
                assert told == expected | {"output": "after"}
                values = np.load(io.BytesIO(file.extractfile(array).read()), allow_pickle=False)
                assert values.shape == (4, 3, 4, 8, 8) and values.dtype == np.float16
                latents = Latents.open(whole)
                for v in range(4):
                    assert (latents.read(int(key), v).numpy() == values[v]).all()
    assert numbers == list(range(7))
    latents = pickle.loads(pickle.dumps(Latents.open(whole)))
    assert latents.instructions == [text.strip() for text in TEXTS] and latents.variants == 4


# Training on it


def config_of(*paths: Path, **changes) -> DiffusionTraining:
    how = {"size": 32, "resize": (32, 40), "change_weight": 1.0, "held_out": 3, "train": TrainConfig(batch_size=7)}
    return DiffusionTraining(model=small_config(), data=tuple(map(str, paths)), **how | changes)


@dataclass(frozen=True)
class Cropped:
    """The crops of a precomputed set as pictures."""

    stored: LatentDataset
    edits: Edits

    def __len__(self) -> int:
        return len(self.stored)

    def example(self, i: int, rng: np.random.Generator, step: int) -> Example:
        (item,), variant = self.stored.prompts[i], int(rng.integers(self.stored.latents.variants))
        pair, crop = self.edits[item], crops_of(self.edits.key(item), FEW)[variant]
        return Example(text=pair.instruction, pixels=crop(pair.source, pair.target, (32, 32)))


def test_the_loss_and_its_gradient_are_those_of_encoding_the_same_crops(edits, whole):
    stage = pairs_stage(config_of(whole), small_pipeline())
    (stored,), states = stage.data.examples.sets, stage.data.null_states
    pictures = Mixture(sets=[Cropped(stored, edits)], weights=[1.0], seed=0)
    for step in (0, 5):
        found = []
        for examples in (Mixture(sets=[stored], weights=[1.0], seed=0), pictures):
            null = None if examples is pictures else states
            stage.data = replace(stage.data, examples=examples, null_states=null)
            batch = stage.data.batch(step)
            losses = stage.losses(stage.module, stage.inputs(batch))
            gradients = torch.autograd.grad(losses.mean(), list(stage.module.parameters()), allow_unused=True)
            found.append((batch, losses, torch.cat([g.flatten() for g in gradients if g is not None])))
        (ours, a, da), (theirs, b, db) = found
        assert ours.pixels is None and theirs.latents is None and ours.texts == theirs.texts
        assert torch.equal(ours.posterior, theirs.posterior) and torch.equal(ours.noise, theirs.noise)
        torch.testing.assert_close(a, b, rtol=1e-3, atol=0)
        assert (da - db).norm() < 1e-3 * db.norm() and not torch.equal(a, b)


def test_the_posterior_is_sampled_anew_in_each_epoch(pipe, edits, tmp_path):
    """Of one crop there is one mean and one deviation, and in each epoch another draw, on which the loss depends."""
    made(pipe, edits, tmp_path, ONE)
    stage = pairs_stage(config_of(tmp_path, dropout=0.0, timestep_power=1.0), small_pipeline())
    n = len(stage.data.examples.sets[0])
    batches = [stage.data.batch(step, range(stage.config.train.batch_size)) for step in range(3 * n)]
    rows = {}
    for batch in batches:
        for text, latents, draw in zip(batch.texts, batch.latents, batch.posterior, strict=True):
            rows.setdefault(latents.numpy().tobytes(), []).append(draw)
            assert text in [each.strip() for each in TEXTS]
    assert len(rows) == n and {len(each) for each in rows.values()} == {21}, "an epoch has each pair once"
    draws = torch.stack([draw for each in rows.values() for draw in each])
    assert len({draw.numpy().tobytes() for draw in draws}) == len(draws)
    assert abs(float(draws.mean())) < 0.05 and abs(float(draws.std()) - 1) < 0.05
    batch = batches[0]
    draws = [replace(batch, posterior=x) for x in (batch.posterior, -batch.posterior)]
    losses = [stage.losses(stage.module, stage.inputs(draw)) for draw in draws]
    assert (losses[0] != losses[1]).all()


# The states of texts


def test_the_states_of_a_text_are_the_text_encoders(pipe, whole, edits):
    latents = Latents.open(whole)
    for i in range(len(edits)):
        states = latents.read_states(i)
        assert states.dtype == torch.float16 and states.shape == (16, 32)
        torch.testing.assert_close(
            states.float(), pipe.encode_text([edits.text(i).instruction])[0], rtol=1e-3, atol=1e-3
        )
    names = [name for tar in sorted(whole.glob("*.tar")) for name in tarfile.open(tar).getnames() if "text" in name]
    assert names == [f"{i:08}.text.npy" for i in range(7)]


def test_pairs_of_one_instruction_share_its_states(pipe, tmp_path):
    edits = open_edits(write_set(tmp_path / "data", ["a", "b", "a", "b", "a"], [(33, 32)]))
    made(pipe, edits, tmp_path / "set", ONE)
    latents = Latents.open(tmp_path / "set")
    assert len(set(latents.where[:, 2].tolist())) == 2 and len(set(latents.where[:, 1].tolist())) == 5
    assert torch.equal(latents.read_states(0), latents.read_states(4))
    assert not torch.equal(latents.read_states(0), latents.read_states(1))


def test_training_reads_states_and_drops_to_the_null_texts(whole):
    stage = pairs_stage(config_of(whole, dropout=0.2), small_pipeline())
    seen = set()
    for n in range(6):
        batch = stage.data.batch(n)
        inputs = stage.inputs(batch)
        assert batch.text.dtype == torch.float16 and inputs.text.dtype == torch.float32
        torch.testing.assert_close(inputs.text, stage.pipe.encode_text(batch.texts), rtol=1e-3, atol=1e-3)
        seen |= set(batch.texts)
    assert "" in seen and len(seen) > 2
    again = pickle.loads(pickle.dumps(stage.data)).batch(0)
    assert torch.equal(again.text, stage.data.batch(0).text)
    assert [each.states is not None for each in stage.held_out] == [True] * len(stage.held_out)


def test_states_of_another_text_encoder_or_of_one_that_learns_are_not_read(whole, pipe, edits, tmp_path):
    other = small_pipeline()
    with torch.no_grad():
        other.text_encoder.token.weight += 0.1
    made(pipe, edits, tmp_path, replace(FEW, texts=False))
    assert "text" not in Latents.open(tmp_path).header and set(Latents.open(tmp_path).where[:, 2]) == {-1}
    for config, networks in (
        (config_of(whole), other),
        (config_of(whole, train_text=True), small_pipeline()),
        (config_of(tmp_path), small_pipeline()),
        (config_of(whole, tmp_path, weights=(1.0, 1.0)), small_pipeline()),
    ):
        stage = pairs_stage(config, networks)
        batch = stage.data.batch(0)
        assert torch.equal(batch.text, networks.tokenizer(batch.texts)) and stage.data.null_states is None
        if not config.train_text:
            states = networks.encode_text(batch.texts)
            torch.testing.assert_close(stage.inputs(batch).text, states, rtol=1e-4, atol=1e-5)


def test_states_that_are_not_finite_are_not_written(edits, tmp_path):
    broken = small_pipeline()
    with torch.no_grad():
        broken.text_encoder.norm.bias.fill_(1e6)
    with pytest.raises(ValueError, match="its text's states are not finite in float16; encode without texts"):
        made(broken, edits, tmp_path)


def test_all_variants_are_seen(whole):
    stage = pairs_stage(config_of(whole), small_pipeline())
    (stored,) = stage.data.examples.sets
    seen = {
        stage.data.examples.example(i, np.random.default_rng(i), 0)[0].latents.numpy().tobytes() for i in range(400)
    }
    assert len(seen) == 4 * len(stored)


def test_latents_and_images_are_split_alike(pipe, tmp_path):
    data = write_set(tmp_path / "data", [f"edit {i}" for i in range(64)], [(32, 33)])
    edits, config = open_edits(data), config_of(held_out=64)
    made(pipe, edits, tmp_path / "all", ONE)
    pictures, kept, mark = open_set(str(data), config, pipe)
    stored, also_kept, other = open_set(str(tmp_path / "all"), config, pipe)
    train, val, _ = split(edits)
    assert stored.prompts == pictures.prompts == [[i] for i in train] and 40 < len(train) < 64 and val
    assert mark != other and mark.startswith("64 pairs ") and other.startswith("64 pairs ")
    assert [each.text for each in kept] == [each.text for each in also_kept] == [f"edit {i}" for i in val]
    for i in (train[0], val[0]):
        next((data / f"{i:07}").glob("*_1.png")).write_bytes(b"no picture")
    made(pipe, edits, tmp_path / "some", ONE, skip_broken=True)
    fewer, kept, _ = open_set(str(tmp_path / "some"), config, pipe)
    assert [fewer.latents.instructions[i] for (i,) in fewer.prompts] == [f"edit {i}" for i in train[1:]]
    assert [each.text for each in kept] == [f"edit {i}" for i in val[1:]]


def test_images_and_latents_cannot_be_mixed(pipe, data, whole, edits, tmp_path):
    for held_out in (0, 3):
        with pytest.raises(ValueError, match=f"^{data}: images and precomputed sets cannot be mixed; precompute it"):
            pairs_stage(config_of(whole, data, held_out=held_out), pipe)
    made(pipe, edits, tmp_path, ONE)
    stage = pairs_stage(config_of(whole, tmp_path, weights=(3.0, 1.0)), small_pipeline())
    assert stage.data.batch(0).latents.shape == (7, 3, 4, 8, 8)


# Engines


def test_shards_and_order_change_no_byte(edits, whole, tmp_path):
    for shards in ([(1, 2), (0, 2)], [(2, 3), (1, 3), (0, 3)]):
        out = tmp_path / f"{len(shards)}"
        for shard in shards:
            making = precompute(
                partial(itself, small_pipeline()), edits, FEW, out, data=read_texts(edits, False).mark, shard=shard
            )
            next(making.units)
            making.units.close()
        made(small_pipeline(), edits, out)
        assert contents(out) == contents(whole)


# What is wrong with it


def test_a_tar_cut_anywhere_is_named(copy):
    tar = copy / "00000003.tar"
    data = tar.read_bytes()
    with tarfile.open(tar) as file:
        end = max(member.offset_data + member.size for member in file)
    starts = [*range(0, end, 512), *random.Random(0).sample(range(end), 30)]
    for length in starts:
        tar.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"00000003\.tar is damaged \(.*remove it and run minip2p ") as error:
            Latents.open(copy)
        assert "\n" not in str(error.value)
    for there in (b"", b"no tar" * 1000, bytes(10_240)):
        tar.write_bytes(there)
        with pytest.raises(ValueError, match=r"00000003\.tar is damaged"):
            Latents.open(copy)


def test_a_tar_cut_after_it_was_opened_is_named(copy):
    latents = Latents.open(copy)
    (copy / "00000003.tar").write_bytes(b"short")
    with pytest.raises(ValueError, match=r"00000003\.tar: cut short since it was opened, in the latents of pair 4"):
        latents.read(4, 1)
    (copy / "00000003.tar").unlink()
    with pytest.raises(ValueError, match=r"00000003\.tar: no such file"):
        latents.read(4, 1)


def rewrite(tar: Path, change) -> None:
    """Replace the members by what `change` makes of their names and bytes."""
    with tarfile.open(tar) as file:
        found = {member.name: file.extractfile(member).read() for member in file}
    tar.write_bytes(make_tar(dict(change(found))))


def stored(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found | {"00000004.npy": stored(np.zeros((4, 3, 4, 8, 9), np.float16))},
        lambda found: found | {"00000004.npy": stored(np.zeros((1, 3, 4, 8, 8), np.float16))},
        lambda found: found | {"00000004.npy": stored(np.zeros((4, 3, 4, 8, 8), np.float32))},
        lambda found: found | {"00000004.npy": found["00000004.npy"][:-100]},
        lambda found: found | {"00000004.npy": found["00000004.npy"].replace(b"(4, 3, 4, 8, 8)", b"(9**9,4, 8,8) ,")},
        lambda found: found | {"00000004.json": b"[" * 100_000},
        lambda found: found | {"00000004.json": b'{"instruction": 3, "group": "a"}'},
        lambda found: found | {"00000004.text.npy": stored(np.zeros((16, 33), np.float16))},
        lambda found: {name: data for name, data in found.items() if name != "00000004.text.npy"},
        lambda found: {name: data for name, data in found.items() if name != "00000004.json"},
        lambda found: {name: data for name, data in found.items() if not name.startswith("00000004")},
    ],
    ids=range(11),
)
def test_a_tar_with_another_content_is_named_before_training(copy, change):
    rewrite(copy / "00000003.tar", change)
    with pytest.raises(ValueError, match=r"00000003\.tar is damaged \(.*remove it and run minip2p ") as error:
        Latents.open(copy)
    assert "\n" not in str(error.value)


def test_what_precompute_makes_again_is_the_same(pipe, edits, copy, whole):
    """A tar that was removed as the error says."""
    (copy / "00000003.tar").unlink()
    (copy / ".00000003.tar.abc.part").write_bytes(b"half")
    assert made(pipe, edits, copy) == ["00000003"] and contents(copy) == contents(whole)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_latents_that_are_not_finite_are_named_when_they_are_read(copy, value):
    def broken(found):
        array = np.load(io.BytesIO(found["00000004.npy"]))
        array[1, 0, 2, 3, 3] = value
        return found | {"00000004.npy": stored(array)}

    rewrite(copy / "00000003.tar", broken)
    latents = Latents.open(copy)
    latents.read(4, 0)
    with pytest.raises(ValueError, match=r"00000003\.tar: the latents of pair 4 are not finite; remove it and run"):
        latents.read(4, 1)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 1e8])
def test_latents_that_are_not_finite_are_not_written(edits, tmp_path, scale):
    broken = small_pipeline()
    with torch.no_grad():
        broken.vae.quant.bias.fill_(scale)
    with pytest.raises(ValueError, match="finite|float16|NaN"):
        made(broken, edits, tmp_path)
    assert set(contents(tmp_path)) == {"precomputed.json"}


def test_two_at_once_in_one_folder(pipe, edits, whole, tmp_path):
    load, mark = partial(itself, pipe), read_texts(edits, False).mark
    first = precompute(load, edits, FEW, tmp_path, data=mark)
    next(first.units)
    for shard in ((0, 1), (1, 2)):
        with pytest.raises(ValueError, match="another process is writing in it"):
            precompute(load, edits, FEW, tmp_path, data=mark, shard=shard)
    list(first)
    assert contents(tmp_path) == contents(whole) and made(pipe, edits, tmp_path) == []


def test_training_refuses_other_sizes_other_autoencoders_and_damaged_sets(pipe, copy):
    other = small_pipeline(seed=9)
    for said, config, networks in (
        ("another autoencoder", config_of(copy), other),
        ("was precomputed at 32 pixels, not 64: --set size=32", config_of(copy, size=64, resize=(64, 72)), pipe),
    ):
        with pytest.raises(ValueError, match=said):
            pairs_stage(config, networks)
    (copy / "00000006.tar").unlink()
    with pytest.raises(ValueError, match="1 of 3 tars are missing; run minip2p precompute again"):
        pairs_stage(config_of(copy), pipe)
    for text in ("{", "[]", "{}"):
        (copy / "precomputed.json").write_text(text)
        with pytest.raises(
            ValueError,
            match=r"precomputed\.json(: not JSON|: expected an object|: size is missing; precompute the set again)",
        ):
            pairs_stage(config_of(copy), pipe)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"size": 16}, "with size 32, this one has 16"),
        ({"resize": (32, 41)}, r"with resize \[32, 40\], this one has \[32, 41\]"),
        ({"crops": 3}, "with crops 2, this one has 3"),
        ({"flips": False}, "with flips true, this one has false"),
        ({"seed": 1}, "with seed 0, this one has 1"),
        ({"unit": 4}, "with unit 3, this one has 4"),
        ({"batch": 6}, "with batch 5, this one has 6"),
    ],
)
def test_a_folder_of_other_settings_is_refused(pipe, edits, whole, change, said):
    before = contents(whole)
    with pytest.raises(ValueError, match=f"{said}: choose another --output, or the same settings"):
        made(pipe, edits, whole, replace(FEW, **change))
    with pytest.raises(ValueError, match="with vae "):
        made(small_pipeline(seed=9), edits, whole)
    assert contents(whole) == before


# The command line


WORDS = ["--size", "32", "--resize", "32", "40", "--flip", "yes", "--crops", "2", "--unit", "3", "--batch-size", "5"]


def command(data: Path | str, *words: str, output="out") -> list[str]:
    return ["precompute", "--data", f"{data}", "--output", output, *WORDS, "--weights", "editor.safetensors", *words]


@pytest.fixture
def alone(here, monkeypatch):
    """A working directory with weights, and no torchrun around."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return here


def test_shards_make_what_one_process_makes_and_print_how_much(alone, data, capsys):
    words = ("--unit", "1", "--device", "cpu")
    assert main(command(data, *words, output="one")) == 0
    said = capsys.readouterr().out
    assert said.startswith("one: 7 pairs in ") and "pairs/s)" in said
    for shard, pairs in (("2/2", 3), ("1/2", 4)):
        assert main(command(data, *words, "--shard", shard, output="two")) == 0
        assert capsys.readouterr().out.startswith(f"two: {pairs} pairs in ")
    assert contents(Path("one")) == contents(Path("two"))
    assert main(command(data, *words, output="one")) == 0
    assert "one: nothing to do" in capsys.readouterr().out


def test_broken_images_are_an_error_or_with_skip_broken_left_out(alone, capsys):
    data = write_set(Path("data"))
    (data / "0000004" / "11_1.png").write_bytes((data / "0000004" / "11_1.png").read_bytes()[:300])
    (data / "0000005" / "12_0.png").unlink()
    assert main(command(data)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "data/0000004/11_1.png" in error and "--skip-broken leaves it out" in error
    assert set(contents(Path("out"))) == {"precomputed.json", "00000000.tar"}
    assert main(command(data, "--skip-broken")) == 0
    out, err = capsys.readouterr()
    assert out.startswith("out: 2 pairs, 2 broken in ") and "1 of 3 units were finished before" in out
    told = out + err
    assert "left out: data/0000004/11_1.png" in told and "left out: data/0000005/12_0" in told
    latents = Latents.open(Path("out"))
    assert latents.instructions == [TEXTS[i].strip() for i in (0, 1, 2, 3, 6)]
    with tarfile.open("out/00000003.tar") as file:
        assert file.getnames() == ["00000003.json", "00000003.npy", "00000004.broken", "00000005.broken"]
        assert b"11_1.png" in file.extractfile("00000004.broken").read()
    assert main(command(data, "--skip-broken", output="again")) == 0
    assert contents(Path("again")) == contents(Path("out"))


@pytest.mark.parametrize(
    "words, said",
    [
        (["--output", "in.png"], "in.png: not a directory"),
        (["--crops", "0"], "crops = 0: expected at least 1"),
        (["--unit", "-1"], "unit = -1: expected at least 1"),
        (["--batch-size", "0"], "batch = 0: expected at least 1"),
        (["--resize", "31", "40"], "resize = (31, 40): expected two sizes, from size = 32 on"),
        (["--resize", "40", "36"], "resize = (40, 36): expected two sizes"),
        (["--size", "30", "--resize", "30", "30"], "size = 30: expected a multiple of"),
        (["--seed", "-1"], "seed = -1: expected at least 0"),
        (["--size", "0"], "size = 0: expected at least 1"),
        (["--dtype", "bfloat16"], "dtype bfloat16: expected float32, in which training runs the autoencoder"),
        (["--shard", "3/2"], "--shard '3/2': expected I/N"),
        (["--data", "nowhere"], "nowhere: no such file or folder"),
    ],
)
def test_mistakes_are_one_line(alone, data, capsys, words, said):
    assert main(command(data, *words)) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1 and not Path("out").exists()


def test_the_folder_of_the_pairs_is_refused(pipe, edits, data, monkeypatch):
    before = contents(data)
    monkeypatch.chdir(data)
    for out in (data, Path("."), data / ".." / data.name):
        with pytest.raises(ValueError, match="expected another folder than that of the pairs"):
            made(pipe, edits, out)
    assert contents(data) == before


def test_a_folder_of_another_run_is_refused_in_one_line(alone, data, capsys):
    assert main(command(data)) == 0
    there = contents(Path("out"))
    capsys.readouterr()
    assert main(command(data, "--crops", "3")) == 2
    error = capsys.readouterr().err
    assert (
        "out/precomputed.json belongs to a run with crops 2, this one has 3" in error and len(error.splitlines()) == 1
    )
    assert contents(Path("out")) == there


def test_a_precomputed_set_is_not_precomputed_again(alone, whole, capsys):
    for words in (command(whole), ["check", str(whole)]):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert "is precomputed: it holds latents" in error and len(error.splitlines()) == 1
