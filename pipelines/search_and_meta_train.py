"""The whole pipeline as a Kubeflow graph: a configuration and a cluster's profile enter, compiled YAML leaves.

The same graph runs on this machine (``pipelines.local``) and on a cluster.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from kfp import dsl

from components.close_round import close_round
from components.close_run import close_run
from components.evaluate import evaluate
from components.join_shards import join_shards
from components.meta_train import meta_train
from components.prepare_dataset import prepare_dataset
from components.rank_candidates import rank_candidates
from components.register_model import register_model
from components.score_shard import score_shard
from components.search import search
from components.search_shard import search_shard
from components.start_search import start_search
from components.write_report import write_report
from metantk_core import __version__, workflow
from metantk_core.config import RunConfig
from metantk_core.search.config import MOST_SHARDS
from pipelines.cluster_values import admit_addresses
from pipelines.package import GraphSize, write_package
from pipelines.placement import Placer
from pipelines.profile import Profile

PIPELINE_NAME = "metantk-search-and-meta-train"

Place = Callable[[dsl.PipelineTask], dsl.PipelineTask]
"""Gives a task its place on a cluster, and returns it."""


def search_round(place: Place, parallelism: int | None = None) -> Any:
    """Return a round of a search as a pipeline of its own: its shards side by side, then what closes it.

    All rounds are the same one, so that a compiled pipeline holds it once and a task of a few lines for each.

    Args:
        place: Gives each task its place.
        parallelism: Most shards at a time; none for all.
    """
    # Any: the annotations are for Kubeflow, and tell what the names stand for when it runs, not here.
    round_: Any = NamedTuple("Round", [("state", dsl.Artifact), ("records", dsl.Dataset), ("shards", list[str])])

    @dsl.pipeline(name="search-round", description="Score a round of candidates in shards, and plan the next round.")
    def score_and_close(
        store: str,
        tracking_uri: str,
        asked: int,
        most_shards: int,
        shards: list[str],
        run: dsl.Input[dsl.Artifact],
        dataset: dsl.Input[dsl.Dataset],
        state: dsl.Input[dsl.Artifact],
        records: dsl.Input[dsl.Dataset],
    ) -> round_:
        so_far: dict[str, Any] = {
            "store": store,
            "tracking_uri": tracking_uri,
            "run": run,
            "state": state,
            "earlier": records,
        }
        names: Any = shards
        with dsl.ParallelFor(names, name="shards", parallelism=parallelism) as shard:
            scored = place(score_shard(**so_far, dataset=dataset, shard=shard))
        scores = dsl.Collected(scored.outputs["scores"])
        closed = place(close_round(**so_far, scores=scores, shards=asked, most_shards=most_shards))
        return round_(closed.outputs["following"], closed.outputs["records"], closed.outputs["Output"])

    return score_and_close


def add_search(
    config: RunConfig,
    place: Place,
    one_round: Any,
    ports: dict[str, Any],
    dataset: Any,
    *,
    shards: Any = 0,
    most_shards: Any = MOST_SHARDS,
    together: bool = False,
    parallelism: int | None = None,
) -> tuple[Any, Any]:
    """Add the steps of a search to the pipeline that is being built; return its leaderboard and its history.

    Args:
        config: Says how many rounds there are, and whether there are shards.
        place: Gives each task its place.
        one_round: What ``search_round`` made; outside, for one pipeline can't be begun within another.
        ports: The run and addresses, which every step takes.
        dataset: The prepared images.
        shards: Shards of a round, a number or a parameter of the pipeline; 0 for as many as the run says.
        most_shards: Most shards of a round, whatever is asked for.
        together: Whether the shards meet in the store, and search from the first round to the last by themselves.
        parallelism: Most shards at a time, if they do; none for all.
    """
    if config.search.shards == 1:
        found = place(search(**ports, dataset=dataset))
        return found.outputs["leaderboard"], found.outputs["history"]
    started = place(start_search(**ports, shards=shards, most_shards=most_shards))
    state, records, names = started.outputs["state"], started.outputs["records"], started.outputs["Output"]
    if together:
        # Shards meet in the store: steps and pods for the whole search, not for each of its rounds.
        with dsl.ParallelFor(names, name="shards", parallelism=parallelism) as shard:
            ended = place(search_shard(**ports, shard=shard, dataset=dataset, state=state))
        outputs = {
            name: dsl.Collected(ended.outputs[output]) for name, output in (("ended", "ended"), ("found", "records"))
        }
        joined = place(join_shards(**ports, **outputs))
        ranked = place(rank_candidates(**ports, state=joined.outputs["state"], records=joined.outputs["records"]))
        return ranked.outputs["leaderboard"], ranked.outputs["history"]
    # The state and the records of all rounds so far go from round to round; no step looks for them anywhere else.
    # The number of rounds is known beforehand; those after the end of a search have nothing to score.
    for _ in range(workflow.num_rounds(config)):
        so_far = {"shards": names, "state": state, "records": records}
        closed = one_round(**ports, asked=shards, most_shards=most_shards, dataset=dataset, **so_far)
        state, records, names = closed.outputs["state"], closed.outputs["records"], closed.outputs["shards"]
    ranked = place(rank_candidates(**ports, state=state, records=records))
    return ranked.outputs["leaderboard"], ranked.outputs["history"]


def build(
    config: RunConfig,
    profile: Profile | None = None,
    *,
    store: str = "",
    tracking_uri: str = "",
    kubeflow: str = "",
    caching: bool = True,
) -> Any:
    """Return the pipeline of a run.

    The run's configuration is the default of a parameter, which can be replaced at submission. What makes the graph
    can't: the candidates and yardsticks that are trained, the number of rounds, whether there are shards, and whether
    latency is limited, for it is measured where the computing steps are placed. The number of shards can: by the
    configuration, or by the parameter ``shards``, up to ``most_shards``, which a compiled pipeline has as it fits a
    cluster.

    Args:
        config: The run.
        profile: What the steps ask of the cluster, and addresses.
        store: Default address of the artifact store, in the place of the profile's.
        tracking_uri: Default address of MLflow, in the place of the profile's.
        kubeflow: Default address of Kubeflow's pages, which the run in MLflow links to, in the place of the profile's.
        caching: Whether Kubeflow may skip the steps for which ``pipelines.caching`` says so.
    """
    profile = profile or Profile()
    place = Placer(profile, latency=config.search.constraints.max_latency is not None, caching=caching)
    one_round = search_round(place, profile.parallelism)
    together = shards_meet(config, store or profile.addresses.store)
    roles: list[Any] = list(config.trained)
    config_given = config  # the pipeline has a parameter of that name

    @dsl.pipeline(
        name=PIPELINE_NAME, description="Rank candidates at initialisation, meta-train, evaluate and register."
    )
    def search_and_meta_train(
        config: str = config.to_json(),
        shards: int = 0,
        most_shards: int = MOST_SHARDS,
        store: str = store or profile.addresses.store,
        tracking_uri: str = tracking_uri or profile.addresses.tracking_uri,
        kubeflow: str = kubeflow or profile.addresses.kubeflow,
    ) -> None:
        addresses: dict[str, Any] = {"store": store, "tracking_uri": tracking_uri}
        begun: dict[str, Any] = {**addresses, "config": config, "pipeline": dsl.PIPELINE_JOB_ID_PLACEHOLDER}
        with dsl.ExitHandler(place(close_run(**begun)), name="run"):
            prepared = place(prepare_dataset(**begun, kubeflow=kubeflow, version=__version__))
            dataset = prepared.outputs["dataset"]
            ports: dict[str, Any] = {**addresses, "run": prepared.outputs["run"]}
            leaderboard, history = add_search(
                config_given,
                place,
                one_round,
                ports,
                dataset,
                shards=shards,
                most_shards=most_shards,
                together=together,
                parallelism=profile.parallelism,
            )
            with dsl.ParallelFor(roles, name="candidates", parallelism=profile.parallelism) as role:
                trained = place(meta_train(**ports, role=role, dataset=dataset, leaderboard=leaderboard))
                evaluated = place(evaluate(**ports, role=role, dataset=dataset, model=trained.outputs["model"]))

            def results() -> dict[str, Any]:
                # Built anew for each consumer: the compiler changes a Collected when it meets it.
                return {
                    "roles": roles,
                    "dataset": dataset,
                    "models": dsl.Collected(trained.outputs["model"]),
                    "evaluations": dsl.Collected(evaluated.outputs["evaluation"]),
                }

            reported = place(write_report(**ports, **results(), leaderboard=leaderboard, history=history))
            place(register_model(**ports, **results())).after(reported)

    return search_and_meta_train


def write(
    config: RunConfig,
    path: Path,
    profile: Profile | None = None,
    *,
    store: str = "",
    tracking_uri: str = "",
    kubeflow: str = "",
    caching: bool = True,
) -> GraphSize:
    """Write the compiled pipeline, and return how large it is; equal arguments give equal bytes.

    Args:
        config: The run.
        path: The file, whose name ends in .yaml.
        profile: What the steps ask of the cluster, and addresses.
        store: Address of the artifact store, in the place of the profile's.
        tracking_uri: Address of MLflow, in the place of the profile's.
        kubeflow: Address of Kubeflow's pages, in the place of the profile's.
        caching: Whether Kubeflow may skip the steps for which ``pipelines.caching`` says so.

    Raises:
        InputError: The file can't be written there, its name doesn't end in .yaml, an address is none for pods, or the
            pipeline is larger than a cluster takes.
    """
    admit_addresses(store, tracking_uri, kubeflow)
    pipeline = build(config, profile, store=store, tracking_uri=tracking_uri, kubeflow=kubeflow, caching=caching)
    # A shard that waits for a place would have its parts scored by the others meanwhile.
    profile = profile or Profile()
    alone = not shards_meet(config, store or profile.addresses.store)
    most = MOST_SHARDS if alone or profile.parallelism is None else profile.parallelism
    return write_package(pipeline, path, shards=config.search.shards, most_shards=min(most, MOST_SHARDS))


def shards_meet(config: RunConfig, store: str) -> bool:
    """Return whether the shards of a search meet in the store, instead of in a step after each round.

    Then a search of many rounds is no larger on a cluster than one of few. It takes a store.
    """
    return bool(store) and config.search.shards > 1 and workflow.num_rounds(config) > 1
