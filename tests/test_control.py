"""Prompt-to-Prompt in its authors' way: maps are the published formulas, and nothing else is touched."""

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from conftest import ROUNDING, count_fused, difference, small_pipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from minip2p.control import Control, LocalBlend, Refine, Replace, Reweight, Run, Share
from minip2p.control.blend import where
from minip2p.control.run import AtSites
from minip2p.control.share import SelfAttentionInjection
from minip2p.diffusion import SAMPLERS, get_sampler
from minip2p.nn.attention import Attention
from minip2p.nn.site import Site
from minip2p.text.align import positions, refinement, replacement
from minip2p.text.learn import learn_bpe
from minip2p.tinyworld.evaluation.mechanisms import FirstCaption, ShareIn

RED, BLUE = "a red house by the sea", "a blue house by the sea"
MORE = "a red house with a boat, by the sea"
TOKENIZER = learn_bpe([RED, BLUE, MORE] * 3, vocab_size=400, max_length=16)
CROSS, SELF = Site("up", "cross", 3), Site("up", "self", 2)
FEW = settings(max_examples=60)


@pytest.fixture(scope="module")
def text2image():
    """With peaked attention to the text, so that words have places."""
    text2image = replace(small_pipeline(in_channels=4), tokenizer=TOKENIZER)
    for module in text2image.unet.modules():
        if isinstance(module, Attention) and module.site.kind == "cross":
            module.q.weight.data *= 6
    return text2image


@pytest.fixture(scope="module")
def editor():
    return replace(small_pipeline(), tokenizer=TOKENIZER)


def pair(pipe, *control, prompt=RED, edited=BLUE, **how):
    options = {"steps": 5, "seed": 7, "share": 0, "size": (32, 24), "output": "latent"} | how
    return pipe.generate_pair(prompt, edited, control=control, **options)


class Explicit(Control, AtSites):
    """Asks for all maps of cross-attention, at noise levels above `cut`, and leaves them."""

    def __init__(self, steps: int = 10**6):
        self.steps = steps

    def bind(self, run):
        self.cut = run.cut(self.steps)
        return self

    def for_call(self, sigma, branches, b):
        return self if sigma > self.cut else None

    def needs_probs(self, site):
        return site.kind == "cross"


