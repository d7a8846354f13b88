"""Training of language models: the loss, the order of triplets, and what a run starts from and writes."""

import csv
import json
from collections import Counter
from dataclasses import replace
from functools import partial

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
from minip2p.nn.lora import merged
from minip2p.pipeline import LanguageModel
from minip2p.tinyworld.grammar import change, mismatch, parse_caption
from minip2p.tinyworld.scenes import EDIT_KINDS
from minip2p.tinyworld.training.config import TinyInstructionTraining
from minip2p.tinyworld.training.datasets import draw_triplets, scene_text
from minip2p.tinyworld.training.presets import INSTRUCTIONS, LANGUAGE
from minip2p.tinyworld.training.stages import STAGES, resolve_instructions
from minip2p.training.language import InstructionData, InstructionStage, LanguageStage, TextData, instruction_stage
from minip2p.training.stages import start

FEW = (
    "train.steps=6",
    "train.batch_size=4",
    "train.warmup=2",
    "train.log_every=2",
    "train.save_every=3",
    "train.preview_every=100",
)
THIN = ("model.width=24", "model.layers=1", "model.heads=2", "model.kv_heads=1", "model.feed_forward=32", "length=40")
TRIPLETS = [
    Triplet(input="a red cat in a meadow", edit="make it night", output="a red cat in a meadow at night"),
    Triplet(input="two boats, one café", edit="add a storm", output="two boats, one café in a storm"),
    Triplet(input="a tree", edit="turn the tree into a big house by the sea", output="a big house by the sea"),
    Triplet(input="日本の橋 at dawn", edit="as a pencil drawing", output="日本の橋 at dawn, a pencil drawing"),
    Triplet(input="a very long and winding road to a town", edit="snow", output="a road to a town in snow"),
]


def make_stage(name, config, out, init_from=()):
    return STAGES[name].make(config, out, init_from, torch.device("cpu"))


LORA = ("lora_rank=3", "lora_alpha=6.0")


@pytest.fixture(scope="module")
def language_file(tmp_path_factory):
    """A small language model with random weights."""
    stage = make_stage("language", override(LANGUAGE, *FEW, *THIN), None)
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
    return override(INSTRUCTIONS, *FEW, "triplets=12", "length=120", "rehearsed=0", *words)


def stage_of(language_file, *words, triplets=None) -> InstructionStage:
    base, config = minip2p.load_language_model(language_file), config_of(*words)
    base.model.requires_grad_(True)
    draw, seed = partial(scene_text, config.texts), config.train.seed
    texts = TextData(draw, base.pieces, config.rehearsed, config.length, (seed, 1))
    return instruction_stage(config, base, triplets or TRIPLETS, texts=texts if config.rehearsed else None)


def texts(stage: InstructionStage, step: int) -> list[tuple[str, str]]:
    """(prompt, completion) of each row of a batch."""
    rows = []
    for tokens, predicted in zip(*stage.data.batch(step), strict=True):
        where = predicted.nonzero().flatten()
        first, last = int(where[0]), int(where[-1])
        assert predicted[first : last + 1].all() and predicted.sum() == last + 1 - first, "one stretch of the row"
        assert tokens[last] == stage.base.pieces.eos and tokens[0] == stage.base.pieces.bos
        decode = stage.base.pieces.decode
        rows.append((decode(tokens[1:first].tolist()), decode(tokens[first:last].tolist())))
    return rows


# ---- the loss and its batches


@torch.no_grad()
def test_the_loss_is_the_cross_entropy_of_the_completions_tokens(language_file):
    """Computed row by row without padding, for prompts longer and shorter than their completions."""
    stage = stage_of(language_file)
    loss, figures = stage.loss(stage.module, stage.data.batch(0))
    order = np.random.default_rng([0, 0]).permutation(len(TRIPLETS))[:4]
    losses_, correct = [], []
    for i in order:
        asked = [stage.base.pieces.bos, *stage.base.pieces.encode(prompt_text(TRIPLETS[i].input))]
        answer = [
            *stage.base.pieces.encode(completion_text(TRIPLETS[i].edit, TRIPLETS[i].output)),
            stage.base.pieces.eos,
        ]
        row = asked + answer
        for at in range(len(asked), len(row)):
            odds = stage.module(torch.tensor([row[:at]]))[0, -1].double().softmax(-1)
            losses_.append(-float(odds[row[at]].log()))
            correct.append(int(odds.argmax()) == row[at])
    assert float(loss) == pytest.approx(np.mean(losses_), rel=1e-4)
    assert float(figures["accuracy"]) == pytest.approx(np.mean(correct))


