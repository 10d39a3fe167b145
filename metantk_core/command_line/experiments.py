"""Commands that run an experiment on this machine, step by step or whole, and look at its runs."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metantk_core.command_line.options import (
    AsJson,
    Commands,
    Device,
    Overrides,
    Recipe,
    Seed,
    Store,
    TrackingUri,
    WorkspaceRoot,
    configuration,
    print_estimate,
    print_json,
)
from metantk_core.errors import InputError, quoted, without_addresses
from metantk_core.extras import META_TRAINING, PIPELINES, TRACKING, admit_installed
from metantk_core.networks.config import BatchNormTreatment
from metantk_core.ranking.roles import ROLES, rank_of, training_names

if TYPE_CHECKING:
    from metantk_core.config import RunConfig

commands = typer.Typer(cls=Commands)

_ROLES = "best|worst|random|top-2|…"


@commands.command(
    epilog="Examples: metantk search glyphs  ·  "
    "metantk search glyphs --set search.num_candidates=200  ·  metantk search glyphs-prune  ·  "
    "metantk search glyphs --set search.strategy=race"
)
def search(
    recipe: Recipe = "glyphs",
    overrides: Overrides = None,
    seed: Seed = None,
    workspace: WorkspaceRoot = Path("runs"),
    tracking_uri: TrackingUri = "",
    store: Store = "",
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Search in this process by the recipe's strategy; what is already scored is not scored again."""
    config = configuration(recipe, overrides, seed)
    admit_installed("metantk search", *TRACKING)

    from metantk_core import terminal, workflow
    from metantk_core import workspace as spaces

    place = spaces.Workspace(workspace, tracking_uri, device, store)
    config = place.prepare(config)
    with spaces.open_run(config, place) as (dataset, ports), workflow.watched_search(config, ports):
        found = workflow.search(config, dataset, ports)
    if as_json:
        print_json(
            {
                "run": config.run_id,
                "device": ports.device_kind,
                "digest": found.leaderboard.digest,
                "winner": found.leaderboard.winner,
                "leaderboard": json.loads(found.leaderboard.to_json()),
                "history": json.loads(found.history.to_json()),
            }
        )
    else:
        terminal.print_history(found.history)
        terminal.print_leaderboard(found.leaderboard)
        terminal.print_device(ports.device)
        terminal.print_next(place, config)


