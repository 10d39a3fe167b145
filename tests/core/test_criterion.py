"""What orders candidates: scores, weighted ranks of several, and candidates that a race left behind.

Axes: n candidates · k draws.
"""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metantk_core.candidates.nasbench201 import NASBENCH201
from metantk_core.errors import InputError
from metantk_core.ranking import Criterion, Leaderboard, losses, rank, reliability, render_markdown
from metantk_core.scores import SCORES, Outcome, Score, ScoreRecord

SINGULAR = Score(None, Outcome.DEGENERATE, "the kernel is singular")
BOTH = {"metantk_cond": 1.0, "linear_regions": 1.0}


def text(index: int) -> str:
    return str(NASBENCH201.genotype(index))


def record(index: int, *draws: float | Score, score: str) -> ScoreRecord:
    scores = tuple(draw if isinstance(draw, Score) else Score(float(draw)) for draw in draws)
    return ScoreRecord("nasbench201", text(index), score, scores, 0, 1.0)


def table(**matrices) -> list[ScoreRecord]:
    return [record(i, *row, score=score) for score, rows in matrices.items() for i, row in enumerate(rows)]


def drawn(seed: int, n: int = 7, k: int = 4) -> dict[str, list[list[float]]]:
    """Positive draws with ties: few different values."""
    rng = np.random.default_rng(seed)
    return {
        "metantk_cond": rng.integers(1, 5, size=(n, k)).tolist(),
        "linear_regions": rng.integers(10, 14, size=(n, k)).tolist(),
        "naswot": rng.normal(size=(n, k)).tolist(),
    }


def order_of(board: Leaderboard) -> list[tuple[int, str]]:
    return [(standing.rank, standing.genotype) for standing in board.standings]


# The oracle: ranks by counting, sums in fractions.


def average_rank(column: list[float], value: float) -> Fraction:
    """The mean of the places that ``value`` and its equals take: those below, and half of the equals and one more."""
    below, equal = sum(other < value for other in column), sum(other == value for other in column)
    return below + Fraction(equal + 1, 2)


def combined(matrices: dict[str, list[list[float]]], weights: dict[str, float]) -> list[list[Fraction]]:
    n, k = len(next(iter(matrices.values()))), len(next(iter(matrices.values()))[0])
    result = [[Fraction(0)] * k for _ in range(n)]
    for name, weight in weights.items():
        sign = 1 if SCORES[name].direction == "lower" else -1
        for j in range(k):
            column = [sign * row[j] for row in matrices[name]]
            for i in range(n):
                result[i][j] += Fraction(weight) * average_rank(column, column[i]) / n
    return result


@pytest.mark.parametrize("seed", range(5))
def test_combination_is_the_weighted_sum_of_average_ranks_within_each_draw(seed):
    weights = {"metantk_cond": 1.0, "linear_regions": 0.5, "naswot": 2.25}
    matrices = drawn(seed)
    found = losses(table(**matrices), Criterion.of(weights))
    expected = dict(zip([text(i) for i in range(7)], combined(matrices, weights), strict=True))
    assert found.genotypes == tuple(sorted(expected))
    for genotype, row in zip(found.genotypes, found.values, strict=True):
        assert row.tolist() == pytest.approx([float(value) for value in expected[genotype]], rel=1e-14)


