"""Small good files of every kind that minip2p reads, and commands that read them: what the hostile tests damage."""

import csv
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from conftest import randomise, small_config, small_pipeline
from helpers_language import small_language_model
from helpers_mutate import Tree, read_tree
from helpers_sandbox import watched
from PIL import ExifTags, Image, ImageCms

import minip2p
from minip2p import checkpoints
from minip2p.config import CLIPConfig, VisionConfig
from minip2p.models.clip import CLIP
from minip2p.text.learn import learn_bpe

ROWS = [{"input": f"a red cat {i}", "edit": f"make it night {i}", "output": f"a cat {i} by night"} for i in range(4)]
TRAIN = "train editor --device cpu --threads 1 --set train.steps=2 train.batch_size=2 train.save_every=1 train.warmup=0"
TRAIN += " train.preview_every=9 train_text=False held_out=0 size=32 resize=(32,40) train.workers=0"

OF_A_RUN = ("run/config", "run/log", "run/model", "run/state")


@dataclass(frozen=True)
class Sample:
    """Good files, and commands that read them; GOOD is the folder of all good files."""

    tree: Tree
    commands: tuple[str, ...]
    only: Callable[[str], bool] = lambda name: True
    """which of the files to damage"""


def picture(size=(40, 36)) -> Image.Image:
    y, x = np.mgrid[: size[1], : size[0]]
    return Image.fromarray(np.stack([5 * x, 7 * y, 3 * (x + y)], -1).astype(np.uint8))


def make_models(good: Path) -> None:
    """Networks with random weights in every layout."""
    words = learn_bpe(["make it night", "a red cat"], vocab_size=400, max_length=16)
    for channels, name in ((8, "editor"), (4, "text2image")):
        pipe = replace(small_pipeline(channels), tokenizer=words)
        minip2p.save(pipe, good / f"{name}.safetensors")
        if name == "editor":
            for layout, file in (("original", "o.safetensors"), ("original", "o.ckpt"), ("diffusers", "diffusers")):
                minip2p.save(pipe, good / file, layout)
    minip2p.save(small_language_model(max_length=256), good / "llama.safetensors")
    minip2p.save(small_language_model(max_length=256), good / "llama", "transformers")
    text = replace(small_config().text, projection=24)
    vision = VisionConfig(image_size=16, patch_size=8, width=32, layers=1, heads=2, feed_forward=48, projection=24)
    clip = randomise(CLIP(CLIPConfig(text=text, vision=vision)), 7)
    parts = {name: getattr(clip, name).state_dict() for name in ("text", "vision")}
    parts["logit_scale"] = clip.logit_scale.detach()
    checkpoints.write(good / "clip.safetensors", "minip2p", clip.config, parts, tokenizer=words)


def make_pictures(good: Path) -> None:
    """A picture in many formats."""
    folder, image = good / "pictures", picture()
    folder.mkdir()
    image.save(good / "in.png")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image.save(folder / "plain.png")
    image.save(folder / "profile.png", icc_profile=profile)
    image.convert("RGBA").save(folder / "alpha.png")
    image.convert("P").save(folder / "palette.png", transparency=0)
    image.convert("I;16").save(folder / "deep.png")
    image.save(folder / "turned.jpg", exif=exif, icc_profile=profile)
    image.convert("CMYK").save(folder / "cmyk.jpg")
    image.save(folder / "a.webp", lossless=True, exif=exif)
    image.save(folder / "many.gif", save_all=True, append_images=[image.rotate(90), image])
    image.save(folder / "a.tif", compression="tiff_lzw")
    image.save(folder / "many.tiff", save_all=True, append_images=[image])
    image.save(folder / "a.bmp")
    image.save(folder / "a.ppm")


