import dataclasses
import json
import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from metantk_core.candidates import Edge, Genotype, parse_genotype, space_named
from metantk_core.candidates.nasbench201 import NASBench201
from metantk_core.episodes import Episode
from metantk_core.errors import InputError
from metantk_core.meta_training import Evaluation, Validation
from metantk_core.ranking import Leaderboard, Reliability, Standing
from metantk_core.report import (
    CandidateKernel,
    ReportData,
    TrainedCandidate,
    draw_cell_png,
    draw_cell_svg,
    render,
    write_report,
)
from metantk_core.report.cells import live_edges
from metantk_core.report.charts import kernel_limit, scaled_kernel
from metantk_core.report.findings import (
    comparable,
    comparison_sentence,
    indistinguishable,
    ordinal,
    paired_difference,
    rank_association,
    trust_sentences,
)
from metantk_core.report.formatting import count, percent_with_interval, points, significant, with_error
from metantk_core.scores import Outcome

NB201 = NASBench201()
VOID = {"meta", "img", "br", "wbr", "link", "input", "hr"}
SECTIONS = [
    "summary",
    "leaderboard",
    "scores",
    "cells",
    "accuracy-table",
    "learning",
    "kernels",
    "episodes",
    "glossary",
    "configuration",
]
NASTY = '<script>alert("x")</script>'


def standing(rank, genotype, mean, error=0.1, reason="", params=20_000.0):
    others = (("flops", 3.0 * params), ("ntk_cond", mean), ("params", params))
    outcome = Outcome.OK if mean is not None else Outcome.DEGENERATE
    return Standing(
        rank, str(genotype), genotype.key, mean, error if mean is not None else None, 4, outcome, reason, others
    )


def leaderboard(space="nasbench201", scored=30, failed=2, **changes):
    rng = np.random.default_rng(0)
    found = space_named(space)
    if scored + failed > 1000:
        genotypes = [NB201.genotype(index) for index in range(scored + failed)]
    else:
        genotypes = list(dict.fromkeys(found.sample(rng) for _ in range(2 * (scored + failed))))[: scored + failed]
    means = np.sort(rng.normal(3, 0.8, scored))
    standings = [
        standing(rank + 1, genotype, float(mean), params=float(rng.integers(1, 90) * 1000))
        for rank, (genotype, mean) in enumerate(zip(genotypes, means, strict=False))
    ]
    standings += [
        standing(scored + 1, genotype, None, reason="the smallest eigenvalue is zero")
        for genotype in genotypes[scored:]
    ]
    board = Leaderboard(
        score="metantk_cond",
        direction="lower",
        scale="log10",
        space=space,
        seed=0,
        standings=tuple(standings),
        reliability=Reliability(0.83, 0.69, 0.92, 0.55, scored, 4),
        leader_stability=0.61,
        spearman=(("flops", -0.04), ("params", 0.52)),
    )
    return dataclasses.replace(board, **changes)


def evaluation(accuracy, draw=0, episodes=60, **changes):
    per_episode = tuple(float(a) for a in np.clip(np.random.default_rng(draw).normal(accuracy, 0.1, episodes), 0, 1))
    values = Evaluation(
        accuracy=float(np.mean(per_episode)),
        half_width=0.02,
        interval="95 % interval, Student's t over episodes",
        episodes=episodes,
        ways=5,
        shots=1,
        queries=15,
        algorithm="maml",
        inner_steps=5,
        inner_learning_rate=0.1,
        norm="batch_support",
        transductive=False,
        dataset="glyphs",
        split="test",
        seed=0,
        model="0" * 16,
        best_iteration=100,
        per_episode=per_episode,
    )
    return dataclasses.replace(values, **changes)


def trained(role, genotype, accuracy, seed=1):
    history = tuple(Validation(i, 1.6 - i / 400, 0.2 + i / 1000, 0.2 + i / 1100, 0.02) for i in range(0, 301, 100))
    return TrainedCandidate(role, genotype, history, 300, evaluation(accuracy, seed))


def episode(names=("a", "b", "c")):
    draw = torch.Generator().manual_seed(0)
    n = len(names)
    support, query = (
        torch.randint(256, (number, 1, 16, 16), generator=draw, dtype=torch.uint8) for number in (n, 2 * n)
    )
    return drawn(support, torch.arange(n), query, torch.arange(n).repeat_interleave(2), tuple(names))


