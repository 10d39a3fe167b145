"""Networks that are trained several times: their names and seeds, one accuracy for all, which one is registered."""

import contextlib
import dataclasses
import json
import math
from typing import Any, cast

import numpy as np
import pytest
from mlflow.tracking import MlflowClient
from quiet import Unlogged, noise, quiet_ports, searched, tiny
from scipy import stats
from test_report import evaluation, leaderboard, trained
from test_yardsticks import command

from metantk_core import workflow
from metantk_core.candidates import Costs, parse_genotype
from metantk_core.config import RunConfig, load_config
from metantk_core.errors import InputError, UnscoredError
from metantk_core.meta_training import Accuracy, Evaluation, over_trainings, save_model
from metantk_core.ports import RegisteredModel
from metantk_core.recipes import RECIPES
from metantk_core.report import ReportData, findings, page
from metantk_core.statistics import crossed_half_width, crossed_p_value
from metantk_core.terminal import print_evaluations
from metantk_core.upkeep import RUNS, kind_of
from pipelines.search_and_meta_train import write


def tables(count, n, m, of_trainings, of_episodes, of_both, seed=0):
    """Return tables of accuracies whose expected value is 0, as the model of ``crossed_half_width`` makes them."""
    draw = np.random.default_rng(seed)
    for _ in range(count):
        rows, columns = draw.normal(0, of_trainings, (n, 1)), draw.normal(0, of_episodes, (1, m))
        yield rows + columns + draw.normal(0, of_both, (n, m))


@pytest.mark.parametrize(
    ("n", "m", "of_trainings", "of_episodes", "of_both"),
    [
        (3, 600, 0.0, 0.08, 0.06),  # training changes nothing
        (3, 600, 0.004, 0.1, 0.02),  # as much of one as of the other
        (3, 600, 0.03, 0.0, 0.1),  # all of it comes from training
        (2, 600, 0.01, 0.08, 0.06),
        (5, 100, 0.02, 0.1, 0.1),
    ],
)
def test_the_interval_covers_what_is_true_at_least_as_often_as_it_says(n, m, of_trainings, of_episodes, of_both):
    count = 1500
    covered = sum(
        abs(table.mean()) <= crossed_half_width(table)
        for table in tables(count, n, m, of_trainings, of_episodes, of_both)
    )
    chance = 3 * math.sqrt(0.95 * 0.05 / count)
    assert 0.95 - chance < covered / count < 0.99


def test_where_training_changes_everything_the_interval_is_students_over_the_trainings():
    count = 1500
    found = list(tables(count, 3, 20, 1.0, 1e-6, 1e-6))
    for table in found[:20]:
        means = table.mean(axis=1)
        assert crossed_half_width(table) == pytest.approx(stats.t.ppf(0.975, 2) * stats.sem(means), rel=1e-6)
    assert sum(abs(table.mean()) <= crossed_half_width(table) for table in found) / count == pytest.approx(
        0.95, abs=0.02
    )


def test_the_interval_is_made_of_the_mean_squares_of_the_two_way_table():
    table = next(tables(1, 4, 7, 0.3, 0.5, 0.2))
    n, m = table.shape
    mean = sum(table[s][e] for s in range(n) for e in range(m)) / (n * m)
    rows = [sum(table[s]) / m for s in range(n)]
    columns = [sum(table[s][e] for s in range(n)) / n for e in range(m)]
    a = m * sum((row - mean) ** 2 for row in rows) / (n - 1)
    b = n * sum((column - mean) ** 2 for column in columns) / (m - 1)
    r = sum((table[s][e] - rows[s] - columns[e] + mean) ** 2 for s in range(n) for e in range(m))
    r /= (n - 1) * (m - 1)
    squared = stats.t.ppf(0.995, n - 1) ** 2 * a + stats.t.ppf(0.995, m - 1) ** 2 * (b - r)
    assert crossed_half_width(table, 0.99) == pytest.approx(math.sqrt(squared / (n * m)), rel=1e-12)