@pytest.mark.parametrize("seed", range(5))
def test_ranking_by_a_combination_works_on_its_rank_sums_as_on_a_score(seed):
    matrices = drawn(seed)
    board = rank(table(**matrices), by=BOTH)
    expected = dict(zip([text(i) for i in range(7)], combined(matrices, BOTH), strict=True))
    means = {genotype: sum(row) / 4 for genotype, row in expected.items()}
    ranks = {genotype: 1 + sum(other < mean for other in means.values()) for genotype, mean in means.items()}
    assert order_of(board) == sorted((number, genotype) for genotype, number in ranks.items())
    for standing in board.standings:
        row = [float(value) for value in expected[standing.genotype]]
        assert standing.mean == pytest.approx(float(means[standing.genotype]), rel=1e-14)
        assert standing.standard_error == pytest.approx(np.std(row, ddof=1) / 2, rel=1e-12, abs=1e-15)
        assert [name for name, _ in standing.others] == ["linear_regions", "metantk_cond", "naswot"]
    trust = reliability(np.array([[float(value) for value in expected[genotype]] for genotype in sorted(expected)]))
    assert trust is not None
    assert board.reliability is not None
    assert board.reliability.icc == pytest.approx(trust.icc, abs=1e-12)
    assert (board.direction, board.scale) == ("lower", "linear")


def test_rank_sums_that_are_equal_in_exact_arithmetic_share_a_rank():
    # Ranks of candidates 0 and 1 sum up to 1+2+4 and 4+2+1 of 7: as sums of rounded sevenths they would differ.
    cond = [[1, 2, 4], [4, 1, 2], [2, 4, 1], *[[3 + i] * 3 for i in range(2, 6)]]
    regions = [[5, 5, 5]] * 7
    board = rank(table(metantk_cond=cond, linear_regions=regions), by={"metantk_cond": 1.0, "linear_regions": 1.0})
    assert [standing.rank for standing in board.standings] == [1, 1, 1, 4, 5, 6, 7]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.permutations(range(21)), st.permutations(["metantk_cond", "linear_regions", "naswot"]))
def test_combination_depends_neither_on_the_order_of_records_nor_on_that_of_its_scores(seed, order, names):
    records = table(**drawn(seed))
    weights = {"metantk_cond": 0.1, "linear_regions": 0.7, "naswot": 1.3}
    board = rank(records, by=weights)
    other = rank([records[i] for i in order], by={name: weights[name] for name in names})
    assert other.standings == board.standings
    assert other.reliability == board.reliability
    assert other.top_stability == board.top_stability


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.1, 5))
def test_combination_does_not_change_if_a_score_is_measured_on_another_increasing_scale(seed, power):
    matrices = drawn(seed)
    curved = {
        **matrices,
        "linear_regions": [
            [math.exp(v**power) for v in row] for row in ((np.array(matrices["linear_regions"]) / 10).tolist())
        ],
    }
    one, other = (rank(table(**m), by=BOTH) for m in (matrices, curved))
    assert order_of(other) == order_of(one)
    assert [s.mean for s in other.standings] == [s.mean for s in one.standings]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(["metantk_cond", "linear_regions", "naswot"]), st.floats(0.01, 100))
def test_one_score_with_a_weight_is_the_score_itself(seed, name, weight):
    records = table(**drawn(seed, k=1))
    assert rank(records, by={name: weight}) == rank(records, by=name) == rank(records, by=Criterion.of(name))
    # And with one draw, it has the order of its ranks: a second score that is equal for all adds nothing.
    constant = [record(i, 3.0, score="synflow") for i in range(7)]
    combination = rank([*records, *constant], by={name: weight, "synflow": 1.0})
    assert order_of(combination) == order_of(rank(records, by=name))


def test_losses_of_one_score_are_its_scaled_draws_with_lower_better():
    found = losses(table(metantk_cond=[[10.0, 1000.0], [100.0, 10.0]]), Criterion.of("metantk_cond"))
    assert dict(zip(found.genotypes, found.values.tolist(), strict=True)) == {text(0): [1, 3], text(1): [2, 1]}
    found = losses(table(naswot=[[2.0, 3.0]]), Criterion.of("naswot"))
    assert found.values.tolist() == [[-2.0, -3.0]]


def test_what_is_counted_once_is_combined_with_every_draw():
    records = table(metantk_cond=[[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]], params=[[30.0], [20.0], [10.0]])
    found = losses(records, Criterion.of({"metantk_cond": 1.0, "params": 1.0}))
    rows = dict(zip(found.genotypes, (3 * found.values).tolist(), strict=True))
    assert rows == {text(0): pytest.approx([2, 4]), text(1): pytest.approx([4, 4]), text(2): pytest.approx([6, 4])}
    alone = losses(records, Criterion.of({"params": 1.0}))
    assert alone.values.shape == (3, 1)


