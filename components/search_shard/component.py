"""Step: the state of a search before its first round in, its end out, found together with other shards in the store."""

from kfp import dsl


@dsl.component(base_image="metantk-python:0.1.0", install_kfp_package=False, packages_to_install=[])
def search_shard(
    shard: str,
    run: dsl.Input[dsl.Artifact],
    store: str,
    tracking_uri: str,
    dataset: dsl.Input[dsl.Dataset],
    state: dsl.Input[dsl.Artifact],
    ended: dsl.Output[dsl.Artifact],
    records: dsl.Output[dsl.Dataset],
    summary: dsl.Output[dsl.Metrics],
) -> None:
    """Search from the first round to the last, scoring one share of each, and those of shards that stay away.

    Args:
        shard: Which shard of how many, such as ``1/8``. A text, for Kubeflow turns numbers of a list into floats.
        run: The run: its ``RunConfig`` as JSON, as the first step wrote it.
        store: Address of the artifact store, in which the shards meet.
        tracking_uri: Address of MLflow.
        dataset: Folder with the prepared arrays.
        state: ``SearchState`` as JSON, before the first round.
        ended: ``SearchState`` as JSON, after the last round: the same of all shards.
        records: The records of all rounds, one a line, as JSON.
        summary: How many rounds and records there are.
    """
    from pathlib import Path

    from metantk_core import datasets, steps, workflow
    from metantk_core.search import SearchState

    number, total = workflow.shard_number(shard)
    name = f"search shard {number} of {total}"
    with steps.open_step(name, run.path, store=store, tracking_uri=tracking_uri) as (config, ports):
        start = SearchState.from_json(Path(state.path).read_text(encoding="utf-8"))
        images = datasets.load(Path(dataset.path))
        with workflow.watched_search(config, ports, f"shard {number}"):
            last, known = workflow.search_together(config, start, number, total, images, ports)
        Path(ended.path).write_text(last.to_json(), encoding="utf-8")
        Path(records.path).write_text(workflow.write_records(known), encoding="utf-8")
        summary.log_metric("rounds", len(last.rounds))
        summary.log_metric("records", len(list(known)))
