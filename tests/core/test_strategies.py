"""Strategies are pure functions of what was found: here a formula with noise takes the place of networks."""

import itertools
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from metantk_core.candidates import Edge, Genotype, space_named
from metantk_core.errors import InputError
from metantk_core.ranking import Criterion
from metantk_core.recipes import RECIPES
from metantk_core.scores import Outcome, Score, ScoreRecord
from metantk_core.search import (
    Job,
    SearchConfig,
    SearchHistory,
    SearchState,
    Setting,
    advance,
    candidates,
    most_rounds,
    start,
)
from metantk_core.search.history import Removal
from metantk_core.search.pruning import _by_rounded, _dense_ranks
from metantk_core.seeding import digest, numpy_generator

BOTH = Criterion.of({"metantk_cond": 1, "linear_regions": 1})
COND = Criterion.of("metantk_cond")
#: Tables of scores, and what the published functions decide on them.
DECISIONS = json.loads(Path(__file__).parents[1].joinpath("data", "reference-decisions.json").read_text())


@cache
def part(cell: str, source: int, target: int, operation: str) -> float:
    return float(numpy_generator(7, cell, source, target, operation).normal())


def worth(genotype: Genotype) -> float:
    """Return the mean over edges of the mean worth of their operations: a supernet is the mean of its parts."""
    return math.fsum(
        math.fsum(part(edge.cell, edge.source, edge.target, name) for name in edge.operations) / len(edge.operations)
        for edge in genotype.edges
    ) / len(genotype.edges)


def scorer(space: str, noise: float = 0.0, shared: float = 0.0, broken: Callable[[Genotype], bool] | None = None):
    """Return a ``Found`` by formula: condition number low and linear regions high for worthy genotypes."""

    def found(job: Job) -> tuple[ScoreRecord, ...]:
        genotype, text = job.genotype, str(job.genotype)
        if broken is not None and broken(genotype):
            failed = tuple(Score(None, Outcome.DEGENERATE, "singular") for _ in range(job.draws))
            return tuple(
                ScoreRecord(space, text, name, failed, 0, 0.0, job.stream)
                for name in ("metantk_cond", "linear_regions")
            )
        cond, regions = [], []
        for draw in range(job.draws):
            common = shared * numpy_generator(3, "common", draw).normal()
            own = noise * numpy_generator(3, "own", genotype.key, job.stream, job.weights, draw).normal(size=2)
            cond.append(Score(math.exp(-worth(genotype) + common + own[0] + 2)))
            regions.append(Score(1000 + 100 * (worth(genotype) + common + own[1])))
        values = {"metantk_cond": tuple(cond), "linear_regions": tuple(regions)}
        return tuple(ScoreRecord(space, text, name, draws, 0, 0.0, job.stream) for name, draws in values.items())

    return found


def run(setting: Setting, found) -> tuple[SearchState, list[Job]]:
    """Search to the end through JSON, as pods do; return the last state and all that was scored."""
    state, scored = start(setting), []
    while not state.finished:
        scored += state.plan
        state = SearchState.from_json(advance(setting, state, found).to_json())
    assert len(state.rounds) <= most_rounds(setting)
    assert [closed.number for closed in state.rounds] == list(range(1, len(state.rounds) + 1))
    return state, scored


def of(strategy: str, space: str = "darts_fewshot", criterion: Criterion = COND, draws: int = 3, **values) -> Setting:
    config = SearchConfig.model_validate({"space": space, "strategy": strategy, "num_candidates": 20, **values})
    return Setting(config, criterion, draws, seed=5)


# Pruning


@pytest.mark.parametrize(("space", "removals"), [("darts_fewshot", 486 + 14), ("nasbench201", 6 * (5 + 4 + 3 + 2))])
def test_pruning_looks_at_as_many_removals_as_the_paper_says(space, removals):
    setting = of("prune", space)
    state, scored = run(setting, scorer(space))
    assert sum(len(closed.removals) for closed in state.rounds) == removals
    # One supernet a round, and at the end the winner beside 20 random ones.
    assert len(scored) == removals + (len(state.rounds) - 1) + 21


