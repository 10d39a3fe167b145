"""Step: the records of all shards in, a leaderboard out."""

from kfp import dsl

from components.step import step


@step
def rank_candidates(
    config: str,
    run: dsl.Input[dsl.Artifact],
    store: str,
    tracking_uri: str,
    scores: dsl.Input[list[dsl.Dataset]],
    leaderboard: dsl.Output[dsl.Dataset],
    table: dsl.Output[dsl.Markdown],
    summary: dsl.Output[dsl.Metrics],
) -> None:
    """Rank all candidates and say how far the ranking can be trusted.

    Args:
        config: ``RunConfig`` as JSON.
        run: Text file with the identifier of the run in MLflow.
        store: Address of the artifact store.
        tracking_uri: Address of MLflow.
        scores: The records of every shard.
        leaderboard: ``Leaderboard`` as JSON.
        table: The same for people.
        summary: Candidates, failures and the reliability of the ranking.
    """
    from pathlib import Path

    from metantk_core import workflow, workspace
    from metantk_core.ranking import render_markdown

    with workspace.open_step(config, store=store, tracking_uri=tracking_uri, run=Path(run.path)) as (run_config, ports):
        records = [
            record for shard in scores for record in workflow.read_records(Path(shard.path).read_text(encoding="utf-8"))
        ]
        ranked = workflow.rank_candidates(run_config, records, ports)
        Path(leaderboard.path).write_text(ranked.to_json(), encoding="utf-8")
        leaderboard.metadata["digest"] = ranked.digest
        Path(table.path).write_text(render_markdown(ranked), encoding="utf-8")
        for metric in workflow.ranking_metrics(ranked):
            summary.log_metric(metric.name, metric.value)
