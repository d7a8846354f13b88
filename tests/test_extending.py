"""How to extend minip2p from outside of the package: add a part to its dict, then use it by its word.

Each test is an example to copy. `monkeypatch.setitem(PARTS, "mine", part)` is `PARTS["mine"] = part`, undone after the
test.
"""

import json
from dataclasses import replace

import pytest
import torch
from conftest import randomise, small_config
from PIL import Image
from torch import nn

import minip2p
from minip2p.config import override
from minip2p.control import AtSites, Control
from minip2p.data.edits import LAYOUTS, open_edits
from minip2p.data.layouts.common import EditText, EncodedImage
from minip2p.diffusion import BETAS, PREDICTIONS, SAMPLERS, SCHEDULES, SPACINGS, Cond, FlowSchedule, Step
from minip2p.diffusion.denoiser import Prediction
from minip2p.evaluation.metrics import METRICS, compare
from minip2p.models.denoisers import DENOISERS, build_denoiser
from minip2p.models.text_encoder import TextEncoder
from minip2p.models.vae import AutoencoderKL
from minip2p.nn.blocks import NORMS
from minip2p.pipeline import Pipeline
from minip2p.text.learn import learn_bpe

TOKENIZER = learn_bpe(["a red house by the sea"] * 3, vocab_size=400, max_length=16)
IMAGE = Image.new("RGB", (32, 24), (200, 30, 60))
HOW = {"steps": 3, "output": "latent"}


def editor(*words: str) -> Pipeline:
    """A small editor with random weights, its config changed by words."""
    config = override(small_config(), *words)
    parts = build_denoiser(config), AutoencoderKL(config.vae), TextEncoder(config.text)
    return Pipeline(*(randomise(part, i) for i, part in enumerate(parts)), TOKENIZER, config)


@pytest.fixture(scope="module")
def pipe():
    return editor()


def test_a_sampler(monkeypatch, pipe):
    """A generator of `Step`s, along a field (z, sigma) -> denoised."""

    def halfway(field, z, sigmas, *, noise):
        """Euler's method with the slope in the middle of the step (the midpoint rule); Euler's step to 0."""
        for i, (sigma, after) in enumerate(zip(sigmas.tolist(), sigmas.tolist()[1:])):
            denoised = field(z, sigma)
            slope = (z - denoised) / sigma
            if after > 0:
                middle = (sigma + after) / 2
                ahead = z + (middle - sigma) * slope
                slope = (ahead - field(ahead, middle)) / middle
            z = z + (after - sigma) * slope
            yield Step(i, sigma, z, denoised)

    monkeypatch.setitem(SAMPLERS, "halfway", halfway)
    z = pipe.edit(IMAGE, "a red house", sampler="halfway", **HOW)
    assert not torch.equal(z, pipe.edit(IMAGE, "a red house", sampler="euler", **HOW)) and z.isfinite().all()


def test_a_spacing_of_noise_levels(monkeypatch, pipe):
    def geometric(schedule, n):
        return torch.logspace(*(torch.tensor([schedule.sigma_max, schedule.sigma_min]).log10()), n).double()

    monkeypatch.setitem(SPACINGS, "geometric", geometric)
    assert pipe.edit(IMAGE, "a red house", spacing="geometric", **HOW).isfinite().all()


def test_a_norm(monkeypatch):
    """(channels, groups, eps) -> a module. A class, so that networks still pickle."""

    class NoNorm(nn.Identity):
        def __init__(self, channels, groups, eps):
            super().__init__()

    monkeypatch.setitem(NORMS, "none", NoNorm)
    pipe = editor("unet.norm=none")
    assert any(isinstance(module, NoNorm) for module in pipe.unet.modules())
    assert pipe.edit(IMAGE, "a red house", **HOW).isfinite().all()


def test_a_guidance_rule(pipe):
    """A list of (weight, Cond), or a function of sigma that gives one: here the text only guides at high noise
    (Kynkaanniemi et al. 2024 limit guidance to an interval)."""
    text, null, image = pipe.encode_text(["a red house"]), pipe.encode_text([""]), torch.zeros(1, 4, 6, 8)

    def early(sigma):
        scale = 7.5 if sigma > 1 else 1.0
        return [(scale, Cond(text, image)), (1 - scale, Cond(null, image))]

    *_, last = pipe.sample(early, [0], (6, 8), steps=4)
    assert last.z.shape == (1, 4, 6, 8) and pipe.decode(last.z).shape == (1, 3, 24, 32)


def test_a_prediction(monkeypatch):
    """A row of coefficients: here EDM's own network (Karras et al. 2022, table 1, with sigma_data = 1)."""
    edm = Prediction(
        c_in=lambda sigma: 1 / (sigma**2 + 1) ** 0.5,
        c_skip=lambda sigma: 1 / (sigma**2 + 1),
        c_out=lambda sigma: sigma / (sigma**2 + 1) ** 0.5,
        c_noise=lambda sigma, schedule: sigma.clamp(min=1e-8).log() / 4,
        target=lambda z0, noise, sigma: (sigma * z0 - noise) / (sigma**2 + 1) ** 0.5,
    )
    monkeypatch.setitem(PREDICTIONS, "edm", edm)
    pipe = editor("schedule.prediction=edm")
    assert pipe.edit(IMAGE, "a red house", **HOW).isfinite().all()
    z0, noise = torch.randn(2, 2, 4, 6, 8)
    assert (pipe.denoiser.loss(z0, noise, 3.0, Cond(torch.zeros(1, 16, 32), z0)) > 0).all()  # what is trained on


