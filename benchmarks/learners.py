"""What learners make of a search's networks and of the field's: recipes of glyphs enter, a table of accuracies leaves.

The best, a random and the worst candidate of one search, and 4-CONV with 32 filters, are trained by RFS, MAML and
ProtoNet as the recipes glyphs-rfs, glyphs and glyphs-protonet have it, ResNet-12 by RFS and ProtoNet; networks of the
literature have the settings of their own that the recipes give them. Beside them stands the nearest centroid on raw
pixels, which learns nothing. Each seed has a training and test episodes of its own, which all rows of the seed share;
so the means of the seeds are independent, and their interval covers training and episodes.

Each finished row is written to FOLDER at once; the same command goes on where it was ended, and several, of different
networks, may fill one folder side by side. The whole table takes some three CPU hours, most of them for ResNet-12.

    python -m benchmarks.learners --quick
    python -m benchmarks.learners --folder runs/learners --json learners.json
    python -m benchmarks.learners --folder runs/learners --networks resnet12
    python -m benchmarks.learners --folder runs/learners-short --seeds 2 --share 0.25 --image-size 16
"""

import argparse
import contextlib
import io
import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from time import process_time

import numpy as np
import torch

from metantk_core import workflow
from metantk_core.architectures import Architecture, format_architecture
from metantk_core.candidates import Costs, NamedNetwork
from metantk_core.config import RunConfig, load_config
from metantk_core.datasets import ImageDataset, LabelledImages
from metantk_core.episodes import EpisodeConfig, EpisodeSource
from metantk_core.meta_training import Evaluation, RfsTraining, evaluate, meta_train
from metantk_core.meta_training.evaluation import mean_and_half_width
from metantk_core.progress import Progress
from metantk_core.recipes import RECIPES
from metantk_core.seeding import digest
from metantk_core.workspace import Workspace, open_run, told

LEARNERS: Mapping[str, str] = {"RFS": "glyphs-rfs", "MAML": "glyphs", "ProtoNet": "glyphs-protonet"}
"""By learner the recipe that trains it."""
ROLES = ("best", "random", "worst")
NETWORKS = (*ROLES, "conv4-32", "resnet12")
PIXELS = "raw pixels"


@dataclass(frozen=True)
class Setting:
    """How much is trained, on what.

    Attributes:
        share: Share of the recipes' epochs and iterations.
        image_size: Height and width of the glyphs.
        images: Images of a glyph.
        candidates: Candidates of the search.
        draws: Draws of each.
        episodes: Test episodes of a row, 5-way with 1 and with 5 shots, 15 queries a class.
    """

    share: float = 1.0
    image_size: int = 32
    images: int = 20
    candidates: int = 16
    draws: int = 8
    episodes: int = 600

    @property
    def test(self) -> EpisodeConfig:
        """The test episodes; of fewer images a class they have fewer queries."""
        return EpisodeConfig(ways=5, shots=1, queries=min(15, self.images - 5))

    def config(self, learner: str) -> RunConfig:
        """Return the recipe of a learner with these settings."""
        training = RECIPES[LEARNERS[learner]].training
        if isinstance(training, RfsTraining):
            epochs = math.ceil(self.share * training.epochs)
            decays = sorted({math.ceil(self.share * epoch) for epoch in training.decay_epochs} - {epochs})
            length = [
                f"training.epochs={epochs}",
                f"training.decay_epochs={decays}",
                f"training.validate_every={epochs}",
            ]
        else:
            iterations = math.ceil(self.share * training.iterations)
            every = min(iterations, training.validate_every)
            length = [f"training.iterations={iterations}", f"training.validate_every={every}"]
        episode = "episode" if learner == "MAML" else "validation_episode"
        overrides = [
            *length,
            f"training.{episode}.queries={min(training.validated_on.queries, self.images - 1)}",
            f"data.image_size={self.image_size}",
            f"data.images_per_class={self.images}",
            f"scoring.image_size={self.image_size}",
            f"scoring.num_inits={self.draws}",
            f"search.num_candidates={self.candidates}",
            "search.shards=1",
            f"evaluation.episodes={self.episodes}",
            f"evaluation.episode.queries={self.test.queries}",
            "evaluation.further_shots=[5]" if learner != "MAML" else "evaluation.further_shots=[]",
        ]
        return load_config(LEARNERS[learner], RECIPES, overrides)


