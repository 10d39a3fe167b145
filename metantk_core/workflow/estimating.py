"""What a run will take: a configuration enters, counts, hours, memory and requests leave, before anything is started.

What is scored is found out by the real strategy on made-up scores. Seconds are measured here, on noise of the shape of
the images: one draw of three candidates, a step of meta-training with one episode, and a few evaluated episodes.
"""

import math
import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from metantk_core import meta_training
from metantk_core.batches import BatchSource
from metantk_core.candidates import Genotype, space_named
from metantk_core.config import RunConfig
from metantk_core.datasets import LabelledImages
from metantk_core.episodes import EpisodeConfig, EpisodeSource
from metantk_core.meta_training import RfsTraining
from metantk_core.meta_training.learn2learn_import import load_maml
from metantk_core.networks import cost_table
from metantk_core.scores import SCORES, Score, Scorer, ScoreRecord
from metantk_core.search import Job, Setting, advance, start
from metantk_core.workflow.surroundings import peak_memory

_SPREAD = 3.0  # of hours, both ways: what machines, their other work and candidates differ by (docs/gpus.md)
_LONG = 5.0  # seconds of an episode from which on no second one is waited for
_PACK_SECONDS, _CHECKPOINT_SECONDS, _EVALUATION_SECONDS = 30.0, 20.0, 5.0  # how often a store is written to
_TYPICAL_IMAGES = 38_400  # for training, where they aren't looked at: those of miniImageNet
_STEP_REQUESTS = 12  # of a step, before and after its work: a round number, not measured


@dataclass(frozen=True)
class Estimate:
    """What a run will take, if nothing of it is kept from before.

    Attributes:
        candidates: Candidates and supernets that are scored.
        kernels: Draws of them: passes of the kernel, or of what else the scores ask for.
        search_hours: Time for scoring, one after the other on one device.
        training_hours: Time for meta-training all roles.
        evaluation_hours: Time for evaluating all roles.
        hours: All of that with shards and roles side by side, as pods run them.
        least: A third of these hours.
        most: Three times these hours.
        memory: Bytes of a pod: the most that this process has had.
        device_memory: Bytes on the device, if it has memory of its own.
        requests: Requests to the artifact store.
        device: Kind of the device that seconds were measured on.
    """

    candidates: int
    kernels: int
    search_hours: float
    training_hours: float
    evaluation_hours: float
    hours: float
    least: float
    most: float
    memory: int
    device_memory: int
    requests: int
    device: str

    def as_values(self) -> dict[str, Any]:
        """Return the estimate as plain values."""
        return asdict(self)


