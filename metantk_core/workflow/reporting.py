"""What a finished run found: stored results enter, values and the report leave."""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from metantk_core.candidates import Costs, Genotype
from metantk_core.config import RunConfig
from metantk_core.datasets import ImageDataset
from metantk_core.episodes import EpisodeSource
from metantk_core.errors import InputError
from metantk_core.meta_training import Evaluation, TrainedModel
from metantk_core.ports import ArtifactStore
from metantk_core.ranking import Leaderboard, training_names
from metantk_core.scores import candidate_kernels, scoring_episodes
from metantk_core.search import SearchHistory
from metantk_core.workflow.data import episode_source, score_source
from metantk_core.workflow.requirements import REQUIREMENTS, requirements
from metantk_core.workflow.runs import Ports, remarks, versions
from metantk_core.workflow.tracked import difference_metrics
from metantk_core.workflow.training import architecture_of, evaluation_file, join_trainings, training_costs

if TYPE_CHECKING:
    from metantk_core.report import CandidateKernel

T = TypeVar("T")


@dataclass(frozen=True)
class RunResult:
    """What a whole pipeline run found.

    Attributes:
        leaderboard: The ranking.
        history: The rounds of the search.
        evaluations: Accuracy on test classes by role, and by name of the yardsticks; over all seeds of a network.
        costs: Parameters and multiply-accumulates of the same networks.
        model_uri: The registered version; empty if the registry was away and it waits to be registered.
        trainings: Accuracy of each training by its name, where networks were trained several times.
    """

    leaderboard: Leaderboard
    history: SearchHistory
    evaluations: Mapping[str, Evaluation]
    costs: Mapping[str, Costs]
    model_uri: str
    trainings: Mapping[str, Evaluation] = field(default_factory=dict)

    def as_values(self) -> dict[str, object]:
        """Return plain values for JSON; differences are of the search's choice minus each other network."""
        from metantk_core.report import findings  # matplotlib comes with the package

        return {
            "leaderboard": json.loads(self.leaderboard.to_json()),
            "digest": self.leaderboard.digest,
            "history": json.loads(self.history.to_json()),
            "evaluations": {role: evaluation.as_values() for role, evaluation in self.evaluations.items()},
            **(
                {"trainings": {name: found.as_values() for name, found in self.trainings.items()}}
                if self.trainings
                else {}
            ),
            "costs": {role: {"params": cost.params, "macs": cost.macs} for role, cost in self.costs.items()},
            "differences": {name: asdict(found) for name, found in findings.differences(self.evaluations).items()},
            "model": self.model_uri or None,
        }


def read_result(config: RunConfig, store: ArtifactStore) -> RunResult:
    """Return what a finished run left in the store.

    Raises:
        InputError: The run has not finished, or a file is damaged.
    """

    def read(name: str, parse: Callable[[str], T]) -> T:
        key = f"{config.run_id}/{name}"
        data = store.read(key)
        if data is None:
            raise InputError(
                f"Expected {name} of the run {config.run_id}, but it is not there; run the pipeline to its end first."
            )
        try:
            return parse(data.decode())
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{store.place(key)} is damaged; run the pipeline again, which writes it anew and repeats no finished "
                "work."
            ) from error

    def evaluations(names: Sequence[str]) -> dict[str, Evaluation]:
        return {name: read(evaluation_file(name), Evaluation.from_json) for name in names}

    leaderboard = read("leaderboard.json", Leaderboard.from_json)
    return RunResult(
        leaderboard,
        read("search.json", SearchHistory.from_json),
        evaluations(config.networks),
        {role: training_costs(config, role, architecture_of(config, role, leaderboard)) for role in config.networks},
        read("model.json", lambda text: str(json.loads(text)["uri"])),
        evaluations(config.trained) if config.training_seeds > 1 else {},
    )


def report(
    config: RunConfig,
    leaderboard: Leaderboard,
    history: SearchHistory,
    dataset: ImageDataset,
    models: Mapping[str, TrainedModel],
    evaluations: Mapping[str, Evaluation],
    path: Path,
    ports: Ports,
) -> None:
    """Write the HTML report of a run, keep it in the store and attach it to the run in the tracker.

    What takes the accuracies of all networks is noted there, too: their differences, and means over trainings.

    Args:
        config: The run.
        leaderboard: Its ranking.
        history: The rounds of its search.
        dataset: Its images.
        models: The meta-trained networks by name of the training.
        evaluations: Their accuracies by the same names.
        path: Where the report goes.
        ports: Ports of the step.
    """
    from metantk_core.report import ReportData, TrainedCandidate, findings, write_report  # matplotlib, for this alone

    progress = ports.progress_for("report")
    progress(0, 1)
    source = score_source(config, dataset)
    joined = {name: join_trainings(config, name, models, evaluations, dataset, ports) for name in config.networks}
    trainings = {
        name: {each: models[each] for each in training_names(name, config.training_seeds)} for name in config.networks
    }
    ports.tracker.log_metrics(ports.run, difference_metrics(findings.differences(joined)))
    shown = [role for role in ("best", "worst") if role in config.networks]
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
        history=history,
        trained=tuple(
            TrainedCandidate.of(name, trainings[name], joined[name], own_settings=name in config.yardstick_training)
            for name in config.networks
        ),
        kernels=tuple(
            _report_kernel(config, role, next(iter(trainings[role].values())), source, ports.device) for role in shown
        ),
        episodes=tuple(test.episode(config.seed, "report", index) for index in range(2)),
        remarks=remarks(ports.store, config.run_id),
    )
    with tempfile.TemporaryDirectory() as folder:
        named = Path(folder, "report.html")
        write_report(data, named)
        ports.tracker.log_file(ports.run, named)
        ports.store.write(f"{config.run_id}/report.html", named.read_bytes())
        # For who repeats the run from what is kept of it.
        ports.store.write(f"{config.run_id}/config.json", config.to_json().encode())
        ports.store.write(f"{config.run_id}/{REQUIREMENTS}", requirements().encode())
        shutil.copyfile(named, path)
    progress(1, 1)


def _report_kernel(
    config: RunConfig, role: str, model: TrainedModel, source: EpisodeSource, device: str
) -> "CandidateKernel":
    """Return the MetaNTK of the first draw, with the classes that its rows stand for."""
    from metantk_core.report import CandidateKernel

    genotype = model.architecture
    assert isinstance(genotype, Genotype)
    kernels = candidate_kernels(genotype, source, config.scoring, config.seed, 0, device=device)
    episodes = scoring_episodes(source, config.scoring, config.seed, 0)
    return CandidateKernel(role, genotype, kernels.meta_ntk.numpy(), tuple(episode.class_names for episode in episodes))
