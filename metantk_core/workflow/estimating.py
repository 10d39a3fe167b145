"""What a run will take: a configuration enters, counts, hours, memory and requests leave, before anything is started.

What is scored is found out by the real strategy on made-up scores. Seconds are measured here, on noise of the shape of
the images: one draw of three candidates, and some steps and episodes of each network that is trained, some images of
large ones. One candidate stands for all that are trained.
"""

import math
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch

from metantk_core import meta_training
from metantk_core.architectures import Architecture, LearnableNetwork, parse_architecture
from metantk_core.batches import BatchSource
from metantk_core.candidates import Genotype, space_named
from metantk_core.config import RunConfig
from metantk_core.datasets import SPLITS, LabelledImages, Split
from metantk_core.episodes import EpisodeConfig, EpisodeSource
from metantk_core.meta_training import MamlTraining, RfsTraining, TrainingConfig
from metantk_core.meta_training.adaptation import mixes_queries, remembers_moments
from metantk_core.meta_training.answering import FEATURE_BATCH
from metantk_core.meta_training.feature_table import MOST_BYTES
from metantk_core.meta_training.learn2learn_import import load_maml
from metantk_core.meta_training.published import WHOLE
from metantk_core.networks import cost_table
from metantk_core.scores import SCORES, Score, Scorer, ScoreRecord
from metantk_core.search import Job, Setting, advance, start
from metantk_core.workflow.surroundings import peak_memory

_SPREAD = 3.0  # of hours, both ways: what machines, their other work and candidates differ by (docs/gpus.md)
_LONG = 10.0  # seconds of measuring one network, from which on single images stand for steps and episodes
_ENOUGH, _SLOW = 0.3, 2.0  # seconds of images that are told from noise, and that need no second pass
_EPISODES, _STEPS = 8, 3  # that are timed, beyond the first ones
_BACKWARD = (
    3  # times as long as a pass of an image is one with its gradient, and three times that one with a second one
)
_PACK_SECONDS, _CHECKPOINT_SECONDS, _EVALUATION_SECONDS = 30.0, 20.0, 5.0  # how often a store is written to
_STEP_REQUESTS = 12  # of a step, before and after its work: a round number, not measured


@dataclass(frozen=True)
class NetworkEstimate:
    """What one training of a network will take, and its evaluation.

    Attributes:
        training_hours: Time for training.
        evaluation_hours: Time for evaluating.
    """

    training_hours: float
    evaluation_hours: float


@dataclass(frozen=True)
class Estimate:
    """What a run will take, if nothing of it is kept from before.

    Attributes:
        candidates: Candidates and supernets that are scored.
        kernels: Draws of them: passes of the kernel, or of what else the scores ask for.
        search_hours: Time for scoring, one after the other on one device.
        training_hours: Time for all trainings, of all networks with all seeds.
        evaluation_hours: Time for evaluating all of them.
        hours: All of that with shards and trainings side by side, as pods run them.
        least: A third of these hours.
        most: Three times these hours.
        memory: Bytes of a pod: the most that this process has had.
        device_memory: Bytes on the device, if it has memory of its own.
        requests: Requests to the artifact store.
        device: Kind of the device that seconds were measured on.
        networks: What one training of each network takes.
        assumed: What was assumed of images that nobody has looked at, in a sentence; empty if nothing was.
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
    networks: Mapping[str, NetworkEstimate]
    assumed: str = ""

    def as_values(self) -> dict[str, Any]:
        """Return the estimate as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class _Pace:
    """What a training and an evaluation are made of, in seconds.

    Attributes:
        step: Of an episode that is learned from, or a batch.
        validation: Of an episode of validation.
        evaluation: Of all episodes of test classes.
        looked_up: Whether features of test images are computed once, so that their number matters.
    """

    step: float
    validation: float
    evaluation: float
    looked_up: bool


