"""Runs on a cluster, from here: a run that was started enters, its states until it has ended leave."""

import time
from collections.abc import Callable, Iterator

from metantk_core import __version__
from metantk_core.adapters.kubeflow.package import Package
from metantk_core.ports import AwayError, Cluster, ClusterRun

_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 10.0  # seconds between two looks
_PATIENCE = 600.0


def version_name(package: Package) -> str:
    """Return the name of a pipeline version: another one for each release and each content."""
    return f"{__version__}-{package.digest}"


def follow(
    cluster: Cluster,
    run: str,
    *,
    away: Callable[[AwayError], object] = lambda error: None,
    sleep: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[ClusterRun]:
    """Give the states of a run until it has ended, some seconds apart.

    Args:
        cluster: Where it is.
        run: Its identifier.
        away: Told once when the cluster does not answer, which is waited for ten minutes.
        sleep: Waits.
        clock: Gives seconds.

    Raises:
        AwayError: The cluster stayed away.
    """
    pause, answered, told = _FIRST_PAUSE, clock(), False
    while True:
        try:
            seen = cluster.run(run)
        except AwayError as error:
            if clock() - answered > _PATIENCE:
                raise
            if not told:
                away(error)
            told = True
        else:
            answered, told = clock(), False
            yield seen
            if seen.over:
                return
        sleep(pause)
        pause = min(_LONGEST_PAUSE, 1.2 * pause)
