"""Step: the state of a search and the name of a shard in, one record a candidate and score out."""

from kfp import dsl


@dsl.component(base_image="metantk-python:0.1.0", install_kfp_package=False, packages_to_install=[])
def score_shard(
    shard: str,
    run: dsl.Input[dsl.Artifact],
    store: str,
    tracking_uri: str,
    dataset: dsl.Input[dsl.Dataset],
    state: dsl.Input[dsl.Artifact],
    earlier: dsl.Input[dsl.Dataset],
    scores: dsl.Output[dsl.Dataset],
    summary: dsl.Output[dsl.Metrics],
) -> None:
    """Score one shard of a round's candidates at random initialisation.

    Args:
        shard: Which shard of how many, such as ``1/8``. A text, for Kubeflow turns numbers of a list into floats.
        run: The run: its ``RunConfig`` as JSON, as the first step wrote it.
        store: Address of the artifact store, which saves repetition; empty for none.
        tracking_uri: Address of MLflow.
        dataset: Folder with the prepared arrays.
        state: ``SearchState`` as JSON: says what the round scores.
        earlier: The records of all earlier rounds, whose draws are not computed again.
        scores: One ``ScoreRecord`` a line, as JSON.
        summary: How many records there are, and the seconds that they took.
    """
    from pathlib import Path

    from metantk_core import datasets, steps, workflow
    from metantk_core.search import SearchState

    number, total = workflow.shard_number(shard)
    name = f"score shard {number} of {total}"
    with steps.open_step(name, run.path, store=store, tracking_uri=tracking_uri) as (config, ports):
        planned = SearchState.from_json(Path(state.path).read_text(encoding="utf-8"))
        images, known = datasets.load(Path(dataset.path)), workflow.load_records(earlier.path)
        with workflow.watched_search(config, ports, f"shard {number}"):
            records = workflow.score_shard(config, planned, number - 1, total, images, known, ports)
        Path(scores.path).write_text(workflow.write_records(records), encoding="utf-8")
        summary.log_metric("records", len(records))
        summary.log_metric("seconds", sum(record.seconds for record in records))
