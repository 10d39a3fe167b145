"""The way of one process to MLflow, which may go away meanwhile: an address enters, a tracker and a registry leave.

What can't be logged is kept in the artifact store (``workflow/unsent.py``) and sent by the next process that gets
through.
"""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from metantk_core import wiring, workflow
from metantk_core.adapters.addresses import scheme, shown
from metantk_core.adapters.progress import notice
from metantk_core.errors import InputError
from metantk_core.ports import ArtifactStore, AwayError, ModelRegistry, Tracker
from metantk_core.workflow import Unsent


@dataclass(frozen=True)
class Tracking:
    """The way to MLflow of one process.

    Attributes:
        tracker: Where it logs.
        registry: Gives where it registers.
        unsent: What could not be logged; none where MLflow is a database, which does not go away, or without a store,
            which could keep it.
    """

    tracker: Tracker
    registry: Callable[[], ModelRegistry]
    unsent: Unsent | None = None


def open_tracking(
    address: str, store: ArtifactStore | None, run: str, *, at_start: bool, experiment: str = wiring.EXPERIMENT
) -> Tracking:
    """Return the way to MLflow, after what could not be logged before was sent.

    Args:
        address: Address of MLflow.
        store: Keeps what can't be logged; none if there is no place for it, so that a call that can't be made fails.
        run: Name of the run.
        at_start: Whether nothing has been computed yet, so that it is an error if the server is away. Later on it is
            waited for, unless others of the run did so already.
        experiment: Name of the MLflow experiment for new runs.

    Raises:
        AwayError: At the start, or without a store, the server does not answer.
    """
    if store is None or not is_server(address):
        return Tracking(wiring.tracker(address, experiment, patient=not at_start), lambda: registry(address))
    unsent = Unsent(store, run, shown(address), notice)
    left = bool(unsent.left())
    tracker = None
    try:
        found = wiring.tracker(address, experiment, patient=not at_start and not left)
        tracker = found if not left or _sent(unsent, found, address, at_start=at_start) else None
    except AwayError:
        if at_start:
            raise
    if tracker is None:
        unsent.give_up()
    return Tracking(
        workflow.KeepingTracker(tracker, unsent),
        lambda: workflow.KeepingRegistry(lambda: registry(address), unsent),
        unsent,
    )


def send_or_tell(unsent: Unsent | None, address: str, command: Sequence[str]) -> None:
    """Send what could not be logged while a run went on, or say what to do once the server answers again.

    Args:
        unsent: What could not be logged.
        address: Address of MLflow.
        command: Arguments that send it, beside the program's name.
    """
    if unsent is None or not unsent.left():
        return
    try:
        sent = workflow.send(unsent, wiring.tracker(address), lambda: wiring.model_registry(address))
        notice(f"MLflow at {unsent.address} was away for a while; {sent.num_calls} calls were made up for.")
    except InputError as error:
        if not isinstance(error, AwayError):
            notice(str(error))
        notice(advice(unsent, command))


def advice(unsent: Unsent, command: Sequence[str]) -> str:
    """Return what to do about calls that are left, in a sentence."""
    return (
        f"MLflow at {unsent.address} lacks something: the results are whole, and {len(unsent.left())} calls that "
        f"would show them there are kept in {unsent.place}; once it answers, do: {shlex.join(['metantk', *command])}"
    )


def registry(address: str) -> ModelRegistry:
    """Return the model registry at an address; its server is waited for."""
    return wiring.model_registry(address, patient=True)


def is_server(address: str) -> bool:
    """Return whether an address of MLflow is that of a server, which may go away."""
    return scheme(address) in ("http", "https")


def _sent(unsent: Unsent, tracker: Tracker, address: str, *, at_start: bool) -> bool:
    """Send what could not be logged before; return whether all of it was."""
    try:
        workflow.send(unsent, tracker, lambda: registry(address))
    except InputError as error:
        if at_start:
            raise
        notice(f"What could not be logged before can't be logged now: {error}")  # `metantk sync` will say so again
        return False
    return True
