"""Steps after the ranking: a leaderboard or a network enters, trained, evaluated and registered networks leave."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from metantk_core import meta_training
from metantk_core.architectures import Architecture, costs_of, format_architecture, parse_architecture, running
from metantk_core.candidates import Costs, Genotype, parse_genotype
from metantk_core.config import RunConfig
from metantk_core.datasets import ImageDataset
from metantk_core.errors import InputError, UnscoredError
from metantk_core.meta_training import Evaluation, TrainedModel
from metantk_core.ports import RegisteredModel
from metantk_core.ranking import ROLES, Leaderboard, is_role, rank_of, training_names, training_of
from metantk_core.seeding import numpy_generator
from metantk_core.workflow.data import episode_source, summary_of, training_source
from metantk_core.workflow.identity import evaluation_key, training_key
from metantk_core.workflow.model_card import model_card
from metantk_core.workflow.runs import Ports, StoredCheckpoint, note_model, step_run
from metantk_core.workflow.tracked import accuracy_metrics, class_columns, confusion_columns, learning_metrics


def genotype_of(leaderboard: Leaderboard, role: str, seed: int) -> Genotype:
    """Return the genotype that plays a role: the search's choice, the worst that could be scored, a random other one.

    Ranks below the best (``"top-2"`` …) are those of the others in order. The random one is the same however many of
    the first ranks are trained, and may be one of them.

    Raises:
        InputError: Fewer candidates could be scored than there are roles, or there is no such role.
    """
    rank = rank_of(role)
    if not is_role(role):
        raise InputError(f"Expected one of the roles {', '.join(ROLES)}, but got {role!r}; correct trained_roles.")
    scored = [standing for standing in leaderboard.standings if standing.mean is not None]
    if len(scored) < (least := max(3, (rank or 0) + 1)):
        needed = "the best, the worst and a random one" if rank is None else f"the first {rank} and the worst"
        raise UnscoredError(
            f"Expected at least {least} candidates with a score, to train {needed}, but got "
            f"{len(scored)} of {len(leaderboard.standings)}; raise search.num_candidates, or see why they failed."
        )
    others = [standing for standing in scored if standing is not leaderboard.best]
    if role == "best":
        chosen = leaderboard.best
    elif rank is not None:
        chosen = others[rank - 2]
    elif role == "worst":
        chosen = others[-1]
    else:
        chosen = others[int(numpy_generator(seed, "role", "random").integers(1, len(others))) - 1]
    return parse_genotype(leaderboard.space, chosen.genotype)


def meta_train(
    config: RunConfig, role: str, leaderboard: Leaderboard, dataset: ImageDataset, ports: Ports
) -> TrainedModel:
    """Train the candidate of one role, or a yardstick, continuing from the stored checkpoint if there is one.

    Args:
        config: The run.
        role: Name of the training, one of ``config.trained``.
        leaderboard: The ranking.
        dataset: The images.
        ports: Ports of the step.
    """
    network, _ = training_of(role)
    what = "" if network in config.yardsticks else f", of the {network} candidate by `{leaderboard.score}`"
    return train(config, role, architecture_of(config, role, leaderboard), dataset, ports, what)


def architecture_of(config: RunConfig, role: str, leaderboard: Leaderboard) -> Architecture:
    """Return what is trained: the candidate that plays a role, or the yardstick of a name.

    Args:
        config: The run.
        role: Name of the network, or of a training of it.
        leaderboard: The ranking.

    Raises:
        InputError: As for :func:`genotype_of`.
    """
    network, _ = training_of(role)
    if network in config.yardsticks:
        return parse_architecture(config.search.space, network)
    return genotype_of(leaderboard, network, config.seed)


def training_costs(config: RunConfig, name: str, architecture: Architecture) -> Costs:
    """Return parameters and multiply-accumulates of a network as it answers episodes of the evaluation.

    Args:
        config: Says how wide and deep it is, and the shape of the images.
        name: Name of the network, or of a training of it.
        architecture: The network.

    Raises:
        InputError: A person's code fails, or the images are too small for the network.
    """
    ways = config.evaluation.episode.ways
    body = config.for_network(name).training.network
    return costs_of(architecture, body, image_shape=config.data.image_shape, ways=ways)


def train(
    config: RunConfig, name: str, architecture: Architecture, dataset: ImageDataset, ports: Ports, what: str = ""
) -> TrainedModel:
    """Train a network as the configuration says, continuing from the stored checkpoint if there is one.

    Args:
        config: The run.
        name: What the training is called in tables, progress and the tracker; says which seed it has.
        architecture: The network.
        dataset: The images.
        ports: Ports of the step.
        what: How it was found, for the tracker.
    """
    seed = config.training_seed(name)
    config = config.for_network(name)
    identity = training_key(config, architecture, dataset, ports.device_kind, seed)
    key = f"training/{meta_training.FORMAT}/{identity}.checkpoint"
    training = config.training
    described = f"{training.title}, {training.length}{what}: `{architecture}`."
    parameters: dict[str, str | int] = {"role": name, "genotype": format_architecture(architecture)}
    if seed != config.seed:
        parameters["training seed"] = seed
    with step_run(ports, f"meta-train {name}", described, parameters) as run:

        def log(points: Sequence[meta_training.Validation]) -> None:
            ports.tracker.log_metrics(run, [metric for point in points for metric in learning_metrics(point)])

        with running(architecture, "fails while it is trained"):
            model = meta_training.meta_train(
                architecture,
                training_source(config, dataset),
                episode_source(config, dataset, "val"),
                training,
                seed,
                checkpoint=StoredCheckpoint(ports.store, key),
                progress=ports.progress_for(f"meta-train {name}"),
                on_validation=lambda point: log([point]),
                device=ports.device,
                validation_seed=config.seed,
            )
        # What an earlier attempt trained but did not live to log; points already there are skipped.
        log(model.history)
    return model


def evaluate(config: RunConfig, role: str, model: TrainedModel, dataset: ImageDataset, ports: Ports) -> Evaluation:
    """Evaluate a meta-trained network on episodes of test classes, which are the same for all of a run.

    Args:
        config: The run.
        role: Name of the training.
        model: What was trained.
        dataset: The images.
        ports: Ports of the step.
    """
    network, _ = training_of(role)
    key = f"evaluation/{meta_training.FORMAT}/{evaluation_key(config, model, dataset, ports.device_kind)}.checkpoint"
    what = network if network in config.yardsticks else f"the {network} candidate"
    described = f"{config.evaluation.episodes} episodes of test classes with {what}: `{model.genotype}`."
    with step_run(ports, f"evaluate {role}", described, {"role": role, "genotype": model.genotype}) as run:
        with running(model.architecture, "fails while it is evaluated"):
            evaluation = meta_training.evaluate(
                model,
                episode_source(config, dataset, "test"),
                config.evaluation,
                config.seed,
                checkpoint=StoredCheckpoint(ports.store, key),
                progress=ports.progress_for(f"evaluate {role}"),
                device=ports.device,
            )
        evaluation = _beside_published(evaluation, model, dataset)
        ports.tracker.log_parameters(run, evaluation.protocol)
        ports.tracker.log_metrics(run, accuracy_metrics(evaluation))
        _log_classes(run, evaluation, ports)
    if role == network:
        ports.tracker.log_metrics(ports.run, accuracy_metrics(evaluation, role))
    ports.store.write(f"{config.run_id}/{evaluation_file(role)}", evaluation.to_json().encode())
    return evaluation


def evaluation_file(name: str) -> str:
    """Return the name of the file, in a run's folder, with the accuracy of a network or of one of its trainings."""
    return f"evaluation-{name.replace(' ', '-')}.json"