@dataclass(frozen=True)
class Row:
    """One network, trained once by one learner.

    Attributes:
        setting: Digest of the setting, and of the search's seed.
        learner: Name of the learner; empty for pixels, which nothing learns from.
        network: A role in the search, or the name of a network.
        genotype: The architecture as text.
        seed: Seed of training and of the test episodes.
        one: Accuracy of 5-way 1-shot episodes, 0 to 1.
        one_half_width: Half the width of its 95 % interval over episodes.
        five: Accuracy of 5-shot episodes; none for MAML, whose training is of one number of shots.
        training: CPU seconds of training.
        evaluating: CPU seconds of evaluation.
        params: Parameters.
        macs: Multiply-accumulates of an image.
    """

    setting: str
    learner: str
    network: str
    genotype: str
    seed: int
    one: float
    one_half_width: float
    five: float | None
    training: float
    evaluating: float
    params: int
    macs: int


class Table:
    """The rows in a folder, those that are there and those that are still to be computed.

    Args:
        folder: Where rows and the search lie.
        setting: How much is trained.
        networks: What is trained.
    """

    def __init__(self, folder: Path, setting: Setting, networks: Sequence[str] = NETWORKS) -> None:
        self.setting, self.networks = setting, networks
        self.digest = digest(asdict(setting))
        self._folder, self._file = folder, folder / "rows.jsonl"
        folder.mkdir(parents=True, exist_ok=True)

    def rows(self, seeds: int) -> Iterator[Row]:
        """Give all rows of the first seeds, seed by seed, computing what is missing."""
        known = {(row.learner, row.network, row.seed): row for row in self._written()}
        for seed in range(seeds):
            for learner, network in self.asked:
                row = known.get((learner, network, seed))
                if row is None:
                    row = self._computed(learner, network, seed)
                    with self._file.open("a", encoding="utf-8") as file:
                        file.write("\n" + json.dumps(asdict(row)) + "\n")  # whatever was cut off before ends here
                yield row

    @property
    def asked(self) -> list[tuple[str, str]]:
        """What is in the table: learners and networks, quick ones first."""
        large = [(learner, "resnet12") for learner in ("RFS", "ProtoNet") if "resnet12" in self.networks]
        small = [network for network in self.networks if network != "resnet12"]
        return [("", PIXELS), *((learner, network) for learner in LEARNERS for network in small), *large]

    @cached_property
    def _search(self) -> tuple[ImageDataset, Mapping[str, Architecture]]:
        """The images, and what plays which role; scores lie in the folder."""
        place = Workspace(self._folder / "search")
        config = place.prepare(self.setting.config("RFS"))
        with contextlib.redirect_stdout(io.StringIO()), open_run(config, place) as (dataset, ports):
            board = workflow.search(config, dataset, ports).leaderboard
        return dataset, {role: workflow.genotype_of(board, role, config.seed) for role in ROLES}

    def _written(self) -> list[Row]:
        if not self._file.exists():
            return []
        rows = []
        for line in self._file.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):  # cut off
                rows.append(Row(**json.loads(line)))
        return [row for row in rows if row.setting == self.digest]

    def _computed(self, learner: str, network: str, seed: int) -> Row:
        dataset, roles = self._search
        if network == PIXELS:
            return self._of_pixels(dataset, seed)
        config = self.setting.config(learner).for_network(network)
        architecture = roles[network] if network in roles else NamedNetwork(network)
        began = process_time()
        model = meta_train(
            architecture,
            workflow.training_source(config, dataset),
            workflow.episode_source(config, dataset, "val"),
            config.training,
            seed,
            progress=self._told(learner, network, seed),
        )
        between = process_time()
        found = evaluate(model, workflow.episode_source(config, dataset, "test"), config.evaluation, seed)
        costs: Costs = workflow.training_costs(config, network, architecture)
        return Row(
            self.digest,
            learner,
            network,
            format_architecture(architecture),
            seed,
            found.accuracy,
            found.half_width,
            _five_shots(found),
            between - began,
            process_time() - between,
            costs.params,
            costs.macs,
        )

    def _of_pixels(self, dataset: ImageDataset, seed: int) -> Row:
        began, config = process_time(), self.setting.test
        one, five = (
            pixel_accuracies(dataset.test, config.model_copy(update={"shots": shots}), self.setting.episodes, seed)
            for shots in (1, 5)
        )
        seconds = process_time() - began
        return Row(
            self.digest, "", PIXELS, "", seed, *mean_and_half_width(one), float(np.mean(five)), 0.0, seconds, 0, 0
        )

    def _told(self, learner: str, network: str, seed: int) -> Progress:
        return told(f"{network} by {learner}, seed {seed}")


