"""Step: meta-trained network and dataset in, accuracy on test classes out."""

from kfp import dsl


@dsl.component(base_image="metantk-python:0.1.0", install_kfp_package=False, packages_to_install=[])
def evaluate(
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
        role: Which training the network is of, as in ``meta_train``.
        run: The run: its ``RunConfig`` as JSON, as the first step wrote it.
        store: Address of the artifact store.
        tracking_uri: Address of MLflow.
        model: Folder with weights and description.
        dataset: Folder with the prepared arrays.
        evaluation: ``Evaluation`` as JSON, with the accuracy of every episode.
        summary: Mean accuracy and the half width of its interval.
    """
    from pathlib import Path

    from metantk_core import datasets, meta_training, steps, workflow

    with steps.open_step(f"evaluate {role}", run.path, store=store, tracking_uri=tracking_uri) as (config, ports):
        trained = meta_training.load_model(Path(model.path))
        evaluated = workflow.evaluate(config, role, trained, datasets.load(Path(dataset.path)), ports)
        Path(evaluation.path).write_text(evaluated.to_json(), encoding="utf-8")
        summary.log_metric("accuracy", evaluated.accuracy)
        summary.log_metric("half width 95", evaluated.half_width)