def test_choice_is_compared_by_random_numbers_that_it_was_not_chosen_by():
    state, scored = run(of("prune", "nasbench201"), scorer("nasbench201", noise=0.1))
    last = scored[-21:]
    assert {job.stream for job in scored[:-21]} == {""}
    assert {(job.stream, job.weights) for job in last} == {("comparison", "")}
    assert list(state.board) == last


@pytest.mark.parametrize("space", ["nasbench201", "darts_fewshot", "darts"])
def test_pruning_without_noise_keeps_the_best_operation_of_every_edge_and_the_best_edges_of_every_node(space):
    state, _ = run(of("prune", space, BOTH, draws=1), scorer(space))
    winner = state.history.winner
    assert winner is not None
    assert winner.decided
    family = space_named(space)
    supernet = family.supernet()
    best = {
        (edge.cell, edge.source, edge.target): max(
            edge.operations, key=lambda name, e=edge: worth(Genotype(family, (_only(e, name),)))
        )
        for edge in supernet.edges
    }
    assert all(edge.operations == (best[edge.cell, edge.source, edge.target],) for edge in winner.edges)
    for (cell, target), edges in itertools.groupby(supernet.edges, key=lambda edge: (edge.cell, edge.target)):
        worths = {e.source: worth(Genotype(family, (_only(e, best[e.cell, e.source, e.target]),))) for e in edges}
        kept = {edge.source for edge in winner.edges if (edge.cell, edge.target) == (cell, target)}
        assert kept == set(sorted(worths, key=worths.__getitem__)[-len(kept) :])


def _only(edge, name):
    return replace(edge, operations=(name,))


def test_what_a_draw_does_to_all_candidates_alike_does_not_change_what_is_pruned():
    calm, _ = run(of("prune", "nasbench201"), scorer("nasbench201", noise=0.01))
    stormy, _ = run(of("prune", "nasbench201"), scorer("nasbench201", noise=0.01, shared=3.0))
    assert stormy.history.winner == calm.history.winner


def test_history_tells_noise_from_knowledge():
    sure, _ = run(of("prune", "nasbench201", draws=4), scorer("nasbench201", noise=1e-4))
    unsure, _ = run(of("prune", "nasbench201", draws=4), scorer("nasbench201", noise=5.0))

    def certainty(state: SearchState) -> float:
        return float(np.mean([choice.certainty or 0.0 for choice in state.rounds[0].choices]))

    def agreement(state: SearchState) -> float:
        return float(np.mean([choice.agreement or 0.0 for choice in state.rounds[0].choices]))

    assert certainty(sure) > 0.95
    assert agreement(sure) > 0.95
    # Noise alone decides as a coin would in one half and in the other; among 6 choices of 5 that is 0.2 or so.
    assert agreement(unsure) < 0.5
    assert dict(sure.rounds[0].reliability)["metantk_cond"].icc > 0.99
    assert dict(unsure.rounds[0].reliability)["metantk_cond"].low < 0.3
    assert certainty(unsure) < certainty(sure)


def test_round_states_both_changes_both_ranks_and_what_went():
    state, _ = run(of("prune", "nasbench201", BOTH), scorer("nasbench201", noise=0.2))
    first = state.rounds[0]
    supernet = space_named("nasbench201").supernet()
    assert first.before == supernet
    assert len(first.removals) == 30
    assert sum(removal.removed for removal in first.removals) == len(first.choices) == 6
    assert dict(first.distinct) == {"metantk_cond": 30, "linear_regions": 30}
    # The rank sum is the sum of the ranks, and on every edge the lowest one went.
    for removal in first.removals:
        assert removal.total == pytest.approx(sum(dict(removal.ranks).values()))
    for choice in first.choices:
        edge = [r for r in first.removals if (r.source, r.target) == (choice.source, choice.target)]
        assert min(edge, key=lambda r: r.total).operation == choice.removed[0]
    # Against a plain computation of one change: the mean of the log ratio of the same draws.
    found = scorer("nasbench201", noise=0.2)
    removal = first.removals[0]
    (edge,) = [e for e in supernet.edges if (e.source, e.target) == (removal.source, removal.target)]
    before, after = (
        np.array([draw.value for draw in found(Job(genotype, 3))[0].draws])
        for genotype in (supernet, supernet.without(edge, removal.operation))
    )
    assert dict(removal.changes)["metantk_cond"] == pytest.approx(np.log(after / before).mean())
    assert dict(removal.standard_errors)["metantk_cond"] == pytest.approx(
        np.log(after / before).std(ddof=1) / math.sqrt(3)
    )


