import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from metantk_core.candidates import (
    PUBLISHED,
    SPACES,
    Edge,
    FiniteSearchSpace,
    Genotype,
    parse_genotype,
    shard,
    space_named,
)
from metantk_core.candidates.darts_family import DARTS, DARTS_FEWSHOT, DartsFamily
from metantk_core.candidates.nasbench201 import NASBENCH201
from metantk_core.errors import InputError

CELL = "|nor_conv_3x3~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|avg_pool_3x3~1|nor_conv_3x3~2|"
FEWSHOT = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1), ('conv_3x3', 0), ('conv_1x5_5x1', 2), "
    "('max_pool_3x3', 1), ('dil_conv_3x3', 3)], normal_concat=range(2, 5), "
    "reduce=[('avg_pool_3x3', 0), ('skip_connect', 1), ('conv_3x3', 1), ('conv_3x3', 2), "
    "('sep_conv_3x3', 2), ('sep_conv_3x3', 3)], reduce_concat=range(2, 5))"
)
# DARTS_V2, as Liu et al. 2019 published it.
SECOND_ORDER = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), "
    "('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, 5], "
    "reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), "
    "('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])"
)
DARTS_EXAMPLE = (
    "Genotype(normal=[('sep_conv_5x5', 0), ('skip_connect', 1), ('dil_conv_5x5', 0), ('dil_conv_3x3', 2), "
    "('max_pool_3x3', 1), ('dil_conv_3x3', 3), ('avg_pool_3x3', 3), ('sep_conv_3x3', 4)], normal_concat=range(2, 6), "
    "reduce=[('avg_pool_3x3', 0), ('skip_connect', 1), ('sep_conv_3x3', 1), ('sep_conv_3x3', 2), "
    "('sep_conv_5x5', 2), ('sep_conv_3x3', 3), ('max_pool_3x3', 0), ('skip_connect', 4)], reduce_concat=range(2, 6))"
)
# As MetaNAS and MetaNTK-NAS write it, with a list for each node; the same network.
NESTED = (
    "Genotype(normal=[[('sep_conv_3x3', 0), ('skip_connect', 1)], [('conv_3x3', 0), ('conv_1x5_5x1', 2)], "
    "[('max_pool_3x3BN', 1), ('dil_conv_3x3', 3)]], normal_concat=[2, 3, 4], "
    "reduce=[[('avg_pool_3x3BN', 0), ('skip_connect', 1)], [('conv_3x3', 1), ('conv_3x3', 2)], "
    "[('sep_conv_3x3', 2), ('sep_conv_3x3', 3)]], reduce_concat=[2, 3, 4])"
)
EXAMPLES = {"nasbench201": CELL, "darts_fewshot": FEWSHOT, "darts": DARTS_EXAMPLE}

# Nothing is timed: a busy machine is no failure.
some = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**32 - 1)
spaces = st.sampled_from(sorted(SPACES))


@pytest.fixture(scope="module")
def cells() -> tuple[Genotype, ...]:
    return tuple(NASBENCH201)


@pytest.fixture(scope="module")
def classes(cells) -> dict[str, list[str]]:
    """The class of every cell, in order, for both meanings of being the same."""
    meanings = ("benchmark", "function")
    return {same: [NASBENCH201.canonical(cell, same) for cell in cells] for same in meanings}


def sampled(space: str, seed: int) -> Genotype:
    return space_named(space).sample(np.random.default_rng(seed))


def supernet(space: str, seed: int) -> Genotype:
    """A supernet with a random choice of operations, at least one, on every edge."""
    rng = np.random.default_rng(seed)
    edges = []
    for edge in space_named(space).supernet().edges:
        kept = rng.permutation(edge.operations)[: rng.integers(1, len(edge.operations) + 1)]
        edges.append(Edge(edge.cell, edge.source, edge.target, tuple(map(str, kept))))
    return Genotype(space_named(space), tuple(edges))


def prune_at_random(space: str, rng: np.random.Generator) -> tuple[Genotype, list[int]]:
    """Prune one operation of every edge a round, then one edge at a time; return the end and the size of each round."""
    genotype, evaluations = space_named(space).supernet(), []
    while not genotype.decided:
        evaluations.append(len(space_named(space).prunings(genotype)))
        for edge in genotype.edges:
            genotype = genotype.without(edge, edge.operations[rng.integers(len(edge.operations))])
    while choices := space_named(space).prunings(genotype):
        evaluations.append(len(choices))
        genotype = choices[rng.integers(len(choices))]
    return genotype, evaluations


# Values


@some
@given(space=spaces, seed=seeds, order=st.randoms(use_true_random=False))
def test_order_in_which_edges_and_operations_are_written_makes_no_difference(space, seed, order):
    genotype = supernet(space, seed)
    edges = [
        Edge(e.cell, e.source, e.target, tuple(order.sample(e.operations, len(e.operations)))) for e in genotype.edges
    ]
    order.shuffle(edges)
    again = Genotype(space_named(space), tuple(edges))
    assert again == genotype
    assert hash(again) == hash(genotype)
    assert again.key == genotype.key
    assert str(again) == str(genotype)


