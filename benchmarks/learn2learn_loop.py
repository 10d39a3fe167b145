"""4-CONV by MAML and ANIL beside learn2learn's own way of training: settings enter, a table of accuracies leaves.

The other side is the loop of learn2learn's examples, written out: its MAML class around a plain torch 4-CONV, Adam, an
outer step of the mean of a meta-batch's gradients. Both sides begin with the same weights, see the same episodes of
glyphs in the same order and answer the same test episodes; no line of our learners, loop or evaluation runs on the
other side. As here, support and query images pass separately, and batches are normalised by their own moments.

    python -m benchmarks.learn2learn_loop --quick
    python -m benchmarks.learn2learn_loop --json learn2learn-loop.json
"""

import argparse
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import process_time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metantk_core.candidates import NamedNetwork
from metantk_core.datasets import DataConfig, ImageDataset, prepare
from metantk_core.episodes import Episode, EpisodeConfig, EpisodeSource
from metantk_core.meta_training import EvaluationConfig, MamlTraining, TrainedModel, evaluate, meta_train
from metantk_core.meta_training.config import Adaptation
from metantk_core.meta_training.evaluation import mean_and_half_width
from metantk_core.meta_training.learn2learn_import import load_maml
from metantk_core.meta_training.model import untrained_model

NETWORK = NamedNetwork("conv4-32")
SIZE = 28  # pixels, of which four poolings leave one
SEED = 0
TRAINING = MamlTraining(
    episode=EpisodeConfig(ways=5, shots=1, queries=5),
    first_order=False,
    norm="batch_transductive",
    inner_steps=3,
    inner_learning_rate=0.4,
    outer_learning_rate=3e-3,
    gradient_clip=1e30,  # learn2learn's examples clip nothing
    meta_batch=4,
    iterations=300,
    validate_every=300,
    validation_episodes=50,
)


@dataclass(frozen=True)
class Compared:
    """Both sides of one algorithm.

    Attributes:
        algorithm: ``maml`` or ``anil``.
        untrained: Accuracy of the weights that both begin with.
        ours: Accuracy after our training.
        theirs: Accuracy after learn2learn's.
        difference: Mean of ours minus theirs over the episodes.
        half_width: Half the width of its 95 % interval, of pairs of an episode.
        equal: Share of the episodes that both answer with the same accuracy.
        seconds: CPU seconds of our training and of theirs, without evaluation.
    """

    algorithm: Adaptation
    untrained: float
    ours: float
    theirs: float
    difference: float
    half_width: float
    equal: float
    seconds: tuple[float, float]


def glyphs(folder: Path, image_size: int = SIZE) -> ImageDataset:
    """Return the embedded letters, drawn into a folder."""
    return prepare(DataConfig(source="glyphs", image_size=image_size), folder)


def compared(algorithm: Adaptation, training: MamlTraining, episodes: int, dataset: ImageDataset) -> Compared:
    """Return what both sides reach.

    Args:
        algorithm: Which of the two.
        training: The settings of both; the algorithm goes into them.
        episodes: Number of test episodes, of 15 queries a class.
        dataset: The images.
    """
    training = training.model_copy(update={"algorithm": algorithm})
    test = EvaluationConfig(episode=EpisodeConfig(ways=5, shots=1, queries=15), episodes=episodes)
    train, val, tested = (
        EpisodeSource(images, config, dataset.mean, dataset.std)
        for images, config in (
            (dataset.train, training.episode),
            (dataset.val, training.episode),
            (dataset.test, test.episode),
        )
    )
    start = untrained_model(NETWORK, train, training, SEED)
    began = process_time()
    model = meta_train(NETWORK, train, val, training, SEED)
    between = process_time()
    if model.best_iteration != training.iterations:  # the other side has the last weights
        raise SystemExit("The first weights did better in validation than the last ones; train for more iterations.")
    learner = their_training(start, training, train)
    seconds = between - began, process_time() - between
    ours = evaluate(model, tested, test, SEED).per_episode
    theirs = their_accuracies(learner, training, tested, episodes)
    before = their_accuracies(Learner(start, training), training, tested, min(episodes, 100))
    pairs = [one - other for one, other in zip(ours, theirs, strict=True)]
    return Compared(
        algorithm,
        math.fsum(before) / len(before),
        math.fsum(ours) / episodes,
        math.fsum(theirs) / episodes,
        *mean_and_half_width(pairs),
        sum(difference == 0 for difference in pairs) / episodes,
        seconds,
    )


