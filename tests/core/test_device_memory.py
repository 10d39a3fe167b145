"""A GPU with too little memory: pieces become smaller, numbers stay, and only the smallest piece fails a candidate.

The GPU is simulated: a mode counts the memory of every tensor that is made and refuses what would not fit. Numbers are
compared on the CPU; where activations move to the machine's memory, which the CPU's own is, the meta device is counted.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from one_device import OneDevice
from quiet import noise, quiet_ports, searched, tiny
from torch import nn

from metantk_core import device_memory
from metantk_core.candidates import parse_genotype
from metantk_core.device_memory import NoRoomError, in_chunks, sparingly
from metantk_core.episodes import EpisodeConfig, EpisodeSource
from metantk_core.errors import InputError
from metantk_core.kernels import kernels_by_pairs, tangent_and_last_layer_kernel
from metantk_core.meta_training import EvaluationConfig, MamlTraining, evaluate, meta_train, untrained_model
from metantk_core.meta_training.maml import MamlLearner
from metantk_core.networks import NetworkConfig
from metantk_core.scores import SCORES, Outcome, Scorer, ScoringConfig, scorer
from metantk_core.scores.record import ScoreRecord

CELL = parse_genotype(
    "nasbench201", "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|avg_pool_3x3~0|none~1|nor_conv_3x3~2|"
)
DATA = noise()
EPISODE = EpisodeConfig(ways=3, shots=1, queries=2)
NETWORK = NetworkConfig(channels=4, cells=1)
SIZE = 24  # so that activations need more memory than weights, as in networks that are used
# What is computed from all images together, and can be computed from few at a time.
CHUNKED = tuple(
    name for name, definition in SCORES.items() if definition.cost in ("pass", "forward", "backward") or name == "grasp"
)


def configured(*names: str) -> ScoringConfig:
    return ScoringConfig.model_validate(
        {
            "scores": names,
            "num_inits": 1,
            "tasks": 2,
            "episode": EPISODE,
            "image_size": SIZE,
            "network": NETWORK,
            "linear_regions": {"images": 32},
            "swap": {"centre": 1, "width": 1e9},
        }
    )


def source(episode: EpisodeConfig = EPISODE) -> EpisodeSource:
    return EpisodeSource(DATA.train, episode, DATA.mean, DATA.std, SIZE)


def scored(*names: str, device: str = "cpu") -> dict[str, ScoreRecord]:
    config = configured(*names)
    records = Scorer(CELL, source(), config, 0, device=device).score(CELL, range(1))
    return {record.score: record for record in records}


@pytest.fixture(scope="module")
def whole() -> dict[str, ScoreRecord]:
    return scored(*CHUNKED)


def memory_of(*names: str, device: str = "cpu") -> int:
    with OneDevice(device) as seen:
        scored(*names, device=device)
    return seen.most


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collect no garbage, which takes a second in a process as large as that of the tests: here no memory counts."""
    monkeypatch.setattr(device_memory, "_release", lambda: None)


