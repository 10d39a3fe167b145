"""A rerun is judged by tests that know chance: what is the same passes, what left its tolerance is named."""

import json
import math
from dataclasses import replace

import made_reruns
import numpy as np
import pytest
from made_reruns import ELSEWHERE, HERE, NEWER, evaluation, rerun, timings

from metantk_core.config import BenchmarkTolerances
from metantk_core.errors import InputError
from metantk_core.ports import TrackedRun
from metantk_core.ranking import Leaderboard, reliability
from metantk_core.reruns import FIGURES, Estimate, HistoryData, Past, Rerun, Status, compare, render_history
from metantk_core.reruns.history import markdown_of, metrics_of, tags_of
from metantk_core.scores import Outcome
from metantk_core.statistics import (
    log_mean_square_variance,
    paired_difference,
    rank_correlation,
    rank_correlation_interval,
    welch_difference,
)

STANDARD = BenchmarkTolerances()


def worse(now: Rerun, before: Rerun | None, tolerances: BenchmarkTolerances = STANDARD) -> set[str]:
    return {verdict.figure for verdict in compare(now, before, tolerances).having(Status.WORSE)}


def status(figure: str, now: Rerun, before: Rerun, tolerances: BenchmarkTolerances = STANDARD) -> Status:
    return FIGURES[figure].change(now, before, tolerances).status


def reordered(board: Leaderboard, means: list[float]) -> Leaderboard:
    """Return a leaderboard whose candidates have other means, in the order of the old standings."""
    changed = [replace(standing, mean=mean) for standing, mean in zip(board.standings, means, strict=True)]
    ordered = sorted(changed, key=lambda standing: standing.mean or 0.0)
    return replace(
        board,
        standings=tuple(replace(standing, rank=place) for place, standing in enumerate(ordered, start=1)),
        winner=ordered[0].genotype,
    )


def failed(board: Leaderboard, count: int) -> Leaderboard:
    last = board.standings[-count:]
    broken = [
        replace(standing, mean=None, standard_error=None, outcome=Outcome.NON_FINITE, reason="NaN") for standing in last
    ]
    return replace(board, standings=(*board.standings[:-count], *broken))


def test_the_same_numbers_on_the_same_machine_are_fine():
    comparison = compare(rerun(), rerun(), STANDARD)
    assert {verdict.status for verdict in comparison.verdicts} == {Status.WITHIN}
    assert not comparison.is_regression
    assert comparison.verdict == "fine"
    assert comparison.sentence == (
        f"smoke is as good as its baseline of 2026-11-02: {len(FIGURES)} figures are within tolerance."
    )


def test_one_changed_digit_of_one_score_is_a_regression_where_nothing_else_changed():
    board = rerun().leaderboard
    assert board is not None
    means = [standing.mean or 0.0 for standing in board.standings]
    means[3] *= 1 + 1e-12
    now = rerun(leaderboard=reordered(board, means))
    assert worse(now, rerun()) == {"leaderboard"}
    sentence = compare(now, rerun(), STANDARD).sentence
    assert "although versions and machine are the same" in sentence
    assert "1 of 12 candidates have another score" in sentence


@pytest.mark.parametrize(
    "change",
    [{"surroundings": NEWER}, {"surroundings": ELSEWHERE}, {"images": "others"}],
    ids=["torch", "cpu", "images"],
)
def test_another_digest_is_shown_and_not_judged_where_versions_machine_or_images_changed(change: dict):
    board = rerun().leaderboard
    assert board is not None
    means = [(standing.mean or 0.0) * (1 + 1e-7) for standing in board.standings]
    now = rerun(leaderboard=reordered(board, means), **change)
    assert status("leaderboard", now, rerun()) is Status.NOT_COMPARED
    assert worse(now, rerun()) == set()
    assert "as it may be" in next(
        v.words for v in compare(now, rerun(), STANDARD).verdicts if v.figure == "leaderboard"
    )


