"""What is fast against what is plain: the pruning search beside a loop that scores every network from nothing."""

import weakref

import numpy as np
import pytest
import torch

from benchmarks.search import (
    Straightforward,
    condition_of_meta_ntk,
    our_search,
    regions_by_products,
    scoring_of,
    source_of,
    straightforward_search,
)
from metantk_core.candidates import SPACES, Genotype
from metantk_core.candidates import spaces as registry
from metantk_core.candidates.darts_family import DartsFamily
from metantk_core.networks import FewShotNetwork, NetworkConfig, build, initialise, restricted
from metantk_core.scores import Scorer
from metantk_core.scores.activations import Reuse, linear_regions

# Two cell types, both phases (operations, then edges), and few candidates: 20, then 6.
FAMILY = DartsFamily("darts_fewshot", ("conv_3x3", "max_pool_3x3"), nodes=2)
CONFIG = scoring_of(channels=4, cells=3, image_size=8, draws=2, patches=60)
SEED = 1


@pytest.fixture
def small_space(monkeypatch):
    monkeypatch.setattr(registry, "SPACES", {**SPACES, FAMILY.name: FAMILY})
    return FAMILY


@pytest.mark.slow
@pytest.mark.minutes
def test_search_removes_what_a_straightforward_loop_removes_with_the_same_random_numbers(small_space):
    source = source_of(CONFIG)
    plain, conditions = straightforward_search(small_space, Straightforward(source, CONFIG, SEED))
    ours, our_conditions = our_search(small_space, source, CONFIG, SEED)
    assert len(plain) == 2
    assert ours == plain
    winner = small_space.parse(ours[-1])
    assert winner.decided
    assert len(winner.edges) == 8
    # Every candidate of every round in every draw, to the precision of float32 gradients.
    assert set(conditions) <= set(our_conditions)
    for key, value in conditions.items():
        assert our_conditions[key] == pytest.approx(value, rel=1e-3), key


def test_candidate_scored_as_part_of_a_supernet_has_the_scores_of_a_network_of_its_own():
    source, space = source_of(CONFIG), SPACES["darts_fewshot"]
    supernet = space.supernet()
    scorer, plain = Scorer(supernet, source, CONFIG, SEED), Straightforward(source, CONFIG, SEED)
    for genotype in (space.prunings(supernet)[40], space.sample(np.random.default_rng(0))):
        alone = plain.score(genotype, 1)
        condition, regions = (record.draws[0].value for record in scorer.score(genotype, range(1, 2)))
        assert condition == pytest.approx(alone["metantk_cond"], rel=1e-3)
        assert regions == alone["linear_regions"]


def narrow_network(genotype: Genotype, channels: int = 1) -> torch.nn.Module:
    network = build(genotype, NetworkConfig(channels=channels, cells=3), in_channels=1, ways=5, variant="scoring")
    initialise(network, SEED, "noise")
    return network


@pytest.mark.parametrize("space", sorted(SPACES))
@pytest.mark.parametrize("images", [1, 2, 7, 300])
def test_regions_are_the_same_when_the_pass_ends_early_as_by_comparing_all_pairs(space, images):
    rng = np.random.default_rng(images)
    noise = torch.randn(images, 1, 3, 3, generator=torch.Generator().manual_seed(images))
    if images == 300:
        noise[40:60] = noise[10]  # images that nothing can tell apart
    for genotype in (SPACES[space].supernet(), *(SPACES[space].sample(rng) for _ in range(4))):
        network = narrow_network(genotype)
        assert linear_regions(network, noise).value == regions_by_products(network, noise)


@pytest.mark.parametrize("limit", [10**4, 10**6, 10**9], ids=["little", "some", "all"])
def test_results_of_other_candidates_are_only_taken_where_nothing_differs(limit):
    space = SPACES["darts_fewshot"]
    supernet = narrow_network(space.supernet())
    assert isinstance(supernet, FewShotNetwork)
    noise = torch.randn(300, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    genotypes = [space.supernet(), *space.prunings(space.supernet())[::40], space.sample(np.random.default_rng(0))]
    reuse, counts = Reuse(limit), []
    for purpose in ("first", "second"):  # other weights, in the same tensors
        initialise(supernet, SEED, purpose)
        for genotype in genotypes:
            alone = build(genotype, NetworkConfig(channels=1, cells=3), in_channels=1, ways=5, variant="scoring")
            initialise(alone, SEED, purpose)
            counts.append(linear_regions(restricted(supernet, genotype), noise, reuse).value)
            assert counts[-1] == regions_by_products(alone, noise)
    assert len(set(counts)) > 1


def test_operators_run_once_for_the_same_tensors_and_the_memory_is_bounded():
    calls = []

    def double(x: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return 2 * x

    reuse, x = Reuse(10_000), torch.ones(100)
    assert reuse.once("double", double, (x,)) is reuse.once("double", double, (x,))
    assert len(calls) == 1
    first = weakref.ref(reuse.once("double", double, (x,)))
    x += 1
    assert reuse.once("double", double, (x,)).tolist() == [4.0] * 100
    for _ in range(1000):
        reuse.once("double", double, (torch.ones(100),))
    assert first() is None
    kept = reuse.once("double", double, (x,))
    before = len(calls)
    assert reuse.once("double", double, (x,)) is kept
    assert len(calls) == before


def test_condition_number_of_a_known_meta_ntk():
    # No two images have anything in common, and all queries have kernel 2 but one, which has 6: the MetaNTK is theirs.
    ntk = torch.eye(30, dtype=torch.float64) * 2
    ntk[3, 3] = 6
    assert condition_of_meta_ntk(ntk, CONFIG) == pytest.approx(3)
