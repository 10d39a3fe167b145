"""Addresses enter, adapters leave. MLflow and boto3 take long to import: only who asks for them pays."""

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from metantk_core import stopping
from metantk_core.adapters.addresses import admit_bucket, scheme, shown
from metantk_core.adapters.filesystem import FilesystemStore
from metantk_core.adapters.packing import PackingStore
from metantk_core.errors import InputError
from metantk_core.extras import PIPELINES, STORAGE, admit_installed
from metantk_core.files import Place
from metantk_core.ports import ArtifactStore, ModelRegistry, Tracker
from metantk_core.seeding import digest

if TYPE_CHECKING:
    from metantk_core.adapters.kubeflow.client import KubeflowCluster

__all__ = [
    "ACCELERATOR",
    "BENCHMARKS",
    "DEVICE",
    "EXPERIMENT",
    "artifact_store",
    "cluster",
    "device",
    "images",
    "model_registry",
    "no_accelerator",
    "opened_store",
    "tracker",
    "waiting_room",
]

_RECORDS = "scores/"
"""Beginning of the keys of score records: small, thousands of them, and computed again if they are lost."""

DEVICE = "METANTK_DEVICE"
"""Environment variable that says where networks run, to every command and step that is not told otherwise."""
ACCELERATOR = "METANTK_ACCELERATOR"
"""Environment variable with the kind of accelerator that a step asked the cluster for, such as ``nvidia.com/gpu``."""
EXPERIMENT = "metantk"
"""Name of the MLflow experiment that runs are shown under."""
BENCHMARKS = "metantk-benchmarks"
"""Name of the MLflow experiment that benchmark reruns are shown under, apart from all other runs."""


def artifact_store(uri: str) -> ArtifactStore:
    """Return the artifact store at an address; of a bucket, after making sure that it answers.

    Args:
        uri: A folder, ``file:///`` and its absolute path, or ``s3://bucket/prefix``.

    Raises:
        InputError: No store is known for the scheme, or the bucket can't be used.
    """
    known = scheme(uri)
    if known == "s3":
        bucket, prefix = admit_bucket(uri)
        admit_installed(f"The store {shown(uri)}", *STORAGE)
        from metantk_core.adapters.s3 import connect

        return connect(bucket, prefix)
    if known not in ("", "file") or not uri:
        raise InputError(
            f"An artifact store is a folder (a path, or file:///path) or a bucket (s3://bucket/prefix), not "
            f"{shown(uri)!r}; give one of these."
        )
    return FilesystemStore(Path(uri.removeprefix("file://") if known else uri).absolute())


def images(path: str | None) -> Place | None:
    """Return the place of a person's images; none for images that need none, or lie in a folder on this machine.

    Args:
        path: What the configuration says, ``data.path``.

    Raises:
        InputError: They lie in a bucket, and that can't be used.
    """
    if path is None or scheme(path) != "s3":
        return None
    bucket, prefix = admit_bucket(path)
    admit_installed(f"To read images from {shown(path)}", *STORAGE)
    from metantk_core.adapters.s3_images import connect_images

    return connect_images(bucket, prefix)


def waiting_room(address: str) -> Path:
    """Return the folder on this machine in which a data set is made that goes to a bucket: the same at each attempt.

    Args:
        address: Where it goes.

    Raises:
        InputError: There is no home to have it in.
    """
    from metantk_core.adapters.pieces import FOLDER, cache_folder

    folder = cache_folder()
    if folder is None:
        raise InputError(f"This account has no home folder; set {FOLDER} to a folder with enough space.")
    return folder / "imports" / digest(address)


@contextmanager
def opened_store(uri: str, store: ArtifactStore | None = None) -> Iterator[ArtifactStore]:
    """Give the artifact store at an address for some work; what it holds back is written when that ends, as it may.

    A bucket charges for requests and answers slowly: records of scores go there in packs, every half a minute.

    Args:
        uri: As for ``artifact_store``.
        store: What that gave for this address already: a bucket is asked whether it answers each time.

    Raises:
        InputError: As for ``artifact_store``.
    """
    store = store or artifact_store(uri)
    if scheme(uri) != "s3":
        yield store
        return
    packing = PackingStore(store, _RECORDS)
    try:
        with packing:
            yield packing
    finally:
        with stopping.shielded():
            packing.flush()  # nothing is left to write, unless a signal broke it off