def run_of(steps: int, *pairs: tuple[str, str], size=(6, 8)) -> Run:
    prompts, sources = [p for both in pairs for p in both], [i - i % 2 for i in range(2 * len(pairs))]
    sigmas = torch.linspace(14, 0, steps + 1, dtype=torch.float64).tolist()
    sizes = tuple(tuple(-(-side // 2**i) for side in size) for i in range(4))
    return Run(
        sigmas=tuple(sigmas),
        size=size,
        map_sizes=sizes,
        prompts=tuple(prompts),
        sources=tuple(sources),
        tokenizer=TOKENIZER,
    )


def maps_of(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, 2, 12, 16, generator=torch.Generator().manual_seed(seed)).mul(2).softmax(-1)


def acted(control: Control | None, p: torch.Tensor) -> torch.Tensor:
    """What a control of one call makes of maps; that it changes nothing in place is seen on the way."""
    if control is None or isinstance(control, SelfAttentionInjection):
        return p
    before = p.clone()
    assert control.needs_probs(CROSS) and not control.needs_probs(SELF)
    after = control.probs(p, CROSS)
    assert torch.equal(p, before)
    return after


# The formulas

FRACTION = st.floats(0, 1)
PART = FRACTION | st.tuples(FRACTION, FRACTION).map(lambda ends: tuple(sorted(ends)))
BRANCHES = st.sampled_from([(0,), (1,), (0, 1), (0, 1, 2), (2, 0), (1, 2)])


def is_open(part, i: int, n: int) -> bool:
    start, end = (0, part) if isinstance(part, float) else part
    return int(start * n) <= i < int(end * n)


def expected_rows(p, branches, b, change):
    """Maps of which those of branch 0 are changed, an item at a time."""
    out = p.clone()
    if 0 in branches:
        first = branches.index(0) * b
        out[first : first + b] = change(p[first : first + b])
    return out


@FEW
@given(st.data(), st.sampled_from([Replace, Refine]), st.integers(1, 12), PART, PART, BRANCHES)
def test_injected_maps_are_the_published_formula(data, kind, steps, cross, own, branches):
    """alpha p_source M + (1 - alpha) p_edited for every step, token and pair; other rows are bit-equal."""
    pairs = [(RED, BLUE), (BLUE, RED), (RED, RED)]
    if kind is Refine:
        pairs[1] = (RED, MORE)
    run, b, i = run_of(steps, *pairs), 6, data.draw(st.integers(0, steps - 1))
    p = maps_of(len(branches) * b)
    control = kind(cross=cross, self=0, words={"house": own}).bind(run)
    actual = acted(control.for_call(run.sigmas[i], branches, b), p)

    def change(rows):
        rows = rows.clone()
        for n, (prompt, edited) in enumerate(pairs):
            source, target = rows[2 * n].clone(), rows[2 * n + 1].clone()
            house = positions(TOKENIZER, edited, "house")
            swap = replacement(TOKENIZER, prompt, edited) if kind is Replace else None
            mapper, alphas = refinement(TOKENIZER, prompt, edited)
            for j in range(16):
                if not is_open(own if j in house else cross, i, steps + 1):
                    continue
                if kind is Replace:
                    rows[2 * n + 1, :, :, j] = torch.einsum("hni,i->hn", source, swap[:, j])
                else:
                    kept = (1 - alphas[j]) * target[..., j]
                    rows[2 * n + 1, :, :, j] = alphas[j] * source[..., mapper[j]] + kept
        return rows

    expected = expected_rows(p, list(branches), b, change)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-7)
    same = [r for r in range(len(p)) if torch.equal(expected[r], p[r])]
    assert torch.equal(actual[same], p[same]) and len(same) >= len(p) - 3


@FEW
@given(st.data(), st.integers(1, 12), PART, BRANCHES, st.floats(-3, 3), st.floats(-3, 3))
def test_reweighted_maps_are_the_published_formula(data, steps, cross, branches, red, house):
    """c_j p[..., j], in the edited half and in pictures that have no source."""
    run, i = run_of(steps, (BLUE, RED)), data.draw(st.integers(0, steps - 1))
    run = replace(run, prompts=(*run.prompts, MORE), sources=(*run.sources, 2))
    p = maps_of(3 * len(branches))
    control = Reweight({"red": red, "house": house}, cross=cross).bind(run)
    actual = acted(control.for_call(run.sigmas[i], branches, 3), p)

    def change(rows):
        rows = rows.clone()
        for item, prompt in ((1, RED), (2, MORE)):
            for word, factor in (("red", red), ("house", house)):
                if is_open(cross, i, steps + 1):
                    rows[item, :, :, positions(TOKENIZER, prompt, word)] *= factor
        return rows

    torch.testing.assert_close(actual, expected_rows(p, list(branches), 3, change), rtol=1e-6, atol=0)
    assert torch.equal(actual[0], p[0])


def test_controls_act_in_the_order_of_the_list(text2image):
    """Replace then Reweight weighs what was injected; the other way round what was weighed is lost."""
    run, p = run_of(5, (RED, BLUE)), maps_of(4)
    first, second = (c.bind(run).for_call(14.0, (0, 1), 2) for c in (Replace(self=0), Reweight({"house": 2})))
    injected, house = first.probs(p, CROSS), positions(TOKENIZER, BLUE, "house")
    both = second.probs(injected, CROSS)
    assert torch.equal(both[1, ..., house], 2 * injected[1, ..., house])
    assert torch.equal(first.probs(second.probs(p, CROSS), CROSS), injected)
    a, b = Replace(cross=1.0), Reweight({"house": 4})
    replaced = pair(text2image, a)
    assert difference(pair(text2image, a, b)[1], replaced[1]) > 1e-3
    assert torch.equal(pair(text2image, b, a)[1], replaced[1])


@FEW
@given(st.data(), st.integers(1, 12), PART, BRANCHES)
def test_self_attention_is_handed_over_in_the_branch_with_the_text_and_at_small_sites(data, steps, part, branches):
    run, i = run_of(steps, (RED, BLUE), (BLUE, RED)), data.draw(st.integers(0, steps - 1))
    at = Replace(cross=0, self=part, pixels=48).bind(run).for_call(run.sigmas[i], branches, 4)
    rows = len(branches) * 4
    q, k, v = (torch.arange(rows * 48.0).reshape(rows, 1, 48, 1) + n for n in range(3))
    if 0 not in branches or not is_open(part, i, steps):
        assert at is None
        return
    taken = list(range(rows))
    for row in (1, 3):
        taken[branches.index(0) * 4 + row] -= 1
    assert not at.needs_probs(SELF) and not at.needs_probs(CROSS)
    assert all(map(torch.equal, at.inputs(q, k, v, SELF), (q[taken], k[taken], v)))
    large = [torch.cat([x, x], 2) for x in (q, k, v)]
    assert all(map(torch.equal, at.inputs(*large, SELF), large)), "more than 48 pixels"
    assert all(map(torch.equal, at.inputs(q, k, v, CROSS), (q, k, v)))


# What is left as it was


@pytest.mark.parametrize("low_memory", [False, True])
@pytest.mark.parametrize("how", [{}, {"cross": 1.0, "self": 1.0}, {"cross": (0.2, 0.7), "words": {"sea": 0.1}}])
@pytest.mark.parametrize("kind", [Replace, Refine])
def test_equal_prompts_change_nothing_but_the_rounding_of_an_explicit_softmax(text2image, kind, how, low_memory):
    class Same(Explicit):  # explicit where the control is
        def bind(self, run):
            self.control = kind(**how).bind(run)
            return self

        def for_call(self, sigma, branches, b):
            at = self.control.for_call(sigma, branches, b)
            return None if at is None or isinstance(at, SelfAttentionInjection) else self

    common = {"prompt": RED, "edited": RED, "low_memory": low_memory}
    assert all(map(torch.equal, pair(text2image, kind(**how), **common), pair(text2image, Same(), **common)))


NOTHING = [
    Replace(cross=0, self=0),
    Refine(cross=0, self=0.1),
    Replace(cross=(0.5, 0.5), self=(1, 1)),
    Reweight({"house": 1, "sea": 1.0}),
    Reweight({"house": 5}, cross=0.0),
]


@pytest.mark.parametrize("control", NOTHING, ids=repr)
def test_what_has_nothing_to_do_asks_for_nothing(text2image, control):
    """Bit for bit the run without a control; self=0.1 is less than one of 5 steps."""
    fitted = control.bind(run_of(5, (RED, BLUE)))
    assert all(fitted.for_call(sigma, (0, 1), 2) is None for sigma in run_of(5, (RED, BLUE)).sigmas[:-1])
    assert all(map(torch.equal, pair(text2image, control), pair(text2image)))


ANY = [
    (Replace(cross=1.0, self=0),),
    (Refine(cross=1.0, self=1.0),),
    (Reweight({"blue": -2.0}),),
    (Replace(cross=1.0), Reweight({"blue": 3.0}), LocalBlend("house", threshold=0.8)),
    (Share(0.5), LocalBlend(("red", "blue"), threshold=0.8)),
]


@pytest.mark.parametrize("controls", ANY, ids=lambda c: "+".join(type(x).__name__ for x in c))
def test_the_source_is_unchanged_by_what_is_done_to_the_edited_picture(text2image, controls):
    """Bit for bit that of a run whose softmax is as explicit; and generate's, to rounding."""
    plain, controlled = pair(text2image, Explicit()), pair(text2image, Explicit(), *controls)
    assert torch.equal(controlled[0], plain[0]) and difference(controlled[1], plain[1]) > 1e-3
    alone = text2image.generate(RED, steps=5, seed=7, size=(32, 24), output="latent")
    assert difference(pair(text2image, *controls)[0], alone) < ROUNDING


def test_maps_are_made_only_for_cross_attention_and_while_a_window_is_open(text2image, monkeypatch):
    """Fused calls counted: of 5 steps with 4 + 4 sites, int(f 6) steps have 4 explicit ones."""
    calls = count_fused(monkeypatch)
    pair(text2image)
    plain = len(calls)
    for controls, steps in [
        ((Replace(cross=0.5, self=1.0),), 3),
        ((Replace(cross=0, self=1.0),), 0),
        ((Refine(cross=1.0, self=0),), 5),
        ((Reweight({"sea": 2}, cross=(0.2, 0.4)),), 1),
        ((Replace(cross=0, words={"sea": (0.5, 0.7)}),), 1),
        ((Replace(cross=0.5), Reweight({"sea": 2}, cross=0.7)), 4),
    ]:
        calls.clear()
        pair(text2image, *controls)
        assert len(calls) == plain - 4 * steps, controls


# In every kind of run


def test_many_pairs_give_what_each_gives_alone(text2image):
    blend = LocalBlend("house", threshold=0.8)
    controls = (Replace(cross=0.6, words={"sea": (0.2, 1.0)}), Reweight({"house": 2.0}), blend)
    prompts, edited, seeds = [RED, BLUE, RED], [BLUE, RED, "a blue house at the sea"], [3, 1, 4]
    alone = [pair(text2image, *controls, prompt=p, edited=e, seed=s) for p, e, s in zip(prompts, edited, seeds)]
    for low_memory in (False, True):
        how = {"batch_size": 3, "low_memory": low_memory}
        together = pair(text2image, *controls, prompt=prompts, edited=edited, seed=seeds, **how)
        assert all(
            difference(a, b) < ROUNDING for ours, one in zip(together, alone, strict=True) for a, b in zip(ours, one)
        )


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_takes_them(text2image, sampler):
    controls = (Refine(), Reweight({"boat": 2.0}), LocalBlend(((), "boat"), start=0.3, threshold=0.8))
    common = {"edited": MORE, "sampler": sampler}
    source, edited = pair(text2image, *controls, **common)
    assert edited.isfinite().all() and difference(edited, source) > 1e-3
    low = pair(text2image, *controls, **common, low_memory=True)
    assert difference(low[0], source) < ROUNDING and difference(low[1], edited) < ROUNDING


def test_an_instruction_is_reweighted_in_its_own_branch_only(editor):
    """Three-way guidance; at the first step D moves by s_T times what the text's branch moves by."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))

    def at(scale, *control):
        return editor.edit(
            picture, "a red house", text_scale=scale, image_scale=1.5, steps=1, output="latent", control=control
        )

    weigh, explicit = Reweight({"red": 3.0}), Explicit()
    moved = [at(scale, explicit, weigh) - at(scale, explicit) for scale in (1.0, 4.0)]
    assert moved[0].abs().max() > 1e-4 and difference(moved[1], 4 * moved[0]) < 1e-3
    assert torch.equal(at(0.0, weigh), at(0.0)), "the branch with the text is not run"
    common = {"steps": 2, "output": "latent", "control": [weigh]}
    many = editor.edit([picture] * 2, ["a red house", "a red boat"], batch_size=2, **common)
    one = editor.edit(picture, "a red boat", seed=1, low_memory=True, **common)
    assert difference(many[1], one) < ROUNDING


def test_generate_has_its_own_maps_reweighted(text2image):
    common = {"steps": 3, "size": (32, 24), "output": "latent"}
    plain, weighed = (text2image.generate(RED, control=c, **common) for c in ((), [Reweight({"red": 4.0})]))
    assert difference(weighed, plain) > 1e-3
    again = text2image.generate([RED, RED], seed=[5, 0], control=[Reweight({"red": 4.0})], batch_size=2, **common)
    assert difference(again[1], weighed) < ROUNDING


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Replace(cross=1.5), "cross 1.5: expected a number from 0 to 1"),
        (lambda: Refine(self=-0.1), "self -0.1: expected a number"),
        (lambda: Replace(cross=(0.6, 0.2)), "cross (0.6, 0.2): the part of a run ends before it starts"),
        (lambda: Replace(cross=(0.1, 0.2, 0.3)), "expected a number from 0 to 1, or two"),
        (lambda: Replace(words={"sea": 2}), "cross of the word 'sea': 2: expected a number"),
        (lambda: Replace(words="sea"), "words 'sea': expected parts of a run by words"),
        (lambda: Replace(pixels=-1), "pixels -1"),
        (lambda: Reweight({"sea": 2}, cross=(0, math.nan)), "cross nan: expected a number"),
        (lambda: Reweight({"sea": math.inf}), "factor inf of the word 'sea': expected a finite number"),
        (lambda: Reweight({"sea": "2"}), "factor '2' of the word 'sea'"),
        (lambda: Reweight({}), "no word to reweight"),
        (lambda: LocalBlend(), "either words or a mask"),
        (lambda: LocalBlend("sea", mask=torch.ones(2, 2)), "either words or a mask"),
        (lambda: LocalBlend(("a", "b", "c")), "expected one word, or two entries"),
        (lambda: LocalBlend(((), ())), "expected at least one word"),
        (lambda: LocalBlend("sea", threshold=30), "threshold 30: expected a number"),
        (lambda: LocalBlend("sea", start=-1), "start -1: expected a number"),
        (lambda: LocalBlend("sea", subtract=3), "words 3: expected a word or a list of words"),
        (lambda: LocalBlend(mask=np.full((4, 4), 255)), "values from 255 to 255; expected 0 (the source) to 1"),
        (lambda: LocalBlend(mask=np.zeros((4, 4, 3))), "shape (4, 4, 3); expected one of (y, x)"),
    ],
)
def test_values_that_mean_nothing_are_refused(make, words):
    with pytest.raises(ValueError) as error:
        make()
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "control, words",
    [
        (Replace(words={"cat": 0.5}), "'cat' is not in the prompt 'a blue house by the sea'"),
        (Reweight({"red": 2}), "'red' is not in the prompt 'a blue house by the sea'"),
        (LocalBlend("red"), "'red' is not in the prompt 'a blue house by the sea'"),
        (LocalBlend(("red", "green")), "'green' is not in the prompt 'a blue house by the sea'"),
        (LocalBlend("house", subtract="cat"), "'cat' is not in the prompt"),
    ],
)
def test_what_does_not_fit_the_run_is_refused_with_the_word_and_the_prompt(text2image, control, words):
    with pytest.raises(ValueError) as error:
        pair(text2image, control)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_other_numbers_of_words_a_run_without_pairs_and_a_run_without_text_are_refused(text2image):
    with pytest.raises(ValueError, match="has 6 words and .* has 9; use refine"):
        pair(text2image, Replace(), edited=MORE)
    for control in (Replace(), Refine(), LocalBlend("house")):
        with pytest.raises(ValueError, match=f"{type(control).__name__}.* no pair .*generate_pair"):
            text2image.generate(RED, control=[control])
    with pytest.raises(ValueError, match="a scale of 0 left out"):
        pair(text2image, LocalBlend("house"), scale=0.0)
    pair(text2image, LocalBlend(mask=torch.ones(2, 2)), scale=0.0)


# LocalBlend


def toy(z: torch.Tensor, sigma: float) -> torch.Tensor:
    """A field in which every place depends on its neighbours and the halves on different wishes."""
    kernel = torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(1)) / 6
    wish = torch.randn(len(z), 4, 1, 1, generator=torch.Generator().manual_seed(2))
    return torch.tanh(torch.nn.functional.conv2d(z / (sigma**2 + 1) ** 0.5, kernel, padding=1) + wish)


@settings(max_examples=30)
@given(st.sampled_from(["euler", "ddim", "euler_ancestral", "ddpm"]), st.floats(0, 1), st.integers(0, 99))
def test_blending_the_denoised_latent_is_blending_latents_after_each_step(sampler, start, seed):
    """As the authors do it: a mask of 0 and 1, from any step on; and outside of it the end is the source's."""

    def random(*shape, s=0):
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + 1000 * s))

    mask = (random(6, 8) > 0).float()
    run = run_of(7, (RED, BLUE), (BLUE, RED))
    draws = [random(1, 4, 6, 8, s=i + 1).expand(4, 4, 6, 8) for i in range(8)]
    sample, z0 = get_sampler(sampler), 14 * draws[-1]

    blend = LocalBlend(mask=mask, start=start).bind(run)
    assert blend.for_call(14.0, (0, 1), 4) is None, "a given mask needs no map"
    left = iter(draws)
    ours = list(sample(blend.wrap(toy), z0, run.sigmas, noise=lambda: next(left)))[-1].z

    theirs, left = z0, iter(draws)
    for i in range(7):
        theirs = list(sample(toy, theirs, run.sigmas[i : i + 2], noise=lambda: next(left)))[-1].z.clone()
        if i >= int(start * 7):
            for s, e in ((0, 1), (2, 3)):
                theirs[e] = theirs[s] + mask * (theirs[e] - theirs[s])
    if int(start * 7) < 7:
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        outside = (ours[1::2] - ours[::2])[..., mask == 0]
        assert outside.abs().max() < 1e-5 if outside.numel() else True


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_outside_of_a_given_mask_the_edited_picture_is_its_source_bit_for_bit(text2image, sampler):
    mask = np.zeros((24, 32))
    mask[8:20, 4:16] = 1
    common = {"sampler": sampler}
    plain, blended = pair(text2image, **common), pair(text2image, LocalBlend(mask=mask, start=0), **common)
    inside = torch.zeros(6, 8, dtype=torch.bool)
    inside[2:5, 1:4] = True
    assert torch.equal(blended[0], plain[0])
    assert torch.equal(blended[1][:, ~inside], blended[0][:, ~inside])
    assert (blended[1][:, inside] != blended[0][:, inside]).any(0).all()


