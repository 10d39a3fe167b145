import itertools
import json
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from metantk_core.candidates import SPACES, Costs, Edge, Genotype, parse_genotype, space_named
from metantk_core.candidates.nasbench201 import NASBENCH201
from metantk_core.errors import InputError
from metantk_core.networks import (
    CostTable,
    LatencyTable,
    NetworkConfig,
    build,
    cost_table,
    count_macs,
    count_parameters,
    macs_of_pass,
    measure_latency,
)
from metantk_core.networks.counts import macs_by_module

TINY = NetworkConfig(channels=2, cells=1)
seeds = st.integers(0, 2**32 - 1)
spaces = st.sampled_from(sorted(SPACES))


def pruned(space: str, rng: np.random.Generator, most: int = 7, more: int = 9) -> Genotype:
    """A supernet with up to ``most`` operations on each edge and up to ``more`` edges too many into each node."""
    edges = []
    for edge in space_named(space).supernet().edges:
        kept = rng.permutation(edge.operations)[: rng.integers(1, most + 1)]
        edges.append(Edge(edge.cell, edge.source, edge.target, tuple(map(str, kept))))
    if space == "nasbench201":
        return Genotype(space_named(space), tuple(edges))
    left = []
    for _, group in itertools.groupby(edges, key=lambda edge: (edge.cell, edge.target)):
        into = list(group)
        left += [into[index] for index in rng.permutation(len(into))[: 2 + rng.integers(more + 1)]]
    return Genotype(space_named(space), tuple(left))


def contained(genotype: Genotype) -> list[Genotype]:
    """All candidates that a supernet contains."""
    choices = []
    for _, group in itertools.groupby(genotype.edges, key=lambda edge: (edge.cell, edge.target)):
        decided = [[Edge(e.cell, e.source, e.target, (name,)) for name in e.operations] for e in group]
        count = len(decided) if genotype.space == "nasbench201" else 2
        choices.append([pick for some in itertools.combinations(decided, count) for pick in itertools.product(*some)])
    return [Genotype(genotype.family, tuple(itertools.chain(*pick))) for pick in itertools.product(*choices)]


@cache
def latencies(space: str) -> LatencyTable:
    return measure_latency(space, TINY, image_shape=(1, 8, 8), ways=2, repeats=1)


@cache
def tiny_table(space: str) -> CostTable:
    return cost_table(space, TINY, image_shape=(1, 8, 8), ways=2)


# Parameters and multiply-accumulates


@given(
    space=spaces,
    seed=seeds,
    channels=st.integers(1, 9),
    cells=st.integers(1, 3),
    shape=st.tuples(st.sampled_from([1, 3]), st.integers(1, 17), st.integers(1, 17)),
    ways=st.integers(1, 6),
)
@settings(max_examples=12)
def test_table_gives_exactly_the_counts_of_the_network(space, seed, channels, cells, shape, ways):
    config = NetworkConfig(channels=channels, cells=cells)
    table = cost_table(space, config, image_shape=shape, ways=ways)
    rng = np.random.default_rng(seed)
    for genotype in (space_named(space).sample(rng), pruned(space, rng, most=3, more=1)):
        with torch.device("meta"):
            made = build(genotype, config, in_channels=shape[0], ways=ways, variant="training")
        assert table.of(genotype) == Costs(count_parameters(made), count_macs(made, shape))