def test_the_p_value_is_where_the_interval_ends_at_zero_and_of_one_row_it_is_that_of_the_t_test():
    table = next(tables(1, 3, 40, 0.1, 0.2, 0.2)) + 0.3
    assert crossed_half_width(table, 1 - crossed_p_value(table)) == pytest.approx(table.mean(), rel=1e-9)
    alone = table[:1]
    expected: Any = stats.ttest_1samp(alone[0], 0)
    assert crossed_p_value(alone) == pytest.approx(expected.pvalue, rel=1e-9)
    low, high = expected.confidence_interval(0.95)
    assert crossed_half_width(alone) == pytest.approx((high - low) / 2, rel=1e-9)
    assert crossed_p_value(np.zeros((2, 3))) == 1.0
    assert crossed_p_value(np.ones((2, 3))) == 0.0


def test_first_ranks_and_seeds_have_names_of_their_own_and_one_of_each_changes_nothing():
    config = RunConfig.from_values({"trained_top": 3, "training_seeds": 2, "yardsticks": ["conv4-32"]}, "test")
    assert config.networks == ("best", "top-2", "top-3", "worst", "random", "conv4-32")
    assert config.trained[:3] == ("best seed 1", "best seed 2", "top-2 seed 1")
    assert config.trained[-1] == "conv4-32 seed 2"
    once = RunConfig.from_values({"trained_top": 1, "training_seeds": 1}, "test")
    assert once.trained == ("best", "worst", "random")
    assert (once.digest, load_config("glyphs", RECIPES, ["yardstick_training={}"]).digest) == (
        RunConfig().digest,
        "5810c4c11488b6f6",
    )
    assert "training_seeds" not in once.experiment
    assert len({once.digest, *(load_config("glyphs", {"glyphs": once}, [s]).digest for s in SEVERAL)}) == 3


SEVERAL = ("trained_top=2", "training_seeds=2")


def test_the_first_training_has_the_seed_of_the_run_and_the_others_seeds_of_their_own():
    seeds = [
        RunConfig(seed=run, training_seeds=4).training_seed(name)
        for run in (0, 1)
        for name in ("best seed 1", "best seed 2", "best seed 3", "best seed 4")
    ]
    assert (seeds[0], seeds[4]) == (0, 1)
    assert len(set(seeds)) == 8
    assert all(float(seed) == seed < 2**53 for seed in seeds)
    assert RunConfig(training_seeds=2).training_seed("conv4-32 seed 2") == seeds[1]


def test_ranks_behind_the_best_are_those_of_the_others_in_order_and_leave_the_random_one_as_it_is():
    board = leaderboard()
    genotypes = [s.genotype for s in board.standings if s.mean is not None]
    moved = dataclasses.replace(board, winner=genotypes[2])
    assert [str(workflow.genotype_of(board, f"top-{rank}", 0)) for rank in (2, 3)] == genotypes[1:3]
    assert [str(workflow.genotype_of(moved, f"top-{rank}", 0)) for rank in (2, 3, 4)] == [*genotypes[:2], genotypes[3]]
    config = RunConfig(training_seeds=2, trained_top=3)
    assert workflow.architecture_of(config, "top-2 seed 2", board) == workflow.genotype_of(board, "top-2", 0)
    assert workflow.architecture_of(config, "random seed 1", board) == workflow.genotype_of(board, "random", 0)
    with pytest.raises(UnscoredError, match=f"at least {len(genotypes) + 1} candidates with a score, to train the fi"):
        workflow.genotype_of(board, f"top-{len(genotypes)}", 0)
    with pytest.raises(InputError, match="one of the roles"):
        workflow.genotype_of(board, "top-1st", 0)


def repeated(accuracies, of_episodes=0.1, **changes):
    """Return evaluations of trainings that differ in accuracy, on episodes that are as hard for all of them."""
    hard = evaluation(0.0, 5).per_episode
    found = []
    for accuracy in accuracies:
        values = tuple(accuracy + of_episodes * value for value in hard)
        found.append(evaluation(0.5, per_episode=values, **changes))
    return over_trainings(found)


