"""Leaderboards: what they promise about order, ties, failures and trust; reliability against published tables.

Axes: n candidates · k draws.
"""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from metantk_core.candidates import parse_genotype
from metantk_core.candidates.nasbench201 import NASBENCH201
from metantk_core.errors import InputError
from metantk_core.ranking import Leaderboard, rank, reliability, render_markdown
from metantk_core.scores import Outcome, Score, ScoreRecord

SINGULAR = Score(None, Outcome.DEGENERATE, "the kernel is singular")


def text(index: int) -> str:
    return str(NASBENCH201.genotype(index))


def record(index: int, *draws: float | Score, score: str = "metantk_cond", seed: int = 0, seconds: float = 1.0):
    scores = tuple(draw if isinstance(draw, Score) else Score(draw) for draw in draws)
    return ScoreRecord("nasbench201", text(index), score, scores, seed, seconds)


def table(values, score: str = "metantk_cond") -> list[ScoreRecord]:
    return [record(index, *map(float, row), score=score) for index, row in enumerate(values)]


RECORDS = [
    record(0, 10.0, 1000.0),
    record(1, 10.0, 10.0),
    record(2, SINGULAR, 3.0),
    record(3, 1000.0, 10.0),
    record(4, 1e4, 1e4),
    record(5, 2.0, Score(None, Outcome.NON_FINITE, "overflow")),
    *(record(index, 100.0 + index, score="params") for index in range(6)),
]


def test_equal_means_share_a_rank_and_failed_candidates_share_the_last():
    board = rank(RECORDS, by="metantk_cond")
    assert [(s.rank, s.genotype) for s in board.standings[:4]] == [
        (1, text(1)),
        *sorted([(2, text(0)), (2, text(3))]),
        (4, text(4)),
    ]
    assert [s.rank for s in board.standings] == [1, 2, 2, 4, 5, 5]
    assert {(s.outcome, s.reason) for s in board.standings[4:]} == {
        (Outcome.DEGENERATE, "1 of 2 draws: the kernel is singular"),
        (Outcome.NON_FINITE, "1 of 2 draws: overflow"),
    }
    assert all(s.mean is None and s.standard_error is None and s.draws == 2 for s in board.standings[4:])


def test_condition_numbers_are_averaged_over_their_logarithms_and_counts_as_they_are():
    board = rank(RECORDS, by="metantk_cond")
    second = next(s for s in board.standings if s.genotype == text(0))
    assert second.mean == 2.0
    assert second.standard_error == pytest.approx(np.std([1.0, 3.0], ddof=1) / math.sqrt(2))
    assert second.others == (("params", 100.0),)
    assert second.key == parse_genotype("nasbench201", text(0)).key
    by_size = rank(RECORDS, by="params")
    assert by_size.standings[0].genotype == text(5)
    assert by_size.standings[0].standard_error is None
    assert dict(by_size.standings[0].others) == {"metantk_cond": None}
    assert (by_size.scale, by_size.direction, by_size.label) == ("linear", "higher", "parameters")
    assert board.label == "log10 MetaNTK condition number"


@settings(max_examples=25, deadline=None)
@given(st.permutations(RECORDS), st.lists(st.sampled_from(RECORDS), max_size=4), st.floats(0, 100))
def test_leaderboard_does_not_depend_on_order_repetition_or_times_of_records(records, again, seconds):
    board = rank(RECORDS, by="metantk_cond")
    other = rank([*records, *(replace(r, seconds=seconds) for r in again)], by="metantk_cond")
    assert other.to_json() == board.to_json()
    assert other.digest == board.digest


def test_digest_changes_with_any_value():
    board = rank(RECORDS, by="metantk_cond")
    changed = rank([record(0, 10.0, 1000.0000000001), *RECORDS[1:]], by="metantk_cond")
    assert changed.digest != board.digest


