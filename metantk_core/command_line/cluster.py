"""Commands for a Kubeflow cluster: compile, profiles."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metantk_core.command_line.options import AsJson, Commands, Overrides, Recipe, Seed, configuration, print_json
from metantk_core.errors import InputError

if TYPE_CHECKING:
    from pipelines.profile import Profile

commands = typer.Typer(cls=Commands)

ClusterProfile = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="NAME|FILE",
        help="What the cluster is and what steps ask of it: a name (`metantk profiles`) or a YAML file.",
    ),
]


@commands.command(
    name="compile",
    epilog="Examples: metantk compile glyphs -o pipeline.yaml  ·  metantk compile glyphs --profile gke-spot  ·  "
    "metantk compile glyphs --profile mine.yaml --image registry.example/metantk-python:4f1c",
)
def compile_pipeline(
    recipe: Recipe = "glyphs",
    output: Annotated[Path, typer.Option("--output", "-o", help="The pipeline package.")] = Path("pipeline.yaml"),
    profile: ClusterProfile = None,
    image: Annotated[
        str | None,
        typer.Option(help="Image that holds metantk_core; default: the profile's, or the one of this release."),
    ] = None,
    accelerator: Annotated[str, typer.Option(help="Accelerator of the computing steps, such as nvidia.com/gpu.")] = "",
    accelerators: Annotated[
        int | None, typer.Option(min=1, max=64, help="Accelerators a step, 1 if not given; with --accelerator.")
    ] = None,
    cpu: Annotated[str, typer.Option(help="CPU request of the computing steps, such as 4 or 500m.")] = "",
    memory: Annotated[str, typer.Option(help="Memory request of the computing steps, such as 16G or 1.5Gi.")] = "",
    retries: Annotated[
        int | None, typer.Option(min=0, max=20, help="Repetitions of a step whose pod died, 3 if nothing says so.")
    ] = None,
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
    caching: Annotated[
        bool,
        typer.Option(
            "--caching/--no-caching",
            help="Whether Kubeflow may skip scoring that an earlier run did; off to measure it.",
        ),
    ] = True,
    overrides: Overrides = None,
    seed: Seed = None,
    as_json: AsJson = False,
) -> None:
    """Compile the pipeline to YAML for a Kubeflow cluster, and say how large it becomes there.

    The options for single settings go before what the profile says.
    """
    config = configuration(recipe, overrides, seed)
    if accelerators is not None and not accelerator:
        raise InputError(
            "Expected --accelerator with --accelerators; name what nodes offer, such as --accelerator nvidia.com/gpu."
        )
    placed = cluster_profile(
        profile,
        everywhere={"image": image, "retries": None if retries is None else {"count": retries}},
        computing={
            **({"gpu_type": accelerator, "gpus": accelerators or 1} if accelerator else {}),
            "cpu": cpu or None,
            "memory": memory or None,
        },
    )

    from pipelines import search_and_meta_train

    addresses = {"store": store, "tracking_uri": tracking_uri, "kubeflow": kubeflow}
    size = search_and_meta_train.write(config, output, placed, **addresses, caching=caching)
    if as_json:
        print_json({"pipeline": str(output), **size._asdict()})
    else:
        typer.echo(f"Wrote {output}: upload it in the Kubeflow UI, or start it with 'metantk submit {output}'.")
        typer.echo(size.sentence())
        if size.shards < config.search.shards:
            typer.echo(
                f"It has {size.shards} shards, not {config.search.shards}: as many as there are places or room for."
            )


def cluster_profile(
    source: str | None, *, everywhere: dict[str, Any] | None = None, computing: dict[str, Any] | None = None
) -> "Profile":
    """Return a profile by its name or file, with what options say in its place.

    Args:
        source: Name or file; none for a cluster of which nothing is asked.
        everywhere: Settings of all steps; those that are none are left out.
        computing: Settings of the steps that run networks; those that are none are left out.

    Raises:
        InputError: There is no such profile, or something in it can't be.
    """
    from pipelines.profile import Profile, load_profile

    found = Profile() if source is None else load_profile(source)
    given = [
        {name: value for name, value in (part or {}).items() if value is not None} for part in (everywhere, computing)
    ]
    return found.changed(everywhere=given[0], computing=given[1]) if any(given) else found


@commands.command(
    epilog="Examples: metantk profiles  ·  metantk profiles --show gke-spot > mine.yaml  ·  metantk profiles --explain"
)
def profiles(
    show: Annotated[
        str | None, typer.Option(metavar="NAME", help="Print a profile, to be changed and used as a file.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Print all settings with their meaning.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the profiles of clusters that come along, print one, or explain all settings of a profile."""
    from pipelines import profile

    if show is not None and explain:
        raise InputError("Expected --show or --explain, not both; give one of them.")
    if show is not None:
        found = profile.load_profile(show)
        if as_json:
            print_json(found.model_dump(mode="json", exclude_unset=True))
        else:
            typer.echo(profile.profile_path(show).read_text(encoding="utf-8"), nl=False)
        return

    from metantk_core import terminal

    listed = (
        dict(profile.settings())
        if explain
        else {name: profile.load_profile(name).description for name in profile.profile_names()}
    )
    if as_json:
        print_json(listed)
    else:
        terminal.print_meanings("setting" if explain else "profile", listed)
