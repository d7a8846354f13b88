"""LoRA: what it adds, what it freezes, what merging gives; the average of weights of which some are frozen."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import randomise
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import linear

from minip2p.config import LlamaConfig
from minip2p.models.llama import Llama
from minip2p.nn.lora import LoRA, add_lora, merged
from minip2p.training.language import LORA_LAYERS
from minip2p.training.step import EMA

SMALL = LlamaConfig(vocab_size=40, max_length=32, width=24, layers=2, heads=4, kv_heads=2, feed_forward=40)
ADDED = {"down", "up"}
"""the last part of the names of what LoRA adds"""


def network(bias: bool = True) -> nn.Sequential:
    """Two layers for LoRA, one that it skips, and a norm."""
    first = nn.ModuleDict({"q": nn.Linear(5, 6, bias=bias), "head": nn.Linear(6, 7), "norm": nn.LayerNorm(7)})
    return nn.Sequential(first, nn.ModuleDict({"q": nn.Linear(7, 3, bias=bias)}))


def through(net: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    first, second = net
    return second["q"](first["norm"](first["head"](first["q"](x))))


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@settings(max_examples=40)
@given(
    rank=st.integers(1, 9),
    alpha=st.floats(0.1, 64),
    into=st.integers(1, 12),
    out=st.integers(1, 12),
    bias=st.booleans(),
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    seed=st.integers(0, 2**31),
)
def test_a_layer_is_its_base_plus_the_two_small_matrices(rank, alpha, into, out, bias, shape, seed):
    torch.manual_seed(seed)
    base, x = nn.Linear(into, out, bias=bias), torch.randn(*shape, into)
    layer = LoRA(base, rank, alpha)
    assert torch.equal(layer(x), base(x)), "at first nothing changes"
    assert torch.equal(layer.weight, base.weight) and layer.down.count_nonzero() > 0
    nn.init.normal_(layer.up)
    rows = [base(v) + alpha / rank * (layer.up @ (layer.down @ v)) for v in x.reshape(-1, into)]
    wanted = torch.stack(rows).reshape(*shape, out)
    torch.testing.assert_close(layer(x), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(linear(x, layer.weight, base.bias), wanted, rtol=1e-4, atol=1e-4)
    assert torch.linalg.matrix_rank(layer.weight.double() - base.weight.double(), rtol=1e-4) <= rank


def test_the_first_matrix_is_drawn_as_a_linear_layers_is():
    """Uniformly within 1 / sqrt(inputs), from torch's generator."""
    torch.manual_seed(3)
    down = LoRA(nn.Linear(400, 2), 50, 1.0).down.detach()
    torch.manual_seed(3)
    assert torch.equal(down, LoRA(nn.Linear(400, 2), 50, 1.0).down)
    assert down.abs().max() <= 1 / math.sqrt(400) and abs(float(down.std()) - 1 / math.sqrt(3 * 400)) < 1e-3


@torch.no_grad()
@settings(max_examples=25)
@given(rank=st.integers(1, 6), alpha=st.floats(0.1, 32), bias=st.booleans(), seed=st.integers(0, 1000))
def test_merged_tensors_make_the_same_network_without_additions(rank, alpha, bias, seed):
    net, plain = network(bias), network(bias)
    names, x = list(net.state_dict()), torch.randn(3, 4, 5)
    assert add_lora(net, rank, alpha, ["q", "absent"]) == ["0.q", "1.q"]
    randomise(net, seed)
    tensors = merged(net)
    assert sorted(tensors) == sorted(names) and not any(t.requires_grad for t in tensors.values())
    plain.load_state_dict(tensors)
    close(through(plain, x), through(net, x))


@torch.no_grad()
def test_a_network_without_lora_is_merged_to_itself():
    net = network()
    tensors, own = merged(net), net.state_dict()
    assert list(tensors) == list(own) and all(torch.equal(tensors[name], own[name]) for name in own)