def test_a_schedule(monkeypatch):
    """A function of the schedule's config; here a flow whose shift follows from the number of times. Or betas."""
    monkeypatch.setitem(SCHEDULES, "shifted", lambda c: FlowSchedule(c.steps, shift=(c.steps / 100) ** 0.5))
    pipe = editor("schedule.kind=shifted", "schedule.prediction=flow")
    assert pipe.denoiser.schedule.shift == pytest.approx(10**0.5)
    assert pipe.edit(IMAGE, "a red house", **HOW).isfinite().all()
    monkeypatch.setitem(BETAS, "constant", lambda start, end, steps: torch.full((steps,), end, dtype=torch.float64))
    assert editor("schedule.kind=constant").edit(IMAGE, "a red house", **HOW).isfinite().all()


def test_an_attention_control(pipe):
    """`for_call` gives what acts in one network call; here cross-attention is sharpened while there is much noise."""

    class Sharpen(Control):
        def for_call(self, sigma, branches, b):
            return Sharper() if sigma > 1 else None

    class Sharper(AtSites):
        def inputs(self, q, k, v, site):
            return (3 * q if site.kind == "cross" else q), k, v

    sharp = pipe.edit(IMAGE, "a red house", control=[Sharpen()], **HOW)
    assert not torch.allclose(sharp, pipe.edit(IMAGE, "a red house", **HOW), atol=1e-3)


class Convolutions(nn.Module):
    """The least that a denoiser is: a network of (z, t, text, control), and the sizes of its attention maps."""

    checkpointing = False

    def __init__(self, config):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(config.in_channels, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, config.out_channels, 3, padding=1)
        )
        self.text = nn.Linear(config.text_width, config.out_channels)

    def forward(self, z, t, text, control=()):
        return self.layers(z) + self.text(text.mean(1))[:, :, None, None]

    def map_sizes(self, size):
        return []


def test_a_denoiser(monkeypatch, tmp_path):
    """Of `config.unet`, from which it takes what it needs. A file of ours holds it."""
    monkeypatch.setitem(DENOISERS, "convolutions", Convolutions)
    pipe = editor("denoiser=convolutions")
    z = pipe.edit(IMAGE, "a red house", **HOW)
    minip2p.save(pipe, tmp_path / "mine.safetensors")
    again = minip2p.load(tmp_path / "mine.safetensors")
    assert isinstance(again.unet, Convolutions)
    torch.testing.assert_close(again.edit(IMAGE, "a red house", **HOW), z, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="'convolutions' cannot be written as 'diffusers'"):
        minip2p.save(pipe, tmp_path / "folder", "diffusers")


def test_a_metric(monkeypatch):
    """(images, truths), both (b, 3, y, x) in [0, 1] -> (b,)."""

    def worst_pixel(images, truths):
        return (images - truths).abs().amax(dim=(1, 2, 3))

    monkeypatch.setitem(METRICS, "worst_pixel", worst_pixel)
    truths = torch.zeros(2, 3, 4, 4)
    images = truths.index_fill(0, torch.tensor([1]), 0.5)
    values = compare(images, truths, ["l1", "l2", "worst_pixel"])
    assert {word: value.tolist() for word, value in values.items()} == {
        "l1": [0, 0.5],
        "l2": [0, 0.25],
        "worst_pixel": [0, 0.5],
    }
    with pytest.raises(ValueError, match="unknown metric 'ssim'; there are l1, l2, worst_pixel"):
        compare(images, truths, ["ssim"])


def test_a_layout_of_a_data_set(monkeypatch, tmp_path):
    """(path, part) -> a source: its length, and the text and the two files of an item."""

    class Lines:
        """A file edits.jsonl beside the images that it names."""

        def __init__(self, path, part):
            self.path = path
            self.rows = [json.loads(line) for line in open(f"{path}/edits.jsonl")]

        def __len__(self):
            return len(self.rows)

        def text(self, i):
            return EditText(name=f"line {i}", key=str(i), instruction=self.rows[i]["do"])

        def files(self, i):
            names = (f"{self.path}/{self.rows[i][side]}" for side in ("from", "to"))
            return tuple(EncodedImage(name, open(name, "rb").read()) for name in names)

    monkeypatch.setitem(LAYOUTS, "lines", Lines)
    IMAGE.save(tmp_path / "a.png")
    IMAGE.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "b.png")
    (tmp_path / "edits.jsonl").write_text(json.dumps({"from": "a.png", "to": "b.png", "do": "mirror it"}) + "\n")
    (pair,) = open_edits(tmp_path, layout="lines")
    assert pair.instruction == "mirror it" and pair.source.size == pair.target.size == (32, 24)


def test_a_part_is_swapped_by_dataclasses_replace(pipe):
    """A pipeline is a value: here with a text encoder that knows no word."""

    class Deaf(nn.Module):
        def forward(self, tokens):
            return torch.zeros(len(tokens), 16, 32)

    deaf = replace(pipe, text_encoder=Deaf())
    assert torch.equal(deaf.edit(IMAGE, "a red house", **HOW), deaf.edit(IMAGE, "a blue boat", **HOW))
