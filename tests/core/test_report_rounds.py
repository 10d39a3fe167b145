import dataclasses
import re

import numpy as np
import pytest
from made_searches import search
from test_report import Reader, report_data

from metantk_core.report import render
from metantk_core.report.cells import operation_name
from metantk_core.report.rounds import agreement_of, blind_cells, how_it_went, sentences, warnings
from metantk_core.report.thinning import draw_round, grouped, removed
from metantk_core.search import SearchHistory, tied

BOTH = "metantk_cond + linear_regions"


@pytest.fixture(scope="module")
def pruned():
    values = {"strategy": "prune", "space": "darts_fewshot", "num_candidates": 6}
    return search(BOTH, num_inits=2, blind_to="normal", **values)


@pytest.fixture(scope="module")
def evolved():
    return search(strategy="evolve", num_candidates=18, evolve={"population": 6, "children": 4})


@pytest.fixture(scope="module")
def raced():
    return search(strategy="race", num_candidates=12, num_inits=12)


def bare(found, **changes):
    board, history = found
    return report_data(board, history=history, trained=(), kernels=(), episodes=(), **changes)


@pytest.fixture(scope="module")
def page(pruned):
    return render(bare(pruned))


def test_whole_report_of_a_pruning_search_is_well_nested_and_draws_every_round(page, pruned):
    reader = Reader(page)
    assert reader.open == []
    assert len(set(reader.ids)) == len(reader.ids)
    assert "search" in reader.ids
    assert "#search" in reader.addresses
    drawn = re.findall(r'aria-label="(Round \d+, \w+\. Removes [^"]*)"', page)
    rounds = [closed for closed in pruned[1].rounds if closed.removals]
    assert len(drawn) == 2 * len(rounds)


def test_drawing_of_a_round_names_what_it_removed_and_nothing_else(page, pruned):
    history = pruned[1]
    for closed in [closed for closed in history.rounds if closed.removals][:3]:
        for cell in ("normal", "reduce"):
            said = re.findall(rf'aria-label="Round {closed.number}, {cell}\. Removes ([^"]*)\."', page)
            expected = {
                f"{removal.source} to {removal.target}: {operation_name(removal.operation)}"
                for removal in closed.removals
                if removal.removed and removal.cell == cell
            }
            assert len(said) == 1
            assert set(said[0].split("; ")) == expected


def test_number_of_strands_is_the_number_of_operations_left(pruned):
    rounds = pruned[1].rounds
    whole = rounds[0].before
    for closed in (rounds[0], rounds[4]):
        before, after = closed.before, closed.after
        svg = draw_round(whole, before, after, "reduce", name="x", title="Round")
        strands = re.findall(r'<path d="M [^"]* Q [^"]*"[^>]*>', re.sub(r"\s+", " ", svg))
        dashed = [strand for strand in strands if "stroke-dasharray" in strand]
        assert len(strands) == sum(edge.cell == "reduce" for edge, _ in before.operations())
        assert len(dashed) == len(removed(before, after, "reduce")) == 9


def test_table_says_in_which_round_each_operation_went(pruned):
    board, history = pruned
    went = how_it_went(history, board)
    assert went is not None
    table = next(table for table in went["when"] if table["cell"] == "reduce")  # pyright: ignore
    found = {
        (edge, operation): place["round"]
        for edge, row in table["rows"]
        for operation, place in zip(table["operations"], row, strict=True)
    }
    expected = {
        (f"{removal.source} → {removal.target}", operation_name(removal.operation)): closed.number
        for closed in history.rounds
        for removal in closed.removals
        if removal.removed and removal.cell == "reduce"
    }
    assert {key: number for key, number in found.items() if number} == expected
    left = [edge for edge in history.winner.edges if edge.cell == "reduce"]
    assert sum(number is None for number in found.values()) == len(left)


def test_removed_operations_are_listed_with_their_edges():
    assert grouped([(0, 2, "skip_connect"), (0, 3, "max_pool_3x3"), (1, 2, "skip_connect")]) == (
        ("skip", "0→2, 1→2"),
        ("max pool 3×3", "0→3"),
    )


def test_cell_that_no_score_depends_on_is_called_the_order_of_names(pruned, page):
    assert blind_cells(pruned[1]) == ("normal",)
    assert "No choice in the normal cell was made by a score" in " ".join(warnings(pruned[1]))
    assert page.index("No choice in the normal cell") < page.index('<section id="leaderboard">')
    first = pruned[1].rounds[0]
    assert {choice.cell for choice in first.choices if tied(first, choice)} == {"normal"}
    found = agreement_of(first)
    assert found is not None
    assert len(found.shares) == 9  # those of the other cell alone
    assert "; 9 ties decided by the order of names." in " ".join(sentences(pruned[1], pruned[0]))
    assert blind_cells(search(strategy="prune", num_candidates=2)[1]) == ()