def pixel_accuracies(images: LabelledImages, config: EpisodeConfig, episodes: int, seed: int) -> list[float]:
    """Return the share of right answers in each test episode of who takes the class with the nearest mean image.

    Args:
        images: Test images.
        config: The size of an episode.
        episodes: How many; those that networks are evaluated on.
        seed: Seed of the evaluation.
    """
    channels = images.image_shape[0]
    source = EpisodeSource(images, config, (0.0,) * channels, (1.0,) * channels)
    accuracies = []
    for index in range(episodes):
        drawn = source.episode(seed, "evaluate", "test", index)
        support = drawn.support_pixels.numpy().astype(float).reshape(config.ways, config.shots, -1)
        queries = drawn.query_pixels.numpy().astype(float).reshape(len(drawn.query_labels), -1)
        distances = ((queries[:, None] - support.mean(axis=1)) ** 2).sum(axis=2)
        accuracies.append(float((distances.argmin(axis=1) == drawn.query_labels.numpy()).mean()))
    return accuracies


def _five_shots(found: Evaluation) -> float | None:
    return next(
        (other.accuracy for other in found.others if (other.shots, other.classifier) == (5, found.classifier)), None
    )


def table(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown: a line a learner and network, means over the seeds."""
    lines = [
        "| learner | network | 1-shot | 5-shot | best − this, points | seeds | CPU s: training | evaluation "
        "| parameters | MACs |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for learner, network in dict.fromkeys((row.learner, row.network) for row in rows):
        group = [row for row in rows if (row.learner, row.network) == (learner, network)]
        best = {row.seed: row.one for row in rows if (row.learner, row.network) == (learner or "RFS", "best")}
        differences = [best[row.seed] - row.one for row in group if row.seed in best] if network != "best" else []
        cells = (
            learner or "none",
            network,
            _with_interval([row.one for row in group], group[0].one_half_width),
            _with_interval(fives, None) if (fives := [row.five for row in group if row.five is not None]) else "",
            _with_interval(differences, None, sign="+") if differences else "",
            str(len(group)),
            f"{np.mean([row.training for row in group]):.0f}",
            f"{np.mean([row.evaluating for row in group]):.0f}",
            f"{group[0].params:,}" if group[0].params else "",
            f"{group[0].macs / 1e6:.1f} M" if group[0].macs else "",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _with_interval(values: Sequence[float], alone: float | None, sign: str = "") -> str:
    """Return a mean in per cent with its interval over seeds; of a single seed in brackets that over its episodes."""
    mean, unit = 100 * math.fsum(values) / len(values), "" if sign else " %"
    if len(values) > 1:
        return f"{mean:{sign}.1f} ± {100 * mean_and_half_width(values)[1]:.1f}{unit}"
    return f"{mean:{sign}.1f} (± {100 * alone:.1f}){unit}" if alone is not None else f"{mean:{sign}.1f}{unit}"


def main() -> None:
    """Compute what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="one seed of hardly any training, without ResNet-12: under a minute"
    )
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--folder", type=Path, help="keeps finished rows; nothing is kept if not given")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS, help="what is trained now")
    parser.add_argument("--share", type=float, default=1.0, help="share of the recipes' epochs and iterations")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--images", type=int, default=20, help="images of a glyph")
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--episodes", type=int, default=600)
    arguments = parser.parse_args()
    setting = Setting(
        arguments.share,
        arguments.image_size,
        arguments.images,
        arguments.candidates,
        arguments.draws,
        arguments.episodes,
    )
    if arguments.quick:
        arguments.seeds = 1
        arguments.networks = [*ROLES, "conv4-32"]
        setting = Setting(share=0.01, image_size=16, images=8, candidates=3, draws=1, episodes=5)
    torch.set_num_threads(1)
    with contextlib.ExitStack() as scratch:
        folder = arguments.folder or Path(scratch.enter_context(tempfile.TemporaryDirectory()))
        rows: list[Row] = []
        try:
            for row in Table(folder, setting, arguments.networks).rows(arguments.seeds):
                rows.append(row)
        finally:  # what is there, if it is ended early
            if rows:
                print(table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
