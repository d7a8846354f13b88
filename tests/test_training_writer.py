"""Training the writer: which tokens count, in which order triplets come, and what a run starts from and leaves."""

import csv
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import randomise
from hypothesis import given, settings
from hypothesis import strategies as st

import minip2p
from minip2p.cli import main
from minip2p.config import override
from minip2p.data.captions import Triplet, completion_text, prompt_text
from minip2p.data.grammar import agrees, parse_caption
from minip2p.nn.lora import merged
from minip2p.pipeline import Writer
from minip2p.training.config import WriterTraining
from minip2p.training.presets import PRESETS
from minip2p.training.recipe import make_stage, start
from minip2p.training.writer import LanguageStage, WriterStage, epochs_as_steps, own_triplets

FEW = (
    "train.steps=6", "train.batch_size=4", "train.warmup=2", "train.log_every=2", "train.save_every=3",
    "train.preview_every=100",
)  # fmt: skip
THIN = (
    "model.width=24", "model.layers=1", "model.heads=2", "model.kv_heads=1", "model.feed_forward=32", "length=40"
)  # fmt: skip
TRIPLETS = [
    Triplet(input="a red cat in a meadow", edit="make it night", output="a red cat in a meadow at night"),
    Triplet(input="two boats, one café", edit="add a storm", output="two boats, one café in a storm"),
    Triplet(input="a tree", edit="turn the tree into a big house by the sea", output="a big house by the sea"),
    Triplet(input="日本の橋 at dawn", edit="as a pencil drawing", output="日本の橋 at dawn, a pencil drawing"),
    Triplet(input="a very long and winding road to a town", edit="snow", output="a road to a town in snow"),
]
LORA = ("lora_rank=3", "lora_alpha=6.0")


@pytest.fixture(scope="module")
def language_file(tmp_path_factory):
    """A thin language model of random weights."""
    stage = make_stage("language", override(PRESETS["language"]["tiny"], *FEW, *THIN), None)
    randomise(stage.module)
    path = tmp_path_factory.mktemp("language") / "language.safetensors"
    stage.export(stage.module, path)
    return path


@pytest.fixture(scope="module")
def data_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "human.jsonl"
    path.write_text("".join(json.dumps(vars(triplet)) + "\n" for triplet in TRIPLETS), encoding="utf-8")
    return path


def config_of(*words):
    return override(PRESETS["writer"]["tiny"], *FEW, "triplets=12", "length=120", "rehearsed=0", *words)


def stage_of(language_file, *words, triplets=None) -> WriterStage:
    base = minip2p.load_writer(language_file)
    return WriterStage(config_of(*words), base.model.requires_grad_(True), base.pieces, triplets or TRIPLETS)


def texts(stage: WriterStage, step: int) -> list[tuple[str, str]]:
    """What a batch's rows say outside and inside of what is learnt."""
    rows = []
    for tokens, told in zip(*stage.batch(step), strict=True):
        learnt = told.nonzero().flatten()
        first, last = int(learnt[0]), int(learnt[-1])
        assert told[first : last + 1].all() and tokens[last] == stage.pieces.eos and tokens[0] == stage.pieces.bos
        assert not told[:first].any() and not told[last + 1 :].any()
        decode = stage.pieces.decode
        rows.append((decode(tokens[1:first].tolist()), decode(tokens[first:last].tolist())))
    return rows


# ---- the loss and its batches


@torch.no_grad()
def test_the_loss_is_the_mean_surprise_of_the_completions_tokens(language_file):
    """Written out row by row, each by itself and without padding; prompts longer and shorter than completions."""
    stage = stage_of(language_file)
    loss, figures = stage.loss(stage.module, stage.batch(0))
    order = np.random.default_rng([0, 0]).permutation(len(TRIPLETS))[:4]
    surprises, foreseen = [], []
    for i in order:
        asked = [stage.pieces.bos, *stage.pieces.encode(prompt_text(TRIPLETS[i].input))]
        answer = [*stage.pieces.encode(completion_text(TRIPLETS[i].edit, TRIPLETS[i].output)), stage.pieces.eos]
        row = asked + answer
        for at in range(len(asked), len(row)):
            odds = stage.module(torch.tensor([row[:at]]))[0, -1].double().softmax(-1)
            surprises.append(-float(odds[row[at]].log()))
            foreseen.append(int(odds.argmax()) == row[at])
    assert float(loss) == pytest.approx(np.mean(surprises), rel=1e-5)
    assert float(figures["accuracy"]) == pytest.approx(np.mean(foreseen))