def test_keys_of_different_genotypes_differ(cells):
    assert len({genotype.key for genotype in cells}) == 15_625


def test_keys_stay_as_they_are_because_stored_results_are_found_by_them():
    assert parse_genotype("nasbench201", CELL).key == "0fcb73e60cf7499f"
    assert parse_genotype("darts_fewshot", FEWSHOT).key == "790da8ffeb63d11f"
    assert parse_genotype("darts", SECOND_ORDER).key == "07fc999da4193453"


def test_genotypes_can_be_sorted():
    genotypes = [sampled("nasbench201", seed) for seed in range(20)]
    backwards = genotypes[::-1]
    assert sorted(genotypes) == sorted(backwards)


@pytest.mark.parametrize(
    "edge",
    [
        ("cell", 1, 1, ("none",)),
        ("cell", 2, 1, ("none",)),
        ("cell", -1, 1, ("none",)),
        ("cell", 0, 1, ()),
        ("cell", 0, 1, ("a", "a")),
    ],
)
def test_impossible_edge_is_refused(edge):
    with pytest.raises(ValueError, match="edge"):
        Edge(*edge)


def test_two_edges_between_the_same_nodes_are_refused():
    with pytest.raises(ValueError, match="two edges"):
        Genotype(NASBENCH201, (Edge("cell", 0, 1, ("none",)), Edge("cell", 0, 1, ("skip_connect",))))


@some
@given(space=spaces, seed=seeds)
def test_without_takes_away_one_operation_and_nothing_else(space, seed):
    genotype = supernet(space, seed)
    everything = set(genotype.operations())
    for edge, operation in everything:
        smaller = genotype.without(edge, operation)
        kept = {((e.cell, e.source, e.target), name) for e, name in smaller.operations()}
        before = {((e.cell, e.source, e.target), name) for e, name in everything}
        assert before - kept == {((edge.cell, edge.source, edge.target), operation)}
        assert kept < before


def test_operation_that_is_not_there_cannot_be_taken_away():
    genotype = parse_genotype("nasbench201", CELL)
    with pytest.raises(ValueError, match="no operation skip_connect"):
        genotype.without(genotype.edges[0], "skip_connect")
    with pytest.raises(ValueError, match="no operation none"):
        genotype.without(Edge("cell", 0, 1, ("none",)), "none")


# Spaces


@pytest.mark.parametrize("space", SPACES)
def test_supernet_has_all_operations_and_is_not_decided(space):
    supernet = space_named(space).supernet()
    assert not supernet.decided
    assert all(set(edge.operations) == set(space_named(space).operations) for edge in supernet.edges)
    assert (
        Counter(edge.cell for edge in supernet.edges)
        == {
            "nasbench201": {"cell": 6},
            "darts_fewshot": {"normal": 9, "reduce": 9},
            "darts": {"normal": 14, "reduce": 14},
        }[space]
    )


@pytest.mark.parametrize("family", [DARTS_FEWSHOT, DARTS], ids=lambda family: family.name)
@some
@given(seed=seeds)
def test_candidate_of_a_family_has_two_edges_from_distinct_sources_into_every_node(family, seed):
    genotype = sampled(family.name, seed)
    assert genotype.decided
    into = Counter((edge.cell, edge.target) for edge in genotype.edges)
    assert into == {(cell, node): 2 for cell in ("normal", "reduce") for node in family.targets}


def test_spaces_of_the_family_have_the_number_of_candidates_that_counting_gives():
    wirings = 1 * 3 * 6
    assert DARTS_FEWSHOT.size == (wirings * 7**6) ** 2
    # "approximately 10^9 possible DAGs" a cell, squared for the two cells (Liu et al. 2019, section 2.1 and A.3).
    wirings *= 10
    assert DARTS.size == (wirings * 7**8) ** 2
    assert 1e18 < DARTS.size < 1.1e18


def test_every_candidate_of_a_family_is_equally_likely():
    family = DartsFamily("darts_fewshot", ("skip_connect", "conv_3x3"), nodes=2)
    assert family.size == (1 * 4 * 3 * 4) ** 2
    rng = np.random.default_rng(0)
    cells = Counter()
    for _ in range(4000):
        genotype = family.sample(rng)
        cells[genotype.cell("normal")] += 1
        cells[genotype.cell("reduce")] += 1
    assert Counter(cell[0].cell for cell in cells) == {"normal": 48, "reduce": 48}
    assert stats.chisquare(list(cells.values())).pvalue > 1e-3


def test_normal_and_reduction_cell_are_drawn_independently():
    rng = np.random.default_rng(0)
    table = np.zeros((7, 7))
    for _ in range(3000):
        genotype = DARTS_FEWSHOT.sample(rng)
        first, second = (
            DARTS_FEWSHOT.operations.index(genotype.cell(cell)[0].operations[0]) for cell in ("normal", "reduce")
        )
        table[first, second] += 1
    assert stats.chisquare(table.ravel()).pvalue > 1e-3


