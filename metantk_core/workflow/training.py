"""Steps after the ranking: a leaderboard enters, trained, evaluated and registered networks leave."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from metantk_core import meta_training
from metantk_core.candidates import Genotype, parse_genotype
from metantk_core.config import RunConfig
from metantk_core.datasets import ImageDataset
from metantk_core.errors import InputError, UnscoredError
from metantk_core.meta_training import Evaluation, TrainedModel
from metantk_core.ports import RegisteredModel
from metantk_core.ranking import ROLES, Leaderboard
from metantk_core.seeding import numpy_generator
from metantk_core.workflow.data import episode_source, summary_of, training_source
from metantk_core.workflow.identity import evaluation_key, training_key
from metantk_core.workflow.model_card import model_card
from metantk_core.workflow.runs import Ports, StoredCheckpoint, note_model, step_run
from metantk_core.workflow.tracked import accuracy_metrics, learning_metrics


def genotype_of(leaderboard: Leaderboard, role: str, seed: int) -> Genotype:
    """Return the genotype that plays a role: the search's choice, the worst that could be scored, a random other one.

    Raises:
        InputError: Fewer candidates could be scored than there are roles, or there is no such role.
    """
    if role not in ROLES:
        raise InputError(f"Expected one of the roles {', '.join(ROLES)}, but got {role!r}; correct trained_roles.")
    scored = [standing for standing in leaderboard.standings if standing.mean is not None]
    if len(scored) < 3:
        raise UnscoredError(
            "Expected at least 3 candidates with a score, to train the best, the worst and a random one, but got "
            f"{len(scored)} of {len(leaderboard.standings)}; raise search.num_candidates, or see why they failed."
        )
    others = [standing for standing in scored if standing is not leaderboard.best]
    if role == "best":
        chosen = leaderboard.best
    elif role == "worst":
        chosen = others[-1]
    else:
        chosen = others[int(numpy_generator(seed, "role", "random").integers(1, len(others))) - 1]
    return parse_genotype(leaderboard.space, chosen.genotype)


def meta_train(
    config: RunConfig, role: str, leaderboard: Leaderboard, dataset: ImageDataset, ports: Ports
) -> TrainedModel:
    """Meta-train the candidate of one role, continuing from the stored checkpoint if there is one."""
    genotype = genotype_of(leaderboard, role, config.seed)
    key = f"training/{meta_training.FORMAT}/{training_key(config, genotype, dataset, ports.device_kind)}.checkpoint"
    training = config.training
    described = f"{training.title}, {training.length}, of the {role} candidate by `{leaderboard.score}`: `{genotype}`."
    with step_run(ports, f"meta-train {role}", described, {"role": role, "genotype": str(genotype)}) as run:

        def log(points: Sequence[meta_training.Validation]) -> None:
            ports.tracker.log_metrics(run, [metric for point in points for metric in learning_metrics(point)])

        model = meta_training.meta_train(
            genotype,
            training_source(config, dataset),
            episode_source(config, dataset, "val"),
            training,
            config.seed,
            checkpoint=StoredCheckpoint(ports.store, key),
            progress=ports.progress_for(f"meta-train {role}"),
            on_validation=lambda point: log([point]),
            device=ports.device,
        )
        # What an earlier attempt trained but did not live to log; points already there are skipped.
        log(model.history)
    return model


def evaluate(config: RunConfig, role: str, model: TrainedModel, dataset: ImageDataset, ports: Ports) -> Evaluation:
    """Evaluate a meta-trained network on episodes of test classes."""
    key = f"evaluation/{meta_training.FORMAT}/{evaluation_key(config, model, dataset, ports.device_kind)}.checkpoint"
    described = f"{config.evaluation.episodes} episodes of test classes with the {role} candidate: `{model.genotype}`."
    with step_run(ports, f"evaluate {role}", described, {"role": role, "genotype": model.genotype}) as run:
        evaluation = meta_training.evaluate(
            model,
            episode_source(config, dataset, "test"),
            config.evaluation,
            config.seed,
            checkpoint=StoredCheckpoint(ports.store, key),
            progress=ports.progress_for(f"evaluate {role}"),
            device=ports.device,
        )
        ports.tracker.log_parameters(run, evaluation.protocol)
        ports.tracker.log_metrics(run, accuracy_metrics(evaluation))
    ports.tracker.log_metrics(ports.run, accuracy_metrics(evaluation, role))
    ports.store.write(f"{config.run_id}/evaluation-{role}.json", evaluation.to_json().encode())
    return evaluation


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
        model,
        directory,
        alias="champion",
        description=model_card(config, model, evaluation, dataset),
        tags={
            "genotype": model.genotype,
            "space": model.space,
            "accuracy": f"{evaluation.accuracy:.4f}",
            "half_width_95": f"{evaluation.half_width:.4f}",
            "dataset": dataset.name,
            "dataset_digest": dataset.digest,
            "evaluated_on": evaluation.device,
            "metantk.config": config.digest,
        },
        input_example=_input_example(config, dataset),
        metrics=accuracy_metrics(evaluation, "best"),
        dataset=summary_of(config, dataset, "test"),
    )
    note_model(ports.store, config.run_id, registered)
    ports.tracker.close_run(ports.run, "finished")
    progress(1, 1)
    return registered


def _input_example(config: RunConfig, dataset: ImageDataset) -> dict[str, np.ndarray]:
    """Return one episode's support and query images of the first test classes, as people would send them."""
    ways, shots = config.evaluation.episode.ways, config.evaluation.episode.shots
    labels = dataset.test.labels
    rows = [np.flatnonzero(labels == label)[: shots + 1] for label in range(ways)]
    support = np.concatenate([row[:shots] for row in rows])
    query = np.concatenate([row[shots:] for row in rows])
    return {
        "support_images": dataset.test.take(support),
        "support_labels": np.repeat(np.arange(ways, dtype=np.int64), shots),
        "query_images": dataset.test.take(query),
    }
