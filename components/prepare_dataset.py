"""Step: configuration in, prepared dataset and the tracker's run out."""

from kfp import dsl

from components.step import step


@step
def prepare_dataset(
    config: str,
    store: str,
    tracking_uri: str,
    dataset: dsl.Output[dsl.Dataset],
    run: dsl.Output[dsl.Artifact],
) -> None:
    """Open the run in MLflow, then build or convert the labelled images and check that they are enough.

    Args:
        config: ``RunConfig`` as JSON.
        store: Address of the artifact store.
        tracking_uri: Address of MLflow.
        dataset: Folder with the prepared arrays of the three splits.
        run: Text file with the identifier of the run in MLflow, the parent of all steps' runs. A file, not a parameter:
            Kubeflow's local runner puts the loop's item in the place of parameters that come from other steps.
    """
    from pathlib import Path

    from metantk_core import workflow, workspace

    images = Path(dataset.path)
    with workspace.open_step(config, store=store, tracking_uri=tracking_uri, images=images) as (run_config, ports):
        prepared = workflow.prepare_dataset(run_config, images, ports, cache=workspace.dataset_cache())
        dataset.metadata["name"] = prepared.name
        dataset.metadata["digest"] = prepared.digest
        Path(run.path).write_text(ports.run, encoding="utf-8")
