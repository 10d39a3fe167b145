"""Meta-training: a genotype and episode sources enter, the network with the best validation accuracy leaves.

Every number is a function of (genotype, configuration, seed, images): episodes are drawn by (seed, "train", iteration,
index), so that training continues after an interruption exactly as if there had been none.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from metantk_core.arithmetic import exact_arithmetic
from metantk_core.candidates import Genotype
from metantk_core.device_memory import sparingly
from metantk_core.episodes import EpisodeSource, NormalisedEpisode
from metantk_core.errors import InputError
from metantk_core.meta_training.adaptation import adapted_logits, correct_share, enough_memory, remembers_moments
from metantk_core.meta_training.checkpoint import Checkpoint, pack, unpack
from metantk_core.meta_training.evaluation import mean_and_half_width
from metantk_core.meta_training.learn2learn_import import load_maml
from metantk_core.meta_training.model import TrainedModel, TrainingConfig, Validation, initial_network, untrained_model
from metantk_core.meta_training.sources import source_digest
from metantk_core.networks import FewShotNetwork, forget_moments
from metantk_core.progress import Progress, silent
from metantk_core.seeding import digest

#: Checkpoints are written at least this often, in seconds; numbers don't depend on it.
CHECKPOINT_SECONDS = 20.0


@dataclass
class _State:
    """Where training is; all of it goes into a checkpoint."""

    network: FewShotNetwork
    optimiser: torch.optim.Adam
    best: dict[str, Tensor]
    iteration: int = 0
    best_iteration: int = 0
    history: list[Validation] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)  # one per iteration since the last validation
    accuracies: list[float] = field(default_factory=list)
    seconds: float = 0.0
    reason: str = ""  # why training ended early


@exact_arithmetic()
def meta_train(
    genotype: Genotype,
    train: EpisodeSource,
    validation: EpisodeSource,
    config: TrainingConfig,
    seed: int,
    *,
    checkpoint: Checkpoint | None = None,
    progress: Progress = silent,
    on_validation: Callable[[Validation], None] | None = None,
    device: torch.device | str = "cpu",
) -> TrainedModel:
    """Meta-train a candidate by MAML (Finn et al. 2017) or ANIL (Raghu et al. 2020), with learn2learn.

    The outer loop is Adam, its learning rate falls to 0 along half a cosine, its gradients are clipped in norm. The
    network is validated before the first iteration, every ``validate_every`` iterations and after the last one, always
    on the same episodes; the weights with the best validation accuracy are kept, the earliest of equals. A loss or a
    gradient that is not finite ends training, with the outcome ``"diverged"``; the best weights until then are kept.

    Args:
        genotype: A decided candidate.
        train: Episodes of training classes.
        validation: Episodes of validation classes.
        config: How to train.
        seed: Seed of the run.
        checkpoint: Where the state is kept, and found after an interruption.
        progress: Told after each iteration.
        on_validation: Told of each validation; after an interruption, of the earlier ones again.
        device: Where the network runs.

    Raises:
        InputError: The sources don't fit the configuration, the checkpoint is of other work, or the device has too
            little memory for a step.
    """
    for name, source in (("training", train), ("validation", validation)):
        if source.config.ways != config.episode.ways:
            raise InputError(
                f"Expected {name} episodes of {config.episode.ways} classes, as training.episode.ways says, but they "
                f"have {source.config.ways}; make the two equal."
            )
    start = untrained_model(genotype, train, config, seed)
    network = initial_network(genotype, config, start.image_shape[0], seed).to(device)
    learner = _Learner(network, config)
    work = digest(
        [
            start.genotype,
            start.space,
            config.model_dump(mode="json"),
            seed,
            source_digest(train),
            source_digest(validation),
        ]
    )
    state = _State(network, torch.optim.Adam(network.parameters(), lr=config.outer_learning_rate), _copy(network))
    saved = checkpoint.load() if checkpoint else None
    if saved is not None:
        _restore(state, saved, work)
    for point in state.history:
        if on_validation:
            on_validation(point)
    progress(state.iteration, config.iterations, _detail(state))

    clock = last_save = time.monotonic()
    before = state.seconds

    def validate() -> None:
        with enough_memory("an episode of validation", "training"):
            accuracies = [
                _validation_accuracy(
                    network,
                    validation.normalised(validation.episode(seed, "validation", index), device),
                    config,
                )
                for index in range(config.validation_episodes)
            ]
        accuracy, half_width = mean_and_half_width(accuracies)
        best = max((point.validation_accuracy for point in state.history), default=-1.0)
        if accuracy > best:
            state.best, state.best_iteration = _copy(network), state.iteration
        state.history.append(
            Validation(state.iteration, _mean(state.losses), _mean(state.accuracies), accuracy, half_width)
        )
        state.losses, state.accuracies = [], []
        state.seconds = before + time.monotonic() - clock
        if checkpoint:
            checkpoint.save(_dump(state, work))
        if on_validation:
            on_validation(state.history[-1])

    while state.iteration < config.iterations and not state.reason:
        episodes = [
            train.normalised(train.episode(seed, "train", state.iteration, index), device)
            for index in range(config.meta_batch)
        ]
        with enough_memory("a step of meta-training", "training"):
            loss, accuracy, state.reason = sparingly(lambda: learner.meta_gradient(episodes))  # noqa: B023 - at once
        if state.reason:
            state.reason = f"{state.reason} at iteration {state.iteration}"
            break
        if not state.history:
            # The loss of the first episodes is that of the initial weights: the start of the learning curve.
            state.losses, state.accuracies = [loss], [accuracy]
            validate()
        for group in state.optimiser.param_groups:
            group["lr"] = config.outer_learning_rate * (1 + math.cos(math.pi * state.iteration / config.iterations)) / 2
        state.optimiser.step()
        state.losses.append(loss)
        state.accuracies.append(accuracy)
        state.iteration += 1
        if state.iteration % config.validate_every == 0 or state.iteration == config.iterations:
            validate()
            last_save = time.monotonic()
        elif checkpoint and time.monotonic() - last_save > CHECKPOINT_SECONDS:
            state.seconds = before + time.monotonic() - clock
            checkpoint.save(_dump(state, work))
            last_save = time.monotonic()
        progress(state.iteration, config.iterations, _detail(state))

    return replace(
        start,
        state=state.best,
        history=tuple(state.history),
        best_iteration=state.best_iteration,
        iterations=state.iteration,
        outcome="diverged" if state.reason else "finished",
        reason=state.reason,
        seconds=before + time.monotonic() - clock,
    )


class _Learner:
    """learn2learn's MAML around the network (MAML) or around its head (ANIL)."""

    def __init__(self, network: FewShotNetwork, config: TrainingConfig) -> None:
        self.network = network
        self.config = config
        self.refresh = remembers_moments(network)
        # Weights that no logit depends on (beside a `none` edge) have no gradient: that is not an error.
        self.maml = load_maml()(
            network if config.algorithm == "maml" else network.head,
            lr=config.inner_learning_rate,
            first_order=config.first_order,
            allow_unused=True,
        )

    def meta_gradient(self, episodes: list[NormalisedEpisode]) -> tuple[float, float, str]:
        """Put the clipped mean gradient of the episodes' query losses into the parameters.

        Returns:
            The mean loss, the mean accuracy, and a reason if one of them or the gradient is not finite, else nothing.
        """
        self.network.zero_grad(set_to_none=True)
        forget_moments(self.network)  # an attempt that memory was too little for may have left some
        losses, accuracies = [], []
        for episode in episodes:
            logits = self.query_logits(episode)
            loss = F.cross_entropy(logits, episode.query_labels)
            losses.append(loss.item())
            accuracies.append(correct_share(logits.detach(), episode.query_labels))
            if not math.isfinite(losses[-1]):
                return math.nan, math.nan, f"the loss is {losses[-1]}"
            (loss / len(episodes)).backward()
        forget_moments(self.network)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.gradient_clip)
        if not norm.isfinite():
            return math.nan, math.nan, f"the meta-gradient's norm is {norm.item()}"
        return _mean(losses), _mean(accuracies), ""

    def query_logits(self, episode: NormalisedEpisode) -> Tensor:
        """Return the logits of an episode's queries after adaptation, differentiable in the network's parameters."""
        learner = self.maml.clone()
        if self.config.algorithm == "anil":
            self.network.train()
            support = self.network.features(episode.support_images)
            for _ in range(self.config.inner_steps):
                learner.adapt(F.cross_entropy(learner(support), episode.support_labels))
            self.network.eval()
            return learner(self.network.features(episode.query_images))
        learner.train()
        for _ in range(self.config.inner_steps):
            learner.adapt(F.cross_entropy(learner(episode.support_images), episode.support_labels))
        if self.refresh:
            learner(episode.support_images)
        learner.eval()
        return learner(episode.query_images)