def drawn(support, support_labels, query, query_labels, names):
    rows = torch.arange(len(support) + len(query))
    return Episode(
        rows[: len(support)], support, support_labels, rows[len(support) :], query, query_labels, class_names=names
    )


def kernel(role, genotype, seed, names=("a", "b", "c")):
    features = np.random.default_rng(seed).normal(size=(6, 40))
    return CandidateKernel(role, genotype, features @ features.T, (tuple(names), tuple(names)))


def report_data(board=None, names=("a", "b", "c"), **changes):
    board = leaderboard() if board is None else board
    scored = [s for s in board.standings if s.mean is not None]
    best, worst, other = (parse_genotype(board.space, scored[i].genotype) for i in (0, -1, len(scored) // 2))
    data = ReportData(
        name="glyphs-1234",
        date="23 November 2026",
        seed=7,
        digest="0123456789abcdef",
        configuration=json.dumps({"name": "glyphs", "search": {"num_candidates": 32}}),
        versions=(("metantk", "0.1.0"), ("torch", "2.13.0")),
        dataset="glyphs",
        leaderboard=board,
        trained=(trained("best", best, 0.6, 1), trained("worst", worst, 0.4, 2), trained("random", other, 0.6, 3)),
        kernels=(kernel("best", best, 0, names), kernel("worst", worst, 1, names)),
        episodes=(episode(names),),
    )
    return dataclasses.replace(data, **changes)


class Reader(HTMLParser):
    """Checks nesting, and collects tags, identifiers and addresses."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.ids, self.addresses, self.text = [], [], [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._note(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self._note(attrs)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def _note(self, attrs):
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            elif name in ("href", "src", "xlink:href", "srcset", "action", "data", "poster"):
                self.addresses.append(value)


@pytest.fixture(scope="module")
def page():
    return render(report_data())


@pytest.mark.parametrize("space", ["nasbench201", "darts_fewshot"])
def test_page_is_well_nested_with_all_sections_and_unique_identifiers(space):
    reader = Reader(render(report_data(leaderboard(space))))
    assert reader.open == []
    assert [name for name in reader.ids if name in SECTIONS] == SECTIONS
    assert len(set(reader.ids)) == len(reader.ids)


def test_page_loads_nothing_and_runs_nothing(page):
    reader = Reader(page)
    assert "script" not in reader.tags
    assert "link" not in reader.tags
    assert not {"iframe", "object", "embed"} & set(reader.tags)
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in reader.addresses)
    assert "@import" not in page
    assert all(target.startswith("#") for target in re.findall(r"url\(\s*['\"]?([^)'\"]*)", page))
    # What is left of addresses are names of XML vocabularies.
    assert set(re.findall(r"https?://[^\s\"'<]+", page)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_links_inside_the_page_lead_somewhere(page):
    reader = Reader(page)
    targets = {address[1:] for address in reader.addresses if address.startswith("#")}
    targets |= set(re.findall(r"url\(#([^)]*)\)", page))
    assert targets <= set(reader.ids)


def test_every_chart_says_in_words_what_it_shows(page):
    charts = re.findall(r"<svg[^>]*>", page)
    assert len(charts) >= 10
    assert all('role="img"' in chart and re.search(r'aria-label="[^"]+"', chart) for chart in charts)


def test_texts_of_people_are_escaped_everywhere():
    data = report_data(
        board=leaderboard(
            standings=tuple(
                dataclasses.replace(s, reason=NASTY if s.mean is None else "") for s in leaderboard().standings
            )
        ),
        names=(NASTY, "b & c", '"onload="alert(1)'),
        name=NASTY,
        date=NASTY,
        dataset=NASTY,
        configuration=json.dumps({"name": NASTY}),
        versions=((NASTY, NASTY),),
    )
    data = dataclasses.replace(
        data, trained=(dataclasses.replace(data.trained[0], problem=NASTY, role=NASTY), *data.trained[1:])
    )
    page = render(data)
    reader = Reader(page)
    assert "<script" not in page
    assert "script" not in reader.tags
    assert not re.search(r"<[^>]*\sonload=", page)
    assert sum(NASTY in text for text in reader.text) >= 6
    assert reader.open == []


def test_same_data_give_the_same_bytes_in_another_process(tmp_path):
    write_report(report_data(), tmp_path / "a.html")
    program = (
        "import sys; sys.path.insert(0, 'tests/core'); from pathlib import Path; import test_report as t; "
        f"t.write_report(t.report_data(), Path({str(tmp_path / 'b.html')!r}))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONHASHSEED": "77", "PATH": ""})
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_nothing_but_the_report_is_left_in_its_folder_even_if_rendering_fails(tmp_path):
    write_report(report_data(), tmp_path / "report.html")
    before = (tmp_path / "report.html").read_bytes()
    with pytest.raises(InputError):
        write_report(report_data(leaderboard(score="no such score")), tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_bytes() == before


def test_all_of_nasbench201_makes_a_page_below_3_mb_that_counts_every_candidate():
    board = leaderboard(scored=15_000, failed=625)
    page = render(report_data(board))
    assert len(page.encode()) < 3_000_000
    assert "15000 candidates" in page
    assert "625 more could not be scored" in page
    assert "14000 more are in the run" in page
    assert "625 × the smallest eigenvalue is zero" in page
    assert board.standings[14_999].genotype.replace("|", "|<wbr>") in page


def test_page_shows_leaderboard_with_matching_decimals_failures_and_reasons():
    board = leaderboard(scored=5, failed=1)
    page = render(report_data(board, trained=(), kernels=(), episodes=()))
    first = board.standings[0]
    assert first.mean is not None
    assert f"{first.mean:.2f} ± 0.10" in page
    assert "the smallest eigenvalue is zero" in page
    assert page.count('<td class="number">4</td>') == 1 + 5  # a rank, and the draws of all


@pytest.mark.parametrize(
    "changes",
    [
        {"trained": (), "kernels": (), "episodes": ()},
        {"kernels": ()},
        {"episodes": ()},
    ],
    ids=["nothing but scores", "no kernels", "no episodes"],
)
def test_parts_that_are_missing_are_said_to_be_missing(changes):
    page = render(report_data(**changes))
    assert [name for name in Reader(page).ids if name in SECTIONS] == SECTIONS
    said = {
        "kernels": "No kernels were kept",
        "episodes": "No episodes were kept",
        "trained": "what this ranking is worth in accuracy is not known",
    }
    for part, words in said.items():
        assert (words in page) == (part in changes)


def test_run_in_which_every_candidate_failed_says_so_first():
    board = leaderboard(scored=0, failed=4, reliability=None, leader_stability=None, spearman=())
    data = ReportData("r", "today", 0, "d", "{}", (), "glyphs", board)
    page = render(data)
    assert "None of the 4 candidates could be scored" in page
    assert "there is no ranking to trust" in page


@pytest.mark.parametrize("draws", [1, 4])
def test_single_candidate_and_single_draws_are_shown_without_made_up_errors(draws):
    whole = leaderboard(scored=1, failed=0, reliability=None, leader_stability=None, spearman=())
    only = dataclasses.replace(whole.standings[0], draws=draws, standard_error=None if draws == 1 else 0.1)
    page = render(report_data(dataclasses.replace(whole, standings=(only,)), trained=(), kernels=()))
    assert ("± 0.10" in page) == (draws == 4)
    assert ">nan<" not in page.lower()


def test_network_that_diverged_is_reported_and_its_gaps_do_not_spoil_the_charts():
    data = report_data(kernels=(), episodes=())
    point = dataclasses.replace(data.trained[0].history[-1], train_loss=math.nan, validation_accuracy=math.nan)
    broken = dataclasses.replace(
        data.trained[0], history=(*data.trained[0].history[:-1], point), problem="diverged at iteration 300"
    )
    page = render(dataclasses.replace(data, trained=(broken, *data.trained[1:])))
    assert "diverged at iteration 300" in page
    assert "nan" not in "".join(re.findall(r'<path d="[^"]*"', page)).lower()


def test_protocol_is_stated_in_full(page):
    for words in (
        "5-way 1-shot",
        "15 query images a class",
        "60 episodes of the test classes of glyphs",
        "seed 0",
        "batch_support",
        "not transductive",
        "Student&#39;s t over episodes",
        "MAML, 5 inner steps of size 0.1",
    ):
        assert words in page
    data = report_data(kernels=(), episodes=())
    tried = data.trained[0].evaluation
    assert tried is not None
    other = dataclasses.replace(
        data.trained[0], evaluation=dataclasses.replace(tried, norm="batch_transductive", transductive=True)
    )
    assert "(transductive: queries of an episode share" in render(dataclasses.replace(data, trained=(other,)))


def test_sample_images_are_the_pixels_of_the_episode():
    import base64
    import io

    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, size=(2, 3, 8, 8), dtype=np.uint8)
    images = torch.from_numpy(pixels)
    shown = drawn(images, torch.arange(2), images.flip(0), torch.arange(2), ("a", "b"))
    page = render(report_data(episodes=(shown,), trained=(), kernels=()))
    images = re.findall(r'<img src="data:image/png;base64,([^"]*)" alt="support image of (.)"', page)
    assert [name for _, name in images] == ["a", "b"]
    for (data, _), expected in zip(images, pixels, strict=True):
        found = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        np.testing.assert_array_equal(found, expected.transpose(1, 2, 0))


# What the numbers allow to say.


def test_paired_difference_is_the_paired_t_test_of_scipy():
    first, second = evaluation(0.6, 1), evaluation(0.55, 2)
    found = paired_difference(first, second)
    oracle = stats.ttest_rel(first.per_episode, second.per_episode)
    interval = oracle.confidence_interval(0.95)
    assert found is not None
    assert found.p_value == pytest.approx(oracle.pvalue, rel=1e-9)
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx(
        (interval.low, interval.high), rel=1e-9
    )
    assert found.clear == (oracle.pvalue < 0.05)


@pytest.mark.parametrize("change", [{"seed": 1}, {"split": "val"}, {"shots": 5}, {"queries": 5}, {"dataset": "other"}])
def test_evaluations_on_other_episodes_are_not_paired(change):
    first = evaluation(0.6, 1)
    assert paired_difference(first, evaluation(0.5, 2)) is not None
    assert paired_difference(first, evaluation(0.5, 2, **change)) is None


def test_table_says_of_each_pair_whether_it_is_told_apart():
    data = report_data(kernels=(), episodes=())
    best = data.trained[0]
    others = [evaluation(0.3, 2), best.evaluation, evaluation(0.3, 2, seed=1)]
    rest = [dataclasses.replace(best, role=f"role {i}", history=(), evaluation=e) for i, e in enumerate(others)]
    page = render(dataclasses.replace(data, trained=(best, *rest)))
    table = page[page.index("told apart?") : page.index("Protocol.")]
    found = re.findall(r"<td>(reference|yes|no|other episodes: can't be paired)</td>", table)
    assert found == ["reference", "yes", "no", "other episodes: can't be paired"]


def test_same_network_twice_is_not_told_apart_and_a_constant_gap_is():
    same = evaluation(0.6, 1)
    none = paired_difference(same, same)
    assert none is not None
    assert not none.clear
    shifted = dataclasses.replace(same, per_episode=tuple(0.5 for _ in same.per_episode))
    constant = dataclasses.replace(same, per_episode=tuple(0.75 for _ in same.per_episode))
    gap = paired_difference(constant, shifted)
    assert gap is not None
    assert gap.clear
    assert gap.mean == pytest.approx(0.25)


def test_sentences_say_plainly_what_can_not_be_told_apart():
    equal = paired_difference(evaluation(0.6, 1), evaluation(0.6, 1))
    better = paired_difference(evaluation(0.7, 1), evaluation(0.4, 2))
    assert equal is not None
    assert better is not None
    assert "can't be told apart" in comparison_sentence("best", "worst", equal)
    assert "more accurate" in comparison_sentence("best", "worst", better)
    worse = dataclasses.replace(better, mean=-better.mean)
    assert "less accurate" in comparison_sentence("best", "worst", worse)


def test_leader_is_indistinguishable_from_those_within_welchs_interval():
    board = leaderboard(scored=4, failed=1)
    means = (1.0, 1.05, 1.3, 9.0)
    standings = (
        tuple(dataclasses.replace(s, mean=m) for s, m in zip(board.standings, means, strict=False))
        + board.standings[4:]
    )
    found = indistinguishable(dataclasses.replace(board, standings=standings))
    # Oracle: SciPy's own Welch test from means, deviations and counts.
    close = sum(stats.ttest_ind_from_stats(1.0, 0.2, 4, m, 0.2, 4, equal_var=False).pvalue >= 0.05 for m in means[1:])
    assert found == close == 2
    sentences = " ".join(trust_sentences(dataclasses.replace(board, standings=standings)))
    assert "not distinguishable from 2 other candidates of 3" in sentences


def chosen(board, index):
    return dataclasses.replace(board, winner=board.standings[index].genotype)


def combined(board):
    return dataclasses.replace(board, score="metantk_cond + 0.5*linear_regions", scale="linear")


def raced(board, long=5):
    standings = tuple(
        dataclasses.replace(s, draws=12 if place < long else 3) for place, s in enumerate(board.standings)
    )
    return dataclasses.replace(board, standings=standings)


def test_combination_of_scores_gives_a_whole_report_under_its_own_name():
    board = combined(leaderboard())
    page = render(report_data(board))
    reader = Reader(page)
    assert [name for name in reader.ids if name in SECTIONS] == SECTIONS
    assert f"{board.label} ± s.e." in page
    assert "the weighted sum of a candidate&#39;s ranks" in page
    for name in ("metantk_cond", "linear_regions"):
        assert f"<code>{name}</code>" in page


def test_choice_of_the_search_that_is_not_first_is_said_and_marked():
    board = chosen(leaderboard(scored=30), 3)
    page = render(report_data(board))
    words = "The search&#39;s choice is 4th of 30 by the score it was searched with."
    assert page.count(words) == 2  # in the summary, and under how far to trust
    assert page.count("the search’s choice</span>") == 1
    assert "search&#39;s choice is not distinguishable from" in page
    assert "The winner scores" not in page
    first = render(report_data(leaderboard(scored=30)))
    assert "search’s choice" not in first
    assert "search&#39;s choice" not in first


def test_choice_far_down_the_ranking_has_a_row_of_its_own_between_gaps():
    page = render(report_data(chosen(leaderboard(scored=60), 40)))
    table = page[page.index('<section id="leaderboard">') : page.index("Ranks after the first")]
    assert re.findall(r"… (\d+) between …", table) == ["20", "18"]
    assert "the search’s choice</span>" in table


def test_choice_that_could_not_be_scored_has_no_place():
    page = render(report_data(chosen(leaderboard(scored=6, failed=2), 6), trained=(), kernels=()))
    assert "could not be scored in all draws, so it has no place" in page


def test_choice_is_compared_with_all_others_not_the_leader():
    board = leaderboard(scored=4, failed=0)
    standings = tuple(
        dataclasses.replace(s, mean=m) for s, m in zip(board.standings, (1.0, 5.0, 5.1, 9.0), strict=True)
    )
    board = dataclasses.replace(board, standings=standings, winner=standings[2].genotype)
    assert indistinguishable(board) == 1
    assert "not distinguishable from 1 other candidate of 3" in " ".join(trust_sentences(board))


@pytest.mark.parametrize(
    ("place", "words"), [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (21, "21st"), (112, "112th")]
)
def test_places_are_said_as_people_say_them(place, words):
    assert ordinal(place) == words


def test_stability_of_the_best_few_is_one_sentence():
    board = leaderboard(top_stability=((1, 0.61), (5, 0.4), (10, 0.125)))
    assert (
        "The winner stays first in 61 %, the best 5 stay the best 5 in 40 % and the best 10 stay the best 10 in 12 % "
        "of resamplings of the draws."
    ) in trust_sentences(board)
    assert "The first in the ranking stays first in 61 %" in " ".join(trust_sentences(chosen(board, 2)))


def test_race_says_over_which_draws_its_reliability_is_and_shows_all_draws():
    board = raced(leaderboard(reliability=Reliability(0.83, 0.69, 0.92, 0.55, 30, 3)))
    assert "over the first 3 draws, which all 30 have: 0.83" in " ".join(trust_sentences(board))
    page = render(report_data(board))
    assert "Candidates have 3 to 12 draws" in page
    assert 'class="number">12</td>' in page


def test_mean_ranks_over_different_numbers_of_draws_are_neither_compared_nor_drawn_together():
    board = raced(combined(leaderboard(scored=30)))
    assert len(comparable(board)) == 5
    assert len(comparable(raced(leaderboard(scored=30)))) == 30
    page = render(report_data(board))
    assert "Histogram of the scores of 5 candidates" in page
    assert "of 4 with as many draws" in page


def sized(*rows, direction="lower"):
    board = leaderboard(scored=len(rows), failed=0, direction=direction)
    standings = tuple(
        dataclasses.replace(s, rank=place + 1, mean=mean, others=(("params", float(params)),))
        for place, (s, (mean, params)) in enumerate(zip(board.standings, rows, strict=True))
    )
    return dataclasses.replace(board, standings=standings, winner=standings[0].genotype, spearman=())


@pytest.mark.parametrize(
    ("rows", "direction", "front"),
    [
        ([(1.0, 900), (1.5, 500), (1.6, 700), (2.0, 300), (3.0, 300)], "lower", [3, 1, 0]),
        ([(3.0, 900), (2.0, 1000), (1.5, 500), (1.0, 600)], "higher", [2, 0]),
    ],
)
def test_pareto_front_lists_those_that_no_other_beats_in_size_and_score(rows, direction, front):
    board = sized(*rows, direction=direction)
    page = render(report_data(board, trained=(), kernels=(), episodes=()))
    table = page[page.index('<table class="front">') : page.index('<section id="cells">')]
    listed = [board.standings[index].genotype.replace("|", "|<wbr>") for index in front]
    assert re.findall(r'<td class="genotype">(\S*)</td>', table) == listed
    assert f"{len(front)} of them are on the Pareto front" in page


def test_equal_candidates_share_a_row_of_the_pareto_front():
    board = sized((1.0, 300), (1.0, 300), (2.0, 300), (3.0, 300))
    page = render(report_data(board, trained=(), kernels=(), episodes=()))
    table = page[page.index('<table class="front">') : page.index('<section id="cells">')]
    assert table.count('<td class="genotype">') == 1
    assert "and 1 with equal numbers" in table


def test_ranking_by_size_is_called_so_only_where_the_interval_leaves_zero_out():
    strong = leaderboard(scored=30, spearman=(("params", 0.9),))
    assert "had by counting: it mostly prefers larger" in " ".join(trust_sentences(strong))
    small = leaderboard(scored=30, spearman=(("params", -0.6),))
    assert "In part it prefers smaller" in " ".join(trust_sentences(small))
    unsure = leaderboard(scored=6, spearman=(("params", 0.6),))
    assert "no clear relation to size" in " ".join(trust_sentences(unsure))


def test_interval_of_spearman_is_that_of_bonett_and_wright():
    found = rank_association(leaderboard(scored=30), "params")
    assert found is not None
    error = math.sqrt((1 + 0.52**2 / 2) / 27)
    assert math.atanh(found.high) - math.atanh(found.rho) == pytest.approx(1.959964 * error, rel=1e-5)
    assert rank_association(leaderboard(scored=3), "params") is None
    assert rank_association(leaderboard(), "ntk_trace") is None


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(0.1, 0.3, "is poor"), (0.4, 0.8, "poor to good"), (0.91, 0.97, "is excellent"), (0.5, 0.74, "is moderate")],
)
def test_reliability_is_graded_by_both_ends_of_its_interval(low, high, words):
    board = leaderboard(reliability=Reliability((low + high) / 2, low, high, 0.2, 30, 4))
    assert words in " ".join(trust_sentences(board))


def test_an_estimate_of_reliability_below_0_is_no_share_and_is_said_as_such():
    board = leaderboard(reliability=Reliability(-26.7, -17960.1, 0.96, -0.1, 30, 4))
    said = " ".join(trust_sentences(board))
    assert "Reliability of the scores: below 0 (95 % interval below 0 to 0.96)" in said


# Kernels, cells, numbers.


def test_kernels_are_compared_at_unit_mean_diagonal_on_one_scale():
    matrix = np.diag([1.0, 2.0, 3.0]) * 1e6
    scaled = scaled_kernel(matrix)
    assert np.trace(scaled) == pytest.approx(3)
    assert np.linalg.cond(scaled) == pytest.approx(np.linalg.cond(matrix))
    assert kernel_limit([matrix, np.eye(3)]) == pytest.approx(1.5)
    assert kernel_limit([np.zeros((2, 2))]) == 1.0


def test_edges_that_carry_nothing_to_the_output_are_not_alive():
    found = parse_genotype("nasbench201", "|none~0|+|skip_connect~0|nor_conv_3x3~1|+|none~0|avg_pool_3x3~1|none~2|")
    assert live_edges(found.edges, inputs=[0], outputs=[3]) == frozenset()
    found = parse_genotype(
        "nasbench201", "|none~0|+|skip_connect~0|nor_conv_3x3~1|+|none~0|avg_pool_3x3~1|skip_connect~2|"
    )
    alive = {(edge.source, edge.target) for edge in live_edges(found.edges, inputs=[0], outputs=[3])}
    assert alive == {(0, 2), (2, 3)}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 15_624))
def test_live_edges_are_those_on_some_path_from_input_to_output(index):
    edges = [e for e in NB201.genotype(index).edges if e.operations != ("none",)]

    def paths(node):
        if node == 3:
            return [[]]
        return [[edge, *rest] for edge in edges if edge.source == node for rest in paths(edge.target)]

    expected = {edge for path in paths(0) for edge in path}
    assert live_edges(NB201.genotype(index).edges, inputs=[0], outputs=[3]) == expected


@pytest.mark.parametrize("space", ["nasbench201", "darts_fewshot"])
def test_drawing_names_every_operation_and_stands_alone(space):
    genotype = space_named(space).sample(np.random.default_rng(3))
    svg = draw_cell_svg(genotype)
    root = ElementTree.fromstring(svg)
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("0") == 1
    assert "prefers-color-scheme: dark" in svg
    assert svg == draw_cell_svg(genotype)
    description = root.get("aria-label") or ""
    assert (
        sum(f"{e.source} to {e.target}: " in description for e in genotype.edges if e.cell == genotype.edges[0].cell)
        == 6
    )


def test_supernet_edges_are_drawn_with_their_number_of_operations():
    edge = Edge("cell", 0, 1, ("none", "skip_connect", "nor_conv_3x3"))
    assert "3 operations" in draw_cell_svg(
        Genotype(NASBench201(), (edge, Edge("cell", 1, 3, ("skip_connect",)), Edge("cell", 0, 2, ("none",))))
    )


def test_png_of_a_cell_is_a_picture_on_white():
    import io

    from PIL import Image

    picture = Image.open(io.BytesIO(draw_cell_png(NB201.genotype(9999))))
    assert picture.format == "PNG"
    pixels = np.asarray(picture.convert("RGB"))
    assert pixels[0, 0].min() > 250
    assert pixels.min() < 60


@pytest.mark.parametrize(
    ("mean", "error", "text"),
    [
        (3.14159, 0.0834, "3.142 ± 0.083"),
        (3.14159, 0.0996, "3.14 ± 0.10"),
        (143.2, 12.3, "143 ± 12"),
        (-0.0001, 0.21, "0.00 ± 0.21"),
        (-1.5, 0.21, "−1.50 ± 0.21"),
        (2.5, None, "2.500"),
        (2.5, 0.0, "2.500"),
        (None, None, "–"),
    ],
)
def test_scores_have_the_decimals_that_their_error_can_bear(mean, error, text):
    assert with_error(mean, error) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (7, "7"),
        (940, "940"),
        (999.6, "1.00 k"),
        (12_345, "12.3 k"),
        (999_999, "1.00 M"),
        (1_350_000, "1.35 M"),
        (2.1e9, "2.10 G"),
        (2.5, "2.5"),
        (None, "–"),
    ],
)
def test_counts_have_three_digits_and_a_suffix(value, text):
    assert count(value) == text


@given(st.floats(1, 1e15, allow_nan=False))
def test_counts_are_within_half_a_per_cent(value):
    number, _, suffix = count(value).partition(" ")
    read = float(number) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[suffix]
    assert abs(read - value) <= max(0.0051 * value, 0.05)


def test_shares_are_per_cent_with_one_decimal():
    assert percent_with_interval(0.6142, 0.0081) == "61.4 ± 0.8 %"
    assert points(0.0243) == "+2.4"
    assert points(-0.0243) == "−2.4"
    assert points(0.0001) == "0.0"
    assert significant(1234567890.0) == "1.23 · 10⁹"