def test_table_gives_the_published_sizes_of_nasbench201():
    table = cost_table("nasbench201", NetworkConfig(channels=16, cells=5), image_shape=(3, 32, 32), ways=10)
    costs = [table.of(genotype) for genotype in NASBENCH201.representatives()]
    # Smallest and largest of the published table; it counts the head's 10 biases as well.
    for values, scale, ends in (
        ([cost.params for cost in costs], 1, (73_306, 1_531_546)),
        ([cost.macs + 10 for cost in costs], 10, (7_783_050, 220_119_690)),
    ):
        assert (min(values) // scale * scale, max(values) // scale * scale) == ends


def test_counting_takes_nothing_from_the_global_generator():
    state = torch.random.get_rng_state()
    tiny_table("darts")
    measure_latency("nasbench201", TINY, image_shape=(1, 5, 5), ways=2, repeats=1)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_counts_of_modules_add_up_and_norms_have_none():
    made = build(space_named("darts").supernet(), TINY, in_channels=1, ways=2, variant="training", norm="group")
    other = build(space_named("darts").supernet(), TINY, in_channels=1, ways=2, variant="training")
    found = macs_by_module(made, (1, 8, 8))
    assert found == macs_by_module(other, (1, 8, 8))
    leaves = {name for name, module in made.named_modules() if not list(module.children())}
    assert found[""] == sum(macs for name, macs in found.items() if name in leaves)
    assert not any("norm" in name for name in found)
    assert found["body.stem.0"] == 9 * 2 * 64


# The cheapest candidate


@pytest.mark.parametrize("what", ["params", "macs", "latency"])
@pytest.mark.parametrize("space", SPACES)
def test_cheapest_is_the_minimum_over_all_candidates_that_are_left(space, what):
    table = tiny_table(space).with_latency(latencies(space))
    rng = np.random.default_rng(1)
    genotype = pruned(space, rng, most=2, more=1)
    # All choices in one cell type are enough to enumerate.
    fixed = space_named(space).sample(rng).cell("reduce")
    genotype = Genotype(space_named(space), (*(edge for edge in genotype.edges if edge.cell != "reduce"), *fixed))
    candidates = contained(genotype)
    assert len(candidates) > 10
    least = min(getattr(table.of(candidate), what) for candidate in candidates)
    assert table.cheapest(genotype, what) == pytest.approx(least, rel=1e-12 if what == "latency" else 0, abs=0)


@given(space=spaces, seed=seeds)
@settings(max_examples=15)
def test_pruning_never_makes_the_cheapest_candidate_cheaper(space, seed):
    table = tiny_table(space)
    rng = np.random.default_rng(seed)
    genotype = pruned(space, rng)
    for smaller in space_named(space).prunings(genotype)[::7]:
        assert table.cheapest(smaller, "macs") >= table.cheapest(genotype, "macs")
    candidate = space_named(space).sample(rng)
    assert table.cheapest(candidate, "params") == table.of(candidate).params


def test_table_of_one_space_is_refused_for_another():
    with pytest.raises(ValueError, match="does not know the space darts"):
        tiny_table("nasbench201").of(space_named("darts").supernet())
    with pytest.raises(ValueError, match="does not know the space darts"):
        tiny_table("nasbench201").cheapest(space_named("darts").supernet(), "params")


# Latency


@pytest.mark.parametrize("space", SPACES)
def test_latency_is_the_sum_of_what_was_measured(space):
    measured = latencies(space)
    table = tiny_table(space).with_latency(measured)
    genotype = space_named(space).sample(np.random.default_rng(0))
    seconds = {row[:-1]: row[-1] for row in measured.parts}
    parts = [seconds[edge.cell, edge.source, edge.target, name] for edge, name in genotype.operations()]
    assert table.of(genotype).latency == math.fsum([measured.constant, *parts])
    assert table.of(genotype).params == tiny_table(space).of(genotype).params
    assert tiny_table(space).of(genotype).latency is None
    expected = {(e.cell, e.source, e.target, name) for e, name in space_named(space).supernet().operations()}
    assert set(seconds) == expected


def test_operations_of_the_same_shapes_are_timed_once():
    # Every edge of a NAS-Bench-201 cell has the same shapes; in a family only the edges from inputs may reduce.
    seconds: dict[str, set[float]] = {}
    for *_, name, value in latencies("nasbench201").parts:
        seconds.setdefault(name, set()).add(value)
    assert {name: len(values) for name, values in seconds.items()} == dict.fromkeys(seconds, 1)
    kinds = {(source < 2, name): value for cell, source, _, name, value in latencies("darts").parts if cell == "reduce"}
    for cell, source, _, name, value in latencies("darts").parts:
        # One cell in all, and that one reduces.
        assert value == (kinds[source < 2, name] if cell == "reduce" else 0)


@pytest.mark.parametrize("space", SPACES)
def test_stored_latencies_come_back_digit_by_digit_and_give_the_same_estimates(space):
    measured = latencies(space)
    again = LatencyTable.from_json(measured.to_json())
    assert again == measured
    genotype = space_named(space).supernet()
    table = tiny_table(space)
    assert table.with_latency(again).of(genotype) == table.with_latency(measured).of(genotype)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"ways": 3}, "ways = 3, but the networks have 2"),
        ({"config": {"channels": 4, "cells": 1}}, "config = "),
        ({"image_shape": [1, 9, 8]}, "image_shape = "),
        ({"parts": []}, "lacks operations of nasbench201"),
        ({"space": "darts"}, "space = darts"),
    ],
)
def test_latencies_of_other_networks_are_refused(change, complaint):
    other = LatencyTable.from_json(json.dumps(json.loads(latencies("nasbench201").to_json()) | change))
    with pytest.raises(InputError, match=complaint):
        tiny_table("nasbench201").with_latency(other)


@pytest.mark.parametrize(
    "damage",
    [
        lambda fields: "{",
        lambda fields: json.dumps({**fields, "constant": -1.0}),
        lambda fields: json.dumps({**fields, "constant": None}),
        lambda fields: json.dumps({**fields, "unknown": 1}),
        lambda fields: json.dumps({**fields, "parts": fields["parts"] * 2}),
        lambda fields: json.dumps({**fields, "config": {"channels": 0}}),
        lambda fields: json.dumps({key: value for key, value in fields.items() if key != "parts"}),
    ],
)
def test_broken_latency_table_is_refused(damage):
    text = damage(json.loads(latencies("nasbench201").to_json()))
    with pytest.raises(InputError, match="Expected a latency table"):
        LatencyTable.from_json(text)


