"""Records are kept by score: what is there is never computed again, and what is not itself is never served."""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quiet import noise, quiet_ports, searched, tiny

from metantk_core import workflow
from metantk_core.adapters.filesystem import FilesystemStore
from metantk_core.candidates import parse_genotype, space_named
from metantk_core.config import RunConfig
from metantk_core.datasets import ImageDataset
from metantk_core.errors import InputError
from metantk_core.meta_training import Evaluation
from metantk_core.ranking import render_markdown
from metantk_core.scores import SCORES, Score, Scorer, ScoreRecord, ScoringConfig
from metantk_core.search import Job
from metantk_core.workflow import Ports, Records, identity, limits, scoring
from metantk_core.workflow.identity import score_key
from metantk_core.workflow.runs import StoredCheckpoint
from metantk_core.workflow.score_store import ScoreStore

DATASET = noise()
CELL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|skip_connect~1|+|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|"
OTHER = CELL.replace("nor_conv_1x1", "avg_pool_3x3")


class Counted(Scorer):
    """Notes what is computed: candidate, draws and scores, without those that are counted."""

    asked: ClassVar[list[tuple[str, range, tuple[str, ...]]]] = []

    def score(self, architecture, repeats, stream="", weights="", names=None):
        drawn = tuple(name for name in names or () if SCORES[name].cost != "none")
        if drawn:
            self.asked.append((str(architecture), repeats, drawn))
        return super().score(architecture, repeats, stream, weights, names)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, range, tuple[str, ...]]]:
    monkeypatch.setattr(scoring, "Scorer", Counted)
    monkeypatch.setattr(Counted, "asked", [])
    return Counted.asked


def files(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(root.glob("scores/2/*/*.jsonl"))}


def board(config: RunConfig, root: Path, shards: int = 1, **ports: Any) -> str:
    return searched(config, DATASET, quiet_ports(root, **ports), shards).leaderboard.digest


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("metantk_core")]


# What is computed.


def test_a_score_added_to_a_finished_search_is_computed_alone(tmp_path, asked):
    config = tiny("scoring.scores=[metantk_cond, params]")
    board(config, tmp_path)
    assert {(draws, names) for _, draws, names in asked} == {(range(3), ("metantk_cond",))}
    asked.clear()
    more = tiny("scoring.scores=[flops, naswot, metantk_cond, params]")
    grown = board(more, tmp_path)
    assert {(draws, names) for _, draws, names in asked} == {(range(3), ("naswot",))}
    assert len(asked) == 4
    assert grown == board(more, tmp_path / "fresh")
    asked.clear()
    # Fewer, in another order, in other parts, under another name: nothing to compute.
    board(tiny("scoring.scores=[naswot, params, metantk_cond]", "name=other"), tmp_path, 2)
    board(config, tmp_path, 3)
    assert not asked


def test_more_draws_are_added_to_those_that_are_there_and_no_file_changes(tmp_path, asked):
    few, many = (tiny(f"scoring.num_inits={draws}") for draws in (2, 3))
    first = board(few, tmp_path)
    stored = files(tmp_path)
    asked.clear()
    grown = board(many, tmp_path)
    assert {draws for _, draws, _ in asked} == {range(2, 3)}
    after = files(tmp_path)
    assert {path: after[path] for path in stored} == stored
    asked.clear()
    # Fewer draws again: the first ones.
    assert board(few, tmp_path) == first
    assert not asked
    assert files(tmp_path) == after
    assert grown == board(many, tmp_path / "fresh")


def test_a_score_that_was_added_gets_its_draws_and_the_others_only_those_that_are_new(tmp_path, asked):
    board(tiny("scoring.scores=[metantk_cond]", "scoring.num_inits=2"), tmp_path)
    asked.clear()
    board(tiny("scoring.scores=[metantk_cond, naswot]", "scoring.num_inits=3"), tmp_path)
    assert Counter((draws, names) for _, draws, names in asked) == {
        (range(2, 3), ("metantk_cond",)): 4,
        (range(3), ("naswot",)): 4,
    }


