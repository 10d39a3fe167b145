"""One initialised supernet serves all candidates: the numbers are those of a network made for each one alone."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from metantk_core.candidates import Genotype, space_named
from metantk_core.datasets.images import LabelledImages
from metantk_core.episodes import EpisodeConfig, EpisodeSource, normalise
from metantk_core.networks import NetworkConfig, build, initialise, restricted
from metantk_core.scores import Evidence, Scorer, ScoringConfig, evaluated, score_candidate, scoring_episodes
from metantk_core.scores import scorer as scoring

EPISODE = EpisodeConfig(ways=3, shots=1, queries=1)
CONFIG = ScoringConfig.model_validate(
    {
        "scores": ["metantk_cond", "linear_regions", "params", "flops"],
        "num_inits": 1,
        "tasks": 2,
        "episode": EPISODE,
        "image_size": 8,
        "network": NetworkConfig(channels=2, cells=3),
        "linear_regions": {"images": 50},
    }
)


def source(channels: int = 1) -> EpisodeSource:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (48, channels, 8, 8)).astype(np.uint8)
    labels = np.repeat(np.arange(6), 8).astype(np.int64)
    labelled = LabelledImages(images, labels, tuple(f"class {i}" for i in range(6)), "train", "noise")
    return EpisodeSource(labelled, EPISODE, (0.5,) * channels, (0.29,) * channels, image_size=8)


def genotypes(space: str) -> list[Genotype]:
    """Return two candidates, and one with two more operations."""
    known = space_named(space)
    rng = np.random.default_rng(1)
    first, second = known.sample(rng), known.sample(rng)
    edges = [
        replace(edge, operations=tuple({*edge.operations, known.operations[number]})) if number < 2 else edge
        for number, edge in enumerate(first.edges)
    ]
    return [first, second, Genotype(known, tuple(edges))]


def numbers(records) -> list:
    return [(record.score, record.draws) for record in records]


@pytest.mark.parametrize("space", ["nasbench201", "darts_fewshot", "darts"])
def test_part_of_a_supernet_scores_as_a_network_made_for_the_candidate_alone(space):
    shared = Scorer(space_named(space).supernet(), source(), CONFIG, 0)
    for genotype in genotypes(space):
        alone = score_candidate(genotype, source(), CONFIG, 0)
        assert numbers(shared.score(genotype, range(1))) == numbers(alone)


def test_part_of_a_network_holds_the_supernets_own_weights_under_the_same_names():
    known = space_named("darts_fewshot")
    network = build(known.supernet(), CONFIG.network, in_channels=1, ways=3, variant="scoring")
    candidate = known.sample(np.random.default_rng(0))
    part = restricted(network, candidate)
    whole = dict(network.named_parameters())
    names = dict(build(candidate, CONFIG.network, in_channels=1, ways=3, variant="scoring").named_parameters())
    assert set(dict(part.named_parameters())) == set(names)
    assert all(parameter is whole[name] for name, parameter in part.named_parameters())
    # The supernet is as it was.
    assert len(list(network.parameters())) == len(whole) > len(names)


def test_part_that_the_supernet_lacks_is_refused():
    known = space_named("nasbench201")
    supernet = known.supernet()
    without = supernet.without(supernet.edges[0], "none")
    network = build(without, CONFIG.network, in_channels=1, ways=3, variant="scoring")
    with pytest.raises(ValueError, match="does not have all of"):
        restricted(network, supernet)


def test_draws_can_be_taken_in_parts_and_in_any_order():
    candidate = genotypes("nasbench201")[0]
    scorer = Scorer(space_named("nasbench201").supernet(), source(), CONFIG, 0)
    later = scorer.score(candidate, range(1, 3))
    scorer.score(genotypes("nasbench201")[1], range(2))
    first = scorer.score(candidate, range(1))
    whole = Scorer(candidate, source(), CONFIG, 0).score(candidate, range(3))
    for start, end, all_of_them in zip(first, later, whole, strict=True):
        if all_of_them.score in ("params", "flops"):
            assert start.draws == all_of_them.draws
        else:
            assert start.followed_by(end).draws == all_of_them.draws


def test_records_of_different_things_are_not_joined():
    one, other = (Scorer(g, source(), CONFIG, 0).score(g, range(1))[0] for g in genotypes("nasbench201")[:2])
    with pytest.raises(ValueError, match="different things"):
        one.followed_by(other)


def test_stream_has_random_numbers_of_its_own_whatever_was_scored_before():
    first, second, *_ = genotypes("nasbench201")
    scorer = Scorer(space_named("nasbench201").supernet(), source(), CONFIG, 0)
    shared, mine = scorer.score(first, range(2)), scorer.score(first, range(2), "mine")
    scorer.score(second, range(2), "yours")
    again = Scorer(first, source(), CONFIG, 0).score(first, range(2), "mine")
    assert numbers(again) == numbers(mine)
    assert dict(numbers(shared))["metantk_cond"] != dict(numbers(mine))["metantk_cond"]
    assert all(record.stream == "mine" for record in mine)
    one, other = (scorer.draw(first, 0, stream) for stream in ("mine", "yours"))
    assert not torch.equal(one.images, other.images)


def test_weights_can_be_set_apart_on_the_same_episodes():
    candidate, scorer = genotypes("nasbench201")[0], Scorer(genotypes("nasbench201")[0], source(), CONFIG, 0)
    drawn = {}
    for weights in ("", "supernet", "candidate"):
        draw = scorer.draw(candidate, 0, "mine", weights)
        drawn[weights] = draw.images, draw.network.get_parameter("head.weight").clone()
    images, heads = zip(*drawn.values(), strict=True)
    assert torch.equal(images[0], images[1])
    assert torch.equal(images[1], images[2])
    assert len({tuple(head.flatten().tolist()) for head in heads}) == 3


def kept(draw) -> dict[str, torch.Tensor]:
    """Return copies of all that a draw is made of."""
    networks = {"network": draw.network, "regions": draw.regions_network}
    found = {f"{kind}.{name}": w for kind, network in networks.items() for name, w in network.named_parameters()}
    return {name: weight.detach().clone() for name, weight in found.items()} | {"images": draw.images}


@pytest.mark.parametrize("first", [("", ""), ("mine", ""), ("mine", "candidate"), ("", "candidate")])
def test_draw_that_is_held_stays_what_it_is_whatever_is_drawn_or_scored_later(first):
    candidate, other, _ = genotypes("nasbench201")
    small = CONFIG.model_copy(update={"network": NetworkConfig(channels=2, cells=1)})
    scorer = Scorer(space_named("nasbench201").supernet(), source(), small, 0)
    scorer.score(other, range(1), "earlier")  # leaves networks that can be used again
    held = scorer.draw(candidate, 0, *first)
    before, value = kept(held), evaluated("metantk_cond", Evidence(held))
    for stream, weights in (("", ""), ("mine", ""), ("yours", "other"), ("", "other")):
        scorer.draw(other, 0, stream, weights)
    scorer.score(candidate, range(1, 3), "yours")
    after = kept(held)
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert evaluated("metantk_cond", Evidence(held)) == value


def test_scoring_with_weights_of_their_own_uses_the_same_memory_again_also_after_an_error(monkeypatch):
    candidate, other, _ = genotypes("nasbench201")
    small = CONFIG.model_copy(update={"network": NetworkConfig(channels=2, cells=1)})
    scorer = Scorer(space_named("nasbench201").supernet(), source(), small, 0)
    made, make = [], scorer._make
    monkeypatch.setattr(scorer, "_make", lambda: made.append(1) or make())
    scorer.score(candidate, range(3), "mine")
    monkeypatch.setattr(scoring, "score_draw", None)
    with pytest.raises(TypeError):
        scorer.score(candidate, range(1), "mine")
    monkeypatch.undo()
    monkeypatch.setattr(scorer, "_make", lambda: made.append(1) or make())
    scorer.score(other, range(2), "yours", "candidate")
    assert len(made) == 1


def test_redrawing_the_head_alone_keeps_all_other_weights():
    config = CONFIG.model_copy(update={"redraw": "head"})
    candidate = genotypes("darts_fewshot")[0]
    scorer = Scorer(candidate, source(), config, 0)
    draws = [dict(scorer.draw(candidate, repeat).network.named_parameters()) for repeat in range(2)]
    same = {name for name in draws[0] if torch.equal(draws[0][name], draws[1][name])}
    assert "head.weight" not in same
    assert {name for name in draws[0] if not name.startswith("head.")} <= same


def test_all_redrawn_weights_are_those_of_their_purpose():
    candidate = genotypes("nasbench201")[0]
    network = build(candidate, CONFIG.network, in_channels=1, ways=3, variant="scoring")
    initialise(network, 0, "score", "init", 1)
    drawn = Scorer(space_named("nasbench201").supernet(), source(), CONFIG, 0).draw(candidate, 1).network
    ours = dict(drawn.named_parameters())
    assert all(torch.equal(parameter, ours[name]) for name, parameter in network.named_parameters())


def test_augmented_images_are_flipped_or_not_and_moved_with_black_coming_in():
    plain, moved = (
        scoring_episodes(source(3), CONFIG.model_copy(update={"augmentation": kind}), 0, 0)
        for kind in ("none", "flip_crop")
    )
    black = normalise(torch.zeros(1, 3, 1, 1, dtype=torch.uint8), (0.5,) * 3, (0.29,) * 3)[0]
    different = 0
    for before, after in zip(plain, moved, strict=True):
        for image, result in zip(before.query_images, after.query_images, strict=True):
            wide = black.expand(3, 16, 16).clone()
            wide[:, 4:12, 4:12] = image
            crops = [
                wide[:, down : down + 8, right : right + 8] for down, right in itertools.product(range(9), repeat=2)
            ]
            assert any(torch.equal(crop, result) or torch.equal(crop.flip(-1), result) for crop in crops)
            different += not torch.equal(image, result)
    assert different >= 4
