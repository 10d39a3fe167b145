"""Commands about schedules of a Kubeflow cluster: create, list, show, pause, resume, run-now, delete."""

import tempfile
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
    Zone,
    cluster,
    given_arguments,
)
from metantk_core.command_line.options import AsJson, Commands, Overrides, Seed, print_json
from metantk_core.command_line.submission import run_as_values
from metantk_core.errors import InputError, quoted

if TYPE_CHECKING:
    from metantk_core.ports import Cluster, Schedule

commands = typer.Typer(
    name="schedule",
    cls=Commands,
    help="Let a Kubeflow cluster run a pipeline again and again.",
    epilog="Examples: metantk schedule create glyphs --cron '0 0 3 * * 1'  ·  metantk schedule list  ·  "
    "metantk schedule pause glyphs",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(help="Name of the schedule, which `metantk schedule list` shows.")]


@commands.command(
    epilog="Examples: metantk schedule create glyphs --cron '0 0 3 * * 1'  ·  "
    "metantk schedule create pipeline.yaml --name nightly --cron '0 30 2 * * mon-fri' -p store=s3://bucket/prefix"
)
def create(
    what: What,
    cron: Annotated[
        str,
        typer.Option(
            metavar="'S M H D M W'",
            help="When: second, minute, hour, day, month and weekday (0 is Sunday), as Kubeflow reads them.",
        ),
    ],
    name: Annotated[str, typer.Option(help="Name of the schedule; default: the recipe's or the file's.")] = "",
    host: Host = "",
    namespace: Namespace = "",
    token_file: TokenFile = None,
    authority: Authority = None,
    experiment: Experiment = "metantk",
    parameters: Parameters = None,
    concurrency: Annotated[int, typer.Option(min=1, max=10, help="Runs at most at a time.")] = 1,
    service_account: ServiceAccount = "",
    profile: ClusterProfile = None,
    image: Image = None,
    store: PodsStore = "",
    tracking_uri: PodsTracking = "",
    timezone: Zone = "UTC",
    overrides: Overrides = None,
    seed: Seed = None,
    as_json: AsJson = False,
) -> None:
    """Run a pipeline by the clock. Created again with another version or time, it takes the old one's place.

    Kubeflow's cache is off: each run computes anew. Firings that are missed are not made up for.
    """
    from metantk_core.adapters.kubeflow.cron import admit

    now = datetime.now(_zone(timezone))
    when = admit(cron, now)
    work = Work(what, overrides, seed, profile, image, store, tracking_uri)
    work.admit()
    found = cluster(host, namespace, token_file, authority)

    from metantk_core import cluster_display, scheduling, submission
    from metantk_core.ports import ScheduleSettings

    compiled = work.package().without_cache()
    arguments = given_arguments(compiled, parameters)
    with tempfile.TemporaryDirectory() as folder:
        version = found.register(compiled.name, submission.version_name(compiled), compiled.written(Path(folder)))
    wanted = ScheduleSettings(
        name=name or work.short_name,
        cron=cron,
        pipeline_id=version.pipeline_id,
        version_id=version.version_id,
        experiment_id=found.experiment(experiment),
        parameters=arguments,
        concurrency=concurrency,
        service_account=service_account,
    )
    arranged = scheduling.arrange(found, wanted, when, waiting=_say_what_is_waited_for)
    became = cluster_display.arranged_words(arranged)
    if as_json:
        print_json({"became": became, **_as_values(arranged.schedule, version.name, now)})
    else:
        cluster_display.print_lines({"Became": became})
        cluster_display.print_schedule(arranged.schedule, version.name, now)


@commands.command("list", epilog="Examples: metantk schedule list  ·  metantk schedule list --json")
def list_schedules(
    host: Host = "",
    namespace: Namespace = "",
    token_file: TokenFile = None,
    authority: Authority = None,
    as_json: AsJson = False,
) -> None:
    """List the schedules."""
    known = cluster(host, namespace, token_file, authority)
    found = known.schedules()
    pairs = {schedule.settings.version_id: schedule.settings.pipeline_id for schedule in found}
    versions = {version: known.version_name(pipeline, version) for version, pipeline in pairs.items() if version}

    from metantk_core import cluster_display

    if as_json:
        now = datetime.now(UTC)
        print_json([_as_values(one, versions.get(one.settings.version_id, ""), now) for one in found])
    else:
        cluster_display.print_schedules(found, versions)


@commands.command(
    epilog="Examples: metantk schedule show glyphs  ·  metantk schedule show glyphs --timezone Asia/Tokyo"
)
def show(
    name: Name,
    host: Host = "",
    namespace: Namespace = "",
    token_file: TokenFile = None,
    authority: Authority = None,
    timezone: Zone = "UTC",
    as_json: AsJson = False,
) -> None:
    """Show a schedule: when it fires next, and what it runs."""
    now = datetime.now(_zone(timezone))
    known = cluster(host, namespace, token_file, authority)
    found = _named(known, name)
    last = _last(found)
    version = known.version_name(last.settings.pipeline_id, last.settings.version_id)

    from metantk_core import cluster_display

    if as_json:
        print_json(_as_values(last, version, now))
        return
    cluster_display.print_schedule(last, version, now)
    if len(found) > 1:
        typer.echo(
            f"{len(found)} schedules have this name: a 'metantk schedule create' was broken off; the same command "
            "again leaves one."
        )


