"""The steps of a run, one function each: configuration, data and ports enter, values leave; every step can be repeated.

The functions know no cluster and no server. Whoever calls them (a Kubeflow component, an MLflow project, the command
line) gives them ``Ports``. What is expensive is stored at once in the artifact store under a digest of all that it
depends on: a step repeated after a crash, or for the second time, computes only what is missing and logs nothing twice.
"""

import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from metantk_core import __version__, datasets, meta_training
from metantk_core.candidates import Genotype, parse_genotype, shard
from metantk_core.config import ROLES, RunConfig
from metantk_core.datasets import ImageDataset, Split
from metantk_core.episodes import EpisodeSource
from metantk_core.errors import InputError
from metantk_core.meta_training import Evaluation, TrainedModel
from metantk_core.progress import Progress, silent
from metantk_core.ranking import Leaderboard, rank, render_markdown
from metantk_core.registry import (
    ArtifactStore,
    DatasetSummary,
    MetricPoint,
    ModelRegistry,
    RegisteredModel,
    Tracker,
    run_scope,
)
from metantk_core.scores import ScoreRecord, candidate_kernels, score_candidate, score_model, scoring_episodes
from metantk_core.search import candidates
from metantk_core.seeding import digest, numpy_generator

if TYPE_CHECKING:
    from metantk_core.report import CandidateKernel


@dataclass(frozen=True)
class Ports:
    """What a step works with besides its inputs.

    Attributes:
        store: Keeps finished work between attempts; shared by all steps of a run.
        tracker: Where parameters, metrics and files are logged.
        registry: Where the trained network is registered.
        run: Identifier of the pipeline run in the tracker (the parent of the steps' runs).
        progress_for: Gives what hears how far a step, named by its argument, is.
        device: Where networks run, such as ``"cpu"`` or ``"cuda"``.
    """

    store: ArtifactStore
    tracker: Tracker
    registry: ModelRegistry
    run: str
    progress_for: Callable[[str], Progress] = lambda step: silent
    device: str = "cpu"


def open_run(config: RunConfig, tracker: Tracker) -> str:
    """Return the tracker's identifier of this configuration's run, opened if it is not there yet."""
    run = tracker.open_run(
        config.run_id,
        config.run_id,
        description=(
            f"**{config.search.num_candidates} candidates** of `{config.search.space}` ranked by `{config.rank_by}` "
            f"at random initialisation, then {config.training.algorithm.upper()} meta-training of: "
            f"{', '.join(config.trained_roles)}."
        ),
        tags={
            "metantk.config": config.digest,
            "metantk.version": __version__,
            "metantk.space": config.search.space,
            "metantk.dataset": config.data.source,
        },
    )
    parameters = _flattened(json.loads(config.to_json()))
    # The same run may be repeated in another number of shards; MLflow's parameters can't change.
    del parameters["search.shards"], parameters["registered_model"]
    tracker.log_parameters(run, parameters)
    return run


def dataset_folder(cache: Path, config: RunConfig) -> Path:
    """Return the folder of a run's dataset among the prepared datasets of a machine."""
    return cache / f"{config.data.source}-{digest(config.data.model_dump(mode='json'))}"


def score(config: RunConfig, genotype: str, dataset: ImageDataset, *, device: str = "cpu") -> tuple[ScoreRecord, ...]:
    """Return the scores of one architecture, one record a score.

    Args:
        config: Says how candidates are scored.
        genotype: The architecture in the text form of the configured search space.
        dataset: Images that the episodes are drawn from.
        device: Where the network runs.

    Raises:
        InputError: The text is no genotype of the space.
    """
    return score_candidate(
        parse_genotype(config.search.space, genotype),
        score_source(config, dataset),
        config.scoring,
        config.seed,
        training_network=config.training.network,
        device=device,
    )


def score_own_model(
    config: RunConfig, address: str, dataset: ImageDataset, *, device: str = "cpu"
) -> tuple[ScoreRecord, ...]:
    """Return the scores of a network that somebody wrote, one record a score.

    Args:
        config: Says how networks are scored.
        address: ``package.module:factory`` of what builds the network.
        dataset: Images that the episodes are drawn from.
        device: Where the network runs.

    Raises:
        InputError: The address leads to no factory, or what it makes can't be scored.
    """
    return score_model(address, score_source(config, dataset), config.scoring, config.seed, device=device)


