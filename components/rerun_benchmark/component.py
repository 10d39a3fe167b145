"""Step: configuration in, what became of its figures since the accepted baseline out."""

from kfp import dsl


@dsl.component(base_image="metantk-python:0.1.0", install_kfp_package=False, packages_to_install=[])
def rerun_benchmark(
    config: str,
    store: str,
    tracking_uri: str,
    pipeline: str,
    page: dsl.Output[dsl.HTML],
    figures: dsl.Output[dsl.Markdown],
    rerun: dsl.Output[dsl.Artifact],
    summary: dsl.Output[dsl.Metrics],
) -> str:
    """Compute an experiment anew, compare it with its accepted baseline, and note in MLflow what came of it.

    It ends well also if something got worse, so that Kubeflow shows the page; the step after it fails then.

    Args:
        config: ``RunConfig`` as JSON.
        store: Address of the artifact store: a pod that died goes on where it was.
        tracking_uri: Address of MLflow; empty for ``MLFLOW_TRACKING_URI``.
        pipeline: Kubeflow's identifier of the pipeline run, which names the rerun.
        page: The page with the history of each figure.
        figures: The figures and their verdicts for people.
        rerun: ``Rerun`` as JSON.
        summary: The figures.

    Returns:
        What got worse, in a sentence; empty if nothing did.
    """
    import shutil
    import tempfile
    from pathlib import Path

    from metantk_core import benchmarking, reruns, steps, workspace
    from metantk_core.config import RunConfig

    with steps.reporting(), tempfile.TemporaryDirectory() as scratch:
        place = workspace.Workspace(Path(scratch), steps.tracking_address(tracking_uri), shared=store)
        outcome = benchmarking.run(RunConfig.from_json(config), place, name=pipeline, pipeline=pipeline)
        shutil.copyfile(outcome.page, page.path)
        Path(figures.path).write_text(reruns.markdown_of(outcome.comparison), encoding="utf-8")
        Path(rerun.path).write_text(outcome.comparison.now.to_json(), encoding="utf-8")
        for name, value in reruns.numbers_of(outcome.comparison).items():
            summary.log_metric(name, value)
        return outcome.comparison.sentence if outcome.comparison.is_regression else ""