def test_leaderboard_comes_back_exactly_from_json():
    board = rank(RECORDS, by="metantk_cond")
    assert Leaderboard.from_json(board.to_json()) == board
    json.loads(board.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.mark.parametrize("broken", ["", "[]", "{}", '{"score": 1}', "leaderboard"])
def test_broken_leaderboard_is_one_clear_error(broken):
    with pytest.raises(InputError, match="Expected a leaderboard"):
        Leaderboard.from_json(broken)


@pytest.mark.parametrize(
    ("records", "by", "message"),
    [
        (RECORDS, "beauty", "no score 'beauty'"),
        (RECORDS, "ntk_cond", "found metantk_cond, params"),
        ([], "ntk_cond", "no records at all"),
        ([*RECORDS, record(0, 10.0, 1001.0)], "metantk_cond", "Two different records of metantk_cond"),
        ([*RECORDS, record(0, 10.0, 1000.0, seed=1)], "metantk_cond", "Two different records"),
        ([*RECORDS, record(9, 10.0, 1000.0, seed=1)], "metantk_cond", r"different seeds \(0, 1\)"),
        ([*RECORDS, replace(record(9, 1.0, 2.0), space="other")], "metantk_cond", "different search spaces"),
        ([*RECORDS, record(9, 5.0, score="params")], "metantk_cond", "1 candidates have other scores but no record"),
    ],
)
def test_records_that_cannot_be_compared_are_refused(records, by, message):
    with pytest.raises(InputError, match=message):
        rank(records, by=by)


def test_all_candidates_failed_is_a_leaderboard_too():
    board = rank([record(0, SINGULAR), record(1, SINGULAR)], by="metantk_cond")
    assert [s.rank for s in board.standings] == [1, 1]
    assert board.reliability is None
    assert board.leader_stability is None
    assert "2 could not be scored" in render_markdown(board)


# Shrout & Fleiss, "Intraclass correlations: uses in assessing rater reliability", 1979, Table 2: 6 targets, 4 judges.
SHROUT_FLEISS = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=float
)


def test_reliability_of_the_published_example():
    found = reliability(SHROUT_FLEISS)
    assert found is not None
    assert round(found.single, 2) == 0.71
    assert round(found.icc, 2) == 0.91
    assert (found.candidates, found.draws) == (6, 4)


def interval_by_root_finding(draws: np.ndarray) -> tuple[float, float]:
    """The interval from its definition: the values of the ICC at which the observed F is a 97.5 % or 2.5 % quantile.

    Under ICC(C,k) = ρ, the observed ratio of mean squares is distributed as F(n-1, (n-1)(k-1)) / (1 - ρ). Mean squares
    come from least squares with dummy variables, not from sums of deviations.
    """
    n, k = draws.shape
    rows, columns = np.indices((n, k))
    full = np.hstack([np.eye(n)[rows.ravel()], np.eye(k)[columns.ravel()]])
    without_rows = np.eye(k)[columns.ravel()]
    y = draws.ravel()

    def residual(design: np.ndarray) -> float:
        return float(((y - design @ np.linalg.lstsq(design, y, rcond=None)[0]) ** 2).sum())

    freedom = (n - 1) * (k - 1)
    observed = (residual(without_rows) - residual(full)) / (n - 1) / (residual(full) / freedom)

    def end(tail: float) -> float:
        return optimize.root_scalar(
            lambda icc: stats.f.cdf(observed * (1 - icc), n - 1, freedom) - tail, bracket=(-100, 1 - 1e-12)
        ).root

    return end(0.975), end(0.025)


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_interval_of_the_reliability_is_the_one_of_its_definition(seed):
    draws = SHROUT_FLEISS
    if seed is not None:
        rng = np.random.default_rng(seed)
        draws = rng.normal(size=(15, 1)) * seed + rng.normal(size=(15, 3))
    found = reliability(draws)
    assert found is not None
    assert (found.low, found.high) == pytest.approx(interval_by_root_finding(draws), rel=1e-6, abs=1e-6)
    assert found.low < found.icc < found.high


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.floats(-100, 100), st.floats(0.01, 100))
def test_what_a_draw_adds_to_all_candidates_alike_does_not_count(seed, shift, scale):
    rng = np.random.default_rng(seed)
    draws = rng.normal(size=(8, 1)) + rng.normal(size=(8, 3))
    moved = scale * (draws + shift * np.array([0.0, 1.0, -2.0]))
    one, other = reliability(draws), reliability(moved)
    assert one is not None
    assert other is not None
    assert other.icc == pytest.approx(one.icc, rel=1e-6, abs=1e-6)


