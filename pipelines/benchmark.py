"""The benchmark pipeline: each recipe is computed anew and compared with its baseline; what got worse fails its step.

It is made for schedules: nothing of it is cached, and each run of it is a rerun of its own.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kfp import dsl

from components.close_benchmarks import close_benchmarks
from components.judge_benchmark import judge_benchmark
from components.rerun_benchmark import rerun_benchmark
from metantk_core.config import RunConfig
from metantk_core.errors import InputError
from pipelines import placement
from pipelines.cluster_values import admit_addresses
from pipelines.graph_size import GraphSize
from pipelines.package import write_package
from pipelines.profile import Profile

PIPELINE_NAME = "metantk-benchmark"


def build(
    configs: Sequence[RunConfig], profile: Profile | None = None, *, store: str = "", tracking_uri: str = ""
) -> Any:
    """Return the pipeline that runs some experiments again, side by side.

    Args:
        configs: The experiments; a rerun of each is one step, so that all its times are from one machine.
        profile: What the steps ask of the cluster, and addresses.
        store: Default address of the artifact store, in the place of the profile's.
        tracking_uri: Default address of MLflow, in the place of the profile's.
    """
    if not configs:
        raise InputError("Expected at least one recipe for a benchmark, got none; name one, such as glyphs.")
    profile = profile or Profile()
    place = placement.Placer(profile, caching=False)

    @dsl.pipeline(name=PIPELINE_NAME, description="Run benchmarks again and say what got worse.")
    def benchmark(
        store: str = store or profile.addresses.store,
        tracking_uri: str = tracking_uri or profile.addresses.tracking_uri,
    ) -> None:
        begun: dict[str, Any] = {"tracking_uri": tracking_uri, "pipeline": dsl.PIPELINE_JOB_ID_PLACEHOLDER}
        with dsl.ExitHandler(place(close_benchmarks(**begun)), name="benchmarks"):
            for config in configs:
                rerun = place(rerun_benchmark(**begun, config=config.to_json(), store=store))
                rerun.set_display_name(f"rerun {config.name}")
                judged = judge_benchmark(regression=rerun.outputs["Output"]).set_caching_options(False)
                # What got worse is as bad the second time.
                placement.place(judged, profile.placement("judge_benchmark").model_copy(update={"retries": None}))
                judged.set_display_name(f"judge {config.name}")

    return benchmark


def write(
    configs: Sequence[RunConfig],
    path: Path,
    profile: Profile | None = None,
    *,
    store: str = "",
    tracking_uri: str = "",
) -> GraphSize:
    """Write the compiled pipeline, and return how large it is; equal arguments give equal bytes.

    Args:
        configs: The experiments.
        path: The file, whose name ends in .yaml.
        profile: What the steps ask of the cluster, and addresses.
        store: Address of the artifact store, in the place of the profile's.
        tracking_uri: Address of MLflow, in the place of the profile's.

    Raises:
        InputError: The file can't be written there, its name doesn't end in .yaml, or an address is none for pods.
    """
    admit_addresses(store, tracking_uri)
    return write_package(build(configs, profile, store=store, tracking_uri=tracking_uri), path, shards=1)