@commands.command(
    epilog="Examples: metantk train glyphs  ·  metantk train glyphs --role worst --set training.iterations=2000  ·  "
    "metantk train glyphs --genotype conv4-32  ·  metantk train glyphs-darts --genotype paper-mini-5-a  ·  "
    "metantk train glyphs --model my_package.my_module:make_network --register my-classifier"
)
def train(
    recipe: Recipe = "glyphs",
    role: Annotated[str | None, typer.Option(metavar=_ROLES, help="Which candidate: by default the best.")] = None,
    genotype: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT|NAME",
            help="Search nothing; train and evaluate this network: an architecture in a text form of the search space, "
            "a published one by name (as for `metantk score`), or conv4-32, conv4-64 or resnet12.",
        ),
    ] = None,
    space: Annotated[
        str | None, typer.Option(help="With --genotype: its search space, where the recipe's is another.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="PACKAGE.MODULE:FACTORY",
            help="Search nothing; train and evaluate a torch module of your own: what factory(in_channels, ways) "
            "returns, at its own initialisation.",
        ),
    ] = None,
    batch_norm: Annotated[
        BatchNormTreatment | None,
        typer.Option(
            help="With --model: GroupNorm in the place of its batch normalisation, or its running statistics as they "
            "are; by default it follows training.norm."
        ),
    ] = None,
    register: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="With --genotype or --model: register the trained network under this name."),
    ] = None,
    overrides: Overrides = None,
    seed: Seed = None,
    workspace: WorkspaceRoot = Path("runs"),
    tracking_uri: TrackingUri = "",
    store: Store = "",
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Train a candidate of the leaderboard (searching first, if that is not done), or a network of your choice.

    With --genotype or --model nothing is searched; the network is trained and evaluated as the recipe says, in the run
    of the recipe. Interrupted, it resumes when repeated.
    """
    if genotype is not None or model is not None:
        if role is not None or (genotype is not None and model is not None):
            raise InputError("Expected one of --role, --genotype and --model; name what is to be trained once.")
        if (space is not None and genotype is None) or (batch_norm is not None and model is None):
            raise InputError("Expected --space with --genotype and --batch-norm with --model; leave the other out.")
        changes = [*(overrides or ()), *([f"search.space={space}"] if space is not None else ())]
        changes += [f"registered_model={json.dumps(register)}"] if register is not None else []
        config = configuration(recipe, changes, seed)
        place = (workspace, tracking_uri, device, store)
        _train_alone(config, genotype, model, batch_norm, place, register=register is not None, as_json=as_json)
        return
    if space is not None or batch_norm is not None or register is not None:
        raise InputError(
            "Expected --genotype or --model with --space, --batch-norm or --register; name the network, or leave them "
            "out to train a candidate of the leaderboard."
        )
    role = role or "best"
    config = _trained(configuration(recipe, overrides, seed), role)
    admit_installed("metantk train", *TRACKING, *META_TRAINING)

    from metantk_core import terminal, workflow
    from metantk_core import workspace as spaces

    place = spaces.Workspace(workspace, tracking_uri, device, store)
    config = place.prepare(config)
    with spaces.open_run(config, place) as (dataset, ports):
        leaderboard = workflow.search(config, dataset, ports).leaderboard
        names = training_names(role, config.training_seeds)
        models = {name: workflow.meta_train(config, name, leaderboard, dataset, ports) for name in names}
    if as_json:
        said = [
            {
                "run": config.run_id,
                "role": name,
                "device": ports.device_kind,
                "genotype": found.genotype,
                "best_iteration": found.best_iteration,
                "history": [asdict(point) for point in found.history],
            }
            for name, found in models.items()
        ]
        print_json(said[0] if len(said) == 1 else {"run": config.run_id, "role": role, "trainings": said})
    else:
        for name, found in models.items():
            terminal.print_training(name, found)
        terminal.print_device(ports.device)
        terminal.print_next(place, config)


@commands.command(
    epilog="Examples: metantk evaluate glyphs  ·  metantk evaluate glyphs --role random --set evaluation.episodes=2000"
)
def evaluate(
    recipe: Recipe = "glyphs",
    role: Annotated[str, typer.Option(metavar=_ROLES, help="Which candidate of the leaderboard.")] = "best",
    overrides: Overrides = None,
    seed: Seed = None,
    workspace: WorkspaceRoot = Path("runs"),
    tracking_uri: TrackingUri = "",
    store: Store = "",
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Evaluate a meta-trained candidate on test classes (searching and training first, if that is not done).

    What the accuracy and its interval mean is in docs/protocol.md.
    """
    config = _trained(configuration(recipe, overrides, seed), role)
    admit_installed("metantk evaluate", *TRACKING, *META_TRAINING)

    from metantk_core import terminal, workflow
    from metantk_core import workspace as spaces

    place = spaces.Workspace(workspace, tracking_uri, device, store)
    config = place.prepare(config)
    with spaces.open_run(config, place) as (dataset, ports):
        leaderboard = workflow.search(config, dataset, ports).leaderboard
        models = {
            name: workflow.meta_train(config, name, leaderboard, dataset, ports)
            for name in training_names(role, config.training_seeds)
        }
        evaluations = {name: workflow.evaluate(config, name, model, dataset, ports) for name, model in models.items()}
        evaluation = workflow.join_trainings(config, role, models, evaluations, dataset, ports)
    if as_json:
        print_json({"run": config.run_id, "role": role, **evaluation.as_values()})
    else:
        terminal.print_evaluations({role: evaluation})
        terminal.print_next(place, config)


