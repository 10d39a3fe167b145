"""Training: an architecture, episodes or batches and a learner enter, the network that was kept leaves.

The loop validates, keeps weights, saves checkpoints, says how far it is and stops where numbers are not finite; what is
learned stands in the learners. Every number is a function of (architecture, configuration, seed, images): what an
iteration learns from is drawn by (seed, iteration), so that training continues after an interruption exactly as if
there had been none.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from metantk_core.architectures import Architecture, LearnableNetwork, seeded
from metantk_core.arithmetic import exact_arithmetic
from metantk_core.batches import BatchSource
from metantk_core.device_memory import sparingly
from metantk_core.episodes import EpisodeSource
from metantk_core.errors import InputError
from metantk_core.meta_training.adaptation import correct_share, enough_memory
from metantk_core.meta_training.answering import InnerLoop, Shown, answers
from metantk_core.meta_training.checkpoint import Checkpoint, pack, unpack
from metantk_core.meta_training.config import Classifier, MamlTraining, ProtoNetTraining, RfsTraining, TrainingConfig
from metantk_core.meta_training.learning import Learner, Step, mean
from metantk_core.meta_training.maml import MamlLearner
from metantk_core.meta_training.model import TrainedModel, Validation, starting_network, untrained_model
from metantk_core.meta_training.protonet import ProtoNetLearner
from metantk_core.meta_training.sources import source_digest
from metantk_core.meta_training.supervised import RfsLearner
from metantk_core.progress import Progress, silent
from metantk_core.seeding import digest
from metantk_core.statistics import mean_and_half_width
from metantk_core.stopping import shielded

#: Checkpoints are written at least this often, in seconds; numbers don't depend on it.
CHECKPOINT_SECONDS = 20.0

_LATEST = 20  # iterations whose mean loss is shown while it trains

#: Makes the learner of some settings from (network, settings, source, seed, device).
LEARNERS: Mapping[type, Callable[..., Learner]] = MappingProxyType(
    {MamlTraining: MamlLearner, ProtoNetTraining: ProtoNetLearner, RfsTraining: RfsLearner}
)


@dataclass
class _State:
    """Where training is; all of it goes into a checkpoint."""

    kept: dict[str, Tensor]
    iteration: int = 0
    kept_iteration: int = 0
    history: list[Validation] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)  # one per iteration since the last validation
    accuracies: list[float] = field(default_factory=list)
    seconds: float = 0.0
    problem: str = ""  # why training ended early


@exact_arithmetic()
def meta_train(
    architecture: Architecture,
    train: EpisodeSource | BatchSource,
    validation: EpisodeSource,
    config: TrainingConfig,
    seed: int,
    *,
    checkpoint: Checkpoint | None = None,
    progress: Progress = silent,
    on_validation: Callable[[Validation], None] | None = None,
    device: torch.device | str = "cpu",
    validation_seed: int | None = None,
) -> TrainedModel:
    """Train a network by the learner that the configuration is of.

    The network is validated before the first step, every ``validate_every`` and after the last one, always on the same
    episodes; the weights with the best validation accuracy are kept, the earliest of equals, or those of the last
    validation, as the learner says. A loss or a gradient that is not finite ends training, with the outcome
    ``"diverged"``; what was kept until then stays.

    Interrupted by a signal, it saves where it is before it goes.

    Args:
        architecture: A decided candidate, a named network or a person's module.
        train: Episodes of training classes; batches of them for learners that know no episodes.
        validation: Episodes of validation classes.
        config: How to train.
        seed: Seed of the training.
        checkpoint: Where the state is kept, and found after an interruption.
        progress: Told after each iteration.
        on_validation: Told of each validation; after an interruption, of the earlier ones again.
        device: Where the network runs.
        validation_seed: Seed of the validation episodes, which trainings that are compared share; that of the training
            if not given.

    Raises:
        InputError: The sources don't fit the configuration, the checkpoint is of other work, or the device has too
            little memory for a step.
    """
    _admit(train, validation, config)
    start = untrained_model(architecture, train, config, seed)
    network = starting_network(architecture, config, start.image_shape, start.outputs, seed).to(device)
    learner = LEARNERS[type(config)](network, config, train, seed, device)
    validated_by = seed if validation_seed is None else validation_seed
    work = digest(
        [
            start.genotype,
            start.space,
            config.model_dump(mode="json"),
            seed,
            source_digest(train),
            source_digest(validation),
            *([validated_by] if validated_by != seed else []),  # else the digest is what it always was
        ]
    )
    state = _State(_copy(network))
    saved = checkpoint.load() if checkpoint else None
    if saved is not None:
        _restore(state, learner, saved, work)
    for point in state.history:
        if on_validation:
            on_validation(point)
    pace = _Pace()
    progress(state.iteration, learner.iterations, _detail(state, learner, pace))

    clock = last_save = time.monotonic()
    before = state.seconds
    keeps_last = getattr(config, "keep", "best") == "last"
    second_order = isinstance(config, MamlTraining) and not config.first_order

    def save() -> None:
        nonlocal last_save
        state.seconds = before + time.monotonic() - clock
        if checkpoint:
            with buffers.as_valid():  # the first validation comes between a step's gradient and its end
                checkpoint.save(_dump(state, learner, work))
        last_save = time.monotonic()

    def validate() -> None:
        with enough_memory("an episode of validation", "training.episode.queries", first_order=second_order):
            accuracies = [
                _validation_accuracy(architecture, network, validation, validated_by, index, config, device)
                for index in range(config.validation_episodes)
            ]
        accuracy, half_width = mean_and_half_width(accuracies)
        best = max((point.validation_accuracy for point in state.history), default=-1.0)
        if keeps_last or accuracy > best:
            state.kept, state.kept_iteration = _copy(network), state.iteration
        epoch = None if learner.steps_per_epoch is None else state.iteration // learner.steps_per_epoch
        with shielded():
            state.history.append(
                Validation(state.iteration, mean(state.losses), mean(state.accuracies), accuracy, half_width, epoch)
            )
            state.losses, state.accuracies = [], []
        save()
        if on_validation:
            on_validation(state.history[-1])

    def validate_in_time() -> bool:
        """Validate if it is time and was not done; an interruption can have come between."""
        due = state.iteration == learner.iterations or state.iteration % learner.validate_every == 0
        due = due and bool(state.history) and state.history[-1].iteration < state.iteration
        if due:
            validate()
        return due

    buffers = _Buffers(network)

    def attempt(drawn: Any) -> Step:
        """Take a gradient from what is valid; another attempt, with less memory, gives the same."""
        buffers.put_back()
        with seeded(architecture, seed, "train", "step", state.iteration):  # dropout of a person's module
            return learner.gradient(drawn)

    try:
        validate_in_time()
        while state.iteration < learner.iterations and not state.problem:
            drawn = learner.draw(state.iteration)
            with (
                pace.of_a_step(),
                enough_memory("a step of meta-training", learner.too_much, first_order=second_order),
            ):
                step = sparingly(lambda: attempt(drawn))  # noqa: B023 - at once
            if step.problem:
                state.problem = f"{step.problem} at iteration {state.iteration}"
                break
            if not state.history:
                # The loss of the first iteration is that of the initial weights: the start of the learning curve.
                state.losses, state.accuracies = [step.loss], [step.accuracy]
                validate()
            for group in learner.optimiser.param_groups:
                group["lr"] = learner.learning_rate(state.iteration)
            with shielded():  # weights, their optimiser's state and the iteration belong together
                learner.optimiser.step()
                buffers.keep()
                _count(state, step)
            pace.add(step)
            if not validate_in_time() and checkpoint and time.monotonic() - last_save > CHECKPOINT_SECONDS:
                save()
            progress(state.iteration, learner.iterations, _detail(state, learner, pace))
    except (KeyboardInterrupt, SystemExit):
        buffers.put_back()
        save()
        raise

    return replace(
        start,
        state=state.kept,
        history=tuple(state.history),
        best_iteration=state.kept_iteration,
        iterations=state.iteration,
        outcome="diverged" if state.problem else "finished",
        reason=state.problem,
        seconds=before + time.monotonic() - clock,
    )


def _admit(train: EpisodeSource | BatchSource, validation: EpisodeSource, config: TrainingConfig) -> None:
    if isinstance(train, BatchSource) is not isinstance(config, RfsTraining):
        what = "batches" if isinstance(config, RfsTraining) else "episodes"
        raise InputError(f"Expected a source of {what} to train on, which {config.title} learns from; give one.")
    asked = [("validation", validation, config.validated_on)]
    if isinstance(train, EpisodeSource) and not isinstance(config, RfsTraining):
        asked.insert(0, ("training", train, config.episode))
    for name, source, episode in asked:
        if source.config.ways != episode.ways:
            raise InputError(
                f"Expected {name} episodes of {episode.ways} classes, as the training's settings say, but they have "
                f"{source.config.ways}; make the two equal."
            )


class _Buffers:
    """What a network changes while it computes (running moments), so that a step that isn't finished changes nothing.

    Args:
        network: The network.
    """

    def __init__(self, network: LearnableNetwork) -> None:
        self._buffers = list(network.buffers())
        self.keep()

    def keep(self) -> None:
        """Take what is there for what is valid."""
        self._valid = [buffer.clone() for buffer in self._buffers]

    def put_back(self) -> None:
        """Let the network have what is valid."""
        for buffer, valid in zip(self._buffers, self._valid, strict=True):
            buffer.copy_(valid)

    @contextmanager
    def as_valid(self) -> Iterator[None]:
        """Let the network have what is valid for a while, and then again what an unfinished step has made of it."""
        current = [buffer.clone() for buffer in self._buffers]
        self.put_back()
        try:
            yield
        finally:
            for buffer, value in zip(self._buffers, current, strict=True):
                buffer.copy_(value)


class _Pace:
    """How many images a second pass, and what the loss is lately."""

    def __init__(self) -> None:
        self.losses: deque[float] = deque(maxlen=_LATEST)
        self._images, self._seconds = 0, 0.0
        self._began = 0.0

    def of_a_step(self) -> "_Pace":
        """Return a context that takes the time of a step."""
        return self

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._seconds += time.perf_counter() - self._began

    def add(self, step: Step) -> None:
        """Take note of a step."""
        self._images += step.images
        self.losses.append(step.loss)

    @property
    def images_a_second(self) -> float | None:
        """The pace since this process began, of steps alone; None before the first one."""
        return self._images / self._seconds if self.losses and self._seconds else None


def _count(state: _State, step: Step) -> None:
    state.losses.append(step.loss)
    state.accuracies.append(step.accuracy)
    state.iteration += 1


def _validation_accuracy(
    architecture: Architecture,
    network: LearnableNetwork,
    source: EpisodeSource,
    seed: int,
    index: int,
    config: TrainingConfig,
    device: torch.device | str,
) -> float:
    episode = source.normalised(source.episode(seed, "validation", index), device)
    shown = Shown(
        network,
        episode.support_images,
        episode.support_labels,
        episode.query_images,
        config.validated_on.ways,
        InnerLoop.of(config),
    )

    def answered() -> Mapping[Classifier, Tensor]:
        with seeded(architecture, seed, "validation", index):
            return answers(shown, [config.classifier])

    logits = sparingly(answered)
    return correct_share(logits[config.classifier], episode.query_labels)


def _dump(state: _State, learner: Learner, work: str) -> bytes:
    tensors = {f"network.{name}": tensor for name, tensor in learner.network.state_dict().items()}
    tensors |= {f"kept.{name}": tensor for name, tensor in state.kept.items()}
    for name, parameter in learner.network.named_parameters():
        for key, tensor in learner.optimiser.state.get(parameter, {}).items():
            if tensor is not None:
                tensors[f"optimiser.{key}.{name}"] = tensor
    values = {
        "iteration": state.iteration,
        "kept_iteration": state.kept_iteration,
        "history": [asdict(point) for point in state.history],
        "losses": state.losses,
        "accuracies": state.accuracies,
        "seconds": state.seconds,
    }
    return pack(work, values, tensors)


def _restore(state: _State, learner: Learner, data: bytes, work: str) -> None:
    values, tensors = unpack(data, work, "meta-training")
    network = learner.network
    device = next(network.parameters()).device
    network.load_state_dict({name: tensors[f"network.{name}"] for name in network.state_dict()})
    state.kept = {name: tensors[f"kept.{name}"] for name in state.kept}
    parameters = dict(network.named_parameters())
    for place, tensor in tensors.items():
        what, _, rest = place.partition(".")
        if what == "optimiser":
            key, _, name = rest.partition(".")
            # Adam keeps its step count on the CPU.
            learner.optimiser.state[parameters[name]][key] = tensor if key == "step" else tensor.to(device)
    state.iteration = values["iteration"]
    state.kept_iteration = values["kept_iteration"]
    state.history = [Validation(**point) for point in values["history"]]
    state.losses = values["losses"]
    state.accuracies = values["accuracies"]
    state.seconds = values["seconds"]


def _detail(state: _State, learner: Learner, pace: _Pace) -> str:
    """Return how training goes in a few words, such as ``"epoch 3 of 100, val 55.0 %, loss 1.234, 812 images/s"``."""
    words: list[str] = []
    if learner.steps_per_epoch is not None:
        epochs = learner.iterations // learner.steps_per_epoch
        words.append(f"epoch {min(state.iteration // learner.steps_per_epoch + 1, epochs)} of {epochs}")
    if state.history:
        words.append(f"val {100 * state.history[-1].validation_accuracy:.1f} %")
    if pace.images_a_second is not None:
        words += [f"loss {mean(list(pace.losses)):.3f}", f"{pace.images_a_second:,.0f} images/s"]
    return ", ".join(words)


def _copy(network: LearnableNetwork) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