def test_only_scores_that_a_setting_reaches_are_computed_again(tmp_path, asked):
    scores = "scoring.scores=[metantk_cond, metantk_cond_maml_timeinf_ridge1e-3, ntk_cond, naswot, linear_regions]"
    board(tiny(scores, "search.num_candidates=3"), tmp_path)
    for change, reached in {
        "scoring.algorithm=anil": {"metantk_cond"},
        "scoring.linear_regions.images=33": {"linear_regions"},
        "scoring.outputs=trace": {"metantk_cond", "metantk_cond_maml_timeinf_ridge1e-3", "ntk_cond"},
    }.items():
        asked.clear()
        board(tiny(scores, "search.num_candidates=3", change), tmp_path)
        assert {name for *_, names in asked for name in names} == reached


def test_a_race_computes_each_draw_once_though_nothing_is_stored(tmp_path, asked):
    config, ports = tiny("search.strategy=race"), quiet_ports(tmp_path)
    state, found, step = workflow.start_search(config, ports), Records(), 0
    while not state.finished:
        step += 1
        scratch = replace(ports, store=FilesystemStore(tmp_path / str(step)))
        found = found.joined(workflow.score_shard(config, state, 0, 1, DATASET, found, scratch))
        state = workflow.close_round(config, state, found, scratch)
    standings = workflow.finish_search(config, state, found, ports).leaderboard.standings
    spent = [(genotype, draw) for genotype, draws, _ in asked for draw in draws]
    assert len(spent) == len(set(spent)) == sum(standing.draws for standing in standings)
    assert step > 1


# What a record depends on.

CHANGES: Mapping[str, Mapping[str, Any]] = {
    "num_inits": {"num_inits": 2},
    "scores": {"scores": ["naswot"]},
    "tasks": {"tasks": 3},
    "episode.ways": {"episode": {"ways": 4, "shots": 1, "queries": 1}},
    "episode.shots": {"episode": {"ways": 3, "shots": 2, "queries": 1}},
    "episode.queries": {"episode": {"ways": 3, "shots": 1, "queries": 2}},
    "image_size": {"image_size": 6},
    "network.channels": {"network": {"channels": 3, "cells": 1}},
    "network.cells": {"network": {"channels": 2, "cells": 2}},
    "algorithm": {"algorithm": "anil"},
    "time": {"time": 1.0},
    "ridge": {"ridge": 0.1},
    "parameters": {"parameters": "weights+biases"},
    "outputs": {"outputs": "trace"},
    "initialisation": {"initialisation": "orthogonal"},
    "linear_regions.definition": {"linear_regions": {"definition": "noise", "images": 32}},
    "linear_regions.channels": {"linear_regions": {"definition": "noise", "images": 32, "channels": 2}},
    "linear_regions.image_size": {"linear_regions": {"images": 32, "image_size": 4}},
    "linear_regions.images": {"linear_regions": {"images": 40}},
    "linear_regions.batch": {"linear_regions": {"images": 32, "batch": 16}},
    "swap.centre": {"swap": {"centre": 2, "width": 100}},
    "swap.width": {"swap": {"centre": 1, "width": 50}},
    "redraw": {"redraw": "head"},
    "augmentation": {"augmentation": "flip_crop"},
    "normalisation": {"normalisation": "cifar10"},
}
NAMES = [*SCORES, "metantk_cond_anil_time1_ridge1e-5", "metantk_logdet_maml"]
BASE = tiny(f"scoring.scores=[{', '.join(NAMES)}]", "scoring.swap={centre: 1, width: 100}")


def leaves(model: Any, prefix: str = "") -> Iterator[str]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if hasattr(type(value), "model_fields"):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def changed(path: str, base: RunConfig = BASE) -> RunConfig:
    values = json.loads(base.to_json())
    values["scoring"] |= CHANGES[path]
    values["rank_by"] = values["scoring"]["scores"][0]
    return RunConfig.from_values(values, "the test")


def computed(config: RunConfig, dataset: ImageDataset = DATASET, scores: list[str] = NAMES) -> dict[str, Score]:
    """Return the second draw of each score: the first one shares its body's weights with ``redraw=head``."""
    scoring = config.scoring.model_copy(update={"scores": tuple(scores)})
    genotype = parse_genotype("nasbench201", CELL)
    scorer = Scorer(
        space_named("nasbench201").supernet(),
        workflow.score_source(config.model_copy(update={"scoring": scoring}), dataset),
        scoring,
        config.seed,
        training_network=config.training.network,
    )
    return {record.score: record.draws[-1] for record in scorer.score(genotype, range(1, 2))}


@pytest.fixture(scope="module")
def base() -> dict[str, Score]:
    return computed(BASE)