def test_a_ranking_turned_round_is_a_regression_on_other_versions():
    board = rerun().leaderboard
    assert board is not None
    means = [-(standing.mean or 0.0) for standing in board.standings]
    now = rerun(leaderboard=reordered(board, means), surroundings=NEWER)
    assert worse(now, rerun()) == {"rank correlation"}


def test_a_rank_correlation_may_be_as_low_as_the_reliability_of_both_rankings_allows():
    # Two independent measurements of the same candidates, hundreds of times: few of them are called a regression, and
    # the threshold is no lower than it must be, for a threshold from a perfect reliability would call most of them one.
    rng = np.random.default_rng(0)
    board = made_reruns.leaderboard(candidates=24)
    whole = rerun(surroundings=NEWER)
    false, strict = 0, 0
    for _ in range(300):
        truth = rng.normal(size=24)
        boards = []
        for _ in range(2):
            draws = truth[:, None] + rng.normal(size=(24, 4))
            found = reliability(draws)
            changed = [
                replace(standing, mean=float(mean))
                for standing, mean in zip(board.standings, draws.mean(1), strict=True)
            ]
            ordered = sorted(changed, key=lambda standing: standing.mean or 0.0)
            ranked = tuple(replace(standing, rank=place) for place, standing in enumerate(ordered, start=1))
            boards.append(replace(board, standings=ranked, winner=ranked[0].genotype, reliability=found))
        sure = [replace(one, reliability=replace(one.reliability, icc=0.999)) for one in boards]
        first, second = (replace(whole, leaderboard=one) for one in boards)
        false += status("rank correlation", first, second) is Status.WORSE
        first, second = (replace(whole, leaderboard=one) for one in sure)
        strict += status("rank correlation", first, second) is Status.WORSE
    assert false <= 0.07 * 300
    assert strict > 0.9 * 300


def test_reliability_is_a_regression_if_noise_grew_by_more_than_chance():
    def noisy(icc: float) -> Rerun:
        board = rerun().leaderboard
        assert board is not None
        assert board.reliability is not None
        return rerun(leaderboard=replace(board, reliability=replace(board.reliability, icc=icc)), surroundings=NEWER)

    assert "reliability" in worse(noisy(0.4), noisy(0.95))
    assert "reliability" not in worse(noisy(0.9), noisy(0.95))
    assert "reliability" not in worse(noisy(0.4), noisy(0.5))
    assert status("reliability", noisy(0.95), noisy(0.4)) is Status.BETTER


def test_the_test_of_reliability_calls_equal_rankings_worse_as_rarely_as_it_says():
    rng = np.random.default_rng(1)
    board = made_reruns.leaderboard(candidates=16)
    whole = rerun(surroundings=NEWER)
    found = []
    for _ in range(400):
        tables = [rng.normal(size=(16, 1)) + rng.normal(size=(16, 4)) for _ in range(2)]
        pair = [replace(whole, leaderboard=replace(board, reliability=reliability(table))) for table in tables]
        found.append(status("reliability", pair[0], pair[1]))
    assert 0.005 * 400 <= found.count(Status.WORSE) <= 0.05 * 400


def test_accuracy_is_a_regression_if_it_fell_by_more_than_is_tolerated_for_certain():
    before = rerun()
    assert worse(rerun(evaluation=evaluation(shift=-0.05)), before) == {"accuracy of the winner"}
    assert worse(rerun(evaluation=evaluation(shift=-0.015)), before) == set()
    assert status("accuracy of the winner", rerun(evaluation=evaluation(shift=0.05)), before) is Status.BETTER
    said = compare(rerun(evaluation=evaluation(shift=-0.05)), before, STANDARD).sentence
    assert "fell from" in said
    assert "−5.0 ± 0.0 points on the same episodes; 2.0 tolerated" in said
    loose = BenchmarkTolerances(accuracy_drop=0.06)
    assert worse(rerun(evaluation=evaluation(shift=-0.05)), before, loose) == set()


