"""Commands that look at recipes and at architectures: recipes, score, rank."""

import json
from pathlib import Path
from typing import Annotated

import typer

from metantk_core.command_line.options import (
    AsJson,
    BatchNorm,
    Commands,
    Device,
    Overrides,
    Recipe,
    Seed,
    WorkspaceRoot,
    configuration,
    print_json,
)
from metantk_core.errors import InputError, quoted, without_addresses

commands = typer.Typer(cls=Commands)


@commands.command(
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

        typer.echo(explained(configuration(show, overrides, seed)), nl=False)
    else:
        print_json(json.loads(configuration(show, overrides, seed).to_json()))


@commands.command(
    epilog="Examples: "
    "metantk score '|nor_conv_3x3~0|+|nor_conv_3x3~0|skip_connect~1|+|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|'"
    '  ·  metantk score "Genotype(normal=[...], ...)" glyphs-darts --set scoring.num_inits=10'
    "  ·  metantk score paper-mini-5-a glyphs-darts  ·  metantk score conv4-64"
    "  ·  metantk score --model my_package.my_module:make_network smoke"
)
def score(
    genotype: Annotated[
        str | None,
        typer.Argument(
            help="An architecture in a text form of the recipe's search space, or the name of a published one: "
            "paper-mini-5-, paper-mini-8-, paper-tiered-5- or paper-tiered-8-, each with a, b or c; or conv4-32, "
            "conv4-64 or resnet12. Left out with --model."
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
        config = configuration(genotype or recipe, overrides, seed)
    elif genotype is None or _names_configuration(genotype):
        got = "nothing" if genotype is None else f"the configuration {quoted(genotype)}"
        raise InputError(
            f"Expected an architecture in the recipe's search space, or --model package.module:factory, got {got}; "
            "give the architecture first, then the recipe."
        )
    else:
        from metantk_core.candidates import NAMED_NETWORKS, parse_genotype

        config = configuration(recipe, overrides, seed)
        if without_addresses(genotype) != genotype:  # which the search space would quote
            raise InputError(
                f"Expected an architecture in the recipe's search space, got {quoted(genotype)}; give the architecture "
                "first, then the recipe."
            )
        if genotype.strip() not in NAMED_NETWORKS:
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
        print_json([json.loads(record.to_json()) for record in records])
    else:
        terminal.print_records(records)
        if own is not None:
            terminal.print_counted(own.counted, own.uncounted)
        terminal.print_device(place)
    if not workflow.found_a_value(records):
        raise typer.Exit(1)


@commands.command(
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
    config = configuration(recipe, overrides, seed)

    from metantk_core import terminal, wiring, workflow
    from metantk_core import workspace as spaces

    place = wiring.device(device)
    loaded = workflow.own_models(config, models, batch_norm=batch_norm)
    dataset = spaces.Workspace(workspace).dataset(config)
    found = workflow.rank_own_models(
        config, loaded, dataset, device=place, on_done=lambda model: typer.echo(f"scored {model}", err=True)
    )
    if as_json:
        print_json(json.loads(found.to_json()))
    else:
        terminal.print_networks(found.leaderboard, found.failures)
        terminal.print_device(place)
    if all(standing.mean is None for standing in found.leaderboard.standings):
        raise typer.Exit(1)


def _names_configuration(argument: str) -> bool:
    from metantk_core.recipes import RECIPES

    return argument in RECIPES or argument.endswith((".yaml", ".yml", ".json"))