def test_losses_take_the_draws_that_all_have_and_name_failures_by_score():
    records = table(
        metantk_cond=[[1.0, 3.0, 5.0], [2.0, 2.0, 2.0], [SINGULAR]], linear_regions=[[5.0, 6.0], [6.0, 7.0], [1.0]]
    )
    found = losses(records, Criterion.of(BOTH))
    assert found.values.shape == (2, 2)
    assert found.failed == ((text(2), Outcome.DEGENERATE, "MetaNTK condition number: the kernel is singular"),)
    nothing = losses([record(0, SINGULAR, score="metantk_cond")], Criterion.of("metantk_cond"))
    assert nothing.values.shape == (0, 0)
    assert [genotype for genotype, _, _ in nothing.failed] == [text(0)]


@pytest.mark.parametrize(
    "weights",
    [
        {"metantk_cond": 1.0},
        {"metantk_cond": 0.5, "linear_regions": 1.0},
        {"metantk_cond_maml_time1_ridge1e+5": 3.0, "params": 1e-7, "naswot": 1 / 3},
    ],
)
def test_criterion_comes_back_from_its_text(weights):
    criterion = Criterion.of(weights)
    assert Criterion.of(str(criterion)) == criterion
    assert Criterion.of(criterion) == criterion
    assert criterion.names == tuple(weights)


def test_criterion_says_what_it_is():
    one, two = Criterion.of("metantk_cond"), Criterion.of({"metantk_cond": 0.5, "linear_regions": 1})
    assert (one.single, one.label, str(one)) == (True, "log10 MetaNTK condition number", "metantk_cond")
    assert (two.single, two.label) == (False, "0.5·MetaNTK condition number + linear regions, mean ranks")
    assert str(two) == "0.5*metantk_cond + linear_regions"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("beauty", "no score 'beauty'"),
        ({"metantk_cond": 1.0, "beauty": 1.0}, "no score 'beauty'"),
        ({}, "at least one score"),
        ({"metantk_cond": 0.0}, "weight above 0 for metantk_cond, but got 0"),
        ({"metantk_cond": 1.0, "naswot": -1.0}, "weight above 0 for naswot, but got -1"),
        ({"metantk_cond": math.inf, "naswot": 1.0}, "weight above 0 for metantk_cond, but got inf"),
        ({"metantk_cond": math.nan}, "weight above 0"),
        ("metantk_cond + metantk_cond", "metantk_cond came twice"),
        ("much*metantk_cond", "Expected scores with weights"),
        ("", "no score ''"),
    ],
)
def test_criterion_that_means_nothing_is_refused(value, message):
    with pytest.raises(InputError, match=message):
        Criterion.of(value)


def test_records_must_have_every_score_of_a_combination():
    records = table(metantk_cond=[[1.0], [2.0]], linear_regions=[[3.0]])
    with pytest.raises(InputError, match="1 candidates have other scores but no record of linear_regions"):
        rank(records, by=BOTH)
    with pytest.raises(InputError, match="Expected records of naswot to rank by, but found linear_regions, metantk"):
        rank(records, by={"metantk_cond": 1.0, "naswot": 1.0})


# A race: four candidates had 2 draws, three of them 4, two of these 8.
RACE = [
    [5.0, 6.0],
    [4.0, 4.5, 3.9, 4.2],
    [1.0, 1.2, 0.9, 1.4, 9.0, 9.0, 9.0, 9.0],
    [1.1, 1.1, 1.0, 1.5, 8.0, 8.0, 8.0, 8.5],
]