def test_other_episodes_are_compared_by_the_intervals_of_both():
    other = evaluation(seed=1, episodes=30, shift=-0.03)  # paired it would be certain
    now = rerun(evaluation=other)
    assert status("accuracy of the winner", now, rerun()) is Status.WITHIN
    assert "on other episodes" in next(
        v.words for v in compare(now, rerun(), STANDARD).verdicts if v.figure == "accuracy of the winner"
    )
    assert "accuracy of the winner" in worse(rerun(evaluation=evaluation(seed=1, shift=-0.2)), rerun())


def test_time_is_a_regression_if_the_whole_interval_of_the_ratio_is_beyond_the_tolerance():
    before = rerun()
    assert worse(rerun(timings=timings(1.6)), before) == {"processor time", "time by the clock"}
    assert worse(rerun(timings=timings(1.3, seed=1)), before) == {"processor time"}
    assert worse(rerun(timings=timings(1.1, seed=1)), before) == set()
    assert worse(rerun(timings=timings(1.6, spread=1e-9), surroundings=ELSEWHERE), before) == set()
    assert worse(rerun(timings=timings(3.5), surroundings=ELSEWHERE), before) == {"processor time", "time by the clock"}
    assert status("processor time", rerun(timings=timings(0.5)), before) is Status.BETTER


def test_a_slowdown_that_noise_may_have_made_is_none():
    # Twice as long on average, but some candidates took half as long: three measurements know nothing.
    few = list(timings(count=3))
    scattered = tuple(
        replace(timing, relative=timing.relative * factor, processor=timing.relative * factor)
        for timing, factor in zip(few, (8.0, 0.5, 2.0), strict=True)
    )
    before = rerun(timings=tuple(few))
    comparison = compare(rerun(timings=scattered), before, STANDARD)
    assert not comparison.is_regression
    # Nor are they within tolerance: what such measurements can't show must not be called fine.
    unknown = {verdict.figure for verdict in comparison.having(Status.NOT_MEASURED)}
    assert unknown == {"processor time", "time by the clock"}
    assert comparison.verdict == "incomplete"
    assert "not measured: scoring a candidate takes" in comparison.sentence
    assert "6 figures are within tolerance" in comparison.sentence
    single = compare(rerun(timings=timings(count=1)), rerun(timings=timings(count=1)), STANDARD)
    assert single.verdict == "incomplete"


def test_times_of_nonsense_that_share_one_candidate_are_never_within_tolerance():
    # As of a rerun that timed what it did not do: a few of seconds, the others of microseconds.
    nonsense = tuple(
        replace(timing, scored=f"again {number}" if number else timing.scored, relative=size, processor=size)
        for number, (timing, size) in enumerate(
            zip(timings(count=6), (9.0, 500.0, 40.0, 1e-3, 1e-3, 1e-3), strict=True)
        )
    )
    comparison = compare(rerun(timings=nonsense), rerun(), STANDARD)
    statuses = {verdict.figure: verdict.status for verdict in comparison.verdicts}
    assert statuses["processor time"] is statuses["time by the clock"] is Status.NOT_MEASURED
    assert comparison.verdict == "incomplete"


def test_a_ratio_is_shown_apart_from_what_is_tolerated():
    strict = BenchmarkTolerances(memory_growth=1.0, processor_slowdown=1.0)
    sentence = compare(rerun(peak_memory=1_000_400_000), rerun(), strict).sentence
    assert "1.0004 times that of the baseline (1.0000 tolerated)" in sentence
    exact = BenchmarkTolerances(memory_growth=1.125)
    assert (
        "1.200 times that of the baseline (1.125 tolerated)"
        in compare(rerun(peak_memory=1_200_000_000), rerun(), exact).sentence
    )


def test_times_of_other_candidates_are_compared_as_two_samples():
    others = tuple(replace(timing, scored=f"other {timing.scored}") for timing in timings(40.0))
    assert {"processor time", "time by the clock"} <= worse(rerun(timings=others), rerun())


