"""The command line: arguments enter, a sentence or JSON on the terminal leaves; what is computed is in ``workflow``.

Each command imports what it needs when it is called, and refuses wrong settings before it imports what computes: help
and complaints come at once, while torch and MLflow take seconds.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from metantk_core import __version__
from metantk_core.errors import InputError, quoted, without_addresses
from metantk_core.networks.config import BatchNormTreatment
from metantk_core.ranking.roles import Role

if TYPE_CHECKING:
    from metantk_core.config import RunConfig

# What is said of arguments that don't fit; typer has its own copy of click and gives out but the subclass.
_USAGE_ERROR: Any = typer.BadParameter.__base__


class _Commands(TyperGroup):
    """The commands; what they complain about is shown without words that may be addresses with a password."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        with _without_addresses():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with _without_addresses():
            return super().invoke(ctx)


@contextmanager
def _without_addresses() -> Iterator[None]:
    try:
        yield
    except _USAGE_ERROR as error:
        error.message = without_addresses(error.message)
        raise


app = typer.Typer(
    name="metantk",
    cls=_Commands,
    help="Training-free architecture search for few-shot learning: rank architectures at initialisation, "
    "meta-train the best, say how far to trust it.",
    epilog="Start with: metantk run smoke",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)

Recipe = Annotated[str, typer.Argument(help="A recipe (see `metantk recipes`) or a YAML or JSON file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, as in search.num_candidates=200; repeatable."),
]
Seed = Annotated[int | None, typer.Option(help="Replace the recipe's seed.")]
WorkspaceRoot = Annotated[
    Path,
    typer.Option(
        "--workspace", envvar="METANTK_WORKSPACE", help="Folder for results, finished work and MLflow's database."
    ),
]
TrackingUri = Annotated[
    str,
    typer.Option(
        "--tracking-uri",
        envvar="MLFLOW_TRACKING_URI",
        help="MLflow; default: SQLite in the workspace. An address with a password belongs into the variable.",
    ),
]
Store = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="METANTK_STORE",
        help="Where finished work is kept for others to go on with, also in pods; default: the workspace.",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        envvar="METANTK_DEVICE",
        metavar="auto|cpu|cuda|cuda:N",
        help="Where networks run; auto is the GPU if torch sees one.",
    ),
]
BatchNorm = Annotated[
    BatchNormTreatment | None,
    typer.Option(
        help="In a network of your own, batch normalisation, which mixes images, is replaced by GroupNorm, or uses its "
        "running statistics; without this option it is refused."
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON on standard output; progress goes to standard error.")
]


def _version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"metantk {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version


@app.command(
    epilog="Examples: metantk recipes  ·  metantk recipes --show glyphs > mine.json  ·  "
    "metantk recipes --show glyphs --explain > mine.yaml"
)
def recipes(
    show: Annotated[
        str | None, typer.Option(metavar="RECIPE", help="Print a recipe (or a file, completed) as JSON.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="With --show: as YAML, with the meaning and the limits of every setting.")
    ] = False,
    overrides: Overrides = None,
    seed: Seed = None,
) -> None:
    """List the recipes, or print all settings of one."""
    if show is None:
        from metantk_core import terminal
        from metantk_core.recipes import RECIPES

        if explain or overrides or seed is not None:
            raise InputError("Expected --show RECIPE with --explain, --set or --seed; name a recipe or a file.")
        terminal.print_recipes(RECIPES)
    elif explain:
        from metantk_core.config import explained

        typer.echo(explained(_config(show, overrides, seed)), nl=False)
    else:
        _print_json(json.loads(_config(show, overrides, seed).to_json()))


@app.command(
    epilog="Examples: "
    "metantk score '|nor_conv_3x3~0|+|nor_conv_3x3~0|skip_connect~1|+|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|'"
    '  ·  metantk score "Genotype(normal=[...], ...)" glyphs-darts --set scoring.num_inits=10'
    "  ·  metantk score paper-mini-5-a glyphs-darts"
    "  ·  metantk score --model my_package.my_module:make_network smoke"
)
def score(
    genotype: Annotated[
        str | None,
        typer.Argument(
            help="An architecture in a text form of the recipe's search space, or the name of a published one: "
            "paper-mini-5-, paper-mini-8-, paper-tiered-5- or paper-tiered-8-, each with a, b or c. "
            "Left out with --model."
        ),
    ] = None,
    recipe: Recipe = "glyphs",
    model: Annotated[
        str | None,
        typer.Option(
            metavar="PACKAGE.MODULE:FACTORY",
            help="Score a torch module of your own instead: what factory(in_channels, ways), or factory(), returns.",
        ),
    ] = None,
    batch_norm: BatchNorm = None,
    overrides: Overrides = None,
    seed: Seed = None,
    workspace: WorkspaceRoot = Path("runs"),
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Score one architecture, or a network of your own, at random initialisation, every draw shown.

    Ends with exit code 1, as grep does that finds nothing, if none of the scores that depend on weights has a value.
    """
    if batch_norm is not None and model is None:
        raise InputError("Expected --model with --batch-norm; our own networks hold no batch normalisation.")
    # What was asked for is checked before torch is imported and the images are made, which takes a while.
    if model is not None:
        if genotype is not None and (recipe != "glyphs" or not _names_configuration(genotype)):
            raise InputError(
                "Expected an architecture or --model, not both; with --model the first argument is a recipe or a file."
            )
        # Without an architecture, the first argument is the recipe.
        config = _config(genotype or recipe, overrides, seed)
    elif genotype is None or _names_configuration(genotype):
        got = "nothing" if genotype is None else f"the configuration {quoted(genotype)}"
        raise InputError(
            f"Expected an architecture in the recipe's search space, or --model package.module:factory, got {got}; "
            "give the architecture first, then the recipe."
        )
    else:
        from metantk_core.candidates import parse_genotype

        config = _config(recipe, overrides, seed)
        if without_addresses(genotype) != genotype:  # which the search space would quote
            raise InputError(
                f"Expected an architecture in the recipe's search space, got {quoted(genotype)}; give the architecture "
                "first, then the recipe."
            )
        parse_genotype(config.search.space, genotype)

    from metantk_core import terminal, wiring, workflow
    from metantk_core import workspace as spaces

    place = wiring.device(device)
    images, own = spaces.Workspace(workspace), None
    if model is not None:
        loaded = workflow.own_model(config, model, batch_norm=batch_norm)
        own = workflow.score_own_model(config, loaded, images.dataset(config), device=place)
        records = own.records
    else:
        assert genotype is not None
        records = workflow.score(config, genotype, images.dataset(config), device=place)
    if as_json:
        _print_json([json.loads(record.to_json()) for record in records])
    else:
        terminal.print_records(records)
        if own is not None:
            terminal.print_counted(own.counted, own.uncounted)
        terminal.print_device(place)
    if not workflow.found_a_value(records):
        raise typer.Exit(1)


@app.command(
    epilog="Examples: metantk rank my_module:wide my_module:deep  ·  metantk rank my_module:wide my_module:deep "
    "--batch-norm group --set 'scoring.scores=\\[ntk_cond, zico, params]' --set rank_by=ntk_cond"
)
def rank(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="PACKAGE.MODULE:FACTORY...",
            help="Networks of your own: what factory(in_channels, ways), or factory(), returns.",
        ),
    ],
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", help="A recipe (`metantk recipes`) or a configuration file.")
    ] = "glyphs",
    batch_norm: BatchNorm = None,
    overrides: Overrides = None,
    seed: Seed = None,
    workspace: WorkspaceRoot = Path("runs"),
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Rank networks of your own by their scores at random initialisation: one table, all scores, the same episodes."""
    config = _config(recipe, overrides, seed)

    from metantk_core import terminal, wiring, workflow
    from metantk_core import workspace as spaces

    place = wiring.device(device)
    loaded = workflow.own_models(config, models, batch_norm=batch_norm)
    dataset = spaces.Workspace(workspace).dataset(config)
    found = workflow.rank_own_models(
        config, loaded, dataset, device=place, on_done=lambda model: typer.echo(f"scored {model}", err=True)
    )
    if as_json:
        _print_json(json.loads(found.to_json()))
    else:
        terminal.print_networks(found.leaderboard, found.failures)
        terminal.print_device(place)
    if all(standing.mean is None for standing in found.leaderboard.standings):
        raise typer.Exit(1)


@app.command(
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
    config = _config(recipe, overrides, seed)

    from metantk_core import terminal, workflow
    from metantk_core import workspace as spaces

    place = spaces.Workspace(workspace, tracking_uri, device, store)
    config = place.prepare(config)
    with spaces.open_run(config, place) as (dataset, ports), workflow.watched_search(config, ports):
        found = workflow.search(config, dataset, ports)
    if as_json:
        _print_json(
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


@app.command(
    epilog="Examples: metantk train glyphs  ·  metantk train glyphs --role worst --set training.iterations=2000"
)
def train(
    recipe: Recipe = "glyphs",
    role: Annotated[Role, typer.Option(help="Which candidate of the leaderboard.")] = "best",
    overrides: Overrides = None,
    seed: Seed = None,
    workspace: WorkspaceRoot = Path("runs"),
    tracking_uri: TrackingUri = "",
    store: Store = "",
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Meta-train a candidate of the leaderboard (searching first, if that is not done); resumes where it stopped."""
    config = _trained(_config(recipe, overrides, seed), role)

    from metantk_core import terminal, workflow
    from metantk_core import workspace as spaces

    place = spaces.Workspace(workspace, tracking_uri, device, store)
    config = place.prepare(config)
    with spaces.open_run(config, place) as (dataset, ports):
        model = workflow.meta_train(config, role, workflow.search(config, dataset, ports).leaderboard, dataset, ports)
    if as_json:
        _print_json(
            {
                "run": config.run_id,
                "role": role,
                "device": ports.device_kind,
                "genotype": model.genotype,
                "best_iteration": model.best_iteration,
                "history": [asdict(point) for point in model.history],
            }
        )
    else:
        terminal.print_training(role, model)
        terminal.print_device(ports.device)
        terminal.print_next(place, config)


@app.command(
    epilog="Examples: metantk evaluate glyphs  ·  metantk evaluate glyphs --role random --set evaluation.episodes=2000"
)
def evaluate(
    recipe: Recipe = "glyphs",
    role: Annotated[Role, typer.Option(help="Which candidate of the leaderboard.")] = "best",
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
    config = _trained(_config(recipe, overrides, seed), role)

    from metantk_core import terminal, workflow
    from metantk_core import workspace as spaces

    place = spaces.Workspace(workspace, tracking_uri, device, store)
    config = place.prepare(config)
    with spaces.open_run(config, place) as (dataset, ports):
        model = workflow.meta_train(config, role, workflow.search(config, dataset, ports).leaderboard, dataset, ports)
        evaluation = workflow.evaluate(config, role, model, dataset, ports)
    if as_json:
        _print_json({"run": config.run_id, "role": role, **json.loads(evaluation.to_json())})
    else:
        terminal.print_evaluations({role: evaluation})
        terminal.print_next(place, config)


@app.command(
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
    as_json: AsJson = False,
) -> None:
    """Run the whole pipeline on this machine through Kubeflow's local runner; interrupted, it resumes when repeated."""
    config = _config(recipe, overrides, seed)

    from metantk_core import steps, terminal, wiring, workflow
    from metantk_core import workspace as spaces
    from pipelines import local

    place = spaces.Workspace(workspace, tracking_uri, device, store)
    config = place.prepare(config)
    locally = local.LocalRun(
        place.folder(config),
        place.store_uri,
        place.tracking_uri,
        place.datasets,
        # Found out once, for all steps alike; steps that run networks try it.
        wiring.device(device, probe=False),
    )
    with spaces.own_run(config, place), terminal.PipelineDisplay(config, locally.progress) as display:
        code = local.run_locally(config, locally, display.refresh)
        if code != 0:
            steps.raise_step_failure(locally.progress, locally.log)
    result = workflow.read_result(config, place.store())
    if as_json:
        _print_json(result.as_values())
    else:
        terminal.print_result(result, place, config)


@app.command(
    name="compile",
    epilog="Examples: metantk compile glyphs -o pipeline.yaml  ·  "
    "metantk compile glyphs --accelerator nvidia.com/gpu --cpu 4 --memory 16G",
)
def compile_pipeline(
    recipe: Recipe = "glyphs",
    output: Annotated[Path, typer.Option("--output", "-o", help="The pipeline package.")] = Path("pipeline.yaml"),
    image: Annotated[
        str | None, typer.Option(help="Image that holds metantk_core; default: the one of this release.")
    ] = None,
    accelerator: Annotated[str, typer.Option(help="Accelerator of the computing steps, such as nvidia.com/gpu.")] = "",
    accelerators: Annotated[
        int | None, typer.Option(min=1, max=64, help="Accelerators a step, 1 if not given; with --accelerator.")
    ] = None,
    cpu: Annotated[str, typer.Option(help="CPU request of the computing steps, such as 4 or 500m.")] = "",
    memory: Annotated[str, typer.Option(help="Memory request of the computing steps, such as 16G or 1.5Gi.")] = "",
    retries: Annotated[int, typer.Option(min=0, max=20, help="Repetitions of a step whose pod died.")] = 3,
    store: Annotated[
        str,
        typer.Option(
            help="What keeps finished work between attempts: a folder that all pods mount, or s3://bucket/prefix."
        ),
    ] = "",
    tracking_uri: Annotated[
        str,
        typer.Option(
            "--tracking-uri", help="MLflow as the cluster sees it: http(s):// or postgresql://, without password."
        ),
    ] = "",
    kubeflow: Annotated[
        str, typer.Option(help="Kubeflow's pages as people see them, which the run in MLflow links to: http(s)://.")
    ] = "",
    overrides: Overrides = None,
    seed: Seed = None,
) -> None:
    """Compile the pipeline to YAML for a Kubeflow cluster."""
    config = _config(recipe, overrides, seed)
    if accelerators is not None and not accelerator:
        raise InputError(
            "Expected --accelerator with --accelerators; name what nodes offer, such as --accelerator nvidia.com/gpu."
        )

    from pipelines import search_and_meta_train

    resources = search_and_meta_train.Resources(
        image=search_and_meta_train.IMAGE if image is None else image,
        accelerator=accelerator,
        accelerators=accelerators or 1,
        cpu=cpu,
        memory=memory,
        retries=retries,
    )
    addresses = {"store": store, "tracking_uri": tracking_uri, "kubeflow": kubeflow}
    search_and_meta_train.write(config, output, resources, **addresses)
    typer.echo(
        f"Wrote {output}: upload it in the Kubeflow UI, "
        "or submit it with kfp.Client().create_run_from_pipeline_package."
    )


@app.command(epilog="Examples: metantk sync  ·  metantk sync --store /shared/store --tracking-uri http://mlflow:5000")
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
    from metantk_core import terminal
    from metantk_core import workspace as spaces

    sent = list(spaces.Workspace(workspace, tracking_uri, shared=store).sync())
    if as_json:
        _print_json([asdict(run) for run in sent])
    else:
        terminal.print_sent(sent)


@app.command(epilog="Examples: metantk ui  ·  metantk ui --port 5050")
def ui(
    workspace: WorkspaceRoot = Path("runs"),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5000,
) -> None:
    """Open the MLflow UI on the runs of the workspace."""
    from metantk_core import terminal
    from metantk_core import workspace as spaces

    place = spaces.Workspace(workspace)
    command, environment = place.ui_command(port)
    terminal.print_ui(f"http://127.0.0.1:{port}/#/experiments?workflowType=machine_learning")
    os.execvpe(command[0], command, {**os.environ, **environment})  # noqa: S606 - the server replaces this process


stores = typer.Typer(
    name="store",
    cls=_Commands,
    help="Look at a store of finished work: what is in it, whether it is whole, what of it nobody needs.",
    epilog="Examples: metantk store ls  ·  metantk store verify --store s3://bucket/prefix  ·  "
    "metantk store prune --dry-run",
    no_args_is_help=True,
)
app.add_typer(stores)


@stores.command(epilog="Examples: metantk store ls  ·  metantk store ls --store s3://bucket/prefix --json")
def ls(workspace: WorkspaceRoot = Path("runs"), store: Store = "", as_json: AsJson = False) -> None:
    """Say how much of what is in the store; nothing is read but its list."""
    from metantk_core import terminal, upkeep
    from metantk_core import workspace as spaces

    place = spaces.Workspace(workspace, shared=store)
    found = upkeep.contents(place.existing_store())
    if as_json:
        _print_json({"store": place.store_uri, "contents": {kind: asdict(amount) for kind, amount in found.items()}})
    else:
        terminal.print_amounts(f"In {place.store_uri}", found)


@stores.command(epilog="Examples: metantk store verify  ·  metantk store verify --store s3://bucket/prefix")
def verify(workspace: WorkspaceRoot = Path("runs"), store: Store = "", as_json: AsJson = False) -> None:
    """Read everything in the store and compare it with its seals and checksums; exit code 1 if something is damaged."""
    from metantk_core import terminal, upkeep
    from metantk_core import workspace as spaces

    place = spaces.Workspace(workspace, shared=store)
    found = upkeep.verify(place.existing_store(), spaces.told("verify"))
    if as_json:
        _print_json({"store": place.store_uri, **asdict(found)})
    else:
        terminal.print_verified(found)
    if found.damaged:
        raise typer.Exit(1)


@stores.command(epilog="Examples: metantk store prune --dry-run  ·  metantk store prune --store s3://bucket/prefix")
def prune(
    workspace: WorkspaceRoot = Path("runs"),
    store: Store = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what no run of this version can need: older layouts and definitions, what was left unfinished."""
    from metantk_core import terminal, upkeep
    from metantk_core import workspace as spaces

    place = spaces.Workspace(workspace, shared=store)
    found = upkeep.prune(place.existing_store(), really=not dry_run, progress=spaces.told("prune"))
    if as_json:
        removed = {what: asdict(amount) for what, amount in found.items()}
        _print_json({"store": place.store_uri, "dry_run": dry_run, "removed": removed})
    else:
        terminal.print_amounts(f"{'Would be removed' if dry_run else 'Removed'} from {place.store_uri}", found)


def _config(recipe: str, overrides: list[str] | None, seed: int | None) -> "RunConfig":
    from metantk_core.config import load_config
    from metantk_core.recipes import RECIPES

    return load_config(recipe, RECIPES, overrides or (), seed=seed)


def _trained(config: "RunConfig", role: Role) -> "RunConfig":
    """Return the configuration, if it trains candidates of this rank."""
    if role not in config.trained_roles:
        raise InputError(
            f"Expected one of the roles that the configuration trains ({', '.join(config.trained_roles)}), got --role "
            f"{role}; give one of these, or add it with --set 'trained_roles=[best, {role}]'."
        )
    return config


def _names_configuration(argument: str) -> bool:
    from metantk_core.recipes import RECIPES

    return argument in RECIPES or argument.endswith((".yaml", ".yml", ".json"))


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