def test_every_setting_has_a_change_that_the_next_test_tries():
    assert set(leaves(BASE.scoring)) == set(CHANGES)
    known = set(CHANGES) | {path.partition(".")[0] for path in CHANGES}
    assert all(set(SCORES[name].reads) <= known for name in NAMES)
    # Nothing is declared that no score reads.
    read = {path.partition(".")[0] for name in NAMES for path in SCORES[name].reads} | {"algorithm", "time", "ridge"}
    assert read == set(ScoringConfig.model_fields) - {"scores", "num_inits"}


@pytest.mark.parametrize("path", CHANGES)
def test_a_setting_that_is_no_part_of_a_scores_key_leaves_its_value_bit_equal(path, base):
    config = changed(path)
    same = [name for name in NAMES if score_key(name, config, DATASET, "cpu") == score_key(name, BASE, DATASET, "cpu")]
    values = computed(config, scores=same) if same else {}
    assert values == {name: base[name] for name in same}
    assert len(same) < len(NAMES) or path in ("num_inits", "scores")


NOISE = tiny("scoring.scores=[linear_regions]", "rank_by=linear_regions", "scoring.linear_regions.definition=noise")


@pytest.mark.parametrize(
    "path", [path for path in CHANGES if path.partition(".")[0] not in SCORES["linear_regions"].reads]
)
def test_a_setting_that_is_no_part_of_the_key_leaves_regions_on_noise_bit_equal(path):
    values = json.loads(NOISE.to_json())
    values["scoring"] |= {name: value for name, value in CHANGES[path].items() if name != "scores"}
    config = RunConfig.from_values(values, "the test")
    equal = score_key("linear_regions", config, DATASET, "cpu") == score_key("linear_regions", NOISE, DATASET, "cpu")
    scores = ["linear_regions"]
    assert not equal or computed(config, scores=scores) == computed(NOISE, scores=scores)


def test_each_score_alone_is_bit_equal_to_itself_beside_all_others(base):
    for name in NAMES:
        assert computed(BASE, scores=[name]) == {name: base[name]}


def test_other_images_leave_what_sees_none_bit_equal_and_are_part_of_the_other_keys(base):
    other = noise(seed=1)
    same = [name for name in NAMES if score_key(name, BASE, other, "cpu") == score_key(name, BASE, DATASET, "cpu")]
    weights_alone = {"synflow", "synflow_bn", "l2_norm", "params", "flops"}
    assert set(same) == weights_alone | {"zen", "meco", "az_expressivity", "az_progressivity", "az_trainability"}
    assert computed(BASE, other, same) == {name: base[name] for name in same}
    # SynFlow's network has as many channels as the images.
    assert score_key("synflow", BASE, noise(channels=3), "cpu") != score_key("synflow", BASE, DATASET, "cpu")


@pytest.mark.parametrize("name", NAMES)
def test_key_names_the_kind_of_device_the_seed_and_the_revisions(name, monkeypatch):
    key = score_key(name, BASE, DATASET, "cpu")
    assert score_key(name, BASE, DATASET, "cuda") != key
    assert score_key(name, BASE.model_copy(update={"seed": 1}), DATASET, "cpu") != key
    assert score_key(name, BASE.model_copy(update={"name": "other"}), DATASET, "cpu") == key
    release = identity.torch.__version__.partition("+")[0]
    for build, equal in ((f"{release}+cu130", True), (f"{release}+cpu", True), ("1.0.0", False)):
        monkeypatch.setattr(identity.torch, "__version__", build)
        assert (score_key(name, BASE, DATASET, "cpu") == key) is equal
    monkeypatch.undo()
    monkeypatch.setattr(identity, "REVISIONS", {"nasbench201": 99})
    assert score_key(name, BASE, DATASET, "cpu") != key
    monkeypatch.undo()
    monkeypatch.setattr(identity, "SCORES", {name: replace(SCORES[name], revision=99)})
    assert score_key(name, BASE, DATASET, "cpu") != key


def test_an_inner_loop_in_a_scores_name_takes_the_place_of_the_configured_one():
    name = "metantk_cond_anil_time1_ridge1e-5"
    for path in ("algorithm", "time", "ridge"):
        assert score_key(name, changed(path), DATASET, "cpu") == score_key(name, BASE, DATASET, "cpu")
        assert score_key("metantk_cond", changed(path), DATASET, "cpu") != score_key(
            "metantk_cond", BASE, DATASET, "cpu"
        )