def test_memory_is_a_regression_beyond_its_growth_and_not_compared_between_devices():
    assert worse(rerun(peak_memory=1_200_000_000), rerun()) == {"peak memory"}
    assert worse(rerun(peak_memory=1_050_000_000), rerun()) == set()
    threads = replace(HERE, threads=64)
    assert status("peak memory", rerun(peak_memory=3_000_000_000, surroundings=threads), rerun()) is Status.NOT_COMPARED


def test_candidates_that_lost_their_score_are_a_regression_with_the_reason():
    board = rerun().leaderboard
    assert board is not None
    comparison = compare(rerun(leaderboard=failed(board, 2), surroundings=NEWER), rerun(), STANDARD)
    assert "candidates scored" in {verdict.figure for verdict in comparison.having(Status.WORSE)}
    assert "2 candidates that had a score have none: non-finite, NaN" in comparison.sentence


@pytest.mark.parametrize(
    ("change", "figures"),
    [
        ({"evaluation": None, "problem": "training ended"}, {"accuracy of the winner"}),
        ({"timings": ()}, {"processor time", "time by the clock"}),
        ({"peak_memory": None}, {"peak memory"}),
        (
            {"leaderboard": None, "evaluation": None, "problem": "the supernet can't be scored"},
            {"leaderboard", "rank correlation", "candidates scored", "reliability", "accuracy of the winner"},
        ),
        ({"evaluation": replace(evaluation(), accuracy=math.nan)}, {"accuracy of the winner"}),
    ],
    ids=["accuracy", "times", "memory", "leaderboard", "nan"],
)
def test_a_figure_that_is_missing_or_not_finite_is_a_regression(change: dict, figures: set[str]):
    assert worse(rerun(**change), rerun()) == figures
    assert "is missing" in compare(rerun(**change), rerun(), STANDARD).sentence


def test_without_a_baseline_nothing_is_judged_unless_the_search_itself_came_to_nothing():
    comparison = compare(rerun(), None, STANDARD)
    assert {verdict.status for verdict in comparison.verdicts} == {Status.NOT_COMPARED}
    assert comparison.verdict == "no baseline"
    assert comparison.sentence == "smoke is measured, and compared with nothing."  # why is said beside it, once
    broken = compare(rerun(leaderboard=None, evaluation=None, problem="nothing was scored"), None, STANDARD)
    assert broken.verdict == "regression"
    assert "nothing was scored" in broken.sentence


def test_a_figure_that_the_baseline_lacks_is_said_not_to_be_compared():
    before = rerun(peak_memory=None)
    assert worse(rerun(), before) == set()
    comparison = compare(rerun(), before, STANDARD)
    assert "the baseline has no peak memory" in [verdict.words for verdict in comparison.verdicts]
    assert "1 can't be compared" in comparison.sentence


def test_a_rerun_and_how_it_is_remembered_come_back_as_they_were():
    now = rerun()
    assert Rerun.from_json(now.to_json()) == now
    with pytest.raises(InputError, match="Expected a benchmark rerun as JSON"):
        Rerun.from_json("{}")
    comparison = compare(rerun(peak_memory=2_000_000_000), rerun(), STANDARD)
    metrics = {point.name: point.value for point in metrics_of(comparison)}
    past = Past.of(TrackedRun("r", "smoke", "finished", 0, tags_of(comparison, "b"), metrics))
    assert past == Past.now("r", comparison)
    assert past.worse == ("peak memory",)
    assert past.figures["peak memory"] == Estimate(2e9)
    assert past.figures["reliability"].low is not None
    assert past.verdict == "regression"


def test_every_number_that_is_remembered_is_finite():
    comparison = compare(
        rerun(evaluation=replace(evaluation(), accuracy=math.nan, half_width=math.nan)), rerun(), STANDARD
    )
    assert all(math.isfinite(point.value) for point in metrics_of(comparison))