def estimate(config: RunConfig, *, device: str = "cpu", say: Callable[[str], None] | None = None) -> Estimate:
    """Return what a run will take on machines like this one, after some seconds of measuring.

    Preparing images and starting steps is not counted, nor is what a store keeps from earlier runs.

    Args:
        config: The run.
        device: Where networks run, as torch spells it.
        say: Is told what is measured, before it is; large networks take a minute on a CPU.
    """
    told = say or (lambda part: None)
    told("planning the search on made-up scores")
    draws, rounds = _planned(config)
    costs = cost_table(
        config.search.space,
        config.scoring.network,
        image_shape=(config.data.channels, config.scoring.image_size, config.scoring.image_size),
        ways=config.scoring.episode.ways,
    )
    sizes = {genotype: costs.of(genotype).macs for genotype in draws}
    by_size = sorted(sizes, key=lambda genotype: (sizes[genotype], str(genotype)))
    measured = [by_size[min(len(by_size) - 1, round(part * (len(by_size) - 1)))] for part in (0.25, 0.5, 1.0)]
    seconds = _scoring_seconds(config, measured, device, told)
    # A pass costs something before the first operation, and the rest by the operation: lines through what was measured.
    search = sum(number * _between(sizes, seconds, genotype) for genotype, number in draws.items())
    decided = (genotype for genotype in by_size[len(by_size) // 2 :] if genotype.decided)
    candidate = next(decided, None) or _any_candidate(config)
    step, validation, evaluation = _training_seconds(config, candidate, device, told)
    training, roles = config.training, len(config.trained)
    steps, validations = _steps(config)
    trained = steps * step + validations * training.validation_episodes * validation
    evaluated = config.evaluation.episodes * (1 + len(config.evaluation.other_shots)) * evaluation
    hours = (search / config.search.shards + trained + evaluated) / 3600
    on_gpu = torch.device(device).type == "cuda"
    shards = config.search.shards
    requests = (
        rounds
        * shards
        * (_STEP_REQUESTS + 2 * len(config.scoring.scores) + math.ceil(search / rounds / shards / _PACK_SECONDS))
        + roles
        * (2 * _STEP_REQUESTS + validations + int(trained / _CHECKPOINT_SECONDS) + int(evaluated / _EVALUATION_SECONDS))
        + 6 * _STEP_REQUESTS
    )
    return Estimate(
        candidates=len(draws),
        kernels=sum(draws.values()),
        search_hours=search / 3600,
        training_hours=roles * trained / 3600,
        evaluation_hours=roles * evaluated / 3600,
        hours=hours,
        least=hours / _SPREAD,
        most=hours * _SPREAD,
        memory=peak_memory("cpu") or 0,
        device_memory=(peak_memory(device) or 0) if on_gpu else 0,
        requests=requests,
        device=device,
    )


def _planned(config: RunConfig) -> tuple[dict[Genotype, int], int]:
    """Return how many draws each candidate gets, and the number of rounds, if scores were what is made up here."""
    setting = Setting(config.search, config.criterion, config.scoring.num_inits, config.seed)
    state, drawn, rounds = start(setting), dict[Job, int](), 0

    @cache
    def found(job: Job) -> tuple[ScoreRecord, ...]:
        made_up = random.Random(f"{job.genotype} {job.stream} {job.weights}")  # noqa: S311 - nothing secret
        own = made_up.gauss(1, 0.3)
        return tuple(
            ScoreRecord(
                config.search.space,
                str(job.genotype),
                name,
                tuple(Score(10 ** (own + made_up.gauss(0, 0.1))) for _ in range(job.draws)),
                config.seed,
                0.0,
                job.stream,
                job.weights,
            )
            for name in config.scoring.scores
        )

    while not state.finished:
        rounds += 1
        for job in state.plan:
            same = Job(job.genotype, 0, job.stream, job.weights)
            drawn[same] = max(drawn.get(same, 0), job.draws)
        if config.search.strategy in ("sample", "enumerate"):
            break  # it looks at no score
        state = advance(setting, state, found)
    totals: dict[Genotype, int] = {}
    for job, number in drawn.items():
        totals[job.genotype] = totals.get(job.genotype, 0) + number
    return totals, rounds


def _between(sizes: Mapping[Genotype, int], seconds: Mapping[Genotype, float], genotype: Genotype) -> float:
    """Return the seconds of a draw by its operations, from those that were measured."""
    points = sorted((sizes[known], taken) for known, taken in seconds.items())
    return float(np.interp(sizes[genotype], [size for size, _ in points], [taken for _, taken in points]))


def _scoring_seconds(
    config: RunConfig, candidates: list[Genotype], device: str, say: Callable[[str], None]
) -> dict[Genotype, float]:
    """Return the seconds of one draw of some candidates, the first of which is done twice."""
    drawn = tuple(name for name in config.scoring.scores if SCORES[name].cost != "none")
    space = space_named(config.search.space)
    size = config.scoring.image_size
    scorer = Scorer(
        space.supernet(),
        _noise(config, config.scoring.episode, size, config.scoring.tasks),
        config.scoring,
        0,
        device=device,
    )
    seconds: dict[Genotype, float] = {}
    for number, genotype in enumerate((candidates[0], *dict.fromkeys(candidates))):
        say(f"scoring candidate {max(number, 1)} of {len(set(candidates))}")
        seconds[genotype] = _timed(lambda: scorer.score(genotype, range(1), names=drawn), device)  # noqa: B023
    return seconds


def _training_seconds(
    config: RunConfig, candidate: Genotype, device: str, say: Callable[[str], None]
) -> tuple[float, float, float]:
    """Return the seconds of what a step of training learns from, and of an episode of validation and of evaluation.

    A step learns from an episode, or from a batch. Where the first episode takes long already, it is the only one:
    evaluation takes as much for each image, and a step, which also differentiates, three times as much.
    """
    training, size = config.training, config.data.image_size
    validated = _noise(config, training.validated_on, size)
    source: EpisodeSource | BatchSource
    if isinstance(training, RfsTraining):
        update = {"epochs": 1, "decay_epochs": (), "validate_every": 1, "validation_episodes": 2}
        images = _noise(config, EpisodeConfig(ways=32, shots=1, queries=math.ceil(training.batch_size / 64)), size)
        source = BatchSource(images.images, training.batch_size, images.mean, images.std, training.augmentation)
        learned_from = training.batch_size
    else:
        update = {"iterations": 1, "validate_every": 1, "meta_batch": 1, "validation_episodes": 2}
        source = _noise(config, training.episode, size)
        learned_from = _num_images(training.episode)
    one_step = training.model_copy(update=update)
    model = meta_training.untrained_model(candidate, source, training, 0)

    def seconds_of(episode: EpisodeConfig, episodes: int, **settings: object) -> float:
        asked = config.evaluation.model_copy(
            update={"episode": episode, "episodes": episodes, "further_shots": (), **settings}
        )
        shown = _noise(config, episode, config.data.image_size)
        return _timed(lambda: meta_training.evaluate(model, shown, asked, 0, device=device), device) / episodes

    with suppress(ImportError):  # training itself says so
        load_maml()
    say("an episode of meta-training")
    plain = {"beside": (), "augmented_copies": 0}  # as in validation
    # Two episodes, of which an interval can be made; in the first ones libraries choose how to compute.
    first = seconds_of(training.validated_on, 2, **plain)
    if first > _LONG:
        an_image = first / _num_images(training.validated_on)
        return 3 * learned_from * an_image, first, _num_images(config.evaluation.episode) * an_image
    validation = seconds_of(training.validated_on, 2, **plain)
    evaluation = seconds_of(config.evaluation.episode, 2)
    whole = _timed(lambda: meta_training.meta_train(candidate, source, validated, one_step, 0, device=device), device)
    return max(whole - 4 * validation, validation), validation, evaluation


def _steps(config: RunConfig) -> tuple[int, int]:
    """Return how many episodes or batches one training learns from, and how often it is validated."""
    training = config.training
    if not isinstance(training, RfsTraining):
        return training.iterations * training.meta_batch, 1 + math.ceil(training.iterations / training.validate_every)
    images = _TYPICAL_IMAGES
    if config.data.source == "glyphs":
        from metantk_core.datasets.glyphs import SCRIPTS, letters  # matplotlib draws them

        classes = sum(SCRIPTS[letter.script] == "train" for letter in letters())
        images = classes * config.data.images_per_class
    return training.epochs * max(1, images // training.batch_size), 1 + math.ceil(
        training.epochs / training.validate_every
    )


def _num_images(episode: EpisodeConfig) -> int:
    return episode.ways * (episode.shots + episode.queries)


def _any_candidate(config: RunConfig) -> Genotype:
    return space_named(config.search.space).sample(np.random.default_rng(config.seed))


def _noise(config: RunConfig, episode: EpisodeConfig, size: int, tasks: int = 1) -> EpisodeSource:
    """Return a source of episodes of noise, of the shape of the run's images."""
    classes, each = 2 * episode.ways, tasks * (episode.shots + episode.queries)
    shape = (classes * each, *config.data.image_shape)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    names = tuple(f"class {number}" for number in range(classes))
    images = LabelledImages(pixels, np.repeat(np.arange(classes, dtype=np.int64), each), names, "train", "noise")
    half = (0.5,) * config.data.channels
    return EpisodeSource(images, episode, half, half, size)


def _timed(work: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    work()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
