"""Step: the records of a round and of those before it in, the state of the search after it and all records out."""

from kfp import dsl


@dsl.component(base_image="metantk-python:0.1.0", install_kfp_package=False, packages_to_install=[])
def close_round(
    run: dsl.Input[dsl.Artifact],
    store: str,
    tracking_uri: str,
    shards: int,
    most_shards: int,
    state: dsl.Input[dsl.Artifact],
    earlier: dsl.Input[dsl.Dataset],
    scores: dsl.Input[list[dsl.Dataset]],
    following: dsl.Output[dsl.Artifact],
    records: dsl.Output[dsl.Dataset],
    summary: dsl.Output[dsl.Metrics],
) -> list[str]:
    """Decide by what a round found, and say what the next one scores; nothing to do after the search has ended.

    Args:
        run: The run: its ``RunConfig`` as JSON, as the first step wrote it.
        store: Address of the artifact store.
        tracking_uri: Address of MLflow.
        shards: Parts of a round that are scored side by side; 0 for as many as the configuration says.
        most_shards: The most, whatever is asked for: as many as the cluster can keep.
        state: ``SearchState`` as JSON, before the round.
        earlier: The records of all earlier rounds.
        scores: The records of every shard of the round, which has to be scored as a whole before it is closed.
        following: ``SearchState`` as JSON, after the round.
        records: The records of all rounds so far, one a line, as JSON.
        summary: What the round found.

    Returns:
        The shards of the next round, such as ``1/8``; one that has nothing to do after the search has ended.
    """
    from pathlib import Path

    from metantk_core import steps, workflow
    from metantk_core.search import SearchState

    with steps.open_step("close round", run.path, store=store, tracking_uri=tracking_uri) as (config, ports):
        before = SearchState.from_json(Path(state.path).read_text(encoding="utf-8"))
        known = workflow.load_records(earlier.path, *(shard.path for shard in scores))
        after = workflow.close_round(config, before, known, ports)
        following.metadata["candidates"] = len(after.plan)
        Path(following.path).write_text(after.to_json(), encoding="utf-8")
        Path(records.path).write_text(workflow.write_records(known), encoding="utf-8")
        if not before.finished:
            for name, value in after.rounds[-1].measures:
                summary.log_metric(name, value)
        return workflow.shard_names(config, after, shards, most_shards)