def page(earlier: tuple[Past, ...] = (), **changes: object) -> str:
    comparison = compare(rerun(**changes), rerun(), STANDARD)
    return render_history(HistoryData(comparison, "this run", "base", "", earlier, STANDARD, "{}"))


def test_the_page_says_what_got_worse_and_draws_every_number_over_all_reruns():
    first = replace(Past.now("base", compare(rerun(), None, STANDARD)), accepted="2026-11-02")
    between = Past.now("between", compare(rerun(surroundings=NEWER), rerun(), STANDARD))
    made = page((first, between), timings=timings(2.0))
    assert "smoke got worse: scoring a candidate takes" in made
    assert "torch 2.13.0 → 2.14.0" in made
    for figure in FIGURES.values():
        assert figure.name in made
    assert made.count("over 3 reruns") == 2 * (len(FIGURES) - 1)  # a digest can't be drawn
    assert made.count(">baseline</span>") == 1
    assert "metantk benchmark accept" not in made


def test_the_page_is_self_contained_and_the_same_for_the_same_data():
    made = page(problem="<script>alert(1)</script>")
    assert made == page(problem="<script>alert(1)</script>")
    assert "<script" not in made
    assert "://" not in made.replace("http://www.w3.org", "")


def test_the_markdown_of_a_rerun_is_a_table_of_its_figures():
    lines = markdown_of(compare(rerun(), rerun(), STANDARD)).splitlines()
    assert lines[0].startswith("**smoke is as good")
    assert len([line for line in lines if line.startswith("|")]) == len(FIGURES) + 2
    assert all(line.count("|") == 6 for line in lines[2:])


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(2)
    paired = welch = 0
    for _ in range(500):
        things = rng.normal(size=12)
        first, second = things + rng.normal(size=12), things + rng.normal(1, 1, size=12)
        difference, half = paired_difference(first, second)
        paired += abs(difference + 1) <= half
        difference, half = welch_difference(first, rng.normal(1, 3, size=8))
        welch += abs(difference + 1) <= half
    assert 0.92 * 500 <= paired <= 0.98 * 500
    assert 0.92 * 500 <= welch <= 0.98 * 500


def test_statistics_of_ranks_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(3)
    first, second = rng.integers(0, 6, 20).astype(np.float64), rng.normal(size=20)
    assert rank_correlation(first, second) == pytest.approx(stats.spearmanr(first, second).statistic, abs=1e-12)
    assert rank_correlation(np.ones(3), second[:3]) is None
    low, high = rank_correlation_interval(0.5, 30)
    assert low < 0.5 < high
    low, high = rank_correlation_interval(1.0, 30)
    assert 0.99 < low < high == 1
    low, high = rank_correlation_interval(-1.0, 4)  # four things in order are no proof of anything
    assert low == -1
    assert high > 0.5
    squares = rng.chisquare(7, 200_000) / 7
    assert log_mean_square_variance(7) == pytest.approx(np.log(squares).var(), rel=0.02)


def test_tolerances_travel_with_the_configuration_and_decide_no_number():
    from metantk_core.config import load_config
    from metantk_core.recipes import RECIPES

    loose = load_config("smoke", RECIPES, ["benchmark.processor_slowdown=3"])
    assert loose.benchmark.processor_slowdown == 3
    assert loose.digest == RECIPES["smoke"].digest
    with pytest.raises(InputError, match=r"benchmark\.slowdow"):
        load_config("smoke", RECIPES, ["benchmark.slowdow=3"])
    assert json.loads(loose.to_json())["benchmark"]["accuracy_drop"] == 0.02


def test_quick_benchmarks_are_experiments_of_their_own_and_small():
    from metantk_core.recipes import RECIPES, quickened

    for name, config in RECIPES.items():
        if config.data.source != "glyphs":
            continue
        quick = quickened(config)
        assert quick.name == f"{name}-quick"
        assert quick.search.num_candidates <= 12
        assert quick.evaluation.episodes <= 100
        assert quick.run_id != config.run_id