# What is served.

CANDIDATE, RIVAL = (parse_genotype("nasbench201", text) for text in (CELL, OTHER))
JOB = Job(CANDIDATE, 3)
KEPT = tiny("scoring.scores=[metantk_cond, ntk_cond]")


def made(genotype: str, name: str, value: float, draws: int = 3, **names: str) -> ScoreRecord:
    scores = tuple(Score(value + number / 7) for number in range(draws))
    return ScoreRecord("nasbench201", genotype, name, scores, KEPT.seed, 0.25, device="cpu", **names)


RIGHT = {
    job: {
        name: made(str(job.genotype), name, value, stream=job.stream)
        for value, name in enumerate(KEPT.scoring.scores, 1)
    }
    for job in (JOB, Job(RIVAL, 3), Job(CANDIDATE, 3, stream="own"))
}


def memory(root: Path) -> ScoreStore:
    return ScoreStore(KEPT, DATASET, FilesystemStore(root), "cpu")


def fill(root: Path) -> None:
    for job, group in RIGHT.items():
        memory(root).write(job, range(job.draws), group.values())


def test_what_was_kept_comes_back(tmp_path):
    fill(tmp_path)
    for job, group in RIGHT.items():
        assert memory(tmp_path).completed(job, {}) == group
    assert memory(tmp_path).completed(Job(CANDIDATE, 3, weights="own"), {}) == {}
    assert ScoreStore(KEPT, DATASET, FilesystemStore(tmp_path), "cuda").completed(JOB, {}) == {}


@pytest.mark.parametrize(
    "damage",
    [
        lambda right, other: b"",
        lambda right, other: right[:-30],
        lambda right, other: bytes(len(right)),
        lambda right, other: b"junk\n",
        lambda right, other: right.replace(b'"value": ', b'"value": 1', 1),
        lambda right, other: right + b"\xff\xfe\n",
        lambda right, other: right.partition(b"\n")[2],
        lambda right, other: other,
    ],
    ids=["empty", "cut", "NULs", "junk", "one digit more", "no UTF-8", "no seal", "another candidate's"],
)
def test_damaged_file_is_named_once_and_computed_again(damage, tmp_path, caplog, asked):
    config = tiny("search.num_candidates=3")
    whole = board(config, tmp_path)
    stored = files(tmp_path)
    broken, other, _ = stored
    broken.write_bytes(damage(stored[broken], stored[other]))
    asked.clear()
    with caplog.at_level(logging.WARNING):
        assert board(config, tmp_path) == whole
    assert len(asked) == 1
    (sentence,) = warned(caplog)
    assert str(broken) in sentence
    caplog.clear()
    asked.clear()
    assert board(config, tmp_path) == whole
    assert not asked
    assert not warned(caplog)


def test_damaged_file_of_which_one_score_is_wanted_is_warned_of_once(tmp_path, caplog):
    fill(tmp_path)
    for path in files(tmp_path):
        path.write_bytes(b"junk")
    alone = ScoreStore(tiny("scoring.scores=[metantk_cond]"), DATASET, FilesystemStore(tmp_path), "cpu")
    for _ in range(2):
        assert alone.completed(JOB, {}) == {}
    assert len(warned(caplog)) == 1


def never_anything_else(root: Path, contents: Mapping[str, bytes]) -> None:
    """Check that files with these contents give the right records, or none and a warning."""
    for name, data in contents.items():
        (root / name).write_bytes(data)
    kept = memory(root)
    for job, group in RIGHT.items():
        for name, record in kept.completed(job, {}).items():
            assert record == group[name]


@pytest.fixture(scope="module")
def store_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stored")
    fill(root)
    return root


@pytest.fixture(scope="module")
def stored(store_root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store_root)): data for path, data in files(store_root).items()}


