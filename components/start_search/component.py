"""Step: configuration in, the state of a search before its first round, and the shards to score it in, out."""

from kfp import dsl


@dsl.component(base_image="metantk-python:0.1.0", install_kfp_package=False, packages_to_install=[])
def start_search(
    run: dsl.Input[dsl.Artifact],
    store: str,
    tracking_uri: str,
    shards: int,
    most_shards: int,
    state: dsl.Output[dsl.Artifact],
    records: dsl.Output[dsl.Dataset],
) -> list[str]:
    """Decide what the first round of the search scores.

    Args:
        run: The run: its ``RunConfig`` as JSON, as the first step wrote it.
        store: Address of the artifact store.
        tracking_uri: Address of MLflow.
        shards: Parts of a round that are scored side by side; 0 for as many as the configuration says.
        most_shards: The most, whatever is asked for: as many as the cluster can keep.
        state: ``SearchState`` as JSON, with the latency table if latency is limited.
        records: What was scored before the first round: nothing.

    Returns:
        The shards of the first round, such as ``1/8``.
    """
    from pathlib import Path

    from metantk_core import steps, workflow

    with steps.open_step("start search", run.path, store=store, tracking_uri=tracking_uri) as (config, ports):
        started = workflow.start_search(config, ports)
        state.metadata["candidates"] = len(started.plan)
        Path(state.path).write_text(started.to_json(), encoding="utf-8")
        Path(records.path).write_text("", encoding="utf-8")
        return workflow.shard_names(config, started, shards, most_shards)