def estimate(
    config: RunConfig,
    *,
    device: str = "cpu",
    say: Callable[[str], None] | None = None,
    images: Mapping[Split, int] | None = None,
) -> Estimate:
    """Return what a run will take on machines like this one, after some seconds of measuring.

    Preparing images and starting steps is not counted, nor is what a store keeps from earlier runs.

    Args:
        config: The run.
        device: Where networks run, as torch spells it.
        say: Is told what is measured, before it is; large networks take a minute on a CPU.
        images: How many images each split has, if somebody has looked.
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
    counts, origin = _numbers_of_images(config, images)
    paces: dict[tuple[str, str], _Pace] = {}
    networks: dict[str, NetworkEstimate] = {}
    seeds, writes = config.training_seeds, 0.0
    for name in config.networks:
        own = config.for_network(name)
        architecture = parse_architecture(config.search.space, name) if name in config.yardsticks else candidate
        key = (str(architecture), own.training.model_dump_json())
        if key not in paces:
            told(f"training of {name if name in config.yardsticks else 'a candidate'}")
            paces[key] = _pace(own, architecture, counts["test"], device)
        pace = paces[key]
        steps, validations = _steps(own, counts["train"])
        trained = steps * pace.step + validations * own.training.validation_episodes * pace.validation
        networks[name] = NetworkEstimate(trained / 3600, pace.evaluation / 3600)
        writes += validations + int(trained / _CHECKPOINT_SECONDS) + int(pace.evaluation / _EVALUATION_SECONDS)
    longest = max(one.training_hours + one.evaluation_hours for one in networks.values())
    hours = search / config.search.shards / 3600 + longest
    on_gpu = torch.device(device).type == "cuda"
    shards = config.search.shards
    requests = (
        rounds
        * shards
        * (_STEP_REQUESTS + 2 * len(config.scoring.scores) + math.ceil(search / rounds / shards / _PACK_SECONDS))
        + seeds * (2 * _STEP_REQUESTS * len(networks) + int(writes))
        + 6 * _STEP_REQUESTS
    )
    counted: list[Split] = [
        *(["train"] if isinstance(config.training, RfsTraining) else []),
        *(["test"] if any(pace.looked_up for pace in paces.values()) else []),
    ]
    return Estimate(
        candidates=len(draws),
        kernels=sum(draws.values()),
        search_hours=search / 3600,
        training_hours=seeds * math.fsum(one.training_hours for one in networks.values()),
        evaluation_hours=seeds * math.fsum(one.evaluation_hours for one in networks.values()),
        hours=hours,
        least=hours / _SPREAD,
        most=hours * _SPREAD,
        memory=peak_memory("cpu") or 0,
        device_memory=(peak_memory(device) or 0) if on_gpu else 0,
        requests=requests,
        device=device,
        networks=networks,
        assumed=_assumed(config, counted, counts, origin) if origin else "",
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


def _pace(config: RunConfig, architecture: Architecture, test_images: int, device: str) -> _Pace:
    """Return the seconds of what a network's training and evaluation are made of.

    Where some episodes and steps would take long, single images are measured, and each pass of an image through the
    network counts as much; beside those, what large networks do is little.

    Args:
        config: The run as it concerns the network.
        architecture: The network, or one that stands for it.
        test_images: Number of images of test classes.
        device: Where the network runs.
    """
    training, evaluation, size = config.training, config.evaluation, config.data.image_size
    validated = _noise(config, training.validated_on, size)
    source: EpisodeSource | BatchSource
    if isinstance(training, RfsTraining):
        update = {"epochs": 1, "decay_epochs": (), "validate_every": 1, "validation_episodes": 2}
        batches = _noise_of(config, 64, math.ceil(_STEPS * training.batch_size / 64))
        source = BatchSource(batches, training.batch_size, validated.mean, validated.std, training.augmentation)
        steps = source.batches_per_epoch
    else:
        update = {"iterations": _STEPS, "validate_every": _STEPS, "meta_batch": 1, "validation_episodes": 2}
        source = _noise(config, training.episode, size)
        steps = _STEPS
    model = meta_training.untrained_model(architecture, source, training, 0)
    network = model.network().to(device)
    image, row = _image_seconds(network, config.data.image_shape, device)

    ways, queries, shots = evaluation.episode.ways, evaluation.episode.queries, evaluation.episode.shots
    all_shots = (shots, *evaluation.other_shots)
    copies = training.augmented_copies if evaluation.augmented_copies is None else evaluation.augmented_copies
    asked = meta_training.asked_of(training, evaluation)
    an_episode = ways * (queries + (0 if copies else shots))  # images that a table would spare
    looked_up = not ("gradient_steps" in asked or remembers_moments(network) or mixes_queries(network)) and (
        test_images < evaluation.episodes * len(all_shots) * an_episode and test_images * row <= MOST_BYTES
    )
    steps_inside = training.inner_steps if isinstance(training, MamlTraining) else 0
    more_inside = steps_inside if evaluation.inner_steps is None else evaluation.inner_steps
    learned = _passes_of_step(training)
    validating = _passes(training.validated_on, training, steps_inside)
    evaluating = sum(
        _passes(evaluation.episode.model_copy(update={"shots": number}), training, more_inside, copies, known=looked_up)
        for number in all_shots
    )
    table = _filled(test_images) if looked_up else 0
    least = ways * (max(all_shots) + queries)  # images that episodes can be drawn from
    # With fewer images than that no table is made in the few episodes here; with as many as there must be, one is.
    few = 2 if not looked_up else max(2, 1 + least // (len(all_shots) * an_episode))
    some = few + _EPISODES
    if image * (8 * validating + (few + some) * evaluating + 2 * least + steps * learned) > _LONG:
        return _Pace(learned * image, validating * image, (evaluation.episodes * evaluating + table) * image, looked_up)

    def seconds_of(shown: EpisodeSource, **settings: object) -> float:
        changed = evaluation.model_copy(update={"episode": shown.config, **settings})
        return _timed(lambda: meta_training.evaluate(model, shown, changed, 0, device=device), device)

    with suppress(ImportError):  # training itself says so
        load_maml()
    plain = {"beside": (), "augmented_copies": 0, "further_shots": (), "classifier": training.classifier}
    plain["inner_steps"] = None  # as in validation
    seconds_of(validated, episodes=2, **plain)  # in the first ones libraries choose how to compute
    validation = seconds_of(validated, episodes=2, **plain) / 2
    spared = some * len(all_shots) * an_episode
    images_of_a_class = max(all_shots) + queries if looked_up else math.ceil(spared / ways) + 1
    images = _noise_of(config, ways, images_of_a_class)
    shown = replace(validated, images=images, config=evaluation.episode)
    first, then = (seconds_of(shown, episodes=number) for number in (few, some))
    an_episode_takes = max(then - first, 0.0) / _EPISODES
    beside = max(first - few * an_episode_takes, 0.0)  # the table, if there is one
    evaluated = evaluation.episodes * an_episode_takes + beside * (
        _filled(test_images) / _filled(len(images.labels)) if looked_up else 1
    )
    one_step = training.model_copy(update=update)
    whole = _timed(
        lambda: meta_training.meta_train(architecture, source, validated, one_step, 0, device=device), device
    )
    return _Pace(max((whole - 4 * validation) / steps, validation / 10), validation, evaluated, looked_up)


def _image_seconds(network: LearnableNetwork, shape: tuple[int, int, int], device: str) -> tuple[float, int]:
    """Return the seconds of an image's pass through a network, and the bytes of its features."""
    network.train()  # in which layers need no moments of before
    number, warm = 2, False  # in the first pass libraries choose how to compute
    while True:
        images = torch.rand(number, *shape, generator=torch.Generator().manual_seed(0)).to(device)
        with torch.no_grad():
            began = time.perf_counter()
            features = network.features(images)
            if torch.device(device).type == "cuda":
                torch.cuda.synchronize(device)
            taken = time.perf_counter() - began
        if (warm and taken > _ENOUGH) or taken > _SLOW or number == FEATURE_BATCH:
            return taken / number, features[0].nbytes
        number, warm = min(4 * number, FEATURE_BATCH) if warm else number, True