def test_several_trainings_are_one_accuracy_whose_interval_covers_training_and_reads_back():
    others = (Accuracy("cosine", 1, 0.5, 0.02),)
    single = [evaluation(0.5, draw, others=others, model=f"{draw}") for draw in range(3)]
    joined = over_trainings(single)
    table = np.array([one.per_episode for one in single])
    assert joined.accuracy == pytest.approx(table.mean(), rel=1e-14)
    assert joined.half_width == crossed_half_width(table)
    assert joined.interval == "95 % interval over 3 trainings with other seeds and over episodes"
    assert (joined.trainings[2], joined.model) == (single[2].per_episode, "0 1 2")
    assert joined.others == others  # equal in all trainings: their interval is that of the episodes
    assert Evaluation.from_json(joined.to_json()) == joined
    assert over_trainings(single[:1]) is single[0]
    before = json.loads(single[0].to_json())
    del before["trainings"]  # as older runs wrote it
    assert Evaluation.from_json(json.dumps(before)) == single[0]


def test_a_difference_that_is_clear_by_one_seed_is_not_when_seeds_contradict_each_other():
    ours, theirs = [0.60, 0.52, 0.50], [0.50, 0.53, 0.52]
    one = findings.paired_difference(evaluation(0.60, 5), evaluation(0.50, 5))
    several = findings.paired_difference(repeated(ours), repeated(theirs))
    assert one is not None
    assert several is not None
    assert one.clear
    assert not several.clear
    # Hard episodes are hard for both: what is left is Student's t over the differences of seeds.
    expected: Any = stats.ttest_rel(ours, theirs)
    assert several.mean == pytest.approx(np.mean(ours) - np.mean(theirs), rel=1e-12)
    assert several.p_value == pytest.approx(expected.pvalue, rel=1e-6)
    assert findings.paired_difference(repeated(ours), repeated(theirs[:2])) is None
    assert findings.paired_difference(repeated(ours), evaluation(0.5, 5)) is None


def test_what_does_not_beat_a_yardstick_over_seeds_is_called_so():
    found = {"best": repeated([0.60, 0.52, 0.50]), "conv4-32": repeated([0.50, 0.53, 0.52])}
    costs = {"best": Costs(30_000, 10**6), "conv4-32": Costs(32_901, 3 * 10**6)}
    (sentence,) = findings.yardstick_sentences(found, costs, ["conv4-32"])
    assert sentence.startswith("The search's choice does not beat conv4-32: +2.3 ± ")
    assert "on the same episodes over 3 seeds" in sentence


def test_every_candidate_is_compared_with_the_best_whatever_the_order():
    found = {"worst": repeated([0.4, 0.41]), "conv4-32": repeated([0.5, 0.5]), "best": repeated([0.6, 0.61])}
    assert set(findings.differences(found)) == {"worst", "conv4-32"}
    (sentence,) = findings.candidate_sentences(found)
    assert sentence.startswith("The best candidate is more accurate than the worst one: +20.0 points")
    assert findings.differences({"worst": found["worst"]}) == {}


def test_report_and_terminal_show_every_seed(capsys):
    best, second = (parse_genotype("nasbench201", leaderboard().standings[place].genotype) for place in (0, 1))
    shown = tuple(
        dataclasses.replace(trained(role, genotype, 0.5), evaluation=repeated(found), iterations=(100, 300, 200))
        for role, genotype, found in (("best", best, [0.6, 0.61, 0.65]), ("top-2", second, [0.4, 0.41, 0.42]))
    )
    html = page.render(ReportData("run", "today", 0, "0" * 16, "{}", (), "glyphs", leaderboard(), trained=shown))
    assert "same test episodes and 3 training seeds" in html
    assert "The best candidate is more accurate than the top-2 one" in html
    assert html.count("<td>seed 3</td>") == 2
    assert "100, 300, 200" in html
    assert "does not cover what another training seed" not in html
    assert "Of the 3 trainings of a network" in html
    print_evaluations({"best": repeated([0.6, 0.61, 0.65])})
    said = capsys.readouterr().out
    assert [line.split()[:2] for line in said.splitlines()[2:5]] == [["seed", "1"], ["seed", "2"], ["seed", "3"]]


