"""What a run will take is said before it starts: counts are exact, hours are measured, and nothing is written."""

import json
from collections import Counter
from pathlib import Path

import pytest
from quiet import noise, quiet_ports, searched, tiny
from typer.testing import CliRunner

from metantk_core.architectures import Architecture
from metantk_core.command_line import app
from metantk_core.scores import Scorer
from metantk_core.workflow import estimate, estimating
from metantk_core.workflow.estimating import _planned


@pytest.mark.parametrize("strategy", ["sample", "race", "evolve"])
def test_candidates_and_draws_are_those_that_a_search_scores(strategy, tmp_path, monkeypatch):
    config = tiny(
        f"search.strategy={strategy}",
        "search.evolve={population: 3, tournament: 2, children: 2}",
        "scoring.scores=[metantk_cond, params]",
        "scoring.num_inits=2",
    )
    usual, scored = Scorer.score, Counter[Architecture]()

    def counted(scorer, architecture, repeats, *more):
        scored[architecture] += len(repeats)
        return usual(scorer, architecture, repeats, *more)

    monkeypatch.setattr(Scorer, "score", counted)
    searched(config, noise(), quiet_ports(tmp_path))
    told = _planned(config)[0]
    if strategy == "sample":
        assert told == scored
    else:  # who goes on depends on scores, which are made up
        assert sum(told.values()) == pytest.approx(scored.total(), rel=0.5)


def test_estimate_grows_with_the_work_that_it_is_of():
    small, more = (
        estimate(tiny("scoring.scores=[metantk_cond, params]", f"training.iterations={number}"))
        for number in (10, 1000)
    )
    assert more.training_hours > 20 * small.training_hours
    assert (small.candidates, small.kernels) == (4, 12)
    assert small.least < small.hours < small.most
    assert small.memory > 50e6


def test_dry_run_says_what_a_run_will_take_and_starts_nothing(tmp_path: Path):
    arguments = ["run", "smoke", "--dry-run", "--workspace", str(tmp_path / "runs")]
    for setting in ("search.num_candidates=3", "scoring.image_size=8", "scoring.scores=[metantk_cond, params]"):
        arguments += ["--set", setting]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["candidates"] == 3
    assert told["hours"] > 0
    assert "3 candidates" in CliRunner().invoke(app, arguments).stdout
    assert not (tmp_path / "runs").exists()


def test_an_episode_that_takes_long_is_measured_once_and_each_part_is_announced(monkeypatch: pytest.MonkeyPatch):
    config, told = tiny("scoring.scores=[metantk_cond, params]"), []
    usual = estimate(config, say=told.append)
    assert told[0] == "planning the search on made-up scores"
    assert told[-1] == "an episode of meta-training"
    monkeypatch.setattr(estimating, "_LONG", 0.0)
    monkeypatch.setattr(estimating.meta_training, "meta_train", None)  # which a step would take
    once = estimate(config)
    assert once.candidates == usual.candidates
    assert 0.05 * usual.training_hours < once.training_hours < 20 * usual.training_hours
