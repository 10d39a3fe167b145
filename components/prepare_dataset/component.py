"""Step: configuration in, prepared dataset and the run, completed by the digest of its images, out."""

from kfp import dsl


@dsl.component(base_image="metantk-python:0.1.0", install_kfp_package=False, packages_to_install=[])
def prepare_dataset(
    config: str,
    store: str,
    tracking_uri: str,
    pipeline: str,
    kubeflow: str,
    dataset: dsl.Output[dsl.Dataset],
    run: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.Markdown],
    version: str = "",
) -> None:
    """Open the run in MLflow, then build or convert the labelled images and check that they are enough.

    Args:
        config: ``RunConfig`` as JSON.
        store: Address of the artifact store.
        tracking_uri: Address of MLflow.
        pipeline: Kubeflow's identifier of the pipeline run.
        kubeflow: Address of Kubeflow's pages, for a link to that of the pipeline run; empty for none.
        dataset: Folder with the prepared arrays of the three splits.
        run: The run: its ``RunConfig`` as JSON, with the digest of the images, by which later steps find it in MLflow.
            A file, not a parameter: Kubeflow's local runner puts the loop's item in the place of parameters that come
            from other steps.
        page: A link to the run in MLflow.
        version: Version of metantk that compiled the pipeline, which the image must hold, too; empty for any.
    """
    from pathlib import Path

    from metantk_core import steps, workflow

    steps.admit_version(version)
    images = Path(dataset.path)
    with steps.open_pipeline(
        config, store=store, tracking_uri=tracking_uri, images=images, pipeline=pipeline, kubeflow=kubeflow
    ) as (run_config, ports):
        prepared = workflow.prepare_dataset(run_config, images, ports, cache=steps.dataset_cache())
        dataset.metadata["name"] = prepared.name
        dataset.metadata["digest"] = prepared.digest
        Path(run.path).write_text(run_config.to_json(), encoding="utf-8")
        shown = steps.run_page(run_config.run_id, ports.tracker.link(ports.run))
        Path(page.path).write_text(shown, encoding="utf-8")