def test_every_nasbench201_cell_is_equally_likely(cells):
    rng = np.random.default_rng(0)
    index = {genotype: number for number, genotype in enumerate(cells)}
    draws = [index[NASBENCH201.sample(rng)] for _ in range(5000)]
    assert stats.chisquare(np.histogram(draws, bins=125, range=(0, 15_625))[0]).pvalue > 1e-3


def test_nasbench201_enumerates_the_product_of_its_operations(cells):
    found = [tuple(edge.operations[0] for edge in genotype.edges) for genotype in cells]
    assert len(found) == len(NASBENCH201) == NASBENCH201.size == 15_625
    assert found == list(itertools.product(NASBENCH201.operations, repeat=6))


def test_only_the_small_space_can_be_walked_through():
    assert {name for name, space in SPACES.items() if isinstance(space, FiniteSearchSpace)} == {"nasbench201"}


@pytest.mark.parametrize("index", [-1, 15_625])
def test_cell_number_outside_the_space_is_refused(index):
    with pytest.raises(InputError, match="from 0 to 15624"):
        NASBENCH201.genotype(index)


@some
@given(space=spaces, seed=seeds)
def test_prunings_are_distinct_and_one_operation_smaller(space, seed):
    genotype = supernet(space, seed)
    smaller = space_named(space).prunings(genotype)
    size = len(list(genotype.operations()))
    assert len(set(smaller)) == len(smaller)
    assert all(len(list(other.operations())) == size - 1 for other in smaller)


@pytest.mark.parametrize("space", SPACES)
def test_pruning_ends_in_a_candidate(space):
    genotype, _ = prune_at_random(space, np.random.default_rng(0))
    assert genotype.decided
    assert parse_genotype(space, str(genotype)) == genotype
    assert len(genotype.edges) == {"nasbench201": 6, "darts_fewshot": 12, "darts": 16}[space]


def test_pruning_the_fewshot_supernet_looks_at_as_many_candidates_as_the_paper_says():
    # 18 edges with 7, 6, … 2 operations: 486. Then 3 + 4 incoming edges of the last two nodes, twice: 14 at first.
    _, evaluations = prune_at_random("darts_fewshot", np.random.default_rng(0))
    assert evaluations[:6] == [18 * left for left in (7, 6, 5, 4, 3, 2)]
    assert sum(evaluations[:6]) == 486
    assert evaluations[6] == 14


# Isomorphism


@pytest.mark.parametrize(("same", "count"), [("benchmark", 6_466), ("function", 5_044)])
def test_representatives_are_the_first_of_each_class(cells, classes, same, count):
    first: dict[str, Genotype] = {}
    for cell, text in zip(cells, classes[same], strict=True):
        first.setdefault(text, cell)
    assert NASBENCH201.representatives(same) == tuple(first.values())
    assert len(first) == count


def test_cells_are_of_one_class_if_and_only_if_random_functions_find_them_equal(cells, classes):
    """Evaluate every cell with every assignment of weights to edges, and compare the distributions of the outputs."""
    rng = np.random.default_rng(0)
    assignments = np.array(list(itertools.permutations(range(6))))  # assignment, edge -> weights
    weights = {name: rng.normal(size=(6, 2, 2)) for name in ("nor_conv_1x1", "nor_conv_3x3")}
    pooling, probe = rng.normal(size=(2, 2)), rng.normal(size=2)
    edges = [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]

    def apply(name: str, edge: int, x: np.ndarray) -> np.ndarray:
        if name in weights:
            y = np.einsum("aij,aj->ai", weights[name][assignments[:, edge]], x)
            return np.sin(y) + 0.3 * y**2  # takes 0 to 0, neither linear nor odd
        return {"none": 0 * x, "skip_connect": x, "avg_pool_3x3": x @ pooling}[name]

    names = NASBENCH201.operations
    start = np.broadcast_to(rng.normal(size=2), (len(assignments), 2))
    outputs = {}
    direct = {name: apply(name, 3, start) for name in names}
    for a in names:
        one = apply(a, 0, start)
        by_one = {(d, e): direct[d] + apply(e, 4, one) for d in names for e in names}
        for b, c in itertools.product(names, repeat=2):
            two = apply(b, 1, start) + apply(c, 2, one)
            by_two = {name: apply(name, 5, two) for name in names}
            for d, e, f in itertools.product(names, repeat=3):
                outputs[a, b, c, d, e, f] = np.sin((by_one[d, e] + by_two[f]) @ probe).mean()
    assert edges == [(edge.source, edge.target) for edge in cells[0].edges]

    found: dict[str, list[float]] = {}
    for cell, text in zip(cells, classes["function"], strict=True):
        found.setdefault(text, []).append(float(outputs[tuple(edge.operations[0] for edge in cell.edges)]))
    assert max(max(values) - min(values) for values in found.values()) < 1e-12
    assert np.diff(sorted(values[0] for values in found.values())).min() > 1e-10


