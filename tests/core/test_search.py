import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from metantk_core.candidates import SPACES
from metantk_core.candidates import spaces as registry
from metantk_core.candidates.darts_family import DartsFamily
from metantk_core.candidates.nasbench201 import NASBENCH201
from metantk_core.search import SearchConfig, candidates

# Nothing is timed: a busy machine is no failure.
some = settings(max_examples=25, deadline=None)
spaces = st.sampled_from(sorted(SPACES))
seeds = st.integers(0, 2**62)


@some
@given(space=spaces, seed=seeds, count=st.integers(1, 40))
def test_candidates_are_distinct_and_decided_and_as_many_as_asked_for(space, seed, count):
    found = candidates(SearchConfig(space=space, num_candidates=count), seed)
    assert len(set(found)) == len(found) == count
    assert all(genotype.decided and genotype.space == space for genotype in found)


@some
@given(space=spaces, seed=seeds, shards=st.integers(1, 20))
def test_number_of_shards_changes_nothing(space, seed, shards):
    one, many = (SearchConfig(space=space, num_candidates=12, shards=number) for number in (1, shards))
    assert candidates(one, seed) == candidates(many, seed)


@pytest.mark.parametrize("space", SPACES)
def test_asking_for_more_only_adds_candidates_at_the_end(space):
    few, many = (candidates(SearchConfig(space=space, num_candidates=number), 3) for number in (5, 25))
    assert many[:5] == few


@pytest.mark.parametrize("space", SPACES)
def test_another_seed_gives_other_candidates(space):
    config = SearchConfig(space=space, num_candidates=10)
    assert candidates(config, 0) != candidates(config, 1)


def test_distinct_candidates_are_found_even_when_a_draw_repeats(monkeypatch):
    # Spaces so small that drawing everything has to get past repeated draws.
    tiny = DartsFamily("tiny", ("skip_connect",), nodes=2)
    few = DartsFamily("few", ("skip_connect", "conv_3x3"), nodes=1)
    monkeypatch.setattr(registry, "SPACES", {"tiny": tiny, "few": few})
    for space in (tiny, few):
        found = candidates(SearchConfig(space=space.name, num_candidates=space.size), 0)
        assert len(set(found)) == space.size


def test_whole_space_can_be_sampled_and_enumerated():
    listed = candidates(SearchConfig(strategy="enumerate", num_candidates=15_625), 0)
    drawn = candidates(SearchConfig(num_candidates=15_625), 0)
    assert [listed[0], listed[-1]] == [NASBENCH201.genotype(0), NASBENCH201.genotype(15_624)]
    assert drawn != listed
    assert set(drawn) == set(listed)
    assert len(listed) == len(set(listed)) == 15_625


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"space": "nasbench101"}, "the search spaces are nasbench201, darts_fewshot"),
        ({"num_candidates": 15_626}, "has 15,625 candidates, but num_candidates is 15,626: lower it"),
        ({"space": "darts_fewshot", "strategy": "enumerate"}, "too many to enumerate: use the strategy 'sample'"),
        ({"strategy": "enumerate", "num_candidates": 100}, "set num_candidates to 15625 instead of 100"),
        ({"num_candidates": 0}, "greater than or equal to 1"),
        ({"shards": 0}, "greater than or equal to 1"),
        ({"strategy": "anneal"}, "'sample', 'enumerate', 'prune', 'evolve' or 'race'"),
        ({"strategy": "evolve", "num_candidates": 10}, "raise it, or lower evolve.population"),
        ({"strategy": "race", "target_reliability": 0.8}, "leave it out (race has race.confidence)"),
        ({"strategy": "sample", "unique": "function"}, "a setting of the strategy 'enumerate'"),
        ({"strategy": "enumerate", "unique": "function", "num_candidates": 15_625}, "takes all 5,044 classes"),
        ({"evolve": {"population": 4, "tournament": 5}}, "a tournament of 5 needs a population as large, not 4"),
        ({"num_candidate": 5}, "Extra inputs are not permitted"),
    ],
)
def test_impossible_search_is_refused_with_what_to_do(settings, complaint):
    with pytest.raises(ValidationError) as refusal:
        SearchConfig(**settings)
    assert complaint in str(refusal.value)


def test_configuration_survives_json():
    config = SearchConfig(space="darts_fewshot", num_candidates=7, shards=3)
    assert SearchConfig.model_validate_json(config.model_dump_json()) == config
