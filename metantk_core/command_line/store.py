"""Commands that look after a store of finished work: ls, verify, prune."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from metantk_core.command_line.options import AsJson, Commands, Store, WorkspaceRoot, print_json

commands = typer.Typer(
    name="store",
    cls=Commands,
    help="Look at a store of finished work: what is in it, whether it is whole, what of it nobody needs.",
    epilog="Examples: metantk store ls  ·  metantk store verify --store s3://bucket/prefix  ·  "
    "metantk store prune --dry-run",
    no_args_is_help=True,
)


@commands.command(epilog="Examples: metantk store ls  ·  metantk store ls --store s3://bucket/prefix --json")
def ls(workspace: WorkspaceRoot = Path("runs"), store: Store = "", as_json: AsJson = False) -> None:
    """Say how much of what is in the store; nothing is read but its list."""
    from metantk_core import terminal, upkeep
    from metantk_core import workspace as spaces

    place = spaces.Workspace(workspace, shared=store)
    found = upkeep.contents(place.existing_store())
    if as_json:
        print_json({"store": place.store_uri, "contents": {kind: asdict(amount) for kind, amount in found.items()}})
    else:
        terminal.print_amounts(f"In {place.store_uri}", found)


@commands.command(epilog="Examples: metantk store verify  ·  metantk store verify --store s3://bucket/prefix")
def verify(workspace: WorkspaceRoot = Path("runs"), store: Store = "", as_json: AsJson = False) -> None:
    """Read everything in the store and compare it with its seals and checksums; exit code 1 if something is damaged."""
    from metantk_core import terminal, upkeep
    from metantk_core import workspace as spaces

    place = spaces.Workspace(workspace, shared=store)
    found = upkeep.verify(place.existing_store(), spaces.told("verify"))
    if as_json:
        print_json({"store": place.store_uri, **asdict(found)})
    else:
        terminal.print_verified(found)
    if found.damaged:
        raise typer.Exit(1)


@commands.command(epilog="Examples: metantk store prune --dry-run  ·  metantk store prune --store s3://bucket/prefix")
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
        print_json({"store": place.store_uri, "dry_run": dry_run, "removed": removed})
    else:
        terminal.print_amounts(f"{'Would be removed' if dry_run else 'Removed'} from {place.store_uri}", found)