def test_pipeline_trains_every_seed_in_a_part_of_its_own_and_is_hardly_larger(tmp_path):
    for seeds in (1, 3):
        write(RunConfig.from_values({"training_seeds": seeds}, "test"), tmp_path / f"{seeds}.yaml")
    text = (tmp_path / "3.yaml").read_text()
    assert '["best seed 1","best seed 2","best seed 3","worst seed 1"' in text.replace("\\", "").replace('", "', '","')
    assert len(text) - len((tmp_path / "1.yaml").read_text()) < 800


@pytest.mark.parametrize(
    ("role", "words"),
    [
        ("top-3", "got --role 'top-3'; give one of these, or add it with --set trained_top=3"),
        ("worst", r"--set 'trained_roles=\[best, worst\]'"),
        ("middle", "got --role 'middle'; give one of these\\."),
    ],
)
def test_a_rank_that_is_not_trained_is_refused_with_the_setting_that_adds_it(role, words, tmp_path):
    found = command(tmp_path, "--role", role, "--set", "trained_roles=[best]")
    assert isinstance(found.exception, InputError)
    with pytest.raises(InputError, match=words):
        raise found.exception


class Kept(Unlogged):
    """A registry that keeps what it is given, and tells nobody."""

    def watched(self, *_):
        return contextlib.nullcontext()

    def __init__(self):
        self.tables = {}
        self.metrics = {}

    def log_metrics(self, run, points):
        for point in points:
            self.metrics.setdefault((point.name, point.step), []).append(point.value)

    def log_table(self, run, columns, file):
        self.tables[file] = columns

    def register(self, run, name, model, directory, **details):
        self.model, self.details = model, details
        return RegisteredModel(name, "1", f"models:/{name}/1")


def test_a_run_of_several_seeds_ends_with_one_accuracy_a_network_and_with_the_best_validated_model(tmp_path):
    once = (
        "trained_roles=[best]",
        "training.iterations=2",
        "training.validate_every=1",
        "training.validation_episodes=4",
        "training.episode={ways: 3, shots: 1, queries: 2}",
        "evaluation={episode: {ways: 3, shots: 1, queries: 2}, episodes: 6}",
    )
    config = tiny(*once, "training_seeds=2", "trained_top=2")
    dataset, registry = noise(), Kept()
    ports = dataclasses.replace(
        quiet_ports(tmp_path / "store"), tracker=cast(Any, registry), registry=cast(Any, registry)
    )
    found = searched(config, dataset, ports)
    models, evaluations, folders = {}, {}, {}
    for name in config.trained:
        models[name] = workflow.meta_train(config, name, found.leaderboard, dataset, ports)
        evaluations[name] = workflow.evaluate(config, name, models[name], dataset, ports)
        folders[name] = tmp_path / name
        save_model(models[name], folders[name])

    def report():
        path = tmp_path / "report.html"
        workflow.report(config, found.leaderboard, found.history, dataset, models, evaluations, path, ports)

    report()
    workflow.register_model(config, folders, evaluations, dataset, ports)
    result = workflow.read_result(config, ports.store)
    assert set(result.evaluations) == set(result.costs) == {"best", "top-2"}
    assert dict(result.trainings) == evaluations
    pair = [evaluations[f"best seed {number}"] for number in (1, 2)]
    assert result.evaluations["best"].trainings == tuple(one.per_episode for one in pair)
    values = json.loads(json.dumps(result.as_values()))
    assert set(values["trainings"]) == set(config.trained)
    table = np.array(
        [
            np.subtract(evaluations[f"best seed {n}"].per_episode, evaluations[f"top-2 seed {n}"].per_episode)
            for n in (1, 2)
        ]
    )
    assert values["differences"]["top-2"]["mean"] == pytest.approx(table.mean())
    assert values["differences"]["top-2"]["half_width"] == pytest.approx(crossed_half_width(table))
    # The same as metrics, once a step and with the same values when the report is repeated.
    for number in (1, 2):
        for name, value in (
            ("best minus top-2", "mean"),
            ("half width 95 best minus top-2", "half_width"),
            ("p-value best minus top-2", "p_value"),
        ):
            logged = registry.metrics[f"eval/{name}", 0]
            assert logged == [values["differences"]["top-2"][value]] * number
        if number == 1:
            report()
    assert not any("best minus best" in name or "seed" in name.partition("minus")[2] for name, _ in registry.metrics)
    html = (tmp_path / "report.html").read_text()
    assert "<td>seed 2</td>" in html
    shown = max(("best seed 1", "best seed 2"), key=lambda name: models[name].validation_accuracy)
    assert f"Accuracy, best, {shown.removeprefix('best ')}<" in html
    assert html.count(">other seed<") == len(config.networks)
    # A folder for others says which training its weights are of.
    workflow.export(config, ports.store, models["best seed 2"], tmp_path / "row")
    said = (tmp_path / "row" / "README.md").read_text()
    assert f"belongs to them, of best seed 2 ({evaluations['best seed 2'].summary()})" in said
    # Classes over both trainings, in the tables of the run as in its values.
    tables = registry.tables
    assert tables["evaluation/classes-best.json"]["class"] == [
        one["name"] for one in sorted(values["evaluations"]["best"]["classes"], key=lambda one: one["accuracy"])
    ]
    queries = sum(tables["evaluation/classes-top-2.json"]["queries"])
    assert queries == 2 * 6 * 3 * 2  # trainings, episodes, classes, queries
    assert sum(tables["evaluation/confusions-best.json"]["queries"]) == pytest.approx(
        (1 - values["evaluations"]["best"]["accuracy"]) * queries
    )
    # Not the one that is better on test classes.
    validated = {name: models[name].validation_accuracy for name in ("best seed 1", "best seed 2")}
    chosen = max(validated, key=lambda name: validated[name])
    assert registry.model.digest == models[chosen].digest
    assert registry.details["tags"]["accuracy"] == f"{evaluations[chosen].accuracy:.4f}"
    # Other weights, from other seeds; nothing is trained again, also by a run that asks for more or fewer seeds.
    assert len({model.digest for model in models.values()}) == 4
    kept = sorted(path for path in (tmp_path / "store" / "training").rglob("*.checkpoint"))
    assert len(kept) == 4
    alone = workflow.meta_train(tiny(*once), "best", found.leaderboard, dataset, ports)
    assert alone.digest == models["best seed 1"].digest
    assert sorted(path for path in (tmp_path / "store" / "training").rglob("*.checkpoint")) == kept


