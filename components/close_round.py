"""Step: the records of a round in, the state of the search after it out."""

from kfp import dsl

from components.step import step


@step
def close_round(
    config: str,
    run: dsl.Input[dsl.Artifact],
    store: str,
    tracking_uri: str,
    dataset: dsl.Input[dsl.Dataset],
    state: dsl.Input[dsl.Artifact],
    scores: dsl.Input[list[dsl.Dataset]],
    following: dsl.Output[dsl.Artifact],
    summary: dsl.Output[dsl.Metrics],
) -> None:
    """Decide by what a round found, and say what the next one scores; nothing to do after the search has ended.

    Args:
        config: ``RunConfig`` as JSON.
        run: Text file with the identifier of the run in MLflow.
        store: Address of the artifact store, which holds the records of all rounds.
        tracking_uri: Address of MLflow.
        dataset: Folder with the prepared arrays.
        state: ``SearchState`` as JSON, before the round.
        scores: The records of every shard of the round, which has to be scored as a whole before it is closed.
        following: ``SearchState`` as JSON, after the round.
        summary: What the round found.
    """
    from pathlib import Path

    from metantk_core import datasets, workflow, workspace
    from metantk_core.search import SearchState

    with workspace.open_step(config, store=store, tracking_uri=tracking_uri, run=Path(run.path)) as (run_config, ports):
        before = SearchState.from_json(Path(state.path).read_text(encoding="utf-8"))
        after = workflow.close_round(run_config, before, datasets.load(Path(dataset.path)), ports)
        following.metadata["candidates"] = len(after.plan)
        Path(following.path).write_text(after.to_json(), encoding="utf-8")
        if not before.finished:
            for name, value in after.rounds[-1].measures:
                summary.log_metric(name, value)