class Blind(torch.nn.Module):
    """Predicts by the position alone, whatever the tokens are."""

    def __init__(self, width: int, words: int):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table, self.head = (torch.randn(n, 8, generator=generator) for n in (width, words))
        self.token = torch.nn.Embedding(words, 8)

    def states(self, tokens):
        return self.table[: tokens.shape[1]].expand(len(tokens), -1, -1)

    def logits(self, states):
        return states @ self.head.T


def test_only_tokens_of_completions_are_predicted(language_file):
    """With a model that does not see the tokens, they matter as targets only."""
    stage = stage_of(language_file)
    tokens, predicted = stage.data.batch(0)
    blind = Blind(tokens.shape[1], len(stage.base.pieces))
    loss = stage.loss(blind, (tokens, predicted))[0]
    assert 0 < predicted.sum() < predicted.numel() and not predicted[:, 0].any()
    for row, place in np.ndindex(*tokens.shape):
        other = tokens.clone()
        other[row, place] = (other[row, place] + 1) % len(stage.base.pieces)
        assert bool(stage.loss(blind, (other, predicted))[0] != loss) == bool(predicted[row, place]), (row, place)


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
    data = InstructionData([([i, 100], 1) for i in range(n)], 2, batch, seed)
    seen = [int(i) for step in range(n * 3) for i in data.batch(step)[0][:, 0]]
    epochs = [seen[at : at + n] for at in range(0, len(seen), n)]
    assert len(epochs) == 3 * batch and all(sorted(epoch) == list(range(n)) for epoch in epochs)


def test_each_epoch_and_seed_has_its_own_order(language_file):
    triplets = draw_triplets(12)
    stages = [stage_of(language_file, f"train.seed={seed}", triplets=triplets) for seed in (0, 0, 1)]
    orders = [[text for step in range(6) for text in texts(stage, step)] for stage in stages]
    assert orders[0] == orders[1], "the same for one seed"
    assert orders[0][:12] != orders[0][12:] != orders[2][12:] and Counter(orders[0][:12]) == Counter(orders[2][12:])


def test_a_batch_is_a_function_of_seed_and_step_alone(language_file):
    config = override(LANGUAGE, *FEW, *THIN)
    one, two, other = (make_stage("language", override(config, f"train.seed={seed}"), None) for seed in (0, 0, 1))
    for make in (lambda: (one, two, other), lambda: [stage_of(language_file, f"train.seed={s}") for s in (0, 0, 1)]):
        a, b, c = make()
        b.data.batch(3)  # what was asked before makes no difference
        for step in (0, 5):
            assert all(torch.equal(x, y) for x, y in zip(a.data.batch(step), b.data.batch(step), strict=True))
        assert a.data.batch(0)[0].shape != a.data.batch(1)[0].shape or not torch.equal(
            a.data.batch(0)[0], a.data.batch(1)[0]
        )
        assert a.data.batch(0)[0].shape != c.data.batch(0)[0].shape or not torch.equal(
            a.data.batch(0)[0], c.data.batch(0)[0]
        )


def is_caption(line: str) -> bool:
    try:
        parse_caption(line)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("requests", [0.0, 1.0])
def test_a_language_models_rows_are_full_of_texts_and_all_tokens_are_predicted(requests):
    """Captions with what happens between them, a line each; or instructions and no caption."""
    words = *FEW, *THIN, "length=300", f"texts.requests={requests}", "texts.asked=0.0"
    stage = make_stage("language", override(LANGUAGE, *words), None)
    tokens, predicted = stage.data.batch(0)
    assert tokens.shape == (4, 300) and predicted.all() and (tokens[:, 0] == stage.base.pieces.bos).all()
    for row in tokens.tolist():
        lines = stage.base.pieces.decode(row[1 : row.index(stage.base.pieces.eos)]).split("\n")
        assert 1 <= len(lines) <= (4 if requests else 2) * stage.config.texts.scenes
        assert [is_caption(line) for line in lines] == [i % 2 == 0 and not requests for i in range(len(lines))]
        assert all(a != b for a, b in zip(lines[::2], lines[2::2]))
    with torch.no_grad():
        loss = float(stage.loss(stage.module, (tokens, predicted))[0])
        logits = stage.module(tokens[:, :-1]).double().log_softmax(-1)
    wanted = -logits.gather(-1, tokens[:, 1:, None]).mean()
    assert loss == pytest.approx(float(wanted), rel=1e-4)