@commands.command(epilog="Examples: metantk schedule pause glyphs")
def pause(
    name: Name,
    host: Host = "",
    namespace: Namespace = "",
    token_file: TokenFile = None,
    authority: Authority = None,
    as_json: AsJson = False,
) -> None:
    """Let a schedule fire no more until it is resumed; runs that it has started go on."""
    known = cluster(host, namespace, token_file, authority)
    for schedule in _named(known, name):
        known.enable_schedule(schedule.schedule, enabled=False)
    _say(as_json, {"schedule": name, "enabled": False}, f"{name} is paused; runs that it has started go on.")


@commands.command(epilog="Examples: metantk schedule resume glyphs")
def resume(
    name: Name,
    host: Host = "",
    namespace: Namespace = "",
    token_file: TokenFile = None,
    authority: Authority = None,
    as_json: AsJson = False,
) -> None:
    """Let a schedule fire again. Kubeflow starts at once what it should have fired last meanwhile."""
    known = cluster(host, namespace, token_file, authority)
    found = _named(known, name)
    if len(found) > 1 and not any(schedule.enabled for schedule in found):
        raise InputError(
            f"Expected one schedule named {quoted(name)}, got {len(found)}, left by a 'metantk schedule create' that "
            "was broken off; give that command again, which leaves one."
        )
    last = _last(found)
    if not last.enabled:
        known.enable_schedule(last.schedule, enabled=True)
    said = f"{name} is enabled. If it missed a firing while it was paused, Kubeflow starts the last one now."
    _say(as_json, {"schedule": name, "enabled": True}, f"{name} was not paused." if last.enabled else said)


@commands.command("run-now", epilog="Examples: metantk schedule run-now glyphs")
def run_now(
    name: Name,
    host: Host = "",
    namespace: Namespace = "",
    token_file: TokenFile = None,
    authority: Authority = None,
    as_json: AsJson = False,
) -> None:
    """Start now what a schedule runs; it fires as before."""
    known = cluster(host, namespace, token_file, authority)
    settings = _last(_named(known, name)).settings
    run = known.start(
        f"{name} now {datetime.now(UTC):%Y-%m-%d %H:%M:%S}",
        settings,
        experiment_id=settings.experiment_id,
        parameters=settings.parameters,
        service_account=settings.service_account,
    )

    from metantk_core import cluster_display

    if as_json:
        print_json(run_as_values(run))
    else:
        cluster_display.print_lines({"Run": run.run, "Page": run.link, "Look": f"metantk runs show {run.run}"})


@commands.command(epilog="Examples: metantk schedule delete glyphs")
def delete(
    name: Name,
    host: Host = "",
    namespace: Namespace = "",
    token_file: TokenFile = None,
    authority: Authority = None,
    as_json: AsJson = False,
) -> None:
    """Remove a schedule; runs that it has started go on, and the pipeline's versions stay."""
    known = cluster(host, namespace, token_file, authority)
    for schedule in _named(known, name):
        known.delete_schedule(schedule.schedule)
    _say(as_json, {"schedule": name, "deleted": True}, f"{name} is removed; runs that it has started go on.")


def _named(known: "Cluster", name: str) -> "list[Schedule]":
    found = known.schedules(name)
    if not found:
        names = ", ".join(dict.fromkeys(quoted(one.settings.name) for one in known.schedules())) or "none"
        raise InputError(
            f"Expected the name of a schedule that is there ({names}), got {quoted(name)}; see 'metantk schedule list'."
        )
    return found


def _last(found: "list[Schedule]") -> "Schedule":
    """Return the one of some schedules of one name that fires, or the newest."""
    return next((schedule for schedule in found if schedule.enabled), found[-1])


def _zone(name: str) -> Any:
    from zoneinfo import ZoneInfo

    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, LookupError) as error:
        raise InputError(
            f"Expected a time zone such as UTC, Europe/Berlin or America/New_York, got {quoted(name)}; give its name."
        ) from error


def _as_values(schedule: "Schedule", version: str, now: datetime) -> dict[str, Any]:
    from metantk_core import cluster_display

    settings = schedule.settings
    following = cluster_display.firings(schedule, now, 3)
    return {
        **asdict(schedule.settings),
        "schedule": schedule.schedule,
        "enabled": schedule.enabled,
        "created": schedule.created.isoformat() if schedule.created else None,
        "when": cluster_display.words(settings.cron),
        "next": [time.isoformat() for time in following],
        "version": version,
        "why": schedule.why,
        "link": schedule.link,
    }


def _say(as_json: bool, values: dict[str, Any], sentence: str) -> None:
    if as_json:
        print_json(values)
    else:
        typer.echo(sentence)


def _say_what_is_waited_for(seconds: int) -> None:
    typer.echo(
        f"It fires within {seconds} seconds: the old schedule is replaced when that has passed, or both might fire.",
        err=True,
    )