def test_candidates_with_more_draws_are_placed_before_those_with_fewer():
    board = rank(table(naswot=[[-v for v in row] for row in RACE]), by="naswot")
    assert [s.genotype for s in board.standings] == [text(3), text(2), text(1), text(0)]
    assert [s.draws for s in board.standings] == [8, 8, 4, 2]
    assert [s.rank for s in board.standings] == [1, 2, 3, 4]
    # Worse than the mean of those behind: the draws that they did not have were hard.
    assert board.standings[0].mean == pytest.approx(-np.mean(RACE[3]))
    assert board.standings[2].standard_error == pytest.approx(np.std(RACE[1], ddof=1) / 2)
    assert board.reliability is not None
    assert (board.reliability.candidates, board.reliability.draws) == (4, 2)
    trust = reliability(np.array([row[:2] for row in RACE]))
    assert trust is not None
    assert board.reliability.icc == pytest.approx(trust.icc)
    alone = rank(table(naswot=[[-v for v in row] for row in RACE])[2:], by="naswot")
    assert (board.leader_stability, board.top_stability) == (alone.leader_stability, alone.top_stability)
    assert board.leader_stability is not None
    assert 0.5 < board.leader_stability < 1
    shown = render_markdown(board)
    assert "Candidates had 2 to 8 draws" in shown
    assert "| rank | genotype | NASWOT | draws |" in shown


def test_ranks_within_a_draw_are_those_among_the_candidates_that_have_it():
    cond = [[10**v for v in row] for row in RACE]
    board = rank(table(metantk_cond=cond, linear_regions=[[10.0] * 8] * 4), by=BOTH)
    means = {standing.genotype: standing.mean for standing in board.standings}
    assert [s.draws for s in board.standings] == [8, 8, 4, 2]
    two = combined({"metantk_cond": [row for row in cond if len(row) == 8]}, {"metantk_cond": 1.0})
    three = combined({"metantk_cond": [row[:4] for row in cond if len(row) >= 4]}, {"metantk_cond": 1.0})
    four = combined({"metantk_cond": [row[:2] for row in cond]}, {"metantk_cond": 1.0})
    # The other score is equal for all: it adds the middle rank, (n + 1) / 2 of n.
    assert means[text(2)] == pytest.approx(float(sum(two[0]) / 8) + 3 / 4)
    assert means[text(3)] == pytest.approx(float(sum(two[1]) / 8) + 3 / 4)
    assert means[text(1)] == pytest.approx(float(sum(three[0]) / 4) + 4 / 6)
    assert means[text(0)] == pytest.approx(float(sum(four[0]) / 2) + 5 / 8)


def test_search_may_name_a_winner_that_is_not_first():
    records = table(metantk_cond=[[1.0, 2.0], [3.0, 4.0], [SINGULAR, SINGULAR]])
    assert rank(records, by="metantk_cond").winner == text(0)
    board = rank(records, by="metantk_cond", winner=text(1))
    assert (board.winner, board.best.rank) == (text(1), 2)
    assert Leaderboard.from_json(board.to_json()) == board
    assert board.digest != rank(records, by="metantk_cond").digest
    assert f"The search chose `{text(1)}`, which has rank 2 here." in render_markdown(board)
    with pytest.raises(InputError, match="Expected the winner among the 3 candidates"):
        rank(records, by="metantk_cond", winner=text(9))
    with pytest.raises(InputError, match="Expected a leaderboard"):
        Leaderboard.from_json(board.to_json().replace(f'"winner": "{text(1)}"', f'"winner": "{text(9)}"'))


def test_leaderboard_of_a_combination_knows_what_ranked():
    board = rank(table(**drawn(0)), by={"metantk_cond": 2.0, "linear_regions": 1.0})
    assert board.score == "2*metantk_cond + linear_regions"
    assert board.criterion == Criterion.of({"metantk_cond": 2.0, "linear_regions": 1.0})
    assert board.label == "2·MetaNTK condition number + linear regions, mean ranks"
    assert Leaderboard.from_json(board.to_json()) == board
    assert board.label in render_markdown(board)
