"""Step: how the pipeline ended in, a run in MLflow that says so out; it runs whatever happened to the others."""

from kfp import dsl


@dsl.component(base_image="metantk-python:0.1.0", install_kfp_package=False, packages_to_install=[])
def close_run(config: str, store: str, tracking_uri: str, pipeline: str, status: dsl.PipelineTaskFinalStatus) -> str:
    """Leave no run in MLflow looking as if it went on.

    Args:
        config: ``RunConfig`` as JSON.
        store: Address of the artifact store.
        tracking_uri: Address of MLflow.
        pipeline: Kubeflow's identifier of the pipeline run, by which its run in MLflow is found.
        status: How the pipeline ended; Kubeflow fills it in.

    Returns:
        How the run ended: ``finished``, ``failed`` or ``killed``.
    """
    from metantk_core import steps

    return steps.close_pipeline(
        pipeline,
        status.state,
        status.error_message or "",
        config=config,
        store=store,
        tracking_uri=tracking_uri,
    )