def test_benchmark_puts_networks_together_that_share_weights_differently(classes):
    one = "|nor_conv_1x1~0|+|none~0|skip_connect~1|+|none~0|skip_connect~1|skip_connect~2|"
    two = "|none~0|+|nor_conv_1x1~0|none~1|+|nor_conv_1x1~0|none~1|skip_connect~2|"
    shared, apart = (parse_genotype("nasbench201", text) for text in (one, two))
    assert NASBENCH201.canonical(shared, "function") == "one nor_conv_1x1(x) + one nor_conv_1x1(x)"
    assert NASBENCH201.canonical(apart, "function") == "nor_conv_1x1(x) + nor_conv_1x1(x)"
    assert NASBENCH201.canonical(shared) == NASBENCH201.canonical(apart) == "#+#+(0)@nor_conv_1x1+(0)@nor_conv_1x1"
    functions: dict[str, set[str]] = {}
    first: dict[str, str] = {}
    for benchmark, function in zip(classes["benchmark"], classes["function"], strict=True):
        functions.setdefault(benchmark, set()).add(function)
        first.setdefault(benchmark, function)
    assert sum(len(found) > 1 for found in functions.values()) == 430
    assert len(set(classes["function"]) - set(first.values())) == 280


def test_supernet_has_no_class():
    with pytest.raises(ValueError, match="only a candidate has a class"):
        NASBENCH201.canonical(NASBENCH201.supernet())


# Neighbourhood


def edge_changes(one: Genotype, other: Genotype) -> list[tuple[Edge, Edge]]:
    """The edges in which two genotypes of equally many edges differ, paired by the node that they enter."""
    gone, come = set(one.edges) - set(other.edges), set(other.edges) - set(one.edges)
    assert len(gone) == len(come)
    return list(zip(sorted(gone), sorted(come), strict=True))


def neighbour_by_definition(one: Genotype, other: Genotype) -> bool:
    changes = edge_changes(one, other)
    if len(changes) != 1:
        return False
    ((before, after),) = changes
    if (before.cell, before.target) != (after.cell, after.target):
        return False
    return (before.source == after.source) != (before.operations == after.operations)


def test_neighbours_in_a_family_are_exactly_the_candidates_that_differ_in_one_edge():
    operations = ("skip_connect", "conv_3x3")
    family = DartsFamily("darts_fewshot", operations, nodes=2)
    # A candidate's cell is one of the combinations of sources and operations of its two nodes.
    cells = []
    for pair in itertools.combinations(range(3), 2):
        for first, second, third, fourth in itertools.product(operations, repeat=4):
            cells.append([(0, 2, first), (1, 2, second), (pair[0], 3, third), (pair[1], 3, fourth)])

    def genotype(normal, reduce) -> Genotype:
        made = [Edge(cell, s, t, (o,)) for cell, edges in (("normal", normal), ("reduce", reduce)) for s, t, o in edges]
        return Genotype(family, tuple(made))

    start = genotype(cells[5], cells[-7])
    candidates = [genotype(one, other) for one in (cells[5], *cells) for other in (cells[-7], *cells)]
    expected = {other for other in candidates if other != start and neighbour_by_definition(start, other)}
    assert set(family.neighbours(start)) == expected
    assert len(family.neighbours(start)) == len(expected)


def test_neighbours_of_a_nasbench201_cell_are_exactly_the_cells_with_one_other_operation(cells):
    start = parse_genotype("nasbench201", CELL)
    expected = {other for other in cells if len(set(start.edges) - set(other.edges)) == 1}
    assert set(NASBENCH201.neighbours(start)) == expected
    assert len(NASBENCH201.neighbours(start)) == len(expected) == 24