class Learner:
    """What learn2learn's examples train: all of a network for MAML, features and a head that adapts for ANIL.

    Args:
        start: Gives the weights that it begins with, in the order of a plain 4-CONV's.
        training: Says which of the two, and the step size of the inner loop.
    """

    def __init__(self, start: TrainedModel, training: MamlTraining) -> None:
        self.features, self.head = plain_conv4(start.image_shape[0], 32, start.outputs)
        with torch.no_grad():
            for parameter, value in zip(self.parameters(), start.state.values(), strict=True):
                parameter.copy_(value)
        self.anil = training.algorithm == "anil"
        adapting = self.head if self.anil else nn.Sequential(self.features, self.head)
        self.maml: Any = load_maml()(adapting, lr=training.inner_learning_rate, first_order=training.first_order)

    def parameters(self) -> list[nn.Parameter]:
        """Return what the outer loop changes."""
        return [*self.features.parameters(), *self.head.parameters()]

    def query_logits(self, support: Tensor, labels: Tensor, queries: Tensor, steps: int) -> Tensor:
        """Return what it answers after some steps of the inner loop."""
        learner = self.maml.clone()
        if self.anil:
            support, queries = self.features(support), self.features(queries)
        for _ in range(steps):
            learner.adapt(F.cross_entropy(learner(support), labels))
        return learner(queries)


def plain_conv4(channels: int, filters: int, ways: int) -> tuple[nn.Sequential, nn.Linear]:
    """Return 4-CONV for images of 28 pixels in torch's own layers."""
    layers: list[nn.Module] = []
    for given in (channels, filters, filters, filters):
        norm = nn.BatchNorm2d(filters, track_running_stats=False)
        layers += [nn.Conv2d(given, filters, 3, padding=1), norm, nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten()), nn.Linear(filters, ways)


def their_training(start: TrainedModel, training: MamlTraining, source: EpisodeSource) -> Learner:
    """Return what the loop of learn2learn's examples ends with: of it, the last weights."""
    learner = Learner(start, training)
    optimiser = torch.optim.Adam(learner.parameters(), lr=training.outer_learning_rate)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=training.iterations)
    for iteration in range(training.iterations):
        optimiser.zero_grad()
        for index in range(training.meta_batch):
            support, labels, queries, answers = shown(source.episode(SEED, "train", iteration, index), source)
            F.cross_entropy(learner.query_logits(support, labels, queries, training.inner_steps), answers).backward()
        for parameter in learner.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(1 / training.meta_batch)
        optimiser.step()
        falling.step()
    return learner


def their_accuracies(learner: Learner, training: MamlTraining, source: EpisodeSource, episodes: int) -> list[float]:
    """Return the share of right answers in each test episode."""
    accuracies = []
    for index in range(episodes):
        support, labels, queries, answers = shown(source.episode(SEED, "evaluate", "test", index), source)
        logits = learner.query_logits(support, labels, queries, training.inner_steps)
        accuracies.append((logits.argmax(dim=1) == answers).double().mean().item())
    return accuracies


def shown(episode: Episode, source: EpisodeSource) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return support images and labels, query images and labels; pixels as numbers about 0."""
    mean, std = (torch.tensor(moments)[:, None, None] for moments in (source.mean, source.std))
    support, queries = ((pixels / 255 - mean) / std for pixels in (episode.support_pixels, episode.query_pixels))
    return support, episode.support_labels, queries, episode.query_labels


def table(rows: Sequence[Compared]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| 4-CONV by | untrained | trained here | by learn2learn's loop | difference, points | same accuracy | CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        accuracies = " | ".join(f"{100 * value:.2f} %" for value in (row.untrained, row.ours, row.theirs))
        difference = f"{100 * row.difference:+.3f} ± {100 * row.half_width:.3f}"
        seconds = " and ".join(f"{value:.0f}" for value in row.seconds)
        lines.append(f"| {row.algorithm.upper()} | {accuracies} | {difference} | {100 * row.equal:.1f} % | {seconds} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few iterations and episodes: under a minute")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--iterations", type=int, default=TRAINING.iterations)
    parser.add_argument("--episodes", type=int, default=600)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    changes: Mapping[str, int] = {"iterations": arguments.iterations, "validate_every": arguments.iterations}
    if arguments.quick:
        changes, arguments.episodes = {"iterations": 20, "validate_every": 20, "validation_episodes": 5}, 40
    rows: list[Compared] = []
    with tempfile.TemporaryDirectory() as folder:
        dataset = glyphs(Path(folder))
        for algorithm in ("maml", "anil"):
            rows.append(compared(algorithm, TRAINING.model_copy(update=dict(changes)), arguments.episodes, dataset))
    print(table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