def test_accuracies_of_trainings_and_yardsticks_belong_to_the_results_of_a_run():
    for name in ("best", "best-seed-2", "conv4-32", "paper-mini-5-a", "top-2-seed-10"):
        assert kind_of(f"smoke-01234567/evaluation-{name}.json") == RUNS


@pytest.mark.minutes
def test_seeds_are_trained_apart_on_equal_episodes_and_the_best_on_validation_classes_is_registered(tmp_path):
    several = ["--genotype", "conv4-32", "--set", "training_seeds=2"]
    ran = command(tmp_path, *several, "--register", "mine", "--json")
    assert ran.exception is None, ran.exception
    found = json.loads(ran.stdout)
    joined = found["evaluation"]
    assert len(joined["trainings"]) == len(found["trainings"]) == 2
    assert joined["trainings"][1] != joined["trainings"][0]
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (experiment,) = (e.experiment_id for e in client.search_experiments() if e.name != "Default")
    runs = {str(run.info.run_name): run.data.metrics for run in client.search_runs([experiment])}
    (parent,) = (metrics for metrics in runs.values() if "eval/accuracy conv4-32" in metrics)
    assert parent["eval/half width 95 conv4-32"] == pytest.approx(joined["half_width"])
    assert parent["eval/accuracy conv4-32"] == pytest.approx(joined["accuracy"])
    validated = [max(point["validation_accuracy"] for point in training["history"]) for training in found["trainings"]]
    number = validated.index(max(validated)) + 1
    version = client.get_model_version("mine", "1")
    own = runs[f"evaluate conv4-32 seed {number}"]["eval/accuracy"]
    assert float(version.tags["accuracy"]) == pytest.approx(own, abs=1e-4)
    assert version.description is not None
    assert "of 2 trainings this one was best on validation classes" in version.description