@settings(max_examples=15, deadline=None)
@given(space=spaces, seed=seeds)
def test_neighbours_are_distinct_candidates_and_being_one_is_mutual(space, seed):
    genotype = sampled(space, seed)
    found = space_named(space).neighbours(genotype)
    nodes, sources = {"nasbench201": (0, 0), "darts_fewshot": (3, 1 + 2), "darts": (4, 1 + 2 + 3)}[space]
    others = len(space_named(space).operations) - 1
    assert len(found) == (6 * others if space == "nasbench201" else 2 * (2 * nodes * others + 2 * sources))
    assert len(set(found)) == len(found)
    assert genotype not in found
    for other in found[:: len(found) // 5]:
        assert parse_genotype(space, str(other)) == other
        assert genotype in space_named(space).neighbours(other)


@pytest.mark.parametrize("space", SPACES)
def test_mutation_draws_every_neighbour_equally_often(space):
    genotype = sampled(space, 3)
    rng = np.random.default_rng(0)
    choices = space_named(space).neighbours(genotype)
    drawn = Counter(space_named(space).mutate(genotype, rng) for _ in range(6 * len(choices)))
    assert set(drawn) <= set(choices)
    assert stats.chisquare([drawn[choice] for choice in choices]).pvalue > 1e-3


@pytest.mark.parametrize("space", SPACES)
def test_supernet_has_no_neighbours(space):
    with pytest.raises(ValueError, match="only a candidate"):
        space_named(space).mutate(space_named(space).supernet(), np.random.default_rng(0))


def test_text_is_that_of_the_space_which_made_the_genotype_whatever_the_name():
    family = DartsFamily("mine", ("skip_connect", "conv_3x3"), nodes=2)
    genotype = family.sample(np.random.default_rng(0))
    assert genotype.space == "mine"
    assert family.parse(str(genotype)) == genotype


def test_decided_genotype_with_too_many_edges_is_no_candidate_and_has_no_neighbours():
    supernet = DARTS_FEWSHOT.supernet()
    decided = Genotype(DARTS_FEWSHOT, tuple(Edge(e.cell, e.source, e.target, ("conv_3x3",)) for e in supernet.edges))
    with pytest.raises(ValueError, match="2 edges into each node"):
        DARTS_FEWSHOT.neighbours(decided)


def test_only_candidate_of_a_space_has_no_mutation():
    lonely = DartsFamily("darts_fewshot", ("skip_connect",), nodes=1)
    with pytest.raises(ValueError, match="has no neighbour"):
        lonely.mutate(lonely.sample(np.random.default_rng(0)), np.random.default_rng(0))


def test_edge_that_is_not_there_cannot_be_replaced():
    genotype = parse_genotype("nasbench201", CELL)
    with pytest.raises(ValueError, match="to replace"):
        genotype.with_edge(Edge("cell", 0, 1, ("none",)), Edge("cell", 0, 1, ("skip_connect",)))


def test_pruning_the_darts_supernet_looks_at_as_many_candidates_as_counting_gives():
    # 28 edges with 7, 6, … 2 operations; then 3 + 4 + 5 incoming edges of the last three nodes, twice.
    _, evaluations = prune_at_random("darts", np.random.default_rng(0))
    assert evaluations[:6] == [28 * left for left in (7, 6, 5, 4, 3, 2)]
    assert sum(evaluations[:6]) == 756
    assert evaluations[6] == 24


# Text forms


@pytest.mark.parametrize("space", SPACES)
def test_the_fields_text_form_is_read_and_written(space):
    assert str(parse_genotype(space, EXAMPLES[space])) == EXAMPLES[space]


@some
@given(space=spaces, seed=seeds)
def test_candidates_come_back_from_their_text(space, seed):
    genotype = sampled(space, seed)
    assert parse_genotype(space, str(genotype)) == genotype


@some
@given(space=spaces, seed=seeds)
def test_supernets_come_back_from_their_text(space, seed):
    genotype = supernet(space, seed)
    assert parse_genotype(space, str(genotype)) == genotype


def test_nasbench201_text_puts_each_operation_on_its_edge():
    edges = parse_genotype("nasbench201", CELL).edges
    assert {(edge.source, edge.target): edge.operations[0] for edge in edges} == {
        (0, 1): "nor_conv_3x3",
        (0, 2): "none",
        (1, 2): "nor_conv_1x1",
        (0, 3): "skip_connect",
        (1, 3): "avg_pool_3x3",
        (2, 3): "nor_conv_3x3",
    }


def test_fewshot_text_gives_two_edges_in_a_row_to_each_node():
    cell = parse_genotype("darts_fewshot", FEWSHOT).cell("normal")
    assert {(edge.source, edge.target): edge.operations[0] for edge in cell} == {
        (0, 2): "sep_conv_3x3",
        (1, 2): "skip_connect",
        (0, 3): "conv_3x3",
        (2, 3): "conv_1x5_5x1",
        (1, 4): "max_pool_3x3",
        (3, 4): "dil_conv_3x3",
    }


@some
@given(
    family=st.sampled_from([DARTS, DARTS_FEWSHOT]),
    seed=seeds,
    nested=st.booleans(),
    suffix=st.sampled_from(["", "BN"]),
    wrap=st.sampled_from(
        ["{}", "{},", "FOUND = {}", "genotype = genotypes.{}", "# {}", "11/24 06:00:00 PM genotype = {}"]
    ),
    bare=st.booleans(),
    breaks=st.booleans(),
    data=st.data(),
)
def test_a_candidate_comes_back_from_every_form_of_the_published_codes(
    family, seed, nested, suffix, wrap, bare, breaks, data
):
    genotype, parts = sampled(family.name, seed), []
    for cell in ("normal", "reduce"):
        nodes = []
        for target in family.targets:
            pairs = [(edge.operations[0], edge.source) for edge in genotype.cell(cell) if edge.target == target]
            nodes.append([(f"{name}{suffix}" if "pool" in name else name, source) for name, source in pairs])
            nodes[-1] = data.draw(st.permutations(nodes[-1]))
        concat = data.draw(st.sampled_from([repr(family.targets), repr([*family.targets]), repr((*family.targets,))]))
        parts += [f"{cell}={nodes if nested else [*itertools.chain(*nodes)]}", f"{cell}_concat={concat}"]
    text = (",\n" if breaks and not wrap.startswith("#") else ", ").join(parts)
    assert parse_genotype(family.name, text if bare else wrap.format(f"Genotype({text})")) == genotype


@pytest.mark.parametrize(
    "variant",
    [
        FEWSHOT.replace("range(2, 5)", "[2, 3, 4]"),
        FEWSHOT.replace("range(2, 5)", "(2, 3, 4)"),
        FEWSHOT.replace("('sep_conv_3x3', 0), ('skip_connect', 1)", "('skip_connect', 1), ('sep_conv_3x3', 0)"),
        FEWSHOT.replace("'", '"'),
        f"  {FEWSHOT}\n",
        NESTED,
        NESTED.replace("BN", "").replace("[2, 3, 4]", "range(2, 5)"),
        NESTED.replace("[(", "((").replace(")]", "))"),
        FEWSHOT.replace("_pool_3x3", "_pool_3x3BN"),
        f"PAPER = {FEWSHOT}",
        f"PAPER: Genotype = genotypes.{FEWSHOT};",
        f"11/24 06:00:00 PM genotype = {FEWSHOT}",
        FEWSHOT.removeprefix("Genotype(").removesuffix(")"),
        FEWSHOT.replace(", ", ",\n    ").replace("('conv_3x3', 2)", "('conv_3x3', 2),  # a ' in a comment"),
        "# " + FEWSHOT.replace(", normal_concat", ",\n  # normal_concat").replace(", reduce=", ",\n#\n# reduce="),
        FEWSHOT.replace("3)], ", "3),],").replace("(2, 5))", "(2,5,),)"),
    ],
    ids=[
        *("list", "tuple", "other order", "other quotes", "spaces"),
        *("list a node", "range", "tuple a node", "BN", "name", "module", "log", "bare"),
        *("lines", "comment", "trailing commas"),
    ],
)
def test_fewshot_genotypes_are_read_however_they_are_spelled(variant):
    assert parse_genotype("darts_fewshot", variant) == parse_genotype("darts_fewshot", FEWSHOT)


def test_published_darts_genotype_is_read_in_the_order_in_which_it_lists_edges():
    genotype = parse_genotype("darts", SECOND_ORDER)
    assert {(edge.source, edge.target): edge.operations[0] for edge in genotype.cell("normal")} == {
        (0, 2): "sep_conv_3x3",
        (1, 2): "sep_conv_3x3",
        (0, 3): "sep_conv_3x3",
        (1, 3): "sep_conv_3x3",
        (1, 4): "sep_conv_3x3",
        (0, 4): "skip_connect",
        (0, 5): "skip_connect",
        (2, 5): "dil_conv_3x3",
    }
    assert {(edge.source, edge.target) for edge in genotype.cell("reduce")} == {
        *((0, 2), (1, 2), (2, 3), (1, 3), (0, 4), (2, 4), (2, 5), (1, 5))
    }
    assert parse_genotype("darts", str(genotype)) == genotype
    assert str(genotype).count("_concat=range(2, 6)") == 2


@pytest.mark.parametrize(("space", "other"), [("darts", "darts_fewshot"), ("darts_fewshot", "darts")])
def test_genotype_of_one_family_is_refused_in_the_other(space, other):
    with pytest.raises(InputError, match=f"Expected a {other} genotype"):
        parse_genotype(other, EXAMPLES[space])


@pytest.mark.parametrize("space", SPACES)
def test_unknown_operation_is_refused_with_the_known_ones(space):
    with pytest.raises(InputError) as refusal:
        parse_genotype(space, EXAMPLES[space].replace("skip_connect", "conv_7x7"))
    assert "conv_7x7" in str(refusal.value)
    assert all(operation in str(refusal.value) for operation in space_named(space).operations)


def test_none_was_removed_from_the_fewshot_space():
    with pytest.raises(InputError, match="'none' is no operation"):
        parse_genotype("darts_fewshot", FEWSHOT.replace("skip_connect", "none"))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "1 groups"),
        ("nonsense", "1 groups"),
        (CELL + "+|none~0|", "4 groups"),
        (CELL.removesuffix("|"), "group 3 does not start and end"),
        (CELL.replace("|none~0|nor_conv_1x1~1|", "|none~0|"), "1 entries instead of 2"),
        (CELL.replace("~1", "~0"), "does not end with '~1'"),
        (CELL.replace("~2", ""), "does not end with '~2'"),
        (CELL.replace("none", "none,none"), "names an operation twice"),
        (CELL.replace("none", ""), "'' is no operation"),
        (FEWSHOT, "groups"),
    ],
)
def test_malformed_nasbench201_text_is_refused(text, complaint):
    with pytest.raises(InputError) as refusal:
        parse_genotype("nasbench201", text)
    assert complaint in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "the beginning is not 'Genotype('"),
        ("  \n# only this\n", "the beginning is not 'Genotype('"),
        (CELL, "the beginning is not 'Genotype('"),
        ("Genotype\0", "the beginning is not 'Genotype('"),
        ("-" * 10_000 + "1", "the beginning is not 'Genotype('"),
        ("dict(normal=[])", "the beginning is not 'Genotype('"),
        ("-" * 100_000 + "1", "there are 100,001 characters, where 20,000 are the most"),
        ("Genotype(", "the text ends where a part such as normal=[...] was expected"),
        ("Genotype()", "the parts are not exactly"),
        ("not Genotype()", "'not' stands before 'Genotype(' without an equals sign"),
        ("Genotype(**{})", "'*' stands at character 10, where a part such as normal=[...] was expected"),
        ("Genotype([], normal=[], normal_concat=[], reduce=[], reduce_concat=[])", "'[' stands at character 10"),
        (FEWSHOT + " + 1", "'+' stands at character 322, where nothing more was expected"),
        (FEWSHOT.replace("normal_concat", "normal"), "normal stands twice, at character 141 again"),
        (FEWSHOT.replace("reduce_concat", "concat"), "the parts are not exactly"),
        ("Genotype(normal=" + "[" * 9_000 + "]" * 9_000 + ")", "of normal are nested more than 4 deep at character 21"),
        (FEWSHOT.replace("range(2, 5)", "__import__('os').getcwd()"), "'__import__' stands at character 155, where a"),
        (FEWSHOT.replace("('dil", "('di\0l"), "'di\\x00l_conv_3x3' is no operation"),
        (FEWSHOT.replace("('dil", "('\\x64il"), '"\'" stands at character'),
        (FEWSHOT.replace("('dil", "('dil\n"), "stands at character"),
        (FEWSHOT.replace("('dil", "('\ud800dil"), "'\\ud800dil_conv_3x3' is no operation"),
        (FEWSHOT.replace("range(2, 5)", "range('a')"), "\"'a'\" stands at character"),
        (FEWSHOT.replace("range(2, 5)", "range(2, 5, 0)"), "the range at character 155 has no first and last node"),
        (FEWSHOT.replace("range(2, 5)", "range(2, " + "9" * 5_000 + ")"), "has 5000 digits"),
        (FEWSHOT.replace("range(2, 5)", "range()"), "the range at character 155 has no first and last node"),
        (FEWSHOT.replace("range(2, 5)", "7"), "normal_concat does not list all nodes"),
        (
            FEWSHOT.replace("range(2, 5)", "range(2, 10**9)"),
            "'*' stands at character 166, where ',' or ')' was expected",
        ),
        (FEWSHOT.replace("range(2, 5)", "range(2, 999999999)"), "does not list all nodes from 2 to 4"),
        (NESTED.replace("[('conv_3x3', 0), ('conv_1x5_5x1', 2)], ", ""), "normal has 2 nodes instead of 3"),
        (NESTED.replace("('conv_3x3', 0), ('conv_1x5_5x1', 2)", ""), "node 3 of normal has 0 entries instead of 2"),
        (NESTED.replace("('conv_3x3', 0), ", ""), "node 3 of normal has 1 entries instead of 2"),
        (NESTED.replace("[('conv_3x3', 0), ('conv_1x5_5x1', 2)]", "'conv_3x3'"), "node 3 of normal is not a list"),
        (NESTED.replace("('conv_3x3', 0), ", "(('conv_3x3',), 0, 3), "), "entry 3 of normal is not a pair"),
        (NESTED.replace("('conv_3x3', 0), ", "[], "), "entry 3 of normal is not a pair"),
        (FEWSHOT.replace("('conv_3x3', 0), ", "('conv_3x3', 0, 1), "), "entry 3 of normal is not a pair"),
        (FEWSHOT.replace("normal=[", "normal=7, rest=["), "the parts are not exactly"),
        ("normal=7, normal_concat=[2, 3, 4], reduce=7, reduce_concat=[2, 3, 4]", "normal is not a list"),
        (FEWSHOT.replace("range(2, 5)", "range(2, 1000000000000)"), "does not list all nodes"),
        (FEWSHOT.replace("range(2, 5)", "range(3, 5)"), "does not list all nodes from 2 to 4"),
        (FEWSHOT.replace(", ('dil_conv_3x3', 3)", ""), "normal has 5 entries"),
        (FEWSHOT.replace("('dil_conv_3x3', 3)", "'dil_conv_3x3'"), "is not a pair"),
        (FEWSHOT.replace("('dil_conv_3x3', 3)", "('dil_conv_3x3', 1)"), "takes two edges from node 1"),
        (FEWSHOT.replace("('dil_conv_3x3', 3)", "('dil_conv_3x3', 4)"), "no node before it"),
        (FEWSHOT.replace("('dil_conv_3x3', 3)", "('dil_conv_3x3', True)"), "'True' stands at character"),
        (FEWSHOT.replace("'dil_conv_3x3'", "3"), "3 is no operation"),
        (FEWSHOT.replace("'dil_conv_3x3'", "['dil_conv_3x3']"), "is no operation"),
        (str(DARTS_FEWSHOT.supernet()).replace(", 4)", ", 5)"), "is no node from 2 to 4"),
        (str(DARTS_FEWSHOT.supernet()).replace("0, 4)", "0, 3)"), "takes two edges"),
        (
            "Genotype(normal=[(('conv_3x3',), 0, 2)], normal_concat=[2, 3, 4], reduce=[], reduce_concat=[2, 3, 4])",
            "fewer than 2",
        ),
        (
            "Genotype(normal=[('conv_3x3', 0, 2)], normal_concat=[2, 3, 4], reduce=[], reduce_concat=[2, 3, 4])",
            "no operations",
        ),
        ("Genotype(normal=[], normal_concat=[2, 3, 4], reduce=[], reduce_concat=[2, 3, 4])", "normal has 0 entries"),
    ],
)
def test_malformed_fewshot_text_is_refused(text, complaint):
    with pytest.raises(InputError) as refusal:
        parse_genotype("darts_fewshot", text)
    assert complaint in str(refusal.value)
    assert len(str(refusal.value)) < 800