def test_a_mask_of_ones_changes_nothing_and_of_zeros_everything(text2image):
    plain = pair(text2image)
    ones = [torch.ones(3, 5), np.ones((6, 8), bool), Image.new("L", (32, 24), 255), Image.new("RGB", (7, 7), "white")]
    assert all(torch.equal(pair(text2image, LocalBlend(mask=one))[1], plain[1]) for one in ones)
    source, edited = pair(text2image, LocalBlend(mask=torch.zeros(6, 8), start=0))
    assert torch.equal(edited, source)
    source, edited = pair(text2image, LocalBlend(mask=torch.zeros(6, 8), start=0.6))
    assert difference(edited, source) < ROUNDING


def watch(blending, maps: dict[tuple[int, int], torch.Tensor], sigma: float = 14.0, branches=(0, 1)) -> None:
    """Show it maps (b, y, x, m) of a call, a site each, the same for two heads; those of branch 1 are nonsense."""
    for (y, x), each in maps.items():
        p = each.reshape(len(each), 1, y * x, -1).expand(-1, 2, -1, -1)
        p = torch.cat([p if g == 0 else torch.rand_like(p) for g in branches])
        at = blending.for_call(sigma, branches, len(each))
        at.inputs(p, p, p, Site("down", "cross", 1))
        if at.needs_probs(Site("down", "cross", 1)):
            assert torch.equal(at.probs(p, Site("down", "cross", 1)), p)


