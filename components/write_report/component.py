"""Step: everything that a run found in, one HTML file out."""

from kfp import dsl


@dsl.component(base_image="metantk-python:0.1.0", install_kfp_package=False, packages_to_install=[])
def write_report(
    run: dsl.Input[dsl.Artifact],
    store: str,
    tracking_uri: str,
    roles: list[str],
    leaderboard: dsl.Input[dsl.Dataset],
    history: dsl.Input[dsl.Artifact],
    dataset: dsl.Input[dsl.Dataset],
    models: dsl.Input[list[dsl.Model]],
    evaluations: dsl.Input[list[dsl.Artifact]],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Write the self-contained report of a run and attach it to the run in MLflow.

    Args:
        run: The run: its ``RunConfig`` as JSON, as the first step wrote it.
        store: Address of the artifact store.
        tracking_uri: Address of MLflow.
        roles: The names of the trainings of ``models`` and ``evaluations``, in their order.
        leaderboard: ``Leaderboard`` as JSON.
        history: ``SearchHistory`` as JSON.
        dataset: Folder with the prepared arrays.
        models: Folders of the meta-trained networks.
        evaluations: Their accuracies on test classes, as JSON.
        report: The report.
    """
    from pathlib import Path

    from metantk_core import datasets, meta_training, steps, workflow
    from metantk_core.meta_training import Evaluation
    from metantk_core.ranking import Leaderboard
    from metantk_core.search import SearchHistory

    with steps.open_step("write report", run.path, store=store, tracking_uri=tracking_uri) as (config, ports):
        workflow.report(
            config,
            Leaderboard.from_json(Path(leaderboard.path).read_text(encoding="utf-8")),
            SearchHistory.from_json(Path(history.path).read_text(encoding="utf-8")),
            datasets.load(Path(dataset.path)),
            {role: meta_training.load_model(Path(model.path)) for role, model in zip(roles, models, strict=True)},
            {
                role: Evaluation.from_json(Path(evaluation.path).read_text(encoding="utf-8"))
                for role, evaluation in zip(roles, evaluations, strict=True)
            },
            Path(report.path),
            ports,
        )