def make_pairs(good: Path) -> None:
    """A set of pairs in every layout."""
    for i, row in enumerate(ROWS):
        at = good / "pairs" / f"{i:07d}"
        at.mkdir(parents=True)
        (at / "prompt.json").write_text(json.dumps(row))
        (at / "metadata.jsonl").write_text('{"seed": 7}\n')
        for side in (0, 1):
            picture((40 + i, 36 + side)).save(at / f"7_{side}.jpg")
    seeds = [[f"{i:07d}", ["7"]] for i in range(len(ROWS))]
    (good / "pairs" / "seeds.json").write_text(json.dumps(seeds))
    own = good / "own"
    (own / "images").mkdir(parents=True)
    for i in range(4):
        picture((32 + i, 33)).save(own / "images" / f"{i}.png")
    rows = [{"source": f"images/{i}.png", "target": f"images/{3 - i}.png"} | ROWS[i] for i in range(4)]
    write_table(own / "edits.csv", rows, ",")
    write_table(own / "edits.tsv", rows, "\t")
    (own / "edits.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    jobs = [{"input": f"images/{i}.png", "edit": "make it night", "seed": i, "text_scale": 2.5} for i in range(2)]
    (own / "jobs.jsonl").write_text("".join(json.dumps(job) + "\n" for job in jobs))
    turns = [{"input": f"{i}-input.png", "output": f"{i}-output1.png", "instruction": "night"} for i in range(2)]
    brush = good / "magicbrush"
    for i, turn in enumerate(turns):
        at = brush / "images" / str(i)
        at.mkdir(parents=True)
        for name in (turn["input"], turn["output"]):
            picture().save(at / name)
    (brush / "edit_turns.json").write_text(json.dumps([turn | {"mask": "m.png"} for turn in turns]))
    (brush / "global_descriptions.json").write_text(json.dumps({"0": {"0-input.png": "a cat"}}))


def write_table(path: Path, rows: list[dict], separator: str) -> None:
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), delimiter=separator)
        table.writeheader()
        table.writerows(rows)


def make_texts(good: Path) -> None:
    """Captions and prompts."""
    (good / "captions.txt").write_text("a red cat\na blue boat at sea\na house\n")
    write_table(good / "captions.csv", [{"caption": row["input"]} for row in ROWS], ",")
    (good / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[:2]))
    write_table(good / "prompts.csv", ROWS[:2], ",")


def make_tars(good: Path) -> None:
    """Pairs as WebDataset's tars."""
    (good / "tars").mkdir()
    for i, rows in enumerate((ROWS[:2], ROWS[2:])):
        with tarfile.open(good / "tars" / f"{i:05d}.tar", "w") as file:
            for j, row in enumerate(rows):
                picture().save(jpeg := io.BytesIO(), "JPEG")
                files = {"source.jpg": jpeg.getvalue(), "target.jpg": jpeg.getvalue(), "json": json.dumps(row).encode()}
                for ending, data in files.items():
                    member = tarfile.TarInfo(f"{i}-{j}.{ending}")
                    member.size = len(data)
                    file.addfile(member, io.BytesIO(data))


def make_parquet(good: Path) -> None:
    """Pairs as a table of Hugging Face."""
    import datasets  # noqa: F401, so that not every forked process has to import it
    import pyarrow
    import pyarrow.parquet

    data = io.BytesIO()
    picture().save(data, "PNG")
    image = {"bytes": data.getvalue(), "path": "a.png"}
    rows = [{"input_image": image, "edit_prompt": row["edit"], "edited_image": image} for row in ROWS]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), good / "pairs.parquet")