class Deaf(torch.nn.Module):
    """Says what follows by its place alone, whatever came before."""

    def __init__(self, width: int, words: int):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table, self.head = (torch.randn(n, 8, generator=generator) for n in (width, words))
        self.token = torch.nn.Embedding(words, 8)

    def states(self, tokens):
        return self.table[: tokens.shape[1]].expand(len(tokens), -1, -1)

    def logits(self, states):
        return states @ self.head.T


def test_only_tokens_of_completions_are_asked_for(language_file):
    """A model that hears nothing, so that a token counts as a truth only."""
    stage = stage_of(language_file)
    tokens, told = stage.batch(0)
    deaf = Deaf(tokens.shape[1], len(stage.pieces))
    loss = stage.loss(deaf, (tokens, told))[0]
    assert 0 < told.sum() < told.numel() and not told[:, 0].any()
    for row, place in np.ndindex(*tokens.shape):
        other = tokens.clone()
        other[row, place] = (other[row, place] + 1) % len(stage.pieces)
        assert bool(stage.loss(deaf, (other, told))[0] != loss) == bool(told[row, place]), (row, place)


def test_a_row_is_the_papers_text(language_file):
    stage = stage_of(language_file, "train.batch_size=5")
    by_prompt = {prompt_text(t.input): t for t in TRIPLETS}
    rows = texts(stage, 0)
    assert {prompt for prompt, _ in rows} == set(by_prompt)
    for prompt, answer in rows:
        assert answer == completion_text(by_prompt[prompt].edit, by_prompt[prompt].output)


@settings(max_examples=15)
@given(n=st.integers(1, 12), batch=st.integers(1, 9), seed=st.integers(0, 99))
def test_every_triplet_is_seen_once_an_epoch(n, batch, seed):
    stage = object.__new__(WriterStage)
    stage.config = override(config_of(), f"train.batch_size={batch}", f"train.seed={seed}")
    stage.pieces, stage.rows = Pieces(), [([i, 100], 1) for i in range(n)]
    seen = [int(i) for step in range(n * 3) for i in stage.batch(step)[0][:, 0]]
    epochs = [seen[at : at + n] for at in range(0, len(seen), n)]
    assert len(epochs) == 3 * batch and all(sorted(epoch) == list(range(n)) for epoch in epochs)


class Pieces:
    eos = 2


def test_each_epoch_and_seed_has_its_own_order(language_file):
    triplets = own_triplets(12)
    stages = [stage_of(language_file, f"train.seed={seed}", triplets=triplets) for seed in (0, 0, 1)]
    orders = [[text for step in range(6) for text in texts(stage, step)] for stage in stages]
    assert orders[0] == orders[1], "the same for one seed"
    assert orders[0][:12] != orders[0][12:] != orders[2][12:] and Counter(orders[0][:12]) == Counter(orders[2][12:])


def test_a_batch_is_a_function_of_seed_and_step_alone(language_file):
    config = override(PRESETS["language"]["tiny"], *FEW, *THIN)
    one, two, other = (make_stage("language", override(config, f"train.seed={seed}"), None) for seed in (0, 0, 1))
    for make in (lambda: (one, two, other), lambda: [stage_of(language_file, f"train.seed={s}") for s in (0, 0, 1)]):
        a, b, c = make()
        b.batch(3)  # what was asked before makes no difference
        for step in (0, 5):
            assert all(torch.equal(x, y) for x, y in zip(a.batch(step), b.batch(step), strict=True))
        assert a.batch(0)[0].shape != a.batch(1)[0].shape or not torch.equal(a.batch(0)[0], a.batch(1)[0])
        assert a.batch(0)[0].shape != c.batch(0)[0].shape or not torch.equal(a.batch(0)[0], c.batch(0)[0])