def search(config: RunConfig, dataset: ImageDataset, ports: Ports) -> Leaderboard:
    """Score all shards one after the other and return the leaderboard."""
    records = [record for index in plan_shards(config) for record in score_shard(config, index, dataset, ports)]
    return rank_candidates(config, records, ports)


@dataclass(frozen=True)
class RunResult:
    """What a whole pipeline run found.

    Attributes:
        leaderboard: The ranking.
        evaluations: Accuracy on test classes by role.
        model_uri: The registered version.
    """

    leaderboard: Leaderboard
    evaluations: Mapping[str, Evaluation]
    model_uri: str

    def as_values(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return {
            "leaderboard": json.loads(self.leaderboard.to_json()),
            "digest": self.leaderboard.digest,
            "evaluations": {role: json.loads(evaluation.to_json()) for role, evaluation in self.evaluations.items()},
            "model": self.model_uri,
        }


def read_result(config: RunConfig, store: ArtifactStore) -> RunResult:
    """Return what a finished run left in the store.

    Raises:
        InputError: The run has not finished.
    """

    def read(name: str) -> str:
        data = store.read(f"{config.run_id}/{name}")
        if data is None:
            raise InputError(
                f"Expected {name} of the run {config.run_id}, but it is not there; run the pipeline to its end first."
            )
        return data.decode()

    return RunResult(
        Leaderboard.from_json(read("leaderboard.json")),
        {role: Evaluation.from_json(read(f"evaluation-{role}.json")) for role in config.trained_roles},
        json.loads(read("model.json"))["uri"],
    )


def prepare_dataset(config: RunConfig, directory: Path, ports: Ports, *, cache: Path | None = None) -> ImageDataset:
    """Build or convert the dataset into a folder and note it in the tracker.

    Args:
        config: The run.
        directory: Where the prepared arrays go; must not exist yet or hold the same dataset.
        ports: Ports of the step.
        cache: Folder that keeps prepared datasets for further runs on this machine; files are linked, not copied, where
            the file system can.

    Raises:
        InputError: The data are missing, broken or too few for the episodes that the run asks for.
    """
    progress = ports.progress_for("dataset")
    if cache is None:
        dataset = datasets.prepare(config.data, directory, progress=progress)
    else:
        kept = dataset_folder(cache, config)
        datasets.prepare(config.data, kept, progress=progress)
        shutil.copytree(kept, directory, copy_function=_link_or_copy, dirs_exist_ok=True)
        dataset = datasets.load(directory)
    admit_dataset(config, dataset, ports)
    return dataset


def admit_dataset(config: RunConfig, dataset: ImageDataset, ports: Ports) -> None:
    """Check that a dataset gives all episodes that a run asks for, and note it as the run's input in the tracker.

    Raises:
        InputError: It has too few classes or images.
    """
    score_source(config, dataset)
    for split in datasets.SPLITS:
        episode_source(config, dataset, split)
    for split in datasets.SPLITS:
        images = dataset.split(split)
        ports.tracker.log_dataset(
            ports.run,
            DatasetSummary(
                name=f"{dataset.name}-{split}",
                digest=dataset.digest,
                source=config.data.path or dataset.name,
                num_images=len(images.labels),
                num_classes=len(images.class_names),
                image_shape=tuple(int(n) for n in images.images.shape[1:]),
            ),
            context=split,
        )
    with tempfile.TemporaryDirectory() as folder:
        sheet = Path(folder, "contact-sheet.png")
        datasets.contact_sheet(dataset, sheet)
        ports.tracker.log_file(ports.run, sheet, "dataset")


def plan_shards(config: RunConfig) -> list[int]:
    """Return the indices of the shards; there are no more of them than candidates."""
    return list(range(_num_shards(config)))


def score_shard(config: RunConfig, index: int, dataset: ImageDataset, ports: Ports) -> tuple[ScoreRecord, ...]:
    """Score every candidate of one shard and return their records, candidate by candidate.

    A record is stored as soon as its candidate is scored; candidates with stored records are not scored again.

    Raises:
        InputError: A stored record is not readable.
    """
    source = score_source(config, dataset)
    shards = _num_shards(config)
    mine = shard(candidates(config.search, config.seed), index, shards)
    folder = f"scores/{_score_digest(config, dataset)}"
    records: list[ScoreRecord] = []
    step = f"score {index + 1} of {shards}"
    progress = ports.progress_for(step)
    described = f"{len(mine)} candidates of `{config.search.space}`, {config.scoring.num_inits} draws each."
    with _step_run(ports, step, described, {"shard": index, "shards": shards, "candidates": len(mine)}) as run:
        progress(0, len(mine))
        for done, genotype in enumerate(mine, start=1):
            key = f"{folder}/{genotype.key}.jsonl"
            stored = ports.store.read(key)
            if stored is None:
                scored = score_candidate(
                    genotype,
                    source,
                    config.scoring,
                    config.seed,
                    training_network=config.training.network,
                    device=ports.device,
                )
                ports.store.write(key, write_records(scored).encode())
            else:
                scored = read_records(stored.decode())
            records.extend(scored)
            progress(done, len(mine))
        ports.tracker.log_metrics(
            run,
            [
                MetricPoint("score/candidates", len(mine), 0),
                MetricPoint("score/failed", len(_failed(records)), 0),
                MetricPoint("score/seconds", sum(record.seconds for record in records), 0),
            ],
        )
    return tuple(records)


def write_records(records: Iterable[ScoreRecord]) -> str:
    """Return records as JSON lines."""
    return "".join(f"{record.to_json()}\n" for record in records)


def read_records(text: str) -> tuple[ScoreRecord, ...]:
    """Return the records of JSON lines, in their order.

    Raises:
        InputError: A line is not a whole record.
    """
    return tuple(ScoreRecord.from_json(line) for line in text.splitlines() if line.strip())


def rank_candidates(config: RunConfig, records: Iterable[ScoreRecord], ports: Ports) -> Leaderboard:
    """Return the leaderboard of all shards' records, after checking that no candidate is missing.

    Raises:
        InputError: Records of some candidates are missing, or there are records of others.
    """
    records = tuple(records)
    expected = {str(genotype) for genotype in candidates(config.search, config.seed)}
    came = {record.genotype for record in records}
    if came != expected:
        raise InputError(
            f"Expected the records of the {len(expected)} candidates of this run, but {len(expected - came)} are "
            f"missing and {len(came - expected)} belong to another run; score all shards with one configuration."
        )
    progress = ports.progress_for("rank")
    progress(0, 1)
    leaderboard = rank(records, by=config.rank_by)
    ports.store.write(f"{config.run_id}/leaderboard.json", leaderboard.to_json().encode())
    ports.store.write(f"{config.run_id}/leaderboard.md", render_markdown(leaderboard).encode())
    ports.tracker.log_table(ports.run, leaderboard_columns(leaderboard), "leaderboard.json")
    ports.tracker.log_metrics(ports.run, ranking_metrics(leaderboard))
    progress(1, 1)
    return leaderboard


def leaderboard_columns(leaderboard: Leaderboard) -> dict[str, list[str | int | float | None]]:
    """Return the leaderboard as columns of equal length, one row a candidate, best first."""
    names = sorted({name for standing in leaderboard.standings for name, _ in standing.others})
    columns: dict[str, list[str | int | float | None]] = {
        "rank": [standing.rank for standing in leaderboard.standings],
        "genotype": [standing.genotype for standing in leaderboard.standings],
        leaderboard.label: [standing.mean for standing in leaderboard.standings],
        "standard error": [standing.standard_error for standing in leaderboard.standings],
        "draws": [standing.draws for standing in leaderboard.standings],
        "outcome": [
            f"{standing.outcome}{': ' if standing.reason else ''}{standing.reason}"
            for standing in leaderboard.standings
        ],
    }
    for name in names:
        columns[name] = [dict(standing.others).get(name) for standing in leaderboard.standings]
    return columns


def genotype_of(leaderboard: Leaderboard, role: str, seed: int) -> Genotype:
    """Return the genotype that plays a role: the best, the worst that could be scored, or a random other one.

    Raises:
        InputError: Fewer candidates could be scored than there are roles, or there is no such role.
    """
    if role not in ROLES:
        raise InputError(f"Expected one of the roles {', '.join(ROLES)}, but got {role!r}; correct trained_roles.")
    scored = [standing for standing in leaderboard.standings if standing.mean is not None]
    if len(scored) < 3:
        raise InputError(
            "Expected at least 3 candidates with a score, to train the best, the worst and a random one, but got "
            f"{len(scored)} of {len(leaderboard.standings)}; raise search.num_candidates, or see why they failed."
        )
    if role == "best":
        chosen = scored[0]
    elif role == "worst":
        chosen = scored[-1]
    else:
        chosen = scored[int(numpy_generator(seed, "role", "random").integers(1, len(scored) - 1))]
    return parse_genotype(leaderboard.space, chosen.genotype)


def meta_train(
    config: RunConfig, role: str, leaderboard: Leaderboard, dataset: ImageDataset, ports: Ports
) -> TrainedModel:
    """Meta-train the candidate of one role, continuing from the stored checkpoint if there is one."""
    genotype = genotype_of(leaderboard, role, config.seed)
    key = f"training/{_training_digest(config, genotype, dataset)}.checkpoint"
    training = config.training
    described = (
        f"{training.algorithm.upper()}{' (first order)' if training.first_order else ''}, "
        f"{training.iterations} iterations, of the {role} candidate by `{leaderboard.score}`: `{genotype}`."
    )
    with _step_run(ports, f"meta-train {role}", described, {"role": role, "genotype": str(genotype)}) as run:

        def log(points: Sequence[meta_training.Validation]) -> None:
            ports.tracker.log_metrics(run, [metric for point in points for metric in _learning_metrics(point)])

        model = meta_training.meta_train(
            genotype,
            episode_source(config, dataset, "train"),
            episode_source(config, dataset, "val"),
            training,
            config.seed,
            checkpoint=_StoredCheckpoint(ports.store, key),
            progress=ports.progress_for(f"meta-train {role}"),
            on_validation=lambda point: log([point]),
            device=ports.device,
        )
        # What an earlier attempt trained but did not live to log; points already there are skipped.
        log(model.history)
    return model


def evaluate(config: RunConfig, role: str, model: TrainedModel, dataset: ImageDataset, ports: Ports) -> Evaluation:
    """Evaluate a meta-trained network on episodes of test classes."""
    work = digest([model.digest, config.evaluation.model_dump(mode="json"), dataset.digest, config.seed])
    key = f"evaluation/{work}.checkpoint"
    described = f"{config.evaluation.episodes} episodes of test classes with the {role} candidate: `{model.genotype}`."
    with _step_run(ports, f"evaluate {role}", described, {"role": role, "genotype": model.genotype}) as run:
        evaluation = meta_training.evaluate(
            model,
            episode_source(config, dataset, "test"),
            config.evaluation,
            config.seed,
            checkpoint=_StoredCheckpoint(ports.store, key),
            progress=ports.progress_for(f"evaluate {role}"),
            device=ports.device,
        )
        ports.tracker.log_parameters(run, evaluation.protocol)
        ports.tracker.log_metrics(
            run,
            [
                MetricPoint("eval/accuracy", evaluation.accuracy, 0),
                MetricPoint("eval/half width 95", evaluation.half_width, 0),
            ],
        )
    ports.tracker.log_metrics(
        ports.run,
        [
            MetricPoint(f"eval/accuracy {role}", evaluation.accuracy, 0),
            MetricPoint(f"eval/half width 95 {role}", evaluation.half_width, 0),
        ],
    )
    ports.store.write(f"{config.run_id}/evaluation-{role}.json", evaluation.to_json().encode())
    return evaluation


def report(
    config: RunConfig,
    leaderboard: Leaderboard,
    dataset: ImageDataset,
    models: Mapping[str, TrainedModel],
    evaluations: Mapping[str, Evaluation],
    path: Path,
    ports: Ports,
) -> None:
    """Write the HTML report of a run, keep it in the store and attach it to the run in the tracker.

    Args:
        config: The run.
        leaderboard: Its ranking.
        dataset: Its images.
        models: The meta-trained networks by role.
        evaluations: Their accuracies by role.
        path: Where the report goes.
        ports: Ports of the step.
    """
    from metantk_core.report import ReportData, TrainedCandidate, write_report  # matplotlib: no other step needs it

    progress = ports.progress_for("report")
    progress(0, 1)
    source = score_source(config, dataset)
    shown = [role for role in ("best", "worst") if role in models]
    test = episode_source(config, dataset, "test")
    data = ReportData(
        name=config.run_id,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        seed=config.seed,
        digest=config.digest,
        configuration=json.dumps(json.loads(config.to_json()), indent=2),
        versions=versions(),
        dataset=dataset.name,
        leaderboard=leaderboard,
        trained=tuple(TrainedCandidate.of(role, model, evaluations.get(role)) for role, model in models.items()),
        kernels=tuple(_report_kernel(config, role, models[role], source, ports.device) for role in shown),
        episodes=tuple(test.episode(config.seed, "report", index) for index in range(2)),
        mean=dataset.mean,
        std=dataset.std,
    )
    with tempfile.TemporaryDirectory() as folder:
        named = Path(folder, "report.html")
        write_report(data, named)
        ports.tracker.log_file(ports.run, named)
        ports.store.write(f"{config.run_id}/report.html", named.read_bytes())
        shutil.copyfile(named, path)
    progress(1, 1)


def register_model(
    config: RunConfig, directory: Path, evaluation: Evaluation, dataset: ImageDataset, ports: Ports
) -> RegisteredModel:
    """Register a meta-trained network as a few-shot classifier, with the alias ``champion``, and finish the run.

    Args:
        config: The run.
        directory: Folder of the network, as ``meta_training.save_model`` writes it.
        evaluation: Its accuracy on test classes, noted on the version.
        dataset: Gives the input example: an episode of test classes.
        ports: Ports of the step.
    """
    progress = ports.progress_for("register")
    progress(0, 1)
    model = meta_training.load_model(directory)
    registered = ports.registry.register(
        ports.run,
        config.registered_model,
        directory,
        alias="champion",
        description=(
            f"Few-shot classifier: {config.training.algorithm.upper()} meta-trained on `{dataset.name}`, "
            f"{evaluation.summary()}. Give it support images, their labels and query images; "
            "it answers class probabilities."
        ),
        tags={
            "genotype": model.genotype,
            "space": model.space,
            "accuracy": f"{evaluation.accuracy:.4f}",
            "half_width_95": f"{evaluation.half_width:.4f}",
            "dataset": dataset.name,
            "dataset_digest": dataset.digest,
            "metantk.config": config.digest,
        },
        input_example=_input_example(config, dataset),
    )
    ports.store.write(
        f"{config.run_id}/model.json",
        json.dumps({"name": registered.name, "version": registered.version, "uri": registered.uri}).encode(),
    )
    ports.tracker.close_run(ports.run, "finished")
    progress(1, 1)
    return registered


def score_source(config: RunConfig, dataset: ImageDataset) -> EpisodeSource:
    """Return the source of the episodes that candidates are scored on: training classes, at the scoring resolution."""
    return EpisodeSource(
        dataset.train, config.scoring.episode, dataset.mean, dataset.std, image_size=config.scoring.image_size
    )


def episode_source(config: RunConfig, dataset: ImageDataset, split: Split) -> EpisodeSource:
    """Return the source of the episodes of one split, for meta-training, validation or evaluation."""
    episode = config.evaluation.episode if split == "test" else config.training.episode
    return EpisodeSource(dataset.split(split), episode, dataset.mean, dataset.std)


def ranking_metrics(leaderboard: Leaderboard) -> list[MetricPoint]:
    """Return what a ranking says about itself as metrics: its size, its failures and how far it can be trusted."""
    failed = sum(standing.mean is None for standing in leaderboard.standings)
    values: dict[str, float | None] = {
        "rank/candidates": len(leaderboard.standings),
        "rank/failed": failed,
        "rank/reliability": leaderboard.reliability.icc if leaderboard.reliability else None,
        "rank/leader stability": leaderboard.leader_stability,
        "rank/best": leaderboard.standings[0].mean,
    }
    return [MetricPoint(name, value, 0) for name, value in values.items() if value is not None]


def training_metrics(model: TrainedModel) -> list[MetricPoint]:
    """Return the validation accuracy of a network's kept weights, and the iteration that they are from."""
    return [
        metric
        for point in model.history  # empty if training diverged before the first validation
        if point.iteration == model.best_iteration
        for metric in (
            MetricPoint("train/best validation accuracy", point.validation_accuracy, 0),
            MetricPoint("train/best iteration", point.iteration, 0),
        )
    ]


def versions() -> tuple[tuple[str, str], ...]:
    """Return the names and versions of the software that numbers may depend on."""
    names = ("metantk", "torch", "learn2learn", "numpy", "scipy", "kfp", "mlflow")
    found = [("python", platform.python_version())]
    for name in names:
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    return tuple(found)


def _report_kernel(
    config: RunConfig, role: str, model: TrainedModel, source: EpisodeSource, device: str
) -> "CandidateKernel":
    """Return the MetaNTK of the first draw, with the classes that its rows stand for."""
    from metantk_core.report import CandidateKernel

    genotype = parse_genotype(model.space, model.genotype)
    kernels = candidate_kernels(genotype, source, config.scoring, config.seed, 0, device=device)
    episodes = scoring_episodes(source, config.scoring, config.seed, 0)
    return CandidateKernel(role, genotype, kernels.meta_ntk.numpy(), tuple(episode.class_names for episode in episodes))


def _learning_metrics(point: meta_training.Validation) -> list[MetricPoint]:
    return [
        MetricPoint("train/loss", point.train_loss, point.iteration),
        MetricPoint("train/accuracy", point.train_accuracy, point.iteration),
        MetricPoint("val/accuracy", point.validation_accuracy, point.iteration),
    ]


def _input_example(config: RunConfig, dataset: ImageDataset) -> dict[str, np.ndarray]:
    """Return one episode's support and query images of the first test classes, as people would send them."""
    ways, shots = config.evaluation.episode.ways, config.evaluation.episode.shots
    images, labels = dataset.test.images, dataset.test.labels
    rows = [np.flatnonzero(labels == label)[: shots + 1] for label in range(ways)]
    support = np.concatenate([row[:shots] for row in rows])
    query = np.concatenate([row[shots:] for row in rows])
    return {
        "support_images": np.asarray(images[support]),
        "support_labels": np.repeat(np.arange(ways, dtype=np.int64), shots),
        "query_images": np.asarray(images[query]),
    }


def _num_shards(config: RunConfig) -> int:
    return min(config.search.shards, config.search.num_candidates)


def _failed(records: Iterable[ScoreRecord]) -> set[str]:
    return {record.genotype for record in records if any(draw.value is None for draw in record.draws)}


def _score_digest(config: RunConfig, dataset: ImageDataset) -> str:
    """Everything that a record depends on besides its genotype."""
    return digest(
        [
            config.scoring.model_dump(mode="json"),
            config.training.network.model_dump(mode="json"),
            dataset.digest,
            config.seed,
            __version__,
            torch.__version__,
        ]
    )


def _training_digest(config: RunConfig, genotype: Genotype, dataset: ImageDataset) -> str:
    return digest(
        [
            config.training.model_dump(mode="json"),
            genotype.key,
            dataset.digest,
            config.seed,
            __version__,
            torch.__version__,
        ]
    )


def _flattened(values: Mapping[str, object], prefix: str = "") -> dict[str, str | int | float | bool]:
    flat: dict[str, str | int | float | bool] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flattened(value, f"{prefix}{key}.")
        elif value is not None:
            flat[f"{prefix}{key}"] = value if isinstance(value, str | int | float | bool) else json.dumps(value)
    return flat


def _link_or_copy(source: str, target: str) -> None:
    """Link a file, or copy it where the file system can't: prepared datasets are large and never change."""
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError:
        shutil.copy2(source, target)


@contextmanager
def _step_run(
    ports: Ports, name: str, description: str, parameters: Mapping[str, str | int | float | bool]
) -> Iterator[str]:
    """Give a step a run of its own below the pipeline's, finished or failed with the step."""
    run = ports.tracker.open_run(
        f"{ports.run}/{name}", name, parent=ports.run, description=description, tags={"metantk.step": name}
    )
    ports.tracker.log_parameters(run, parameters)
    with run_scope(ports.tracker, run):
        yield run


@dataclass(frozen=True)
class _StoredCheckpoint:
    """A checkpoint under one key of the artifact store."""

    store: ArtifactStore
    key: str

    def load(self) -> bytes | None:
        return self.store.read(self.key)

    def save(self, data: bytes) -> None:
        self.store.write(self.key, data)