def test_only_the_additions_are_trained():
    net = randomise(network())
    before = {name: weight.clone() for name, weight in net.state_dict().items()}
    add_lora(net, 2, 4.0, ["q"])
    assert {name.rpartition(".")[2] for name, weight in net.named_parameters() if weight.requires_grad} == ADDED
    through(net, torch.randn(6, 5)).square().sum().backward()
    for name, weight in net.named_parameters():
        assert (weight.grad is not None) == (name.rpartition(".")[2] in ADDED), name
    ups = [weight for name, weight in net.named_parameters() if name.endswith("up")]
    assert all(weight.grad.count_nonzero() for weight in ups), "the first step moves them"
    trained = [weight for weight in net.parameters() if weight.requires_grad]
    torch.optim.AdamW(trained, lr=0.1).step()
    after = merged(net)
    assert {name for name in after if not torch.equal(after[name], before[name])} == {"0.q.weight", "1.q.weight"}


@torch.no_grad()
@pytest.mark.parametrize("tied", [False, True])
def test_a_language_model_with_additions_is_the_merged_one(tied):
    """Its own layers are called up and down, too, like LoRA's matrices."""
    config = replace(SMALL, tied=tied)
    model, plain, tokens = randomise(Llama(config)), Llama(config), torch.randint(0, 40, (3, 9))
    was, names = model(tokens), list(model.state_dict())
    found = add_lora(model, 3, 6.0, LORA_LAYERS)
    assert len(found) == 7 * config.layers and torch.equal(model(tokens), was)
    randomise(model, 1)
    tensors = merged(model)
    assert sorted(tensors) == sorted(names)
    plain.load_state_dict(tensors)
    assert (plain(tokens) - model(tokens)).norm() / model(tokens).norm() < 1e-5
    assert not torch.allclose(model(tokens), was, atol=0.1)


@pytest.mark.parametrize("rank", [0, -1])
def test_a_rank_below_one_is_refused(rank):
    net = network()
    with pytest.raises(ValueError, match=f"LoRA rank {rank}: expected at least 1"):
        add_lora(net, rank, 1.0, ["q"])
    assert all(weight.requires_grad for weight in net.parameters()), "and nothing is frozen"


@pytest.mark.parametrize("names", [["x", "keys"], ["norm"], []])
def test_names_of_no_linear_layer_are_refused(names):
    net = network()
    with pytest.raises(ValueError, match="no linear layer is called" + (" keys or x" if len(names) == 2 else "")):
        add_lora(net, 2, 1.0, names)
    assert all(weight.requires_grad for weight in net.parameters())


def test_the_average_leaves_out_frozen_weights_and_follows_the_others():
    torch.manual_seed(0)
    net = randomise(network())
    add_lora(net, 2, 4.0, ["q"])
    ema = EMA(net, 0.8)
    added = {name for name, weight in net.named_parameters() if weight.requires_grad}
    wanted = {name: weight.detach().clone() for name, weight in net.named_parameters() if name in added}
    frozen = {name: weight.detach().clone() for name, weight in net.named_parameters() if name not in added}
    assert set(ema.names) == added, "what is frozen has no average"
    for n in range(1, 30):
        decay = min(0.8, (1 + n) / (10 + n))
        with torch.no_grad():
            for name, weight in net.named_parameters():
                if name in added:
                    weight.normal_()
                    wanted[name] = decay * wanted[name] + (1 - decay) * weight
        ema.update()
    learnt = {name: weight.detach().clone() for name, weight in net.named_parameters()}
    with ema.applied():
        for name, weight in net.named_parameters():
            if name in added:
                close(weight, wanted[name])
            else:
                assert torch.equal(weight, frozen[name]), "to the bit"
    assert all(torch.equal(weight, learnt[name]) for name, weight in net.named_parameters()), "and back again"
    assert {name for name, weight in net.named_parameters() if weight.requires_grad} == added, "the model's still learn"


def test_an_average_of_all_weights_copies_all():
    net = network()
    ema = EMA(net, 0.9)
    assert ema.names == [name for name, _ in net.named_parameters()]
    assert not {x.data_ptr() for x in ema.averages} & {w.data_ptr() for w in net.parameters()}
    assert not any(x.requires_grad for x in ema.averages)
