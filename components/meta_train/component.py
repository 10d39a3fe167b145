"""Step: leaderboard, role and dataset in, meta-trained network out."""

from kfp import dsl


@dsl.component(base_image="metantk-python:0.1.0", install_kfp_package=False, packages_to_install=[])
def meta_train(
    role: str,
    run: dsl.Input[dsl.Artifact],
    store: str,
    tracking_uri: str,
    leaderboard: dsl.Input[dsl.Dataset],
    dataset: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    summary: dsl.Output[dsl.Metrics],
) -> None:
    """Meta-train one candidate of the leaderboard; the weights with the best validation accuracy are kept.

    Args:
        role: Which training: ``best``, ``top-2``, a or a yardstick; ``best seed 2`` where there are several.
        run: The run: its ``RunConfig`` as JSON, as the first step wrote it.
        store: Address of the artifact store.
        tracking_uri: Address of MLflow.
        leaderboard: ``Leaderboard`` as JSON.
        dataset: Folder with the prepared arrays.
        model: Folder with weights and description.
        summary: Validation accuracy of the kept weights, and the iteration that they are from.
    """
    from pathlib import Path

    from metantk_core import datasets, meta_training, steps, workflow
    from metantk_core.ranking import Leaderboard

    with steps.open_step(f"meta-train {role}", run.path, store=store, tracking_uri=tracking_uri) as (config, ports):
        ranked = Leaderboard.from_json(Path(leaderboard.path).read_text(encoding="utf-8"))
        trained = workflow.meta_train(config, role, ranked, datasets.load(Path(dataset.path)), ports)
        meta_training.save_model(trained, Path(model.path))
        model.metadata["role"] = role
        model.metadata["genotype"] = trained.genotype
        for metric in workflow.training_metrics(trained):
            summary.log_metric(metric.name, metric.value)