def test_judgement_of_a_round_counts_its_choices():
    board, history = search(strategy="prune", num_candidates=6, noise=0.3, num_inits=4)
    first = history.rounds[0]
    shares = [choice.agreement for choice in first.choices if choice.agreement is not None]
    sure = sum(share > 0.5 for share in shares)
    said = next(sentence for sentence in sentences(history, board) if sentence.startswith("In round 1"))
    assert said.startswith(f"In round 1, {sure} of 6 choices would be made by both halves of the draws")
    assert f"({100 * np.mean(shares):.0f} % on average; chance is 1 in 5)" in said


@pytest.mark.parametrize(
    ("noise", "verdict"), [(0.001, ": more than chance."), (20, ": not clearly more than chance.")]
)
def test_choices_are_called_chance_when_they_are(noise, verdict):
    board, history = search(strategy="prune", num_candidates=3, num_inits=4, noise=noise)
    said = next(sentence for sentence in sentences(history, board) if sentence.startswith("In round 1"))
    assert said.endswith(verdict)


def test_place_beside_random_candidates_is_said_with_what_luck_would_do(pruned):
    board, history = pruned
    better = sum(standing.rank <= board.best.rank for standing in board.standings)
    assert f"would do as well in {better} of 7 cases" in sentences(history, board)[-1]


def test_single_draws_have_no_sureness_and_that_is_said():
    board, history = search(strategy="prune", num_candidates=3, num_inits=1)
    assert agreement_of(history.rounds[0]) is None
    assert "nothing can be said about how sure" in " ".join(sentences(history, board))
    went = how_it_went(history, board)
    assert went is not None
    assert went["judged"] is False


def test_every_removal_that_was_tried_is_in_the_tables(page, pruned):
    for closed in pruned[1].rounds:
        if closed.removals:
            assert f"Round {closed.number}: all {len(closed.removals)} removals that were tried" in page
    assert page.count('<tr class="removed">') == sum(
        removal.removed for closed in pruned[1].rounds for removal in closed.removals
    )


def test_removal_that_could_not_be_scored_is_listed_with_its_reason():
    board, history = search(strategy="prune", num_candidates=3)
    first = history.rounds[0]
    failed = dataclasses.replace(
        first.removals[0],
        changes=tuple((name, None) for name, _ in first.removals[0].changes),
        standard_errors=tuple((name, None) for name, _ in first.removals[0].standard_errors),
        reason="<b>the smallest eigenvalue is zero",
        removed=False,
    )
    broken = dataclasses.replace(first, removals=(failed, *first.removals[1:]), failed=1)
    page = render(bare((board, dataclasses.replace(history, rounds=(broken, *history.rounds[1:])))))
    assert "not scored: &lt;b&gt;the smallest eigenvalue is zero" in page


def test_evolution_shows_its_curve_and_says_what_it_gained(evolved):
    board, history = evolved
    page = render(bare(evolved))
    assert Reader(page).open == []
    assert "Best score and mean score over 3 generations" in page
    said = " ".join(sentences(history, board))
    assert "6 random candidates were followed by 3 generations of children, 18 candidates in all" in said
    best = [dict(closed.measures)["best"] for closed in history.rounds]
    where = next(number for number, value in enumerate(best) if value == best[-1])
    assert ("found in the first population" if where == 0 else f"found in generation {where}") in said


def test_long_evolution_stays_a_small_page(evolved):
    board, history = evolved
    rounds = tuple(dataclasses.replace(history.rounds[min(n, 3)], number=n + 1) for n in range(60))
    page = render(bare((board, dataclasses.replace(history, rounds=rounds))))
    assert len(page.encode()) < 400_000
    assert "<details><summary>The 60 rounds in numbers" in page


def test_race_says_how_many_draws_it_saved(raced):
    board, history = raced
    page = render(bare(raced))
    assert Reader(page).open == []
    everyone = 12 * 12
    spent = sum(standing.draws for standing in board.standings)
    assert spent < everyone
    assert f"The race took {spent} draws instead of {everyone}" in page
    shown = "; ".join(f"{closed.scored} with {closed.draws} draws" for closed in history.rounds)
    assert f"Candidates still running in the rounds of the race: {shown}." in page


@pytest.mark.parametrize("strategy", ["prune", "sample"])
def test_rounds_that_draw_on_show_the_reliability_with_the_draws(strategy):
    found = search(strategy=strategy, num_candidates=6, target_reliability=0.9, max_inits=4, num_inits=2, noise=0.8)
    titles = [closed.title for closed in found[1].rounds]
    assert any(title.endswith(": draw on") for title in titles)
    page = render(bare(found))
    assert Reader(page).open == []
    assert re.search(r"Reliability of \d criteria over \d+ rounds", page)
    assert ">4 draws<" in page


def test_search_of_one_round_has_no_section_of_its_own():
    found = search(strategy="sample", num_candidates=6)
    assert how_it_went(found[1], found[0]) is None
    page = render(bare(found))
    assert 'id="search"' not in page
    assert "#search" not in page
    assert how_it_went(None, found[0]) is None


def test_history_that_went_through_a_file_gives_the_same_page(raced):
    board, history = raced
    again = SearchHistory.from_json(history.to_json())
    assert render(bare((board, again))) == render(bare(raced))