def test_intervals_cover_the_true_reliability_as_often_as_they_say():
    rng = np.random.default_rng(0)
    truth = 1 / (1 + 1 / 3)  # equal variances of candidates and noise, 3 draws
    covered = 0
    for _ in range(400):
        found = reliability(rng.normal(size=(12, 1)) + rng.normal(size=(1, 3)) + rng.normal(size=(12, 3)))
        assert found is not None
        covered += found.low <= truth <= found.high
    assert 0.92 <= covered / 400 <= 0.98


@pytest.mark.parametrize(
    "draws", [np.ones((1, 3)), np.ones((3, 1)), np.ones((3, 3)), np.array([[1.0, 2.0], [2.0, 1.0]])]
)
def test_reliability_without_candidates_draws_or_differences_is_undefined(draws):
    assert reliability(draws) is None


def test_draws_without_noise_are_perfectly_reliable():
    found = reliability(np.array([[1.0, 2.0], [3.0, 4.0], [7.0, 8.0]]))
    assert found is not None
    assert (found.low, found.icc, found.high) == pytest.approx((1.0, 1.0, 1.0))


def test_leaderboard_measures_reliability_on_the_scale_of_the_score():
    values = 10**SHROUT_FLEISS
    board = rank([*table(values), record(9, *[SINGULAR] * 4)], by="metantk_cond")
    assert board.reliability is not None
    assert round(board.reliability.icc, 2) == 0.91
    assert board.reliability.candidates == 6


def test_leader_stability_is_the_share_of_resamples_that_keep_the_leader():
    # Candidate 0 leads on the mean, and in a resample of two draws exactly if the second draw is in it at least once.
    board = rank(table([[20.0, 1.5], [10.0, 10.0]]), by="metantk_cond")
    assert board.standings[0].genotype == text(0)
    assert board.leader_stability == pytest.approx(0.75, abs=0.04)
    assert rank(table([[2.0, 3.0], [10.0, 10.0]]), by="metantk_cond").leader_stability == 1.0
    assert rank(table([[2.0, 3.0], [2.0, 3.0]]), by="metantk_cond").leader_stability == 1.0
    assert rank(table([[2.0], [3.0]]), by="metantk_cond").leader_stability is None
    assert rank(table([[2.0, 3.0]]), by="metantk_cond").leader_stability is None


def test_leader_of_a_score_that_is_better_higher_is_the_highest_in_resamples_too():
    board = rank(table([[5.0, 6.0], [50.0, 60.0]], score="params"), by="params")
    assert board.standings[0].genotype == text(1)
    assert board.leader_stability == 1.0


def test_positive_correlation_with_a_size_means_that_larger_networks_are_preferred():
    rng = np.random.default_rng(3)
    cond, size = 10 ** rng.normal(size=(9, 2)), rng.permutation(9) + 1.0
    board = rank([*table(cond), *table(size[:, None], score="params")], by="metantk_cond")
    expected = np.corrcoef(stats.rankdata(-np.log10(cond).mean(axis=1)), size)[0, 1]
    assert dict(board.spearman)["params"] == pytest.approx(expected)
    smaller_is_better = rank([*table(size[:, None]), *table(size[:, None], score="flops")], by="metantk_cond")
    assert dict(smaller_is_better.spearman) == {"flops": pytest.approx(-1.0)}


def test_correlation_that_is_undefined_is_left_out():
    board = rank([*table([[1.0], [2.0], [3.0]]), *table([[7.0]] * 3, score="params")], by="metantk_cond")
    assert board.spearman == ()


def test_markdown_shows_the_best_says_how_far_to_trust_them_and_lists_failures():
    shown = render_markdown(rank(RECORDS, by="metantk_cond"), top=2)
    lines = shown.splitlines()
    rows = [line for line in lines if line.startswith("| ") and line[2].isdigit()]
    assert len(rows) == 2
    assert text(1).replace("|", "\\|") in rows[0]
    cells = rows[0].replace("\\|", "").count("|")
    assert cells == lines[next(i for i, line in enumerate(lines) if line.startswith("| rank"))].count("|")
    assert "2 more were ranked." in shown
    assert "2 could not be scored and share rank 5" in shown
    assert "overflow" in shown
    assert "ICC(C,2)" in shown
    assert "parameters" in shown