@torch.no_grad()
def test_texts_are_rehearsed_beside_the_triplets(language_file):
    plain, stage = stage_of(language_file), stage_of(language_file, "rehearsed=2", "texts.requests=0.0")
    batch = stage.data.batch(3)
    assert all(torch.equal(*pair) for pair in zip(batch[:2], plain.data.batch(3), strict=True))
    assert batch[2].shape == (2, 120) and batch[3].all()
    assert all(torch.equal(*pair) for pair in zip(batch, stage.data.batch(3), strict=True))
    for line in stage.base.pieces.decode(batch[2][0].tolist()).split("\n")[:1]:
        parse_caption(line)
    loss, figures = stage.loss(stage.module, batch)
    alone = LanguageStage.loss(stage, stage.module, batch[2:])[0]
    assert float(loss) == pytest.approx(float(plain.loss(plain.module, batch[:2])[0]) + float(alone), rel=1e-4)
    assert float(figures["loss_texts"]) == pytest.approx(float(alone))


@torch.no_grad()
def test_layers_of_a_new_language_model_add_nothing():
    model = make_stage("language", LANGUAGE, None).module
    tokens = torch.randint(3, 600, (2, 30), generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.states(tokens), model.norm(model.token(tokens)))
    assert all(
        weight.abs().max() > 0
        for name, weight in model.named_parameters()
        if not name.endswith(("out.weight", "down.weight"))
    )


def test_a_triplet_that_is_too_long_is_named(language_file):
    long = [TRIPLETS[2], Triplet(input="日" * 60, edit="make it night", output="a cat")]
    with pytest.raises(ValueError, match=r"^triplet 2 has (\d+) tokens, more than 120: .*--set length=\1$"):
        stage_of(language_file, triplets=long)
    with pytest.raises(ValueError, match="length = 513: the language model takes 512 tokens at most"):
        stage_of(language_file, "length=513")
    assert len(stage_of(language_file, "length=512", triplets=long).data.rows) == 2


def test_the_tiny_worlds_triplets_agree_and_depend_on_the_seed_alone():
    triplets = draw_triplets(50)
    assert triplets == draw_triplets(50) != draw_triplets(50, seed=1)
    assert all(mismatch(t.input, t.edit, t.output) is None for t in triplets) and len(set(triplets)) > 45


def test_the_instruction_models_triplets_are_of_all_kinds_in_turn():
    triplets = draw_triplets(24, balanced=True)
    assert triplets == draw_triplets(24, balanced=True) != draw_triplets(24)
    kinds = [change(parse_caption(t.input), parse_caption(t.output)) for t in triplets]
    assert kinds == [*EDIT_KINDS] * 3


# ---- runs