def join_trainings(
    config: RunConfig,
    network: str,
    models: Mapping[str, TrainedModel],
    evaluations: Mapping[str, Evaluation],
    dataset: ImageDataset,
    ports: Ports,
) -> Evaluation:
    """Return the accuracy of a network over its trainings, noted in the store and on the run if there are several.

    Args:
        config: The run.
        network: Name of the network.
        models: The models by name of the training, those of other networks as well.
        evaluations: Their accuracies.
        dataset: The images.
        ports: Ports of the step.
    """
    names = training_names(network, config.training_seeds)
    joined = meta_training.over_trainings([evaluations[name] for name in names])
    if len(names) == 1:
        return joined
    joined = _beside_published(joined, models[names[0]], dataset)
    ports.tracker.log_metrics(ports.run, accuracy_metrics(joined, network))
    _log_classes(ports.run, joined, ports, f"-{network}")
    ports.store.write(f"{config.run_id}/{evaluation_file(network)}", joined.to_json().encode())
    return joined


def _beside_published(evaluation: Evaluation, model: TrainedModel, dataset: ImageDataset) -> Evaluation:
    """Return an accuracy with the sentence of how it compares with published ones."""
    published = meta_training.published_sentence(evaluation, dataset, model.training.title, model.genotype)
    return replace(evaluation, published=published)


