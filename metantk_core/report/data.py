"""What a report is made of: the values of a finished run, nothing that has to be looked up or computed elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from metantk_core.architectures import Architecture, costs_of
from metantk_core.candidates import Costs, Genotype
from metantk_core.episodes import Episode
from metantk_core.meta_training import Evaluation, TrainedModel, Validation, best_validated
from metantk_core.ranking import Leaderboard, training_of
from metantk_core.search import SearchHistory


@dataclass(frozen=True)
class TrainedCandidate:
    """A network that was trained: a candidate, or a yardstick beside them.

    Attributes:
        role: ``"best"``, ``"worst"``, ``"random"``, or another name for people.
        architecture: The network.
        history: The validations during meta-training, in order; of several trainings those of the one that is shown,
            which was best on validation classes.
        best_iteration: The iteration whose weights were kept.
        evaluation: Its accuracy on test classes, over all trainings, or None if it was not evaluated.
        problem: What went wrong during training, for people; empty if nothing did.
        costs: Its parameters and multiply-accumulates, if they are known.
        iterations: The iterations whose weights were kept, of each of several trainings.
        training: Which of several trainings is shown, such as ``"seed 2"``.
        other_histories: The validations during the others.
        own_settings: Whether its training had settings of its own.
    """

    role: str
    architecture: Architecture
    history: tuple[Validation, ...]
    best_iteration: int
    evaluation: Evaluation | None
    problem: str = ""
    costs: Costs | None = None
    iterations: tuple[int, ...] = ()
    own_settings: bool = False
    training: str = ""
    other_histories: tuple[tuple[Validation, ...], ...] = ()

    @classmethod
    def of(
        cls,
        role: str,
        models: Mapping[str, TrainedModel],
        evaluation: Evaluation | None,
        *,
        own_settings: bool = False,
    ) -> "TrainedCandidate":
        """Return what the report shows of a network that was trained.

        Args:
            role: The candidate's role, or the yardstick's name.
            models: What came of its trainings, by their names.
            evaluation: Its accuracy on test classes, if it was evaluated.
            own_settings: Whether its training had settings of its own.
        """
        shown = best_validated(models)
        model = models[shown]
        problem = "; ".join(
            f"{f'{name}: ' if len(models) > 1 else ''}{found.outcome} at iteration {found.iterations}: {found.reason}"
            for name, found in models.items()
            if found.reason
        )
        iterations = tuple(found.best_iteration for found in models.values()) if len(models) > 1 else ()
        costs = costs_of(
            model.architecture,
            model.training.network,
            image_shape=model.image_shape,
            ways=evaluation.ways if evaluation is not None else max(model.outputs, 1),
        )
        return cls(
            role,
            model.architecture,
            model.history,
            model.best_iteration,
            evaluation,
            problem,
            costs,
            iterations,
            own_settings,
            f"seed {training_of(shown)[1]}" if len(models) > 1 else "",
            tuple(found.history for name, found in models.items() if name != shown),
        )


@dataclass(frozen=True)
class CandidateKernel:
    """The MetaNTK of a candidate in one draw (one initialisation and its episodes, which all candidates share).

    Attributes:
        role: As in ``TrainedCandidate``.
        genotype: The candidate.
        meta_ntk: The matrix over the query images, task by task, in each task class by class.
        classes: The class names of each task, in the order of the matrix.
    """

    role: str
    genotype: Genotype
    meta_ntk: Float[np.ndarray, "m m"]
    classes: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class ReportData:
    """Everything that a report shows.

    Attributes:
        name: The run's name.
        date: When the run happened, as it shall be shown; data, so that the same run gives the same report.
        seed: The run's seed.
        digest: Digest of the run's configuration.
        configuration: The exact configuration as JSON.
        versions: Names and versions of the software, in the order to show them.
        dataset: The dataset's name.
        leaderboard: The ranking.
        history: The rounds of the search, if they shall be shown.
        trained: The meta-trained candidates; the best comes first.
        kernels: The MetaNTKs to compare, usually of the best and the worst; all of one size.
        episodes: Some test episodes to show.
        remarks: What people should know of how the run was computed, such as that a GPU was missing.
    """

    name: str
    date: str
    seed: int
    digest: str
    configuration: str
    versions: tuple[tuple[str, str], ...]
    dataset: str
    leaderboard: Leaderboard
    history: SearchHistory | None = None
    trained: tuple[TrainedCandidate, ...] = ()
    kernels: tuple[CandidateKernel, ...] = ()
    episodes: tuple[Episode, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def devices(self) -> tuple[tuple[str, str], ...]:
        """What was computed on which kinds of device: name and kinds."""
        evaluated = sorted({found.evaluation.device for found in self.trained if found.evaluation is not None} - {""})
        rows = ("scored on", " and ".join(self.leaderboard.devices)), ("evaluated on", " and ".join(evaluated))
        return tuple(row for row in rows if row[1])