@contextmanager
def counted_attempts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Note the number of images at a time of every attempt."""
    attempts: list[int] = []
    original = device_memory.in_chunks

    def noting(work: Any, images: int, **options: Any) -> Any:
        return original(lambda at_once: (attempts.append(at_once), work(at_once))[1], images, **options)

    for module in ("metantk_core.scores.evidence", "metantk_core.scores.functions"):
        monkeypatch.setattr(f"{module}.in_chunks", noting)
    yield attempts


@pytest.mark.parametrize("name", ["metantk_cond", "naswot", "swap", "snip", "grasp"])
def test_too_little_memory_halves_the_images_at_a_time_and_keeps_the_number(name, whole, monkeypatch):
    with counted_attempts(monkeypatch) as attempts:
        scored(name)
        (least, *_) = attempts
        attempts.clear()
        # So much that some of the images fit, and not all of them.
        with OneDevice("cpu", room=int(0.8 * memory_of(name))):
            attempts.clear()
            (record,) = scored(name).values()
    assert least // 2 in attempts, attempts
    assert record.draws[0].outcome is Outcome.OK
    assert record.draws[0].value == pytest.approx(whole[name].draws[0].value, rel=1e-4)


def test_every_score_of_a_shared_pass_keeps_its_number_with_half_of_the_images_at_a_time(whole):
    # Torch's second derivatives leave tensors behind where the mode breaks them off, so GraSP is looked at alone above.
    together = tuple(name for name in CHUNKED if name != "grasp")
    with OneDevice("cpu", room=int(0.6 * memory_of(*together))):
        found = scored(*together)
    for name, record in found.items():
        ours, theirs = record.draws[0], whole[name].draws[0]
        assert ours.outcome is theirs.outcome, name
        if theirs.value is not None and name != "plain":  # which is rounding: a normalisation follows every weight
            assert ours.value == pytest.approx(theirs.value, rel=1e-4), name


@pytest.mark.parametrize("at_once", [2, 5, 8])
def test_kernels_from_pairs_of_chunks_are_those_of_one_pass(at_once):
    network = Scorer(CELL, source(), configured("ntk_cond"), 0).draw(CELL, 0).network
    images = torch.randn(9, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    one, many = tangent_and_last_layer_kernel(network, images), kernels_by_pairs(network, images, at_once)
    scale = one.ntk.diagonal().max()
    assert (one.ntk - many.ntk).abs().max() < 1e-5 * scale
    assert one.nngp is not None
    assert many.nngp is not None
    assert (one.nngp - many.nngp).abs().max() < 1e-5 * scale
    torch.testing.assert_close(many.outputs, one.outputs, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("name", ["metantk_cond", "naswot", "swap", "snip", "grasp", "jacob_cov", "meco", "zen"])
def test_only_a_device_without_room_for_the_smallest_piece_fails_a_candidate_and_says_so(name):
    made = Scorer(CELL, source(), configured(name), 0)
    made.draw(CELL, 0)  # the network is there already
    with OneDevice("cpu", room=6000):
        (record,) = made.score(CELL, range(1))
    assert record.draws[0].outcome is Outcome.OUT_OF_MEMORY
    assert "too little memory" in record.failure
    assert not record.lasting


@pytest.mark.usefixtures("_quick")
def test_score_that_memory_was_too_little_for_is_computed_where_there_is_more(tmp_path, monkeypatch):
    config, ports = tiny("search.num_candidates=3", "scoring.scores=[metantk_cond, params]"), quiet_ports(tmp_path)
    usual = scorer.score_draw

    def on_a_small_device(*arguments: Any) -> Any:
        with OneDevice("cpu", room=2_000):
            return usual(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(scorer, "score_draw", on_a_small_device)
        failed = searched(config, DATA, ports).leaderboard
    assert {standing.outcome for standing in failed.standings} == {Outcome.OUT_OF_MEMORY}
    again = searched(config, DATA, ports)
    assert again.leaderboard.digest == searched(config, DATA, quiet_ports(tmp_path / "new")).leaderboard.digest


TRAINING: dict[str, Any] = {
    "network": NETWORK,
    "episode": EPISODE,
    "iterations": 1,
    "validate_every": 1,
    "meta_batch": 1,
    "inner_steps": 1,
    "validation_episodes": 2,
}


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("settings", [{}, {"first_order": True}, {"algorithm": "anil"}], ids=str)
def test_step_of_training_whose_activations_lie_elsewhere_gives_the_same_bits(settings, monkeypatch):
    config = MamlTraining.model_validate({**TRAINING, **settings})
    usual = meta_train(CELL, source(), source(), config, 0)
    failed: list[int] = []

    def refuse_once(learner: Any, episodes: Any) -> Any:
        if len(failed) < 1:
            failed.append(1)
            loss = gradient(learner, episodes)  # half done: gradients and moments are there
            raise torch.OutOfMemoryError(f"CUDA out of memory after {loss}.")
        failed.append(1)
        return gradient(learner, episodes)

    gradient = MamlLearner.gradient
    monkeypatch.setattr(MamlLearner, "gradient", refuse_once)
    frugal = meta_train(CELL, source(), source(), config, 0)
    assert len(failed) == 2
    assert frugal.digest == usual.digest


@pytest.mark.usefixtures("_quick")
def test_training_says_what_it_had_too_little_memory_for(monkeypatch):
    def refuse(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(MamlLearner, "gradient", refuse)
    with pytest.raises(InputError, match=r"a step of meta-training.*training\.episode\.queries"):
        meta_train(CELL, source(), source(), MamlTraining.model_validate(TRAINING), 0)


def test_activations_elsewhere_take_no_memory_of_the_device_and_what_is_too_little_even_then_is_said():
    asked = EvaluationConfig(episodes=2, episode=EpisodeConfig(ways=3, shots=4, queries=1), inner_steps=1)
    model = untrained_model(CELL, source(), MamlTraining.model_validate(TRAINING), 0)

    def evaluated(room: int | None) -> int:
        with OneDevice(room=room) as seen:
            evaluate(model, source(asked.episode), asked, 0, device="meta")
        return seen.most

    needed = evaluated(None)
    assert evaluated(int(0.7 * needed)) <= 0.7 * needed
    with pytest.raises(InputError, match=r"an episode of evaluation.*evaluation\.episode\.queries"):
        evaluated(int(0.1 * needed))


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("said", ["CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling x"])
def test_library_that_gets_no_memory_is_understood_as_well(said):
    def work(at_once: int) -> int:
        if at_once > 3:
            raise RuntimeError(said)
        return at_once

    assert in_chunks(work, 30) == 3
    with pytest.raises(NoRoomError, match="4 images at a time"):
        in_chunks(work, 30, smallest=4)


@pytest.mark.usefixtures("_quick")
def test_other_failures_are_not_taken_for_a_lack_of_memory():
    def work(at_once: int) -> int:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    for tried in (lambda: in_chunks(work, 30), lambda: sparingly(lambda: work(1))):
        with pytest.raises(RuntimeError, match="mat1"):
            tried()


def test_what_a_failed_attempt_held_is_free_before_the_next_one():
    layer, image = nn.Conv2d(1, 8, 3), torch.randn(1, 1, 64, 64)
    with OneDevice("cpu", room=int(1.5 * layer(image).nbytes)):

        def work(at_once: int) -> int:
            return len(layer(image.expand(at_once, -1, -1, -1)))

        assert in_chunks(work, 8) == 1