def _log_classes(run: str, evaluation: Evaluation, ports: Ports, named: str = "") -> None:
    """Attach how single test classes fared to a run, as tables."""
    if evaluation.answers is not None:
        ports.tracker.log_table(run, class_columns(evaluation.answers), f"evaluation/classes{named}.json")
        ports.tracker.log_table(run, confusion_columns(evaluation.answers), f"evaluation/confusions{named}.json")


def register_model(
    config: RunConfig,
    directories: Mapping[str, Path],
    evaluations: Mapping[str, Evaluation],
    dataset: ImageDataset,
    ports: Ports,
) -> RegisteredModel:
    """Register the best candidate's network as a few-shot classifier, with the alias ``champion``, and finish the run.

    Of several trainings it is the one that was best on validation classes.

    Args:
        config: The run.
        directories: Folders of the networks by name of the training, as ``meta_training.save_model`` writes them.
        evaluations: Their accuracies on test classes, noted on the version.
        dataset: Gives the input example: an episode of test classes.
        ports: Ports of the step.
    """
    names = training_names("best", config.training_seeds)
    models = {name: meta_training.load_model(directories[name]) for name in names}
    chosen = meta_training.best_validated(models)
    registered = _registered(config, chosen, models, directories[chosen], evaluations, dataset, ports)
    note_model(ports.store, config.run_id, registered)
    ports.tracker.close_run(ports.run, "finished")
    return registered


def register_trained(
    config: RunConfig,
    models: Mapping[str, TrainedModel],
    evaluations: Mapping[str, Evaluation],
    dataset: ImageDataset,
    ports: Ports,
) -> RegisteredModel:
    """Register a network that no search has chosen, with the alias ``champion``.

    Args:
        config: Says how it was trained, and under which name it is registered.
        models: The network's trainings by name; the one that was best on validation classes is registered.
        evaluations: Their accuracies on test classes.
        dataset: Gives the input example.
        ports: Ports of the step.
    """
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch, "model")
        chosen = meta_training.best_validated(models)
        meta_training.save_model(models[chosen], directory)
        return _registered(config, chosen, models, directory, evaluations, dataset, ports)


def _registered(
    config: RunConfig,
    role: str,
    models: Mapping[str, TrainedModel],
    directory: Path,
    evaluations: Mapping[str, Evaluation],
    dataset: ImageDataset,
    ports: Ports,
) -> RegisteredModel:
    """Register the training of a name, which lies in a folder; its card says how all trainings of the network fared."""
    model, evaluation = models[role], evaluations[role]
    joined = meta_training.over_trainings([evaluations[name] for name in models])
    progress = ports.progress_for("register")
    progress(0, 1)
    registered = ports.registry.register(
        ports.run,
        config.registered_model,
        model,
        directory,
        alias="champion",
        description=model_card(
            config, model, evaluation, dataset, joined=joined, searched=training_of(role)[0] in config.candidates
        ),
        tags={
            "genotype": model.genotype,
            "space": model.space,
            "accuracy": f"{evaluation.accuracy:.4f}",
            "half_width_95": f"{evaluation.half_width:.4f}",
            "dataset": dataset.name,
            "dataset_digest": dataset.digest,
            "evaluated_on": evaluation.device,
            "published": evaluation.published,
            "metantk.config": config.digest,
        },
        input_example=_input_example(config, dataset),
        metrics=accuracy_metrics(evaluation, role),
        dataset=summary_of(config, dataset, "test"),
    )
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
