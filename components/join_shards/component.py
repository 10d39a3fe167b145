"""Step: what all shards of a search ended with in, the one state and the records of all rounds out."""

from kfp import dsl


@dsl.component(base_image="metantk-python:0.1.0", install_kfp_package=False, packages_to_install=[])
def join_shards(
    run: dsl.Input[dsl.Artifact],
    store: str,
    tracking_uri: str,
    ended: dsl.Input[list[dsl.Artifact]],
    found: dsl.Input[list[dsl.Dataset]],
    state: dsl.Output[dsl.Artifact],
    records: dsl.Output[dsl.Dataset],
) -> None:
    """Make sure that all shards ended with the same state, and log what its rounds found.

    Args:
        run: The run: its ``RunConfig`` as JSON, as the first step wrote it.
        store: Address of the artifact store.
        tracking_uri: Address of MLflow.
        ended: ``SearchState`` as JSON, after the last round, of each shard.
        found: The records of all rounds, of each shard.
        state: ``SearchState`` as JSON, after the last round.
        records: The records of all rounds, one a line, as JSON.
    """
    from pathlib import Path

    from metantk_core import steps, workflow
    from metantk_core.search import SearchState

    with steps.open_step("join shards", run.path, store=store, tracking_uri=tracking_uri) as (config, ports):
        states = [SearchState.from_json(Path(one.path).read_text(encoding="utf-8")) for one in ended]
        Path(state.path).write_text(workflow.join_shards(config, states, ports).to_json(), encoding="utf-8")
        Path(records.path).write_text(Path(found[0].path).read_text(encoding="utf-8"), encoding="utf-8")
