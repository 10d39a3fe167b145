"""Commands for a Kubeflow cluster: compile."""

from pathlib import Path
from typing import Annotated

import typer

from metantk_core.command_line.options import Commands, Overrides, Recipe, Seed, configuration
from metantk_core.errors import InputError

commands = typer.Typer(cls=Commands)


@commands.command(
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
    config = configuration(recipe, overrides, seed)
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