def test_latency_without_a_measurement_is_refused():
    with pytest.raises(ValueError, match="no latency in this table"):
        tiny_table("nasbench201").cheapest(space_named("nasbench201").supernet(), "latency")
    with pytest.raises(ValueError, match="at least one measurement"):
        measure_latency("nasbench201", TINY, image_shape=(1, 8, 8), ways=2, repeats=0)


def published() -> list[dict]:
    return json.loads((Path(__file__).parents[1] / "data" / "published-genotypes.json").read_text())


@pytest.mark.parametrize("entry", published(), ids=lambda entry: entry["name"])
def test_published_candidates_have_the_published_parameters_and_multiply_accumulates(entry):
    # Counted on the published training networks; theirs and ours leave the bias of the head out of the latter.
    with torch.device("meta"):
        network = build(
            parse_genotype("darts_fewshot", entry["genotype"]),
            NetworkConfig(channels=entry["channels"], cells=entry["cells"]),
            in_channels=3,
            ways=entry["ways"],
            variant="training",
        )
    assert count_parameters(network) == entry["parameters"]
    if entry["macs"] is not None:
        assert count_macs(network, (3, entry["image_size"], entry["image_size"])) == entry["macs"]


def test_multiply_accumulates_are_published_of_nine_candidates():
    assert sum(entry["macs"] is not None for entry in published()) == 9


class Read(nn.Module):
    """Rows of an image as steps of a layer that remembers."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(x.flatten(1, 2))[0][:, -1])


class Attend(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.MultiheadAttention(16, 4, batch_first=True), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.flatten(1, 2)
        return self.head(self.layer(rows, rows, rows, need_weights=False)[0].mean(dim=1))


STEPS, WIDE, HIDDEN = 12, 16, 7
RECURRENT = {
    "lstm": (lambda: Read(nn.LSTM(WIDE, HIDDEN, batch_first=True), HIDDEN), 4 * HIDDEN * (WIDE + HIDDEN)),
    "gru": (lambda: Read(nn.GRU(WIDE, HIDDEN, batch_first=True), HIDDEN), 3 * HIDDEN * (WIDE + HIDDEN)),
    "rnn": (lambda: Read(nn.RNN(WIDE, HIDDEN, batch_first=True), HIDDEN), HIDDEN * (WIDE + HIDDEN)),
    "lstm both ways, two layers": (
        lambda: Read(nn.LSTM(WIDE, HIDDEN, 2, batch_first=True, bidirectional=True), 2 * HIDDEN),
        2 * 4 * HIDDEN * (WIDE + HIDDEN) + 2 * 4 * HIDDEN * (2 * HIDDEN + HIDDEN),
    ),
    "lstm with a projection": (
        lambda: Read(nn.LSTM(WIDE, HIDDEN, batch_first=True, proj_size=3), 3),
        4 * HIDDEN * (WIDE + 3) + 3 * HIDDEN,
    ),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_layers_are_counted_by_what_each_step_multiplies(name):
    make, per_step = RECURRENT[name]
    network = make()
    image = torch.randn(1, 1, STEPS, WIDE)
    assert macs_of_pass(network, image) == STEPS * per_step + network.head.in_features * 5


@pytest.mark.parametrize("learning", [True, False])
@pytest.mark.parametrize("mode", [True, False])
def test_attention_is_counted_whether_torch_would_fuse_it_or_not(mode, learning):
    network = Attend().train(mode).requires_grad_(learning)
    projections, products = STEPS * WIDE * WIDE * 4, 2 * STEPS * STEPS * WIDE
    assert macs_of_pass(network, torch.randn(1, 1, STEPS, WIDE)) == projections + products + WIDE * 5


def test_bilinear_layers_and_layers_used_twice_are_counted():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair, self.head = nn.Bilinear(WIDE, WIDE, WIDE), nn.Linear(WIDE, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows = x.flatten(1, 2)
            return self.head(self.pair(self.pair(rows, rows), rows).mean(dim=1))

    assert macs_of_pass(Twice(), torch.randn(1, 1, STEPS, WIDE)) == 2 * STEPS * WIDE**3 + WIDE * 5


def test_a_network_of_convolutions_has_the_same_count_in_both_ways():
    genotype = space_named("nasbench201").sample(np.random.default_rng(0))
    network = build(genotype, TINY, in_channels=3, ways=5, variant="scoring")
    assert macs_of_pass(network, torch.randn(1, 3, 16, 16)) == count_macs(network, (3, 16, 16))