@commands.command(
    epilog="Examples: metantk run  ·  metantk run smoke  ·  metantk run mine.yaml --set search.shards=4 --seed 1"
)
def run(
    recipe: Recipe = "glyphs",
    overrides: Overrides = None,
    seed: Seed = None,
    workspace: WorkspaceRoot = Path("runs"),
    tracking_uri: TrackingUri = "",
    store: Store = "",
    device: Device = "auto",
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what the run will take, from some seconds of measuring; start nothing."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run the whole pipeline on this machine through Kubeflow's local runner; interrupted, it resumes when repeated."""
    config = configuration(recipe, overrides, seed)
    admit_installed("metantk run", *PIPELINES, *TRACKING, *META_TRAINING)

    from metantk_core import steps, terminal, wiring, workflow
    from metantk_core import workspace as spaces
    from pipelines import local

    place = spaces.Workspace(workspace, tracking_uri, device, store)
    if dry_run:
        images = place.prepared_images(config)
        print_estimate(config, device=wiring.device(device), images=images, as_json=as_json, only=True)
        return
    config = place.prepare(config)
    locally = local.LocalRun(
        place.folder(config),
        place.store_uri,
        place.tracking_uri,
        place.datasets,
        # Found out once, for all steps alike; steps that run networks try it.
        wiring.device(device, probe=False),
    )
    if sys.stderr.isatty():  # for people who may want to think again; it takes some seconds
        images = place.prepared_images(config)
        print_estimate(config, device=locally.device, images=images, as_json=as_json, only=False)
    with spaces.own_run(config, place), terminal.PipelineDisplay(config, locally.progress) as display:
        code = local.run_locally(config, locally, display.refresh)
        if code != 0:
            steps.raise_step_failure(locally.progress, locally.log)
    result = workflow.read_result(config, place.store())
    if as_json:
        print_json(result.as_values())
    else:
        terminal.print_result(result, place, config)


@commands.command(
    epilog="Examples: metantk sync  ·  metantk sync --store /shared/store --tracking-uri http://mlflow:5000"
)
def sync(
    workspace: WorkspaceRoot = Path("runs"),
    tracking_uri: Annotated[
        str,
        typer.Option(
            "--tracking-uri",
            envvar="MLFLOW_TRACKING_URI",
            help="MLflow; default: the address that the runs had. One with a password belongs into the variable.",
        ),
    ] = "",
    store: Store = "",
    as_json: AsJson = False,
) -> None:
    """Send what runs could not log because the MLflow server was away; done twice, it changes nothing more."""
    admit_installed("metantk sync", *TRACKING)

    from metantk_core import terminal
    from metantk_core import workspace as spaces

    sent = list(spaces.Workspace(workspace, tracking_uri, shared=store).sync())
    if as_json:
        print_json([asdict(run) for run in sent])
    else:
        terminal.print_sent(sent)


@commands.command(epilog="Examples: metantk ui  ·  metantk ui --port 5050")
def ui(
    workspace: WorkspaceRoot = Path("runs"),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5000,
) -> None:
    """Open the MLflow UI on the runs of the workspace."""
    admit_installed("metantk ui", *TRACKING)

    from metantk_core import terminal
    from metantk_core import workspace as spaces

    place = spaces.Workspace(workspace)
    command, environment = place.ui_command(port)
    terminal.print_ui(f"http://127.0.0.1:{port}/#/experiments?workflowType=machine_learning")
    os.execvpe(command[0], command, {**os.environ, **environment})  # noqa: S606 - the server replaces this process


def _train_alone(
    config: "RunConfig",
    genotype: str | None,
    model: str | None,
    batch_norm: BatchNormTreatment | None,
    where: tuple[Path, str, str, str],
    *,
    register: bool,
    as_json: bool,
) -> None:
    """Train, evaluate and maybe register a network that a person names; print what came out."""
    from metantk_core.candidates import NAMED_NETWORKS, PUBLISHED, parse_genotype

    name = ""
    if genotype is not None:
        if without_addresses(genotype) != genotype:  # which the search space would quote
            raise InputError(f"Expected an architecture in the search space, got {quoted(genotype)}; give its text.")
        named = genotype.strip() in NAMED_NETWORKS
        parsed = None if named else parse_genotype(config.search.space, genotype)
        if parsed is not None and not parsed.decided:
            raise InputError("Expected a candidate with one operation on each edge to train, got a supernet.")
        name = genotype.strip() if parsed is None or genotype.strip() in PUBLISHED else f"cell-{parsed.key[:8]}"
    admit_installed("metantk train", *TRACKING, *META_TRAINING)

    from metantk_core import architectures, terminal, workflow
    from metantk_core import workspace as spaces
    from metantk_core.seeding import digest

    if model is not None:
        architecture: architectures.Architecture = architectures.own_module(model, batch_norm=batch_norm)
        # What is logged under a name stays: after a change of the person's file the same address is another network.
        name = f"{model.replace(':', '.')}-{digest(architectures.identity_of(architecture))[:8]}"
    else:
        assert genotype is not None
        architecture = architectures.parse_architecture(config.search.space, genotype)
    costs = workflow.training_costs(config, name, architecture)  # first, for it says if the images are too small
    place = spaces.Workspace(*where)
    config = place.prepare(config)
    with spaces.open_run(config, place) as (dataset, ports):
        names = training_names(name, config.training_seeds)
        models = {each: workflow.train(config, each, architecture, dataset, ports) for each in names}
        evaluations = {each: workflow.evaluate(config, each, model, dataset, ports) for each, model in models.items()}
        evaluation = workflow.join_trainings(config, name, models, evaluations, dataset, ports)
        kept = workflow.register_trained(config, models, evaluations, dataset, ports) if register else None
        ports.tracker.close_run(ports.run, "finished")
    if as_json:
        trained = models[names[0]]
        said = [
            {
                "outcome": model.outcome,
                "best_iteration": model.best_iteration,
                "history": [asdict(point) for point in model.history],
            }
            for model in models.values()
        ]
        print_json(
            {
                "run": config.run_id,
                "network": name,
                "space": trained.space,
                "genotype": trained.genotype,
                "params": costs.params,
                "macs": costs.macs,
                "device": ports.device_kind,
                **(said[0] if len(said) == 1 else {"trainings": said}),
                "evaluation": evaluation.as_values(),
                "model": kept.uri if kept is not None else None,
            }
        )
    else:
        for each, trained in models.items():
            terminal.print_training(each, trained)
        terminal.print_evaluations({name: evaluation}, {name: costs})
        terminal.print_device(ports.device)
        if kept is not None:
            terminal.print_registered(kept)
        terminal.print_next(place, config)


def _trained(config: "RunConfig", role: str) -> "RunConfig":
    """Return the configuration, if it trains candidates of this rank."""
    if role not in config.candidates:
        rank = rank_of(role)
        how = f", or add it with --set 'trained_roles=[best, {role}]'" if role in ROLES else ""
        how = f", or add it with --set trained_top={rank}" if rank is not None and rank > 1 else how
        raise InputError(
            f"Expected one of the roles that the configuration trains ({', '.join(config.candidates)}), got --role "
            f"{quoted(role)}; give one of these{how}."
        )
    return config
