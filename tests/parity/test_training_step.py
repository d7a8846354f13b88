"""Training the editor against a step written by hand on diffusers' and transformers' networks of the same weights."""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import randomise, write_pairs
from diffusers import UNet2DConditionModel
from torch import Tensor

from minip2p.checkpoints.tables import links, pull, unet_rows
from minip2p.config import override
from minip2p.tinyworld.scenes import render, sample_edit
from minip2p.training.loop import train
from minip2p.training.presets import SD15
from minip2p.training.stages import make_editor, resolve_editor

from .oracles import oracle, write_folder

pytestmark = pytest.mark.slow

STEPS, BATCH, RATE, DECAY = 5, 5, 1e-4, 0.01
BANDS = {"loss_low": (0, 0.5), "loss_mid": (0.5, 5), "loss_high": (5, 100)}
WORDS = (
    "size=32",
    "resize=32,36",
    "dropout=0.15",
    f"train.steps={STEPS}",
    f"train.batch_size={BATCH}",
    "train.workers=0",
    "train.log_every=1",
    "train.save_every=1",
    f"train.keep={STEPS}",
    "train.preview_every=1000",
    "train.seed=3",
    "held_out=0",
)
"""otherwise the paper's; dropout is more frequent, so that a few images see every kind of it"""


@dataclass(frozen=True)
class Case:
    """How to make our stage anew, and their networks, of which `unet` has the editor's 8 inputs."""

    make: Callable[..., Any]
    unet: UNet2DConditionModel
    vae: Any
    text: Any
    v: bool

    def losses(self, unet, batch, tokens) -> Tensor:
        """Equation 2 of the paper, of each picture, from the frozen networks and `unet`."""
        with torch.no_grad():
            image = self.vae.encode(batch.pixels[:, 0]).latent_dist.mode()
            target = self.vae.encode(batch.pixels[:, 1]).latent_dist
            text = self.text(tokens).last_hidden_state
        z0 = 0.18215 * (target.mean + target.std * batch.posterior)
        alpha, beta = (x.float()[:, None, None, None] for x in alpha_beta(batch.sigma))
        z = alpha * z0 + beta * batch.noise
        shown = torch.where(batch.keep[:, None, None, None], image, torch.zeros_like(image))
        prediction = unet(torch.cat([z, shown], 1), time_of(batch.sigma).float(), encoder_hidden_states=text).sample
        wanted = alpha * batch.noise - beta * z0 if self.v else batch.noise
        return (prediction - wanted).square().flatten(1).mean(1)


def levels() -> Tensor:
    """Stable Diffusion's 1000 noise levels, float64."""
    kept = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)
    return (1 / kept - 1).sqrt()


def alpha_beta(sigma: Tensor) -> tuple[Tensor, Tensor]:
    """The weights of latent and noise at a noise level: sqrt(alpha_bar), sqrt(1 - alpha_bar)."""
    kept = 1 / (1 + sigma.double() ** 2)
    return kept.sqrt(), (1 - kept).sqrt()


def time_of(sigma: Tensor) -> Tensor:
    """The fractional training time of a level, log sigma being linear in between."""
    return torch.from_numpy(np.interp(sigma.double().log(), levels().log(), np.arange(1000.0)))