def make_results(good: Path) -> None:
    """What minip2p itself writes and reads again."""
    edit = "edit --input in.png --edit night --weights editor.safetensors --steps 1 --threads 1 --output"
    generate = "generate --prompt cat --size 32 --weights text2image.safetensors --steps 1 --threads 1 --output"
    pair = "pair --prompt cat --edited-prompt dog --size 32 --weights text2image.safetensors --steps 1 --threads 1"
    pairs = "pairs --prompts prompts.jsonl --weights text2image.safetensors --clip clip.safetensors --steps 1"
    pairs += " --samples 2 --threads 1 --image -1 --caption -1 --direction -1 --most 1 --size 32 --output"
    latents = "precompute --data pairs --size 32 --resize 32 40 --crops 1 --weights editor.safetensors --threads 1"
    for command in (
        f"{edit} made.png",
        f"{edit} made.webp",
        f"{edit} made.jpg",
        f"{generate} generated.png --grid seed=0,1",
        f"{pair} --output pair.png",
        "invert --input in.png --prompt cat --weights text2image.safetensors --steps 2 --method ddim --threads 1"
        " --output inverted.png --state inverted.safetensors",
        f"{pairs} folders",
        f"{latents} --unit 2 --output latents",
        f"{TRAIN} --init-from editor.safetensors --data pairs --out run --lora-rank 2",
        f"{TRAIN} train.steps=1 --init-from editor.safetensors --data pairs --out stopped",
    ):
        ran = watched(command.split(), good, seconds=30)  # forked: a process that has trained cannot fork to train
        assert ran.status == 0 and not ran.faults, (command, ran)


def make_good(good: Path) -> None:
    """Write all good files."""
    make_models(good)
    make_pictures(good)
    make_pairs(good)
    make_texts(good)
    make_parquet(good)
    make_tars(good)
    make_results(good)