@FEW
@given(st.integers(0, 999), st.floats(0, 0.9), st.floats(0, 0.9))
def test_a_words_mask_is_the_published_formula(seed, threshold, subtract_threshold):
    """Summed over calls, pooled, brought to the latents, over its maximum, cut, united; less the subtracted word's."""
    run, g = run_of(5, (RED, BLUE), (BLUE, RED), size=(12, 16)), torch.Generator().manual_seed(seed)
    run = replace(run, map_sizes=((6, 8), (3, 4)))
    blend = LocalBlend("house", threshold=threshold, subtract="sea", subtract_threshold=subtract_threshold)
    blending, calls = blend.bind(run), [torch.rand(4, 6, 8, 16, generator=g) ** 3 for _ in range(3)]
    for maps in calls:
        watch(blending, {(6, 8): maps, (3, 4): torch.rand(4, 3, 4, 16)})
    actual = blending.masks(torch.zeros(4, 4, 12, 16))

    for n in range(2):
        found = {}
        for word in ("house", "sea"):
            found[word] = torch.zeros(12, 16, dtype=torch.bool)
            for i in (2 * n, 2 * n + 1):
                mean = sum(calls)[i][..., positions(TOKENIZER, run.prompts[i], word)].sum(-1).double() / 3
                if word == "house":
                    around = [(a, c) for a in (-1, 0, 1) for c in (-1, 0, 1)]
                    padded = torch.nn.functional.pad(mean, (1, 1, 1, 1), value=-1)
                    mean = torch.stack([padded[1 + a : 7 + a, 1 + c : 9 + c] for a, c in around]).amax(0)
                large = mean.repeat_interleave(2, 0).repeat_interleave(2, 1)
                found[word] |= large / large.max() > (threshold if word == "house" else subtract_threshold)
        expected = found["house"] & ~found["sea"]
        assert (actual[n, 0].bool() != expected).sum() <= 4, "but for what lies on the threshold"  # one of 48 places
        assert set(actual.unique().tolist()) <= {0.0, 1.0}