def is_caption(line: str) -> bool:
    try:
        parse_caption(line)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("requests", [0.0, 1.0])
def test_a_language_models_rows_are_full_of_texts_and_all_is_learnt(requests):
    """Captions with what has happened between them, a line each; or requests and no caption."""
    words = *FEW, *THIN, "length=300", f"texts.requests={requests}"
    stage = make_stage("language", override(PRESETS["language"]["tiny"], *words), None)
    tokens, told = stage.batch(0)
    assert tokens.shape == (4, 300) and told.all() and (tokens[:, 0] == stage.pieces.bos).all()
    for row in tokens.tolist():
        lines = stage.pieces.decode(row[1 : row.index(stage.pieces.eos)]).split("\n")
        assert 1 <= len(lines) <= (4 if requests else 2) * stage.config.texts.scenes
        assert [is_caption(line) for line in lines] == [i % 2 == 0 and not requests for i in range(len(lines))]
        assert all(a != b for a, b in zip(lines[::2], lines[2::2]))
    with torch.no_grad():
        loss = float(stage.loss(stage.module, (tokens, told))[0])
        logits = stage.module(tokens[:, :-1]).double().log_softmax(-1)
    wanted = -logits.gather(-1, tokens[:, 1:, None]).mean()
    assert loss == pytest.approx(float(wanted), rel=1e-5)


@torch.no_grad()
def test_rehearsed_captions_are_learnt_beside_the_triplets(language_file):
    plain, stage = stage_of(language_file), stage_of(language_file, "rehearsed=2", "texts.requests=0.0")
    batch = stage.batch(3)
    assert all(torch.equal(*pair) for pair in zip(batch[:2], plain.batch(3), strict=True))
    assert batch[2].shape == (2, 120) and batch[3].all()
    assert all(torch.equal(*pair) for pair in zip(batch, stage.batch(3), strict=True))
    for line in stage.pieces.decode(batch[2][0].tolist()).split("\n")[:1]:
        parse_caption(line)
    loss, figures = stage.loss(stage.module, batch)
    alone = LanguageStage.loss(stage, stage.module, batch[2:])[0]
    assert float(loss) == pytest.approx(float(plain.loss(plain.module, batch[:2])[0]) + float(alone), rel=1e-5)
    assert float(figures["loss_captions"]) == pytest.approx(float(alone))


@torch.no_grad()
def test_a_new_language_models_layers_add_nothing():
    model = make_stage("language", PRESETS["language"]["tiny"], None).module
    tokens = torch.randint(3, 600, (2, 30), generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.states(tokens), model.norm(model.token(tokens)))
    assert all(weight.abs().max() > 0 for name, weight in model.named_parameters() if not name.endswith(("out.weight", "down.weight")))


def test_a_triplet_that_is_too_long_is_named(language_file):
    long = [TRIPLETS[2], Triplet(input="日" * 60, edit="make it night", output="a cat")]
    with pytest.raises(ValueError, match=r"^triplet 2 has (\d+) tokens, of 120 that are read: .*--set length=\1$"):
        stage_of(language_file, triplets=long)
    with pytest.raises(ValueError, match="length = 513: the language model reads 512 tokens at most"):
        stage_of(language_file, "length=513")
    assert len(stage_of(language_file, "length=512", triplets=long).rows) == 2


def test_the_tiny_worlds_triplets_are_right_and_the_same_for_ever():
    triplets = own_triplets(50)
    assert triplets == own_triplets(50) != own_triplets(50, seed=1)
    assert all(agrees(t.input, t.edit, t.output) for t in triplets) and len(set(triplets)) > 45


# ---- runs