@some
@given(space=spaces, place=st.floats(0, 1), length=st.integers(0, 5), piece=st.text(max_size=8))
def test_damaged_text_is_read_or_refused_but_never_crashes(space, place, length, piece):
    text = EXAMPLES[space]
    start = int(place * len(text))
    try:
        genotype = parse_genotype(space, text[:start] + piece + text[start + length :])
    except InputError:
        return
    assert parse_genotype(space, str(genotype)) == genotype


@pytest.mark.parametrize("space", SPACES)
@some
@given(text=st.text(max_size=60) | st.text("Genotype(=[]),'\"0 #\n:._range", max_size=60))
def test_any_text_is_refused_with_a_printable_sentence(space, text):
    for given_text in (text, f"Genotype({text}", f"Genotype(normal={text}", f"Genotype(normal=[('{text}"):
        with pytest.raises(InputError) as refusal:
            parse_genotype(space, given_text)
        assert str(refusal.value).isprintable()
        assert len(str(refusal.value)) < 800


# Published candidates


def published() -> list[dict]:
    return json.loads((Path(__file__).parents[1] / "data" / "published-genotypes.json").read_text())


def test_the_twelve_architectures_of_the_paper_are_candidates_by_name():
    given_there = {entry["name"]: entry for entry in published()}
    assert len(given_there) == 12
    assert set(PUBLISHED) == set(given_there)
    assert len({parse_genotype("darts_fewshot", name).key for name in PUBLISHED}) == 12
    for name, candidate in PUBLISHED.items():
        entry = given_there[name]
        assert (candidate.name, candidate.cells, candidate.channels) == (name, entry["cells"], entry["channels"])
        assert "Wang, Wang, Sun, Li, CVPR 2022" in candidate.source
        assert parse_genotype(candidate.space, f" {name}\n") == parse_genotype(candidate.space, entry["genotype"])
        assert parse_genotype(candidate.space, name).decided


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("paper-mini-5-d", "paper-mini-5-a"), ("paper_mini_8_b", "paper-mini-8-b"), ("tiered-5-c", "paper-tiered-5-c")],
)
@pytest.mark.parametrize("space", SPACES)
def test_what_is_nearly_a_name_is_refused_with_near_names(space, wrong, near):
    with pytest.raises(InputError, match=f"'{wrong}' is no known architecture; did you mean .*{near}"):
        parse_genotype(space, wrong)


