"""Step: meta-trained network and dataset in, accuracy on test classes out."""

from kfp import dsl

from components.step import step


@step
def evaluate(
    config: str,
    role: str,
    run: dsl.Input[dsl.Artifact],
    store: str,
    tracking_uri: str,
    model: dsl.Input[dsl.Model],
    dataset: dsl.Input[dsl.Dataset],
    evaluation: dsl.Output[dsl.Artifact],
    summary: dsl.Output[dsl.Metrics],
) -> None:
    """Evaluate a network on few-shot episodes of test classes, with a 95 % interval over episodes.

    Args:
        config: ``RunConfig`` as JSON.
        role: Which candidate the network is: ``best``, ``worst`` or ``random``.
        run: Text file with the identifier of the run in MLflow.
        store: Address of the artifact store.
        tracking_uri: Address of MLflow.
        model: Folder with weights and description.
        dataset: Folder with the prepared arrays.
        evaluation: ``Evaluation`` as JSON, with the accuracy of every episode.
        summary: Mean accuracy and the half width of its interval.
    """
    from pathlib import Path

    from metantk_core import datasets, meta_training, workflow, workspace

    with workspace.open_step(config, store=store, tracking_uri=tracking_uri, run=Path(run.path)) as (run_config, ports):
        trained = meta_training.load_model(Path(model.path))
        evaluated = workflow.evaluate(run_config, role, trained, datasets.load(Path(dataset.path)), ports)
        Path(evaluation.path).write_text(evaluated.to_json(), encoding="utf-8")
        summary.log_metric("accuracy", evaluated.accuracy)
        summary.log_metric("half width 95", evaluated.half_width)