@pytest.mark.parametrize("words", [(), LORA], ids=["all weights", "LoRA"])
def test_a_stopped_run_continues_to_the_same_bits(words, tmp_path, language_file, data_file):
    config = config_of(f"data={data_file}", *words)
    list(start("writer", config, tmp_path / "whole", init_from=[language_file]))
    for log in start("writer", config, tmp_path / "halves", init_from=[language_file]):
        if log.step == 4:  # the state of step 3 is on disk; step 4 is lost
            break
    list(start("writer", config, tmp_path / "halves", resume=True))
    whole, halves = (torch.load(tmp_path / run / "state/00000006.pt", weights_only=True) for run in ("whole", "halves"))
    assert whole["step"] == halves["step"] == 6
    for part in ("model", "ema"):
        assert all(torch.equal(whole[part][key], halves[part][key]) for key in whole[part])
    assert (tmp_path / "whole/model.safetensors").read_bytes() == (tmp_path / "halves/model.safetensors").read_bytes()
    told, again = (tmp_path / run / "samples/000006.txt" for run in ("whole", "halves"))
    assert told.read_bytes() == again.read_bytes()


@pytest.mark.parametrize("words", [(), LORA], ids=["all weights", "LoRA"])
def test_what_is_left_is_the_average_merged(words, tmp_path, language_file, data_file):
    base = minip2p.load_writer(language_file)
    config = config_of(f"data={data_file}", "train.learning_rate=0.02", *words)
    logs = list(start("writer", config, tmp_path, init_from=[language_file]))
    assert set(logs[-1].figures) == {"step", "pictures", "valid"}, "of other captions than the tiny world's no one knows what is right"
    left = minip2p.load_writer(tmp_path / "model.safetensors")
    assert left.pieces == base.pieces and left.config == base.config
    assert left.provenance["training"]["data"] == str(data_file)

    stage = make_stage("writer", config, tmp_path, [language_file])
    state = torch.load(max((tmp_path / "state").iterdir()), weights_only=True)
    stage.module.load_state_dict(state["model"] | state["ema"])
    tokens = torch.randint(3, 300, (3, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mine, theirs = stage.module(tokens), left.model(tokens)
        torch.testing.assert_close(theirs, mine, rtol=0, atol=0.01 * float(mine.std()))
        assert not torch.allclose(theirs, base.model(tokens), atol=0.1 * float(mine.std())), "it has learnt"
    wanted = {name: tensor.half().float() for name, tensor in merged(stage.module).items()}
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in left.model.state_dict().items())
    changed = {name for name, tensor in base.model.state_dict().items() if not torch.equal(tensor, wanted[name])}
    layers = {f"layers.0.{name}.weight" for name in ("gate", "up", "down", "attention.q", "attention.k", "attention.v")}
    layers |= {"layers.0.attention.out.weight"}
    assert changed == layers if words else changed > layers


def test_loss_falls_and_the_shown_captions_are_the_datas(tmp_path, language_file, data_file):
    words = "train.steps=60", "train.learning_rate=1e-2", "train.log_every=5", "train.save_every=60"
    logs = list(start("writer", config_of(f"data={data_file}", *words), tmp_path, init_from=[language_file]))
    losses = [log.figures["loss"] for log in logs if "loss" in log.figures]
    assert np.mean(losses[-3:]) < 0.7 * losses[0]
    told = (tmp_path / "samples/000060.txt").read_text(encoding="utf-8")
    assert all(prompt_text(t.input) in told for t in TRIPLETS)


def test_the_language_model_goes_on_with_a_caption_and_a_writer_starts_from_it(tmp_path):
    config = override(PRESETS["language"]["tiny"], *FEW, *THIN)
    logs = list(start("language", config, tmp_path / "language"))
    assert logs[-1].figures["held_out_loss"] > 0
    assert (tmp_path / "language/samples/000006.txt").read_text(encoding="utf-8").count("\n") >= 2
    stage = make_stage("writer", config_of(), tmp_path, [tmp_path / "language/model.safetensors"])
    left = minip2p.load_writer(tmp_path / "language/model.safetensors").model.state_dict()
    assert all(torch.equal(tensor, left[name]) for name, tensor in stage.module.state_dict().items())
    assert all(weight.requires_grad for weight in stage.module.parameters())


def test_a_run_on_the_tiny_world_tells_what_is_right_and_leaves_its_start_as_it_is(tmp_path, language_file):
    before = language_file.read_bytes()
    config = config_of("train.learning_rate=0.1", "train.steps=1", "length=100")
    logs = list(start("writer", config, tmp_path, init_from=[language_file]))
    assert logs[-1].figures.items() >= {"valid": 0.0, "right": 0.0}.items(), "after one step it only babbles"
    assert (tmp_path / "samples/000001.txt").read_text(encoding="utf-8").count("\n##\n") == 64
    assert language_file.read_bytes() == before


@pytest.mark.parametrize("make", ["language", "writer"])
def test_a_language_model_is_asked_for(make, tmp_path):
    config = override(PRESETS["language"]["tiny"], *FEW, *THIN) if make == "language" else config_of()
    with pytest.raises(ValueError, match="reader.safetensors.? hold"):
        make_stage(make, config, tmp_path, [minip2p.shipped("reader")])
    if make == "language":
        return
    with pytest.raises(ValueError, match="--init-from a b: a writer starts from one language model"):
        make_stage(make, config, tmp_path, ["a", "b"])


# ---- the config and the command


def test_steps_follow_from_epochs():
    def steps(**how) -> int:
        words = [f"{name}={value}" for name, value in how.items()]
        return epochs_as_steps(override(WriterTraining(), "train.batch_size=8", *words)).train.steps

    assert steps() == 88, "700 triplets in batches of 8, begun ones counted"
    assert steps(triplets=16) == 2 and steps(triplets=17) == 3 and steps(triplets=17, epochs=2.5) == 6
    assert steps(triplets=1, epochs=0.01) == 1


def test_steps_follow_from_the_tables_length(data_file):
    assert epochs_as_steps(config_of(f"data={data_file}", "epochs=3")).train.steps == 4


@pytest.mark.parametrize("word", ["triplets=0", "length=0", "lora_rank=-1", "epochs=0.0", "epochs=-1.0"])
def test_numbers_out_of_range_are_named(word):
    name, value = word.split("=")
    with pytest.raises(ValueError, match=f"{name} = {value}: expected"):
        config_of(word)


def table(path, name: str, ending: str):
    """The triplets with `name` for their caption."""
    rows = [{name: t.input, "edit": t.edit, "output": t.output} for t in TRIPLETS]
    path = path / f"human.{ending}"
    with open(path, "w", encoding="utf-8", newline="") as file:
        if ending == "csv":
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        else:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return path


@pytest.mark.parametrize("name", ["input", "caption"])
@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_the_command_reads_tables_of_triplets(name, ending, tmp_path, language_file, monkeypatch, capsys):
    seen = {}

    def run(stage, config, out, **how):
        seen.update(stage=make_stage(stage, config, out, how["init_from"]), config=config)
        return iter(())

    monkeypatch.setattr("minip2p.training.recipe.start", run)
    where = table(tmp_path, name, ending)
    words = ["--init-from", str(language_file), "--data", str(where), "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert main(["train", "writer", *words]) == 0
    stage, pieces = seen["stage"], seen["stage"].pieces
    epochs, size = PRESETS["writer"]["tiny"].epochs, PRESETS["writer"]["tiny"].train.batch_size
    assert seen["config"].data == str(where) and seen["config"].train.steps == -(-len(TRIPLETS) * epochs // size)
    assert [pieces.decode(row[1:asked]) for row, asked in stage.rows] == [prompt_text(t.input) for t in TRIPLETS]
    assert [pieces.decode(row[asked:-1]) for row, asked in stage.rows] == [
        completion_text(t.edit, t.output) for t in TRIPLETS
    ]


def test_the_command_starts_from_a_published_folder(tmp_path, language_file, data_file, capsys):
    """With LoRA, as the tinyllama preset has it."""
    base = minip2p.load_writer(language_file)
    minip2p.save(base, tmp_path / "llama", "transformers")
    words = ["--preset", "tinyllama", "--init-from", str(tmp_path / "llama"), "--data", str(data_file)]
    words += ["--lora-rank", "2", "--batch-size", "2", "--out", str(tmp_path / "run"), "--device", "cpu"]
    words += ["--set", "length=120", "train.learning_rate=0.05", "train.warmup=0"]
    assert main(["train", "writer", *words]) == 0
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'run' / 'model.safetensors'}\n" and "error" not in err
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["lora_rank"] == 2 and config["train"]["steps"] == 3, "an epoch of 5 in batches of 2"
    left = minip2p.load_writer(tmp_path / "run" / "model.safetensors")
    assert isinstance(left, Writer) and left.config == replace(base.config, head_size=12) and left.pieces == base.pieces
    mine, theirs = base.model.state_dict(), left.model.state_dict()
    assert {name for name in mine if not torch.equal(mine[name], theirs[name])} == {
        f"layers.0.{name}.weight"
        for name in ("gate", "up", "down", "attention.q", "attention.k", "attention.v", "attention.out")
    }
    rank = torch.linalg.matrix_rank((theirs["layers.0.up.weight"] - mine["layers.0.up.weight"]).double(), rtol=0.05)
    assert int(rank) == 2


@pytest.mark.parametrize(
    "words, said",
    [
        (["vae", "--data", "x.jsonl"], "--data: goes with train.py editor or writer"),
        (["language", "--lora-rank", "2"], "--lora-rank: goes with train.py editor or writer"),
        (["language", "--lora-rank", "0"], "--lora-rank: goes with train.py editor or writer"),
        (["writer", "--preset", "tinyllama"], "--preset tinyllama: give --init-from PATH"),
        (["editor", "--preset", "tinyllama", "--init-from", "x"], "--preset tinyllama: of editor there are tiny"),
        (["writer", "--init-from", "{lm}", "{lm}"], "a writer starts from one language model"),
        (["writer", "--init-from", "{lm}", "--data", "{tmp}/none.jsonl"], "none.jsonl"),
        (["writer", "--init-from", "{lm}", "--data", "{tmp}/bad.jsonl"], "bad.jsonl, line 2: 'edit' is missing"),
        (["writer", "--init-from", "{lm}", "--data", "{tmp}/empty.csv"], "empty.csv is empty"),
        (["writer", "--init-from", "{lm}", "--data", "{tmp}/long.jsonl"], "triplet 1 has"),
        (["writer", "--init-from", "{lm}", "--lora-rank", "-1"], "lora_rank = -1: expected at least 0"),
        (["writer", "--init-from", "{tmp}/none"], "none"),
        (["writer", "--init-from", "{reader}"], "load_reader reads it"),
        (["--recipe", "tiny", "--lora-rank", "0"], "--recipe is as it is"),
        (["--recipe", "tiny", "--data", "x.jsonl"], "--recipe is as it is"),
    ],
)
def test_a_mistake_is_one_line(words, said, tmp_path, language_file, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    row = {"input": "a cat", "edit": "make it night", "output": "a cat at night"}
    (tmp_path / "bad.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({"input": "a", "output": "b"}) + "\n")
    (tmp_path / "long.jsonl").write_text(json.dumps(row | {"input": "日" * 4000}) + "\n")
    (tmp_path / "empty.csv").write_text("input,edit,output\n")
    places = {"tmp": tmp_path, "lm": language_file, "reader": minip2p.shipped("reader")}
    assert main(["train", *(word.format(**places) for word in words), "--device", "cpu"]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("minip2p: error: ") and said in err and err.count("\n") == 1
    assert not list(tmp_path.glob("**/*.pt"))


def test_the_config_is_printed_with_its_steps(capsys):
    assert main(["train", "writer", "--print-config", "--lora-rank", "4", "--set", "epochs=2"]) == 0
    words = capsys.readouterr().out.split()
    assert {"lora_rank=4", "train.steps=88", "data=None"} <= set(words)
    assert main(["train", "writer", "--print-config", "--steps", "7"]) == 0
    assert "train.steps=7" in capsys.readouterr().out.split()
    assert main(["train", "writer", "--print-config", "--set", "train.steps=9"]) == 0
    assert "train.steps=9" in capsys.readouterr().out.split()


def test_the_preset_of_the_tiny_writer_is_700_triplets():
    config = PRESETS["writer"]["tiny"]
    assert config.triplets == 700 and config.data is None
    assert len(own_triplets(config.triplets)) == 700