def _validation_accuracy(network: FewShotNetwork, episode: NormalisedEpisode, config: TrainingConfig) -> float:
    logits = sparingly(
        lambda: adapted_logits(
            network,
            episode.support_images,
            episode.support_labels,
            episode.query_images,
            algorithm=config.algorithm,
            learning_rate=config.inner_learning_rate,
            steps=config.inner_steps,
        )
    )
    return correct_share(logits, episode.query_labels)


def _dump(state: _State, work: str) -> bytes:
    tensors = {f"network.{name}": tensor for name, tensor in state.network.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in state.best.items()}
    for name, parameter in state.network.named_parameters():
        for key, tensor in state.optimiser.state.get(parameter, {}).items():
            tensors[f"adam.{key}.{name}"] = tensor
    values = {
        "iteration": state.iteration,
        "best_iteration": state.best_iteration,
        "history": [asdict(point) for point in state.history],
        "losses": state.losses,
        "accuracies": state.accuracies,
        "seconds": state.seconds,
    }
    return pack(work, values, tensors)


def _restore(state: _State, data: bytes, work: str) -> None:
    values, tensors = unpack(data, work, "meta-training")
    device = next(state.network.parameters()).device
    state.network.load_state_dict({name: tensors[f"network.{name}"] for name in state.network.state_dict()})
    state.best = {name: tensors[f"best.{name}"] for name in state.best}
    for name, parameter in state.network.named_parameters():
        for key in ("step", "exp_avg", "exp_avg_sq"):
            if f"adam.{key}.{name}" in tensors:
                # Adam keeps its step count on the CPU.
                tensor = tensors[f"adam.{key}.{name}"]
                state.optimiser.state[parameter][key] = tensor if key == "step" else tensor.to(device)
    state.iteration = values["iteration"]
    state.best_iteration = values["best_iteration"]
    state.history = [Validation(**point) for point in values["history"]]
    state.losses = values["losses"]
    state.accuracies = values["accuracies"]
    state.seconds = values["seconds"]


def _detail(state: _State) -> str:
    return f"val {100 * state.history[-1].validation_accuracy:.1f} %" if state.history else ""


def _copy(network: FewShotNetwork) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