def test_published_design_scores_the_supernet_again_for_each_candidate_with_draws_of_its_own():
    published = {
        "draws": "own",
        "change": "relative",
        "ranks": "dense",
        "edges": "one node at a time",
    }
    setting = of("prune", "darts_fewshot", BOTH, prune=published)
    state, scored = run(setting, scorer("darts_fewshot", noise=0.1))
    assert sum(len(closed.removals) for closed in state.rounds) == 500
    searched = scored[:-21]
    # In the last phase, 11 removals meet a supernet that has lost edges, whose kernel is not taken again.
    assert len(searched) == 2 * 500 + 11
    assert len({job.stream for job in searched}) == 500
    # On the same episodes, with other weights.
    assert [job.weights for job in searched[: 2 * 486]] == 486 * ["supernet", "candidate"]
    # Dense ranks leave no gaps.
    ranks = {dict(removal.ranks)["metantk_cond"] for removal in state.rounds[0].removals}
    assert ranks == set(range(1, len(ranks) + 1))
    # The last phase takes one node after the other, each compared with the supernet before the first of them.
    last = [closed for closed in state.rounds if closed.title == "prune edges"]
    assert [len(closed.removals) for closed in last] == [3, 4, 3, 4]
    found = scorer("darts_fewshot", noise=0.1)
    for closed in last:
        removal = closed.removals[0]
        assert last[0].before is not None
        assert closed.before is not None
        left = _lost(closed.before, removal)
        stream = digest(str(left))
        after = found(Job(left, 3, stream, "candidate"))
        kernel, regions = (
            found(Job(genotype, 3, stream, "supernet"))[row]
            for row, genotype in enumerate((last[0].before, closed.before))
        )
        for before, record in zip((kernel, regions), after, strict=True):
            pairs = zip(record.draws, before.draws, strict=True)
            changes = [round(((a.value or 0) - (b.value or 0)) / (b.value or 1), 3) for a, b in pairs]
            assert dict(removal.changes)[record.score] == pytest.approx(np.mean(changes), abs=1e-9)


def _lost(genotype: Genotype, removal: Removal) -> Genotype:
    place = removal.cell, removal.source, removal.target
    edge = next(edge for edge in genotype.edges if (edge.cell, edge.source, edge.target) == place)
    return genotype.without(edge, removal.operation)


@pytest.mark.parametrize("table", DECISIONS, ids=lambda table: f"{table['phase']}-{table['style']}")
def test_reference_recipes_decide_as_the_published_functions_do(table):
    config, *others = (config for name, config in RECIPES.items() if name.startswith("reference-"))
    assert all((other.search, other.criterion) == (config.search, config.criterion) for other in others)
    setting = Setting(config.search, config.criterion, config.scoring.num_inits, config.seed)
    supernet = Genotype(setting.space, _joined(table["supernet"]))
    rows = {}
    for row in table["removals"]:
        left = str(Genotype(setting.space, _joined(op for op in table["supernet"] if op not in row["without"])))
        rows[digest(left)] = row["draws"]

    def found(job: Job) -> tuple[ScoreRecord, ...]:
        when = {"supernet": "before", "candidate": "after"}[job.weights]
        return tuple(
            ScoreRecord(
                "darts_fewshot",
                str(job.genotype),
                name,
                tuple(Score(float(draw[f"{kind}_{when}"])) for draw in rows[job.stream]),
                0,
                0.0,
            )
            for name, kind in (("metantk_cond", "kernel"), ("linear_regions", "regions"))
        )

    history = SearchHistory("prune", "darts_fewshot", None, ())
    state = SearchState(history, (Job(supernet, 3),), supernet=supernet, compared=supernet)
    for _ in range(1 if table["phase"] == "operations" else 4):
        state = advance(setting, state, found)
    removed = [
        [removal.cell, removal.source, removal.target, removal.operation]
        for closed in state.rounds
        for removal in closed.removals
        if removal.removed
    ]
    assert sorted(removed) == sorted(table["removed"])


def _joined(operations: Iterable[Sequence]) -> tuple[Edge, ...]:
    """Return the edges that some (cell, source, target, operation) make."""
    edges: dict[tuple[str, int, int], list[str]] = {}
    for *place, name in operations:
        edges.setdefault(tuple(place), []).append(name)
    return tuple(Edge(*place, tuple(names)) for place, names in edges.items())