def test_maps_are_chosen_by_their_size():
    """The coarsest of the network's with a shorter side of 16 or more, else the finest."""

    def seen(*sizes):
        run = replace(run_of(5, (RED, BLUE), size=sizes[0]), map_sizes=sizes)
        blending = LocalBlend("house").bind(run)
        for _ in range(2):
            watch(blending, {each: torch.ones(2, *each, 16) for each in sizes}, branches=(0,))
        assert float(blending.sums.max()) == 2 * len(positions(TOKENIZER, RED, "house"))
        return blending.size

    assert seen((64, 64), (32, 32), (16, 16), (8, 8)) == (16, 16)
    assert seen((64, 64), (32, 32)) == (32, 32)
    assert seen((96, 64), (48, 32), (24, 16), (12, 8)) == (24, 16)
    assert seen((88, 40), (44, 20), (22, 10)) == (44, 20)
    assert seen((8, 8), (4, 4)) == (8, 8)


def test_each_run_begins_anew(text2image):
    """What was seen belongs to a run, so a value gives the same twice, and for batches one after another."""
    blend = LocalBlend("house", start=0.4, threshold=0.8)
    first = pair(text2image, blend)
    assert all(map(torch.equal, pair(text2image, blend), first))
    two = pair(text2image, blend, prompt=[BLUE, RED], edited=[RED, BLUE], seed=[1, 7])
    assert all(map(torch.equal, two[1], first))