def _passes_of_step(training: TrainingConfig) -> int:
    """Return how many passes of an image a step of training is worth: an episode's, or a batch's."""
    if isinstance(training, RfsTraining):
        return _BACKWARD * training.batch_size
    if not isinstance(training, MamlTraining) or training.algorithm == "anil":
        return _BACKWARD * _num_images(training.episode)
    support, queries = (training.episode.ways * n for n in (training.episode.shots, training.episode.queries))
    inside = 1 if training.first_order else 3
    return _BACKWARD * (inside * training.inner_steps * support + queries) + support


def _passes(
    episode: EpisodeConfig, training: TrainingConfig, inner_steps: int, copies: int = 0, *, known: bool = False
) -> int:
    """Return how many passes of an image answering an episode is worth.

    Args:
        episode: Its size.
        training: How the network was trained.
        inner_steps: Steps of the adaptation.
        copies: Augmented copies that stand for a support image; 0 for the image.
        known: Whether the features of images as they are are known.
    """
    support, queries = episode.ways * episode.shots * max(1, copies), episode.ways * episode.queries
    if isinstance(training, MamlTraining):
        return support * (1 + (_BACKWARD * inner_steps if training.algorithm == "maml" else 0)) + queries
    if known:
        return _filled(support) if copies else 0
    return _filled(support) + _filled(queries)