@pytest.mark.parametrize("words", [(), LORA], ids=["all weights", "LoRA"])
def test_a_stopped_run_continues_to_the_same_bits(words, tmp_path, language_file, data_file):
    config = config_of(f"data={data_file}", *words)
    list(start(STAGES["instructions"], config, tmp_path / "whole", init_from=[language_file]))
    for log in start(STAGES["instructions"], config, tmp_path / "halves", init_from=[language_file]):
        if log.step == 4:  # the state of step 3 is on disk; step 4 is lost
            break
    list(start(STAGES["instructions"], config, tmp_path / "halves", resume=True))
    whole, halves = (torch.load(tmp_path / run / "state/00000006.pt", weights_only=True) for run in ("whole", "halves"))
    assert whole["step"] == halves["step"] == 6
    for part in ("model", "ema"):
        assert all(torch.equal(whole[part][key], halves[part][key]) for key in whole[part])
    assert (tmp_path / "whole/model.safetensors").read_bytes() == (tmp_path / "halves/model.safetensors").read_bytes()
    one, two = (tmp_path / run / "samples/000006.txt" for run in ("whole", "halves"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("words", [(), LORA], ids=["all weights", "LoRA"])
def test_the_exported_model_is_the_average_merged(words, tmp_path, language_file, data_file):
    base = minip2p.load_language_model(language_file)
    config = config_of(f"data={data_file}", "train.learning_rate=0.02", *words)
    logs = list(start(STAGES["instructions"], config, tmp_path, init_from=[language_file]))
    assert set(logs[-1].figures) == {"step", "items", "valid"}, (
        "which answers are consistent is only known in the tiny world"
    )
    left = minip2p.load_language_model(tmp_path / "model.safetensors")
    assert left.pieces == base.pieces and left.config == base.config
    assert left.provenance["training"]["data"] == str(data_file)

    stage = make_stage("instructions", config, tmp_path, [language_file])
    state = torch.load(max((tmp_path / "state").iterdir()), weights_only=True)
    stage.module.load_state_dict(state["model"] | state["ema"])
    tokens = torch.randint(3, 300, (3, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mine, theirs = stage.module(tokens), left.model(tokens)
        torch.testing.assert_close(theirs, mine, rtol=0, atol=0.01 * float(mine.std()))
        assert not torch.allclose(theirs, base.model(tokens), atol=0.1 * float(mine.std())), "it has learned"
    wanted = {name: tensor.half().float() for name, tensor in merged(stage.module).items()}
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in left.model.state_dict().items())
    changed = {name for name, tensor in base.model.state_dict().items() if not torch.equal(tensor, wanted[name])}
    layers = {f"layers.0.{name}.weight" for name in ("gate", "up", "down", "attention.q", "attention.k", "attention.v")}
    layers |= {"layers.0.attention.out.weight"}
    assert changed == layers if words else changed > layers


def test_loss_falls_and_previews_complete_the_datas_captions(tmp_path, language_file, data_file):
    words = "train.steps=60", "train.learning_rate=1e-2", "train.log_every=5", "train.save_every=60"
    logs = list(
        start(STAGES["instructions"], config_of(f"data={data_file}", *words), tmp_path, init_from=[language_file])
    )
    losses = [log.figures["loss"] for log in logs if "loss" in log.figures]
    assert np.mean(losses[-3:]) < 0.7 * losses[0]
    written = (tmp_path / "samples/000060.txt").read_text(encoding="utf-8")
    assert all(prompt_text(t.input) in written for t in TRIPLETS)


def test_a_language_model_continues_a_caption_and_instructions_start_from_it(tmp_path):
    config = override(LANGUAGE, *FEW, *THIN)
    logs = list(start(STAGES["language"], config, tmp_path / "language"))
    assert logs[-1].figures["held_out_loss"] > 0
    assert (tmp_path / "language/samples/000006.txt").read_text(encoding="utf-8").count("\n") >= 2
    stage = make_stage("instructions", config_of(), tmp_path, [tmp_path / "language/model.safetensors"])
    left = minip2p.load_language_model(tmp_path / "language/model.safetensors").model.state_dict()
    assert all(torch.equal(tensor, left[name]) for name, tensor in stage.module.state_dict().items())
    assert all(weight.requires_grad for weight in stage.module.parameters())


def test_a_run_on_the_tiny_world_measures_right_answers_and_keeps_the_file_it_starts_from(tmp_path, language_file):
    before = language_file.read_bytes()
    config = config_of("train.learning_rate=0.1", "train.steps=1", "train.warmup=0", "length=100")
    logs = list(start(STAGES["instructions"], config, tmp_path, init_from=[language_file]))
    assert logs[-1].figures.items() >= {"valid": 0.0, "consistent": 0.0}.items(), "after one step it knows nothing"
    assert (tmp_path / "samples/000001.txt").read_text(encoding="utf-8").count("\n##\n") == 64
    assert language_file.read_bytes() == before


@pytest.mark.parametrize("make", ["language", "instructions"])
def test_other_weights_are_refused(make, tmp_path):
    config = override(LANGUAGE, *FEW, *THIN) if make == "language" else config_of()
    with pytest.raises(ValueError, match="classifier.safetensors.? hold"):
        make_stage(make, config, tmp_path, [minip2p.shipped("classifier")])
    if make == "language":
        return
    with pytest.raises(ValueError, match="--init-from a b: expected one language model"):
        make_stage(make, config, tmp_path, ["a", "b"])


# ---- the config and the command


def resolve(config):
    return resolve_instructions(config, ())


def test_steps_follow_from_epochs():
    def steps(**how) -> int:
        words = [f"{name}={value}" for name, value in how.items()]
        return resolve(override(TinyInstructionTraining(), "train.batch_size=8", *words)).train.steps

    assert steps() == 88, "700 triplets in batches of 8, begun ones counted"
    assert steps(triplets=16) == 2 and steps(triplets=17) == 3 and steps(triplets=17, epochs=2.5) == 6
    assert steps(triplets=1, epochs=0.01) == 1


def test_steps_follow_from_the_tables_length(data_file):
    assert resolve(config_of(f"data={data_file}", "epochs=3")).train.steps == 4


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

    def run(spec, config, out, *, init_from, **how):
        seen.update(stage=spec.make(config, out, init_from, torch.device("cpu")), config=config)
        return iter(())

    monkeypatch.setattr("minip2p.training.stages.start", run)
    where = table(tmp_path, name, ending)
    words = ["--init-from", str(language_file), "--data", str(where), "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert main(["train", "instructions", *words]) == 0
    stage, pieces = seen["stage"], seen["stage"].base.pieces
    epochs, size = INSTRUCTIONS.epochs, INSTRUCTIONS.train.batch_size
    assert seen["config"].data == str(where) and seen["config"].train.steps == -(-len(TRIPLETS) * epochs // size)
    assert [pieces.decode(row[1:asked]) for row, asked in stage.data.rows] == [prompt_text(t.input) for t in TRIPLETS]
    assert [pieces.decode(row[asked:-1]) for row, asked in stage.data.rows] == [
        completion_text(t.edit, t.output) for t in TRIPLETS
    ]


def test_the_command_starts_from_a_published_folder(tmp_path, language_file, data_file, capsys):
    """With the LoRA of the tinyllama preset."""
    base = minip2p.load_language_model(language_file)
    minip2p.save(base, tmp_path / "llama", "transformers")
    words = ["--preset", "tinyllama", "--init-from", str(tmp_path / "llama"), "--data", str(data_file)]
    words += ["--lora-rank", "2", "--batch-size", "2", "--out", str(tmp_path / "run"), "--device", "cpu"]
    words += ["--set", "length=120", "train.learning_rate=0.05", "train.warmup=0"]
    assert main(["train", "instructions", *words]) == 0
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'run' / 'model.safetensors'}\n" and "error" not in err
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["lora_rank"] == 2 and config["train"]["steps"] == 3, "an epoch of 5 in batches of 2"
    left = minip2p.load_language_model(tmp_path / "run" / "model.safetensors")
    assert (
        isinstance(left, LanguageModel)
        and left.config == replace(base.config, head_size=12)
        and left.pieces == base.pieces
    )
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
        (["vae", "--data", "x.jsonl"], "unknown key 'data'"),
        (["language", "--lora-rank", "2"], "unknown key 'lora_rank'"),
        (["language", "--lora-rank", "0"], "unknown key 'lora_rank'"),
        (["instructions", "--preset", "tinyllama"], "give --init-from PATH, a language model"),
        (
            ["editor", "--preset", "tinyllama", "--init-from", "x"],
            "--preset tinyllama: for editor there are sd15, tiny",
        ),
        (["instructions", "--init-from", "{lm}", "{lm}"], "expected one language model"),
        (["instructions", "--init-from", "{lm}", "--data", "{tmp}/none.jsonl"], "none.jsonl"),
        (["instructions", "--init-from", "{lm}", "--data", "{tmp}/bad.jsonl"], "bad.jsonl, line 2: 'edit' is missing"),
        (["instructions", "--init-from", "{lm}", "--data", "{tmp}/empty.csv"], "empty.csv is empty"),
        (["instructions", "--init-from", "{lm}", "--data", "{tmp}/long.jsonl"], "triplet 1 has"),
        (["instructions", "--init-from", "{lm}", "--lora-rank", "-1"], "lora_rank = -1: expected at least 0"),
        (["instructions", "--init-from", "{tmp}/none"], "none"),
        (["instructions", "--init-from", "{classifier}"], "holds a classifier, expected a language model"),
    ],
)
def test_a_mistake_is_one_line(words, said, tmp_path, language_file, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    row = {"input": "a cat", "edit": "make it night", "output": "a cat at night"}
    (tmp_path / "bad.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({"input": "a", "output": "b"}) + "\n")
    (tmp_path / "long.jsonl").write_text(json.dumps(row | {"input": "日" * 4000}) + "\n")
    (tmp_path / "empty.csv").write_text("input,edit,output\n")
    places = {"tmp": tmp_path, "lm": language_file, "classifier": minip2p.shipped("classifier")}
    assert main(["train", *(word.format(**places) for word in words), "--device", "cpu"]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("minip2p: error: ") and said in err and err.count("\n") == 1
    assert not list(tmp_path.glob("**/*.pt"))


def test_the_config_is_printed_with_its_steps(capsys):
    assert main(["train", "instructions", "--print-config", "--lora-rank", "4", "--set", "epochs=2"]) == 0
    words = capsys.readouterr().out.split()
    assert {"lora_rank=4", "train.steps=88", "data=None"} <= set(words)
    assert main(["train", "instructions", "--print-config", "--steps", "7"]) == 0
    assert "train.steps=7" in capsys.readouterr().out.split()
    assert main(["train", "instructions", "--print-config", "--set", "train.steps=9"]) == 0
    assert "train.steps=9" in capsys.readouterr().out.split()


def test_the_preset_of_the_tiny_language_model_is_700_triplets():
    config = INSTRUCTIONS
    assert config.triplets == 700 and config.data is None
    assert len(draw_triplets(config.triplets)) == 700