@pytest.mark.parametrize(
    ("means", "ranks", "order"),
    [
        # Sorted at 3 digits in the order given; then only neighbours that are equal to the last digit share a rank.
        ([0.12345, 0.12311, 0.12345], [1, 2, 3], [0, 1, 2]),
        ([0.12345, 0.12345, 0.12311], [1, 1, 2], [0, 1, 2]),
        ([0.5, -1.0, 0.0, np.inf, -1.0], [3, 1, 2, 4, 1], [1, 4, 2, 0, 3]),
    ],
)
def test_dense_ranks_sort_rounded_changes_and_join_equal_neighbours(means, ranks, order):
    assert _dense_ranks(np.array(means)).tolist() == ranks
    assert _by_rounded(np.array(means)) == order


def test_removal_that_can_not_be_scored_is_never_made_and_says_why():
    def broken(genotype: Genotype) -> bool:
        # Without this operation on this edge there is no network.
        edge = next(edge for edge in genotype.edges if (edge.source, edge.target) == (0, 1))
        return "none" not in edge.operations

    state, _ = run(of("prune", "nasbench201"), scorer("nasbench201", broken=broken))
    winner = state.history.winner
    assert winner is not None
    assert winner.edges[0].operations == ("none",)
    reasons = [removal.reason for removal in state.rounds[0].removals if removal.operation == "none"]
    assert sum("singular" in reason for reason in reasons) == 1
    assert state.rounds[0].failed == 1


def test_supernet_that_can_not_be_scored_ends_the_search_with_a_sentence():
    with pytest.raises(InputError, match="supernet itself can't be scored"):
        run(of("prune", "nasbench201"), scorer("nasbench201", broken=lambda genotype: not genotype.decided))


def test_limits_hold_for_what_pruning_finds():
    def convolutions(genotype: Genotype | None) -> int:
        assert genotype is not None
        return sum(all("conv" in name for name in edge.operations) for edge in genotype.edges)

    def allowed(genotype: Genotype) -> bool:
        return convolutions(genotype) <= 1

    free = of("prune", "nasbench201")
    limited = Setting(free.config, COND, 3, 5, allowed)
    assert convolutions(run(free, scorer("nasbench201"))[0].history.winner) > 1
    state, _ = run(limited, scorer("nasbench201"))
    assert convolutions(state.history.winner) <= 1
    assert all(allowed(job.genotype) for job in state.board)


# More draws where they are needed


def test_rounds_are_drawn_on_until_they_are_reliable_or_the_budget_is_used_up():
    easy = of("sample", "nasbench201", target_reliability=0.9, max_inits=12)
    state, _ = run(easy, scorer("nasbench201", noise=1e-3))
    assert [closed.draws for closed in state.rounds] == [3]
    state, _ = run(easy, scorer("nasbench201", noise=50.0))
    assert [closed.draws for closed in state.rounds] == [3, 6, 12]
    assert state.board[0].draws == 12


@pytest.mark.parametrize("draws", ["shared", "own"])
def test_pruning_rounds_are_drawn_on_too_and_nothing_is_removed_before(draws):
    hard = of("prune", "nasbench201", target_reliability=0.9, max_inits=6, prune={"draws": draws})
    state, _ = run(hard, scorer("nasbench201", noise=0.3))
    again = [closed.title for closed in state.rounds if closed.title.endswith("draw on")]
    assert again
    assert all(not closed.removals for closed in state.rounds if closed.title.endswith("draw on"))


# Evolution


def test_evolution_finds_better_candidates_than_as_many_random_ones():
    setting = of("evolve", draws=1, num_candidates=150)
    state, scored = run(setting, scorer("darts_fewshot"))
    sampled = max(
        worth(genotype) for genotype in candidates(SearchConfig(space="darts_fewshot", num_candidates=150), 5)
    )
    assert len(scored) == len({job.genotype for job in scored}) == len(state.board) == 150
    best = max((job.genotype for job in state.board), key=worth)
    assert worth(best) > sampled
    assert state.history.winner == best