def _filled(images: int) -> int:
    """Return how many images pass where batches are filled up."""
    return math.ceil(images / FEATURE_BATCH) * FEATURE_BATCH


def _steps(config: RunConfig, train_images: int) -> tuple[int, int]:
    """Return how many episodes or batches one training learns from, and how often it is validated."""
    training = config.training
    if not isinstance(training, RfsTraining):
        return training.iterations * training.meta_batch, 1 + math.ceil(training.iterations / training.validate_every)
    return training.epochs * max(1, train_images // training.batch_size), 1 + math.ceil(
        training.epochs / training.validate_every
    )


def _numbers_of_images(config: RunConfig, images: Mapping[Split, int] | None) -> tuple[Mapping[Split, int], str]:
    """Return how many images each split has, and whose they are if that is assumed; else nothing."""
    if images is not None:
        return images, ""
    data = config.data
    if data.path is None:
        from metantk_core.datasets.glyphs import SCRIPTS, letters  # matplotlib draws them

        classes = Counter(SCRIPTS[letter.script] for letter in letters())
        return {split: classes[split] * data.images_per_class for split in SPLITS}, ""
    called = [
        re.sub(r"[^a-z0-9]", "", text.lower()) for text in (data.name or "", data.path.rstrip("/").split("/")[-1])
    ]
    kind = next((kind for kind in WHOLE if kind.replace("-", "") in called), "miniimagenet")
    whole = WHOLE[kind]
    turned = 4 if whole.rotated and data.rotations != "none" else 1
    return {split: turned * whole.images[split] for split in SPLITS}, whole.title


def _assumed(config: RunConfig, counted: Sequence[Split], counts: Mapping[Split, int], origin: str) -> str:
    """Return which numbers of images were assumed, of those that matter."""
    words: Mapping[Split, str] = {"train": "training", "val": "validation", "test": "test"}
    said = " and ".join(f"{counts[split]:,} {words[split]} images" for split in counted)
    return f"assumed {said}, as {origin} has them: {config.data.path} is not prepared here" if said else ""


def _num_images(episode: EpisodeConfig) -> int:
    return episode.ways * (episode.shots + episode.queries)


def _any_candidate(config: RunConfig) -> Genotype:
    return space_named(config.search.space).sample(np.random.default_rng(config.seed))


def _noise(config: RunConfig, episode: EpisodeConfig, size: int, tasks: int = 1) -> EpisodeSource:
    """Return a source of episodes of noise, of the shape of the run's images."""
    images = _noise_of(config, 2 * episode.ways, tasks * (episode.shots + episode.queries))
    half = (0.5,) * config.data.channels
    return EpisodeSource(images, episode, half, half, size)


def _noise_of(config: RunConfig, classes: int, each: int) -> LabelledImages:
    """Return classes of images of noise, of the shape of the run's."""
    shape = (classes * each, *config.data.image_shape)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    names = tuple(f"class {number}" for number in range(classes))
    return LabelledImages(pixels, np.repeat(np.arange(classes, dtype=np.int64), each), names, "train", "noise")


def _timed(work: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    work()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
