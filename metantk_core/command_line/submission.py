"""Commands that hand pipelines to a Kubeflow cluster: submit, register."""

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metantk_core.command_line.cluster import ClusterProfile
from metantk_core.command_line.kubeflow import (
    Authority,
    Experiment,
    Host,
    Image,
    Namespace,
    Parameters,
    PodsStore,
    PodsTracking,
    ServiceAccount,
    TokenFile,
    What,
    Work,
    cluster,
    given_arguments,
)
from metantk_core.command_line.options import AsJson, Commands, Overrides, Seed, print_estimate, print_json
from metantk_core.errors import InputError, quoted

if TYPE_CHECKING:
    from metantk_core.adapters.kubeflow.package import Package
    from metantk_core.config import RunConfig
    from metantk_core.ports import Cluster, ClusterRun

commands = typer.Typer(cls=Commands)


@commands.command(
    epilog="Examples: metantk submit glyphs --host http://localhost:8080  ·  "
    "metantk submit glyphs --set search.num_candidates=200 --wait  ·  metantk submit glyphs --dry-run  ·  "
    "metantk submit pipeline.yaml -p store=/mnt/metantk --service-account pipeline-runner"
)
def submit(
    what: What,
    host: Host = "",
    namespace: Namespace = "",
    token_file: TokenFile = None,
    authority: Authority = None,
    experiment: Experiment = "metantk",
    name: Annotated[str, typer.Option(help="Name of the run; default: the recipe and the time.")] = "",
    parameters: Parameters = None,
    service_account: ServiceAccount = "",
    profile: ClusterProfile = None,
    image: Image = None,
    store: PodsStore = "",
    tracking_uri: PodsTracking = "",
    caching: Annotated[
        bool, typer.Option("--caching/--no-caching", help="Whether Kubeflow may take results of earlier equal steps.")
    ] = True,
    wait: Annotated[
        bool, typer.Option("--wait", help="Show the steps until the run ends; exit code 1 if it fails.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what the run will take, from some seconds of measuring; start nothing."),
    ] = False,
    overrides: Overrides = None,
    seed: Seed = None,
    as_json: AsJson = False,
) -> None:
    """Run a pipeline on a Kubeflow cluster. Interrupting --wait leaves the run running."""
    work = Work(what, overrides, seed, profile, image, store, tracking_uri)
    work.admit()
    found = None if dry_run else cluster(host, namespace, token_file, authority)

    from metantk_core import cluster_display

    compiled = work.package()
    compiled = compiled if caching else compiled.without_cache()
    arguments = given_arguments(compiled, parameters)
    # For people who may want to think again; it takes some seconds.
    if found is None or (sys.stderr.isatty() and "config" in compiled.parameters):
        print_estimate(_config_of(compiled, arguments), as_json=as_json, only=dry_run)
    if found is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        run = found.start(
            name or f"{work.short_name} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}",
            compiled.written(Path(folder)),
            experiment_id=found.experiment(experiment),
            parameters=arguments,
            service_account=service_account,
        )
    if not wait:
        if as_json:
            print_json(run_as_values(run))
        else:
            cluster_display.print_lines({"Run": run.run, "Name": run.name, "Page": run.link})
            cluster_display.print_lines(
                {"Look": f"metantk runs show {run.run}", "Stop": f"metantk runs stop {run.run}"}
            )
        return
    run = follow(found, run)
    if as_json:
        print_json(run_as_values(run))
    else:
        cluster_display.print_run(run)
    if run.state != "SUCCEEDED":
        raise typer.Exit(1)


@commands.command(
    epilog="Examples: metantk register glyphs  ·  metantk register pipeline.yaml --pipeline nightly --namespace team-a"
)
def register(
    what: What,
    host: Host = "",
    namespace: Namespace = "",
    token_file: TokenFile = None,
    authority: Authority = None,
    pipeline: Annotated[str, typer.Option(help="Name of the pipeline in Kubeflow; default: its own.")] = "",
    profile: ClusterProfile = None,
    image: Image = None,
    store: PodsStore = "",
    tracking_uri: PodsTracking = "",
    overrides: Overrides = None,
    seed: Seed = None,
    as_json: AsJson = False,
) -> None:
    """Keep a pipeline in Kubeflow as a version named by release and content; done twice, it changes nothing more."""
    work = Work(what, overrides, seed, profile, image, store, tracking_uri)
    work.admit()
    found = cluster(host, namespace, token_file, authority)

    from metantk_core import cluster_display, submission

    compiled = work.package()
    with tempfile.TemporaryDirectory() as folder:
        version = found.register(
            pipeline or compiled.name, submission.version_name(compiled), compiled.written(Path(folder))
        )
    if as_json:
        print_json(asdict(version))
    else:
        said = {"Pipeline": version.pipeline, "Version": f"{version.name}{'' if version.new else '  (was there)'}"}
        cluster_display.print_lines({**said, "Page": version.link})


def _config_of(compiled: "Package", arguments: Mapping[str, object]) -> "RunConfig":
    """Return the configuration that one of our pipelines runs with.

    Args:
        compiled: The pipeline.
        arguments: Values of its parameters.

    Raises:
        InputError: It is no pipeline of ours, or its configuration is none.
    """
    values = {**compiled.defaults, **arguments}
    if "config" not in values:
        raise InputError(
            f"Expected a pipeline that 'metantk compile' has written, got {quoted(compiled.name)}, of which nothing is "
            "known here; leave --dry-run out."
        )

    from metantk_core.config import RunConfig

    config = RunConfig.from_json(str(values["config"]))
    shards = values.get("shards")
    if isinstance(shards, int | float) and shards >= 1:
        config = config.model_copy(update={"search": config.search.model_copy(update={"shards": int(shards)})})
    return config


def follow(found: "Cluster", run: "ClusterRun") -> "ClusterRun":
    """Show the steps of a run until it has ended, and return it then.

    Raises:
        KeyboardInterrupt: Passed on; the run goes on.
    """
    from metantk_core import cluster_display, submission

    with cluster_display.RunDisplay() as display:
        display.say(f"Run {run.run}: {run.link}")
        display.say("Ctrl-C stops looking; the run goes on.")
        try:
            for run in submission.follow(found, run.run, away=lambda error: display.say(f"{error} Waiting for it.")):  # noqa: B020
                display.show(run)
        except BaseException:
            display.say(
                f"The run goes on: look at it with 'metantk runs show {run.run}', stop it with 'metantk runs stop "
                f"{run.run}'."
            )
            raise
    return run


def run_as_values(run: "ClusterRun") -> dict[str, Any]:
    """Return a run for programs, times as text."""
    values = asdict(run)

    def plain(value: Any) -> Any:
        return value.isoformat() if isinstance(value, datetime) else value

    steps = [{key: plain(value) for key, value in step.items()} for step in values.pop("steps")]
    return {**{key: plain(value) for key, value in values.items()}, "steps": steps}