def widened(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Theirs with 8 inputs, the new ones' weights zero, all else as it was."""
    wide = UNet2DConditionModel.from_config(unet.config, in_channels=8)
    weights = {name: x.clone() for name, x in unet.state_dict().items()}
    old = weights["conv_in.weight"]
    weights["conv_in.weight"] = torch.cat([old, torch.zeros_like(old)], dim=1)
    wide.load_state_dict(weights)
    return wide


@pytest.fixture(scope="module", params=["editor", "sd2"])
def case(request, tmp_path_factory) -> Case:
    """ "editor": 8 inputs, noise predicted, a batch at once; "sd2": 4 inputs to be widened, v, a batch in 2 + 2 + 1.

    Norms have 8 groups: a group of one channel would cancel what is added before it, with a gradient of zero.
    """
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    nets = oracle(name)
    nets = replace(nets, unet=randomise(UNet2DConditionModel.from_config(nets.unet.config, norm_num_groups=8)))
    model = write_folder(nets, folder / "model", "make it a photo of the sea at night, add a red boat to the left")
    rng = np.random.default_rng(5)
    edits = [sample_edit(rng) for _ in range(30)]
    write_pairs(folder / "pairs", edits, lambda scene: render(scene, 48).crop((0, 3, 48, 43)), "jpg")  # wider than high
    parts = {"editor": (), "sd2": ("train.micro_batch=2",)}[name]
    config = replace(SD15, data=(str(folder / "pairs"),))
    config = override(resolve_editor(config, [model]), *WORDS, *parts)

    def make(*words: str):
        return make_editor(override(config, *words), folder / "out", [model], torch.device("cpu"))

    unet = nets.unet if name == "editor" else widened(nets.unet)
    return Case(make, unet, nets.vae, nets.text_encoder, name == "sd2")


@pytest.fixture(scope="module")
def trained(case, tmp_path_factory):
    """Our loop's five steps: the weights before, the folder it leaves, the stage."""
    stage, out = case.make(), tmp_path_factory.mktemp("run")
    before = {name: x.detach().clone() for name, x in stage.module["unet"].state_dict().items()}
    list(train(stage, out))
    return before, out, stage


def ours_of(stage, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their UNet's tensors under our names."""
    found, names, used = pull(tensors, links(unet_rows(stage.pipe.config.unet), 2))
    assert len(found) == len(used) == len(tensors)
    return found


def error(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The largest relative error of a tensor."""
    assert mine.keys() == theirs.keys()
    return max(float((mine[name] - theirs[name]).norm() / theirs[name].norm()) for name in theirs)


def test_loss_and_gradients_are_those_of_the_step_by_hand(case):
    stage, unet = case.make(), copy.deepcopy(case.unet)
    assert stage.pipe.config.unet.in_channels == 8 and stage.pipe.denoiser.predict == ("v" if case.v else "eps")
    batch = stage.data.batch(1)
    loss, figures = stage.loss(stage.module, stage.inputs(batch))
    loss.backward()
    wanted = case.losses(unet, batch, stage.pipe.tokenizer(batch.texts))
    wanted.mean().backward()
    assert abs(loss.item() / wanted.mean().item() - 1) < 1e-5
    for name, (low, high) in BANDS.items():
        within = [i for i, sigma in enumerate(batch.sigma.tolist()) if low <= sigma < high]
        total, count = figures[name].tolist()
        assert count == len(within) and total == pytest.approx(wanted[within].sum().item(), rel=1e-5)
    gradients = {name: weight.grad for name, weight in stage.module["unet"].named_parameters()}
    theirs = ours_of(stage, {name: weight.grad for name, weight in unet.named_parameters()})
    assert error(gradients, theirs) < 1e-4


def test_weights_after_five_steps_are_those_of_the_steps_by_hand(case, trained):
    before, out, stage = trained
    unet, seen, log = copy.deepcopy(case.unet).train(), set(), []
    optimizer = torch.optim.AdamW(unet.parameters(), lr=RATE, weight_decay=DECAY)
    for step in range(STEPS):
        batch = stage.data.batch(step)
        seen |= {(text == "", bool(keep)) for text, keep in zip(batch.texts, batch.keep, strict=True)}
        optimizer.zero_grad()
        loss = case.losses(unet, batch, stage.pipe.tokenizer(batch.texts)).mean()
        loss.backward()
        norm = torch.nn.utils.get_total_norm(weight.grad for weight in unet.parameters())
        optimizer.step()
        log.append((loss.item(), norm.item()))
    assert len(seen) == 4, "text, image, both and nothing were dropped"
    assert max(norm for _, norm in log) > 1, "which is not clipped"
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    for (loss, norm), line in zip(log, [line for line in lines if "loss" in line], strict=True):
        assert line["loss"] == pytest.approx(loss, rel=1e-4) and line["grad_norm"] == pytest.approx(norm, rel=1e-4)
    mine, theirs = stage.module["unet"].state_dict(), ours_of(stage, unet.state_dict())
    assert error(mine, theirs) < 1e-4
    moved = [{name: x[name] - before[name] for name in before} for x in (mine, theirs)]
    assert error(*moved) < 1e-2, "the way they went, too, which is a hundredth of them"


def test_the_average_follows_the_papers_decay_over_the_loops_own_steps(trained):
    before, out, _ = trained
    average = {f"unet.{name}": x.double() for name, x in before.items()}
    for n in range(1, STEPS + 1):
        state = torch.load(out / "state" / f"{n:08d}.pt", weights_only=True)
        decay = min(0.9999, (1 + n) / (10 + n))
        average = {name: decay * x + (1 - decay) * state["model"][name] for name, x in average.items()}
        assert state["updates"] == n and error({k: x.double() for k, x in state["ema"].items()}, average) < 1e-6


def test_times_are_whole_and_uniform_and_dropout_is_the_papers(case):
    n, stage = 1200, case.make("dropout=0.05")
    batch = stage.data.batch(0, range(n))
    t = time_of(batch.sigma).sort().values
    assert (t - t.round()).abs().max() < 1e-9 and t.round().unique().numel() > 600
    t, even = (t + 0.5) / 1000, torch.arange(n) / n
    assert max((t - even).max(), (even + 1 / n - t).max()) < 1.63 / n**0.5, "Kolmogorov and Smirnov's, at 1 %"
    text, image = torch.tensor([each == "" for each in batch.texts]), ~batch.keep
    for name, dropped in {"text": text & ~image, "both": text & image, "image": image & ~text}.items():
        assert abs(dropped.double().mean() - 0.05) < 3 * (0.05 * 0.95 / n) ** 0.5, name
