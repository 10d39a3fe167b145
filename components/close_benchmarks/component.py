"""Step: how a benchmark pipeline ended in, runs in MLflow that say so out; it runs whatever happened to the others."""

from kfp import dsl


@dsl.component(base_image="metantk-python:0.1.0", install_kfp_package=False, packages_to_install=[])
def close_benchmarks(tracking_uri: str, pipeline: str, status: dsl.PipelineTaskFinalStatus) -> int:
    """Leave no rerun in MLflow looking as if it went on.

    Args:
        tracking_uri: Address of MLflow; empty for ``MLFLOW_TRACKING_URI``.
        pipeline: Kubeflow's identifier of the pipeline run, by which its reruns are found.
        status: How the pipeline ended; Kubeflow fills it in.

    Returns:
        How many were open.
    """
    from metantk_core import benchmarking, steps

    with steps.reporting():
        return benchmarking.close(pipeline, steps.tracking_address(tracking_uri))