@cache
def samples(good: Path) -> dict[str, list[Sample]]:
    """What is damaged, and by which commands it is read, by the kind of test."""

    def take(*names: str) -> Tree:
        return {name: content for path in names for name, content in read_tree(good / path, path).items()}

    edit = "edit --input GOOD/in.png --edit night --steps 1 --threads 1 --output out/a.png --weights"
    generate = "generate --prompt cat --size 32 --steps 1 --threads 1 --output out/a.png --weights"
    instruct = "instructions --captions GOOD/captions.txt --max-tokens 4 --retries 0 --threads 1 --output out/a.jsonl"
    pairs = "pairs --weights GOOD/text2image.safetensors --clip {} --prompts {} --steps 1 --samples 1 --threads 1"
    pairs += " --image -1 --caption -1 --direction -1 --size 32 --output out/pairs"
    latents = "precompute --data {} --size 32 --resize 32 40 --crops 1 --weights {} --threads 1 --output out/latents"
    train = f"{TRAIN} --out out/run --init-from {{}} --data {{}}".format
    run_on = "train editor --device cpu --threads 1 --resume run"

    def model(name: str, *more: str) -> Sample:
        original = f"convert --weights {name} --output out/b --layout"
        commands = (
            f"info --weights {name}",
            f"convert --weights {name} --output out/b.safetensors",
            f"{original} diffusers",
            f"{edit} {name}",
            f"{generate} {name}",
            train(name, "GOOD/pairs"),
            *more,
        )
        return Sample(take(name), commands)

    language = (f"{instruct} --weights", "info --weights", "convert --output out/b --layout transformers --weights")
    checkpoint_files = [
        model("editor.safetensors"),
        model("text2image.safetensors", "convert --weights text2image.safetensors --output out/b.safetensors --widen"),
        model("o.safetensors"),
        model("o.ckpt"),
        model("diffusers"),
        Sample(take("clip.safetensors"), (pairs.format("clip.safetensors", "GOOD/prompts.jsonl"),)),
        Sample(take("llama.safetensors"), tuple(f"{command} llama.safetensors" for command in language)),
        Sample(take("llama"), tuple(f"{command} llama" for command in language)),
    ]
    configs = [
        replace(model("diffusers"), only=lambda name: name.endswith(".json")),
        Sample(take("llama"), tuple(f"{each} llama" for each in language), lambda name: name.endswith(".json")),
        Sample(take("stopped", "pairs"), (f"{run_on} --set train.steps=2".replace("run", "stopped"),)),
        Sample(take("run", "pairs"), (f"{run_on} --set train.steps=3",), lambda name: name.startswith(OF_A_RUN)),
    ]
    pictures = [
        Sample(
            {f"in/{name.partition('/')[2]}": content},
            (
                "edit --input in --edit night --steps 1 --threads 1 --output out --weights GOOD/editor.safetensors",
                f"edit --input in/{name.partition('/')[2]} --edit night --steps 1 --threads 1 --output out/a.png"
                " --weights GOOD/editor.safetensors",
                f"show in/{name.partition('/')[2]}",
                "import --source in --target GOOD/pictures --edit night --output out",
                f"sdedit --input in/{name.partition('/')[2]} --prompt cat --steps 1 --strength 1 --threads 1"
                " --output out/a.png --weights GOOD/text2image.safetensors",
            ),
        )
        for name, content in take("pictures").items()
    ]
    made = ("made.png", "made.webp", "made.jpg", "generated.png", "pair.png", "inverted.png")
    metadata = [
        Sample(
            take(name) | {"in.png": (good / "in.png").read_bytes()},
            (
                f"show {name}",
                f"show {name} --again --output out/a.png --weights GOOD/"
                + ("editor" if name.startswith("made") else "text2image")
                + ".safetensors"
                + ("" if name in ("generated.png", "pair.png") else " --input GOOD/in.png"),
                f"show {name} --again --output out/a.png",
            ),
            lambda each: each != "in.png",
        )
        for name in made
    ]

    def set_of(name: str, *more: str) -> Sample:
        commands = (
            f"check {name}",
            f"check {name} --output out/a.png",
            latents.format(name, "GOOD/editor.safetensors"),
            train("GOOD/editor.safetensors", name),
            f"import --data {name} --output out",
            *more,
        )
        return Sample(take(name), commands)

    own = [
        Sample(
            take("own"),
            (f"import --table own/{name} --output out", f"import --table own/{name} --output out --skip-broken"),
            lambda each, name=name: each.endswith(name),
        )
        for name in ("edits.csv", "edits.tsv", "edits.jsonl")
    ]
    table_edit = "edit --input own/jobs.jsonl --steps 1 --threads 1 --output out --weights GOOD/editor.safetensors"
    tables = [
        *own,
        Sample(take("own"), (table_edit,), lambda name: name.endswith("jobs.jsonl")),
        Sample(take("captions.txt"), (instruct.replace("GOOD/captions", "captions") + " --weights GOOD/llama",)),
        Sample(
            take("captions.csv"), (instruct.replace("GOOD/captions.txt", "captions.csv") + " --weights GOOD/llama",)
        ),
        Sample(take("prompts.jsonl"), (pairs.format("GOOD/clip.safetensors", "prompts.jsonl"),)),
        Sample(take("prompts.csv"), (pairs.format("GOOD/clip.safetensors", "prompts.csv"),)),
    ]
    sets = [
        set_of("pairs"),
        replace(set_of("pairs"), only=lambda name: name.endswith("seeds.json")),
        set_of("folders", "filter folders --image -1 --caption -1 --direction -1"),
        set_of("tars"),
        set_of("magicbrush"),
        set_of("pairs.parquet"),
        Sample(take("latents"), (train("GOOD/editor.safetensors", "latents"),)),
    ]
    words = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model", "_config.json", "special_tokens_map.json")
    tokenizers = [
        Sample(take("diffusers"), (f"{edit} diffusers", "info --weights diffusers"), lambda n: "/tokenizer/" in n),
        Sample(take("llama"), tuple(f"{command} llama" for command in language), lambda name: name.endswith(words)),
    ]
    return {
        "checkpoints": checkpoint_files,
        "configs": configs,
        "pictures": pictures,
        "metadata": metadata,
        "tables": tables,
        "sets": sets,
        "tokenizers": tokenizers,
    }