@pytest.mark.parametrize("space", ["nasbench201", "darts"])
def test_a_published_candidate_of_another_space_is_refused_with_its_space(space):
    with pytest.raises(InputError, match=f"of darts_fewshot, but {space} is searched here: choose a recipe"):
        parse_genotype(space, "paper-mini-5-a")


def test_unknown_space_is_refused_with_the_known_ones():
    with pytest.raises(
        InputError, match="'nasbench101' is no search space; the search spaces are nasbench201, darts_fewshot, darts"
    ):
        space_named("nasbench101")


# Shards


@some
@given(items=st.lists(st.integers(), max_size=40), count=st.integers(1, 50))
def test_every_item_is_in_exactly_one_shard_and_shards_are_of_a_size(items, count):
    parts = [shard(items, index, count) for index in range(count)]
    assert sorted(itertools.chain(*parts)) == sorted(items)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(("index", "count"), [(-1, 2), (2, 2), (0, 0)])
def test_shard_that_does_not_exist_is_refused(index, count):
    with pytest.raises(InputError, match="Shards are numbered from 0"):
        shard([1, 2, 3], index, count)


def test_shards_of_a_space_are_the_space(cells):
    parts = [NASBENCH201.shard(index, 7) for index in range(7)]
    assert {len(part) for part in parts} == {2232, 2233}
    assert set(itertools.chain(*parts)) == set(cells)
