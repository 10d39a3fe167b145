"""Step: the state and the records of a finished search in, a leaderboard and the search's history out."""

from kfp import dsl


@dsl.component(base_image="metantk-python:0.1.0", install_kfp_package=False, packages_to_install=[])
def rank_candidates(
    run: dsl.Input[dsl.Artifact],
    store: str,
    tracking_uri: str,
    state: dsl.Input[dsl.Artifact],
    records: dsl.Input[dsl.Dataset],
    leaderboard: dsl.Output[dsl.Dataset],
    history: dsl.Output[dsl.Artifact],
    table: dsl.Output[dsl.Markdown],
    summary: dsl.Output[dsl.Metrics],
) -> None:
    """Rank what the search scored and say how far the ranking can be trusted.

    Args:
        run: The run: its ``RunConfig`` as JSON, as the first step wrote it.
        store: Address of the artifact store.
        tracking_uri: Address of MLflow.
        state: ``SearchState`` as JSON, after the last round.
        records: The records of all rounds, one a line, as JSON.
        leaderboard: ``Leaderboard`` as JSON.
        history: ``SearchHistory`` as JSON.
        table: The leaderboard for people.
        summary: Candidates, failures and the reliability of the ranking.
    """
    from pathlib import Path

    from metantk_core import steps, workflow
    from metantk_core.search import SearchState

    with steps.open_step("rank candidates", run.path, store=store, tracking_uri=tracking_uri) as (config, ports):
        ended = SearchState.from_json(Path(state.path).read_text(encoding="utf-8"))
        result = workflow.finish_search(config, ended, workflow.load_records(records.path), ports)
        result.write(leaderboard=Path(leaderboard.path), history=Path(history.path), table=Path(table.path))
        leaderboard.metadata["digest"] = result.leaderboard.digest
        for metric in workflow.ranking_metrics(result.leaderboard):
            summary.log_metric(metric.name, metric.value)