def tracker(uri: str, experiment: str = EXPERIMENT, *, patient: bool = False) -> Tracker:
    """Return the tracker at an address, after making sure that it answers; a database is created if it is not there.

    Args:
        uri: ``sqlite:///`` and a path, ``http(s)://`` of an MLflow server, or ``postgresql://`` of its database.
        experiment: Name of the MLflow experiment for new runs.
        patient: Whether a server that does not answer is waited for.

    Raises:
        AwayError: No server answers.
        InputError: The scheme is unknown, or MLflow refuses.
    """
    from metantk_core.adapters.mlflow_store import connect
    from metantk_core.adapters.mlflow_tracking import MlflowTracker

    return MlflowTracker(connect(uri, patient=patient), experiment)


def model_registry(uri: str, *, patient: bool = False) -> ModelRegistry:
    """Return the model registry at an address; see ``tracker``.

    Raises:
        AwayError: No server answers.
        InputError: The scheme is unknown, or MLflow refuses.
    """
    from metantk_core.adapters.mlflow_models import MlflowModels
    from metantk_core.adapters.mlflow_store import connect

    return MlflowModels(connect(uri, patient=patient))


def cluster(
    host: str,
    namespace: str = "",
    token_file: Path | None = None,
    authority: Path | None = None,
    *,
    seconds: float | None = None,
) -> "KubeflowCluster":
    """Return the Kubeflow at an address, after making sure that it answers.

    Args:
        host: Address of Kubeflow Pipelines.
        namespace: Namespace of a Kubeflow that several teams share.
        token_file: File with a token; without one, see ``adapters.kubeflow.access``.
        authority: File with the certificates that vouch for the server.
        seconds: Longest time to wait for an answer; none for as long as each kind of request may need.

    Raises:
        AwayError: Nobody answers.
        InputError: An option can't be used, or Kubeflow refuses.
    """
    from metantk_core.adapters.kubeflow.access import access

    known = access(host, namespace, token_file, authority)
    admit_installed("A Kubeflow cluster", *PIPELINES)
    from metantk_core.adapters.kubeflow.client import connect

    return connect(known, seconds=seconds)


def device(wanted: str = "", *, probe: bool = True) -> str:
    """Return where networks run, as torch spells it.

    The rule, the same for all commands and steps: what is asked for; else what ``METANTK_DEVICE`` says; else ``auto``,
    which is ``cuda`` if torch sees a GPU and ``cpu`` if not.

    Args:
        wanted: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``; empty for the environment's choice.
        probe: Whether to compute something there, which takes some memory of a GPU as long as the process lives.

    Raises:
        InputError: There is no such device, or it does not work.
    """
    choice = wanted or os.environ.get(DEVICE) or "auto"
    spelled = re.fullmatch(r"auto|cpu|cuda(?::(?P<number>[0-9]{1,3}))?", choice)
    if spelled is None:
        why = "MPS has no float64, which kernels need" if choice.partition(":")[0] == "mps" else "that is none of them"
        raise InputError(f"Expected auto, cpu, cuda or cuda:1 as --device (or {DEVICE}), but got {choice!r}: {why}.")
    if choice == "cpu":
        return "cpu"
    import torch

    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if choice == "auto" and seen == 0:
        return "cpu"
    if int(spelled["number"] or 0) >= seen:
        found = f"only {', '.join(f'cuda:{number}' for number in range(seen))}" if seen else "no GPU"
        raise InputError(
            f"Expected a device that is there, but got {choice!r}, and torch sees {found}; try --device auto."
        )
    name = f"cuda:{int(spelled['number'])}" if spelled["number"] else "cuda"
    # Of each thread's first matrix product on the GPU, which works all the same.
    warnings.filterwarnings("ignore", "Attempting to run cuBLAS, but there was no current CUDA context")
    if probe:
        try:
            torch.ones(1, dtype=torch.float64, device=name).add(1).cpu()
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"The device {name} does not work ({reason}); choose another one, or --device cpu."
            ) from error
    return name


def no_accelerator(device: str) -> str:
    """Return a sentence for people if this step asked the cluster for a GPU and computes without; else nothing.

    Args:
        device: Where networks run, as :func:`device` gives it.
    """
    asked = os.environ.get(ACCELERATOR, "")
    if not asked or device != "cpu" or os.environ.get(DEVICE) == "cpu":
        return ""
    return (
        f"This step asked for {asked} and got none that torch sees, so it computes on the CPU, many times slower; see "
        "that its node has a GPU with a driver and that the image holds a torch built for it."
    )
