import dataclasses
import io
import re

import pytest
from made_searches import search
from rich.console import Console

from metantk_core.adapters.progress import StepProgress
from metantk_core.recipes import RECIPES
from metantk_core.scores import Outcome, Score, ScoreRecord
from metantk_core.terminal import PipelineDisplay, print_history, print_leaderboard, print_records

BOTH = "metantk_cond + linear_regions"


def said(show, what, width=80):
    """Return the lines that people see who have no terminal."""
    console = Console(file=io.StringIO(), width=width)
    show(what, console)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def pruned():
    return search(BOTH, num_inits=4, strategy="prune", num_candidates=6)


@pytest.fixture(scope="module")
def evolved():
    return search(strategy="evolve", num_candidates=86, evolve={"population": 6, "children": 4})


@pytest.fixture(scope="module")
def raced():
    return search(strategy="race", num_candidates=12, num_inits=12)


def test_rounds_of_a_pruning_search_say_how_far_they_can_be_trusted_within_80_columns(pruned):
    history = pruned[1]
    lines = said(print_history, history)
    rounds = [line for line in lines if re.match(r" +\d", line)]
    assert len(rounds) == len(history.rounds) == 5
    assert rounds[0].split() == ["1", "prune", "operations", "30", "×", "4"]
    trusted = history.rounds[0].reliability[-1][1]
    shares = [choice.agreement for choice in history.rounds[0].choices]
    below = lines[lines.index(rounds[0]) + 1]
    assert f"reliability {trusted.icc:.2f} [{trusted.low:.2f}, {trusted.high:.2f}]" in below
    assert f"halves agree {sum(shares) / 6:.0%} (chance 20%)" in below
    assert all(len(line) <= 80 for line in lines if not line.startswith("found"))
    assert lines[-2] == f"found: {history.winner}"
    assert not any("…" in line for line in lines)


def test_wide_screen_has_one_line_a_round(pruned):
    lines = said(print_history, pruned[1], width=160)
    assert len(lines) == 1 + len(pruned[1].rounds) + 2
    assert "prune operations" in lines[1]
    assert "halves agree" in lines[1]


def test_choices_without_any_reason_are_counted_as_ties_and_warned_of():
    values = {"strategy": "prune", "space": "darts_fewshot", "num_candidates": 2}
    text = " ".join(said(print_history, search(BOTH, num_inits=2, blind_to="normal", **values)[1]))
    assert "; 9 ties" in text
    assert "No choice in the normal cell was made by a score" in text


def test_generations_show_best_and_mean_and_a_long_search_its_ends(evolved):
    history = evolved[1]
    lines = said(print_history, history)
    assert len(history.rounds) == 21
    rounds = [line for line in lines if re.match(r" +\d", line)]
    assert [int(line.split()[0]) for line in rounds] == [1, 2, 3, *range(10, 22)]
    assert lines[4].split() == ["…", "6", "more"]
    measures = dict(history.rounds[-1].measures)
    assert rounds[-1].endswith(f"best {measures['best']:.4g}, mean {measures['mean']:.4g}")


def test_race_shows_who_is_still_running_and_the_draws_so_far(raced):
    board, history = raced
    rounds = [line for line in said(print_history, history) if re.match(r" +\d", line)]
    for line, closed in zip(rounds, history.rounds, strict=True):
        measures = dict(closed.measures)
        assert f"{measures['still running']:.0f} still running, {measures['draws spent']:.0f} draws so far" in line
    spent = sum(standing.draws for standing in board.standings)
    assert rounds[-1].endswith(f"{spent} draws so far; {144 - spent} draws saved")


def test_single_round_prints_nothing():
    assert said(print_history, search(strategy="sample", num_candidates=4)[1]) == []


def test_leaderboard_has_draws_where_they_differ_and_only_there(raced, pruned):
    lines = said(print_leaderboard, raced[0])
    assert lines[1].split() == ["rank", "score", "draws", "parameters", "MACs", "genotype"]
    first = raced[0].standings[0]
    assert re.match(rf"\s+1  {first.mean:.3f} ± \S+ +{first.draws} ", lines[2])
    assert "draws" not in said(print_leaderboard, pruned[0])[1]


@pytest.mark.parametrize("place", [2, 13])
def test_choice_of_the_search_is_marked_unless_it_is_first(place):
    board, _ = search(strategy="sample", num_candidates=18)
    assert not any("←" in line for line in said(print_leaderboard, board))
    lines = said(print_leaderboard, dataclasses.replace(board, winner=board.standings[place].genotype))
    marked = [number for number, line in enumerate(lines) if line.endswith("← the search's choice")]
    assert len(marked) == 1
    assert lines[marked[0]].split()[0] == str(place + 1)
    assert board.standings[place].genotype in lines[marked[0] + 1]
    # First ten, the choice if it is further down, and the last.
    assert sum("~0|" in line for line in lines) == (11 if place < 10 else 12)
    assert any("The search's choice is" in line for line in lines)


def test_stability_of_the_best_few_is_said():
    board, _ = search(strategy="sample", num_candidates=18)
    share = dict(board.top_stability)[5]
    assert f"the best 5 stay the best 5 in {100 * share:.0f} %" in " ".join(said(print_leaderboard, board))


def progress(step, done, total=4):
    return StepProgress(step, done, total, 0, 0.0, 10.0)


def test_steps_of_many_rounds_keep_their_columns_without_a_terminal(tmp_path, capsys):
    config = RECIPES["smoke"]
    rounds = config.model_copy(update={"search": config.search.model_copy(update={"strategy": "prune"})})
    display = PipelineDisplay(rounds, tmp_path)
    display._print_lines([progress("round 1 of 5, score 1 of 2", 4), progress("rank", 1)])
    lines = capsys.readouterr().err.splitlines()
    assert [line.index("%") for line in lines] == [lines[0].index("%")] * 2
    assert all(len(line) <= 80 for line in lines)


def test_draws_that_took_float64_are_marked_and_the_mark_is_explained():
    draws = Score(100.0), Score(1000.0, precision="float64")
    failed = Score(None, Outcome.DEGENERATE, "the kernel is singular", "float64")
    shown = [ScoreRecord("nasbench201", "cell", "ntk_cond", some, 0, 0.1) for some in (draws, draws[:1], (failed,))]
    both, single, none = (said(print_records, [record]) for record in shown)
    assert "2.00  3.00*" in both[1]
    assert both[-1].startswith("* computed in float64")
    for lines in (single, none):
        assert "*" not in "".join(lines)