def test_children_are_neighbours_of_the_living():
    setting = of("evolve", "nasbench201", draws=1, num_candidates=40)
    state, _ = run(setting, scorer("nasbench201"))
    space, board = space_named("nasbench201"), [job.genotype for job in state.board]
    size, children = setting.config.evolve.population, setting.config.evolve.children
    for first in range(size, len(board), children):
        living = board[first - size : first]
        near = {neighbour for parent in living for neighbour in space.neighbours(parent)}
        assert set(board[first : first + children]) <= near


# Racing


def test_race_finds_the_same_winner_with_fewer_draws():
    setting = of("race", "nasbench201", draws=24, num_candidates=60)
    noisy = scorer("nasbench201", noise=0.1, shared=1.0)
    state, _ = run(setting, noisy)
    everyone, _ = run(of("sample", "nasbench201", draws=24, num_candidates=60), noisy)
    assert state.history.winner == everyone.history.winner
    measures = dict(state.rounds[-1].measures)
    assert measures["draws spent"] == sum(job.draws for job in state.board)
    assert measures["draws saved"] == 60 * 24 - measures["draws spent"] > 60 * 24 / 3
    assert len(state.board) == 60


def test_race_of_equals_keeps_everybody_to_the_end():
    def found(job: Job) -> tuple[ScoreRecord, ...]:
        draws = tuple(Score(2.0 + draw) for draw in range(job.draws))
        return (ScoreRecord("nasbench201", str(job.genotype), "metantk_cond", draws, 0, 0.0),)

    state, _ = run(of("race", "nasbench201", draws=12), found)
    assert [closed.draws for closed in state.rounds] == [5, 10, 12]
    assert all(job.draws == 12 for job in state.board)


# All of them


@pytest.mark.parametrize("strategy", ["sample", "prune", "evolve", "race"])
@pytest.mark.parametrize("criterion", [COND, BOTH], ids=str)
def test_every_strategy_works_with_every_criterion_and_ends_with_a_winner(strategy, criterion):
    setting = of(strategy, "nasbench201", criterion, draws=4)
    state, _ = run(setting, scorer("nasbench201", noise=0.3))
    assert state.history.winner in {job.genotype for job in state.board}
    assert SearchHistory.from_json(state.history.to_json()) == state.history
    assert advance(setting, state, scorer("nasbench201")) is state


CELL = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|"
STATE = (
    '{"history": {"strategy": "prune", "space": "nasbench201", "winner": "", "rounds": []}, '
    f'"plan": [{{"genotype": "{CELL}", "draws": 3, "stream": "", "weights": "own"}}], "board": [], '
    f'"supernet": "{CELL}", "compared": "", "latency": null}}'
)


def test_genotypes_are_texts_in_json_and_values_of_their_space_elsewhere():
    state = SearchState.from_json(STATE)
    assert state.plan == (Job(space_named("nasbench201").parse(CELL), 3, weights="own"),)
    assert (state.supernet, state.compared, state.history.winner) == (state.plan[0].genotype, None, None)
    assert state.to_json() == STATE
    history = json.dumps(json.loads(STATE)["history"] | {"winner": CELL})
    assert SearchHistory.from_json(history).winner == state.supernet
    assert SearchHistory.from_json(history).to_json() == history
    assert SearchHistory.from_json(history).digest == digest(json.loads(history))


@pytest.mark.parametrize(
    ("part", "other", "complaint"),
    [
        (CELL, "|none~0|", r"plan\.0\.genotype.*1 groups joined"),
        ('"nasbench201"', '"darts"', "Expected a darts genotype"),
        ('"nasbench201"', '"mine"', "'mine' is no search space"),
        ('"nasbench201"', "201", r"history\.space"),
        (f'"{CELL}"', "7", "the text of a genotype"),
        (f'"{CELL}"', '""', "plan"),
    ],
)
def test_genotype_that_is_none_of_its_space_is_refused(part, other, complaint):
    with pytest.raises(InputError, match=rf"(?s){complaint}.*start the search again"):
        SearchState.from_json(STATE.replace(part, other))


@pytest.mark.parametrize("text", ["", "{}", '{"history": 1, "plan": []}'])
def test_broken_state_is_refused(text):
    with pytest.raises(InputError, match="start the search again"):
        SearchState.from_json(text)
    with pytest.raises(InputError, match="search again"):
        SearchHistory.from_json(text)