@st.composite
def mutated(draw: st.DrawFn, stored: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return some files with other contents: random bytes, or pieces of any file, changed, cut and put together."""
    damage = {}
    for name in draw(st.lists(st.sampled_from(sorted(stored)), min_size=1, unique=True)):
        data = bytearray(draw(st.sampled_from(sorted(stored.values()))))
        for _ in range(draw(st.integers(0, 3))):
            start = draw(st.integers(0, len(data)))
            stop = draw(st.integers(start, min(len(data), start + 20)))
            data[start:stop] = draw(st.binary(max_size=4) | st.sampled_from([b"\n", b"0", b"9", b"\0", b'"']))
        lines = bytes(data).splitlines(keepends=True)
        damage[name] = draw(st.just(bytes(data)) | st.binary(max_size=300) | st.permutations(lines).map(b"".join))
    return damage


@settings(max_examples=300)
@given(data=st.data())
def test_no_content_of_record_files_gives_wrong_records(stored, data, store_root):
    logging.disable(logging.WARNING)
    try:
        never_anything_else(store_root, stored | data.draw(mutated(stored)))
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.minutes
@settings(max_examples=5000)
@given(data=st.data())
def test_none_of_thousands_of_contents_gives_wrong_records(stored, data, store_root):
    logging.disable(logging.WARNING)
    try:
        never_anything_else(store_root, stored | data.draw(mutated(stored)))
    finally:
        logging.disable(logging.NOTSET)


def test_store_of_an_older_layout_is_neither_served_nor_touched(tmp_path, asked):
    config = tiny("search.num_candidates=3")
    board(config, tmp_path / "now")
    lines = b"".join(data.partition(b"\n")[2] for data in files(tmp_path / "now").values())
    old = tmp_path / "scores" / "51e270f0241db455" / "0123456789abcdef.jsonl"
    old.parent.mkdir(parents=True)
    old.write_bytes(lines)
    asked.clear()
    board(config, tmp_path)
    assert len(asked) == 3
    assert old.read_bytes() == lines


def test_entries_of_the_index_that_are_none_are_passed_over(tmp_path):
    fill(tmp_path)
    index = next(tmp_path.glob("scores/2/index/*"))
    for name in ("junk", "0-3", "0-3-xyz", "3-0-0123456789abcdef", "0-9-0123456789abcdef"):
        (index / name).write_bytes(b"")
    assert memory(tmp_path).completed(JOB, {}) == RIGHT[JOB]


# Kinds of device.


def mixed(config: RunConfig, ports: Ports) -> tuple[Any, Records]:
    state = workflow.start_search(config, ports)
    here, there = (workflow.score_shard(config, state, index, 2, DATASET, Records(), ports) for index in range(2))
    elsewhere = [record if record.score == "params" else replace(record, device="cuda") for record in there]
    return state, Records().joined([*here, *elsewhere])


def test_leaderboard_of_two_kinds_of_device_is_refused(tmp_path):
    ports = quiet_ports(tmp_path)
    state, found = mixed(tiny(), ports)
    with pytest.raises(InputError, match=r"got 2 on cpu, 2 on cuda.*search\.mix_devices=true"):
        workflow.close_round(tiny(), state, found, ports)


def test_leaderboard_of_two_kinds_of_device_says_so_if_it_was_asked_for(tmp_path):
    config, ports = tiny("search.mix_devices=true"), quiet_ports(tmp_path)
    assert config.run_id == tiny().run_id
    state, found = mixed(config, ports)
    ended = workflow.close_round(config, state, found, ports)
    leaderboard = workflow.finish_search(config, ended, found, ports).leaderboard
    assert leaderboard.devices == ("cpu", "cuda")
    assert "Scored on cpu and cuda." in render_markdown(leaderboard)


def test_draws_of_another_kind_of_device_are_not_added_to(tmp_path, asked):
    config, ports = tiny("search.strategy=race", "search.mix_devices=true"), quiet_ports(tmp_path)
    state = workflow.start_search(config, ports)
    first = workflow.score_shard(config, state, 0, 1, DATASET, Records(), ports)
    elsewhere = Records().joined(
        record if record.score == "params" else replace(record, device="cuda") for record in first
    )
    after = workflow.close_round(config, state, elsewhere, ports)
    asked.clear()
    more = workflow.score_shard(config, after, 0, 1, DATASET, elsewhere, quiet_ports(tmp_path / "empty"))
    assert {draws.start for _, draws, _ in asked} == {0}
    assert {record.device for record in more} == {"cpu", ""}


# Values between steps, and what else is stored.


def test_records_that_contradict_each_other_are_refused():
    record = made(CELL, "ntk_cond", 1.0)
    longer = made(CELL, "ntk_cond", 1.0, draws=5)
    assert list(Records().joined([record, longer, record])) == [longer]
    with pytest.raises(InputError, match="one configuration"):
        Records().joined([longer, made(CELL, "ntk_cond", 2.0)])


def test_records_of_an_earlier_step_that_are_none_are_named(tmp_path):
    path = tmp_path / "records"
    for data in (b"junk\n", b"\xff\xfe", made(CELL, "ntk_cond", 1.0).to_json().encode()[:-9]):
        path.write_bytes(data)
        with pytest.raises(InputError, match=str(path)):
            workflow.load_records(path)
    with pytest.raises(InputError, match="nowhere"):
        workflow.load_records(tmp_path / "nowhere")


def test_round_is_not_closed_before_all_of_it_is_scored(tmp_path):
    config, ports = tiny("search.strategy=race"), quiet_ports(tmp_path)
    state = workflow.start_search(config, ports)
    found = Records().joined(workflow.score_shard(config, state, 0, 2, DATASET, Records(), ports))
    with pytest.raises(InputError, match="score all shards"):
        workflow.close_round(config, state, found, ports)
    with pytest.raises(InputError, match="run all rounds"):
        workflow.finish_search(config, state, found, ports)


def test_latency_is_measured_once_a_run_and_again_if_its_file_is_damaged(tmp_path, caplog, monkeypatch):
    measured = []
    measure = cache(limits.measure_latency)  # its times don't matter here, and it takes seconds
    monkeypatch.setattr(limits, "measure_latency", lambda *a, **k: measured.append(1) or measure(*a, **k))
    config = tiny("search.num_candidates=3", "search.constraints.max_latency=9")
    board(config, tmp_path)
    board(config, tmp_path, 2)
    assert len(measured) == 1
    (table,) = tmp_path.glob(f"{config.run_id}/latency-*")
    table.write_bytes(table.read_bytes().replace(b'"constant": ', b'"constant": 1', 1))
    board(config, tmp_path)
    assert len(measured) == 2
    assert str(table) in "".join(warned(caplog))
    with pytest.raises(InputError, match=r"within search\.constraints"):
        board(tiny("search.constraints.max_latency=1e-9"), tmp_path)


def test_damaged_checkpoint_is_named_and_work_starts_afresh(tmp_path, caplog):
    checkpoint = StoredCheckpoint(FilesystemStore(tmp_path), "training/2/a.checkpoint")
    checkpoint.save(b"state")
    assert checkpoint.load() == b"state"
    path = tmp_path / "training/2/a.checkpoint"
    for data in (path.read_bytes()[:-1], b"", b"\xff" * 40, path.read_bytes() + b"x"):
        path.write_bytes(data)
        caplog.clear()
        assert checkpoint.load() is None
        assert str(path) in "".join(warned(caplog))
    # That of other work, in its place.
    StoredCheckpoint(FilesystemStore(tmp_path), "training/2/b.checkpoint").save(b"other")
    path.write_bytes((tmp_path / "training/2/b.checkpoint").read_bytes())
    assert checkpoint.load() is None


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Path]:
    """Return a run, and the store that holds its results."""
    config, root = tiny("search.num_candidates=3", "trained_roles=[best]"), tmp_path_factory.mktemp("finished")
    board(config, root)
    shape: dict[str, Any] = {"episodes": 2, "ways": 3, "shots": 1, "queries": 1, "inner_steps": 1, "seed": 0}
    words: dict[str, Any] = {"interval": "", "algorithm": "maml", "norm": "batch_support", "dataset": "", "model": ""}
    evaluation = Evaluation(
        accuracy=0.5,
        half_width=0.1,
        inner_learning_rate=0.1,
        transductive=False,
        split="test",
        best_iteration=0,
        per_episode=(0.5, 0.5),
        **shape,
        **words,
    )
    (root / config.run_id / "evaluation-best.json").write_text(evaluation.to_json())
    (root / config.run_id / "model.json").write_text('{"uri": "models:/m/1"}')
    assert workflow.read_result(config, FilesystemStore(root)).model_uri == "models:/m/1"
    return config, root


@pytest.mark.parametrize("name", ["leaderboard.json", "search.json", "evaluation-best.json", "model.json"])
@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"[]", b"{}", bytes(9), b"3"])
def test_damaged_result_of_a_run_is_named(name, data, finished):
    config, root = finished
    path = root / config.run_id / name
    whole = path.read_bytes()
    path.write_bytes(data)
    try:
        with pytest.raises(InputError, match=f"{name} is damaged; run the pipeline again"):
            workflow.read_result(config, FilesystemStore(root))
    finally:
        path.write_bytes(whole)