def test_words_decide_where_the_pictures_differ(text2image):
    """At the end, outside of the last mask, it is the source; without a threshold nothing is outside."""
    seen = []

    class Spy(LocalBlend):
        def bind(self, run):
            seen.append(super().bind(run))
            return seen[-1]

    source, edited = pair(text2image, Spy("house", threshold=0.8), steps=8)
    mask = seen[0].mask[0, 0].bool()
    assert 0 < mask.sum() < mask.numel()
    assert (edited - source)[:, ~mask].abs().max() < ROUNDING * source.abs().max()
    assert ((edited - source)[:, mask].abs().amax(0) > 1e-3 * source.abs().max()).all()
    everywhere = pair(text2image, Explicit(), LocalBlend("house", threshold=0), steps=8)
    assert all(map(torch.equal, everywhere, pair(text2image, Explicit(), steps=8)))


@FEW
@given(st.integers(0, 999), st.integers(1, 9), st.integers(1, 9), st.floats(0, 0.99), st.floats(0.1, 1e3))
def test_a_mask_does_not_depend_on_the_maps_scale_and_grows_as_the_threshold_falls(seed, y, x, threshold, scale):
    maps = torch.rand(2, y, x, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mask = where(maps, (2 * y, 3 * x), threshold)
    assert mask.shape == (2, 2 * y, 3 * x) and mask.flatten(1).any(1).all()
    assert torch.equal(mask, where(maps * 2 ** round(math.log2(scale)), (2 * y, 3 * x), threshold))
    assert (where(maps, (2 * y, 3 * x), threshold / 2) >= mask).all()
    assert (where(maps, (2 * y, 3 * x), threshold, pool=False) <= mask).all()
    assert not where(torch.zeros(1, y, x), (y, x), 0.0).any()


# ---- what else a pair may share (tinyworld/evaluation/mechanisms.py)


def test_with_the_first_caption_throughout_the_edited_picture_is_the_source(text2image):
    """At no step it is the pair that shares nothing; in between it lies between: more steps, less change."""
    source, plain = pair(text2image)
    changes = []
    for part in (0.0, 0.4, 0.8, 1.0):
        first, edited = pair(text2image, FirstCaption(part))
        assert torch.equal(first, source)
        changes.append(difference(edited, source))
        assert part > 0 or torch.equal(edited, plain)
    assert changes[0] > changes[1] > changes[2] > changes[3] and changes[3] < ROUNDING


def test_first_captions_of_many_pairs_are_their_own(text2image):
    prompts, edits = [RED, BLUE], [BLUE, RED]
    together = pair(text2image, FirstCaption(0.4), prompt=prompts, edited=edits, seed=[3, 4], batch_size=2)
    for i, both in enumerate(together):
        alone = pair(text2image, FirstCaption(0.4), prompt=prompts[i], edited=edits[i], seed=3 + i)
        assert max(map(difference, both, alone)) < ROUNDING


def test_sharing_in_one_guidance_branch_is_half_of_sharing(text2image):
    """Without guidance there is one branch, that of the text; both branches in turn differ from both at once."""
    both, plain = pair(text2image, share=0.9)[1], pair(text2image)[1]
    text, null = (pair(text2image, ShareIn(0.9, branch))[1] for branch in (0, 1))
    assert all(difference(a, b) > 1e-4 for a, b in combinations((both, plain, text, null), 2))
    both, plain, text, null = (
        pair(text2image, *control, scale=1.0, share=share)[1]
        for control, share in (((), 0.9), ((), 0), ((ShareIn(0.9, 0),), 0), ((ShareIn(0.9, 1),), 0))
    )
    assert difference(text, both) < ROUNDING and difference(null, plain) < ROUNDING
    assert torch.equal(pair(text2image, ShareIn(0.0, 0))[1], pair(text2image)[1])


@pytest.mark.parametrize("make", [lambda x: FirstCaption(x), lambda x: ShareIn(x, 0)])
def test_a_part_that_is_no_fraction_is_refused(text2image, make):
    with pytest.raises(ValueError, match="1.5"):
        pair(text2image, make(1.5))
