"""Step: dataset in, the leaderboard and history of a whole search out; for searches that fit one pod."""

from kfp import dsl


@dsl.component(base_image="metantk-python:0.1.0", install_kfp_package=False, packages_to_install=[])
def search(
    run: dsl.Input[dsl.Artifact],
    store: str,
    tracking_uri: str,
    dataset: dsl.Input[dsl.Dataset],
    leaderboard: dsl.Output[dsl.Dataset],
    history: dsl.Output[dsl.Artifact],
    table: dsl.Output[dsl.Markdown],
    summary: dsl.Output[dsl.Metrics],
) -> None:
    """Run all rounds of the search one after the other; a pod that died goes on where the last one was.

    Args:
        run: The run: its ``RunConfig`` as JSON, as the first step wrote it.
        store: Address of the artifact store.
        tracking_uri: Address of MLflow.
        dataset: Folder with the prepared arrays.
        leaderboard: ``Leaderboard`` as JSON.
        history: ``SearchHistory`` as JSON.
        table: The leaderboard for people.
        summary: Candidates, failures and the reliability of the ranking.
    """
    from pathlib import Path

    from metantk_core import datasets, steps, workflow

    with steps.open_step("search", run.path, store=store, tracking_uri=tracking_uri) as (config, ports):
        with workflow.watched_search(config, ports):
            result = workflow.search(config, datasets.load(Path(dataset.path)), ports)
        result.write(leaderboard=Path(leaderboard.path), history=Path(history.path), table=Path(table.path))
        leaderboard.metadata["digest"] = result.leaderboard.digest
        for metric in workflow.ranking_metrics(result.leaderboard):
            summary.log_metric(metric.name, metric.value)
