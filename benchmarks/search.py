"""The pruning search beside a straightforward loop: settings enter, the same winner and a table of times leave.

Run as ``python -m benchmarks.search [--quick] [--part PART] [--json FILE] [--threads N]``. The straightforward loop
does what the published search does: for every candidate and repeat it builds the supernet and the pruned network
afresh, gives both their weights, keeps the gradients of all images by all weights (hooks, unfold and ``einsum``), takes
the condition number by the formulas, and counts linear regions by comparing all pairs of codes in matrix products. Both
get the same random numbers: weights, episodes and patches of the same purposes.

Two things are measured. A small search is run from end to end by both: same removals in every round, same winner. At
the larger size the straightforward loop would take hours, so some candidates of every round, drawn at random along one
random path of prunings, are scored by both in turns, and the whole search is extrapolated by numbers of candidates.
Times are those of the processor in this process: what else runs on the machine hardly changes them.

Axes: n images · t tasks · q, s query and support images of one task · u units of all ReLUs.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import process_time

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from benchmarks.kernel import per_sample
from metantk_core import datasets
from metantk_core.candidates import Genotype, SearchSpace, parse_genotype, space_named
from metantk_core.candidates.darts_family import CELLS, DEGREE
from metantk_core.datasets import DataConfig, ImageDataset
from metantk_core.episodes import EpisodeSource
from metantk_core.kernels import batch, watched
from metantk_core.networks import FewShotNetwork, NetworkConfig, build, build_thin, initialise
from metantk_core.networks.cells import DartsCell
from metantk_core.ranking import Criterion
from metantk_core.scores import (
    Evidence,
    Scorer,
    ScoreRecord,
    ScoringConfig,
    evaluated,
    regions_images,
    scoring_episodes,
)
from metantk_core.search import Job, SearchConfig, SearchState, Setting, advance, start
from metantk_core.seeding import numpy_generator

SPACE = "darts_fewshot"
SCORES = ("metantk_cond", "linear_regions")
PARTS: tuple[str, ...] = ("networks", "kernel", "linear regions")
LEAST_RATIO = 6.0
DRAWS = 3
#: Largest relative difference of condition numbers in float32 that is documented (facts about precision).
PRECISION = 1e-3


def source_of(config: ScoringConfig) -> EpisodeSource:
    """Return episodes of the embedded letters."""
    dataset = _letters(config.image_size)
    return EpisodeSource(dataset.train, config.episode, dataset.mean, dataset.std, image_size=config.image_size)


@cache
def _letters(image_size: int) -> ImageDataset:
    with tempfile.TemporaryDirectory() as folder:
        # What is read is mapped into memory, which outlives the files.
        return datasets.prepare(DataConfig(image_size=image_size), Path(folder, "glyphs"))


def scoring_of(channels: int, cells: int, image_size: int, draws: int, patches: int = 3000) -> ScoringConfig:
    """Return the settings of a search: 3 episodes of 5 classes with 1 support and 1 query image each."""
    return ScoringConfig.model_validate(
        {
            "scores": SCORES,
            "num_inits": draws,
            "image_size": image_size,
            "network": {"channels": channels, "cells": cells},
            "linear_regions": {"images": patches},
        }
    )


# --- The straightforward loop ---


@dataclass(frozen=True)
class Straightforward:
    """Scores every network from nothing.

    Attributes:
        source: Episodes.
        config: Settings of the search.
        seed: Seed of the run.
    """

    source: EpisodeSource
    config: ScoringConfig
    seed: int

    def score(self, genotype: Genotype, repeat: int, seconds: dict[str, float] | None = None) -> dict[str, float]:
        """Return both scores of one network in one repeat; adds the times of the parts to ``seconds``."""
        spent = dict.fromkeys(PARTS, 0.0) if seconds is None else seconds
        begin = process_time()
        network = self._network(genotype, self.config.network, self.source.images.image_shape[0], repeat)
        episodes = scoring_episodes(self.source, self.config, self.seed, repeat)
        images = batch([e.query_images for e in episodes], [e.support_images for e in episodes])
        built = process_time()
        condition = condition_of_meta_ntk(per_sample(network, images), self.config)
        scored = process_time()
        network = build_thin(genotype, ways=self.config.episode.ways)
        initialise(network, self.seed, "score", "init", repeat)
        built_again = process_time()
        patches = regions_images(self.source, self.config.linear_regions, self.seed, repeat)
        regions = regions_by_products(network, *patches)
        spent["networks"] += built - begin + built_again - scored
        spent["kernel"] += scored - built
        spent["linear regions"] += process_time() - built_again
        return {"metantk_cond": condition, "linear_regions": regions}

    def _network(self, genotype: Genotype, config: NetworkConfig, channels: int, repeat: int) -> FewShotNetwork:
        network = build(genotype, config, in_channels=channels, ways=self.config.episode.ways, variant="scoring")
        initialise(network, self.seed, "score", "init", repeat)
        return network


def condition_of_meta_ntk(ntk: Tensor, config: ScoringConfig) -> float:
    """Return the condition number of the MetaNTK of MAML at infinite time, block by block as Theorem 1 writes it."""
    tasks, ways = config.tasks, config.episode.ways
    q, s = ways * config.episode.queries, ways * config.episode.shots
    query = [slice(i * q, (i + 1) * q) for i in range(tasks)]
    support = [slice(tasks * q + i * s, tasks * q + (i + 1) * s) for i in range(tasks)]
    ridge = config.ridge * torch.eye(s, dtype=ntk.dtype)
    adapted = [ntk[a, b] @ torch.linalg.inv(ntk[b, b] + ridge) for a, b in zip(query, support, strict=True)]
    rows = [
        torch.cat(
            [
                ntk[query[i], query[j]]
                - adapted[i] @ ntk[support[i], query[j]]
                - ntk[query[i], support[j]] @ adapted[j].mT
                + adapted[i] @ ntk[support[i], support[j]] @ adapted[j].mT
                for j in range(tasks)
            ],
            dim=1,
        )
        for i in range(tasks)
    ]
    spectrum = torch.linalg.eigvalsh(torch.cat(rows))
    return float(spectrum[-1] / spectrum[0])


def regions_by_products(network: nn.Module, *batches: Tensor) -> float:
    """Return the number of linear regions from the number of units in which each pair of images differs."""
    of_batches: list[Tensor] = []
    for images in batches:
        signs: list[Tensor] = []
        with torch.no_grad(), watched(lambda output, signs=signs: signs.append((output > 0).flatten(1))):
            network(images)
        of_batches.append(torch.cat(signs, dim=1))
    codes = torch.cat(of_batches).float()
    differing = codes @ (1 - codes).mT
    alike = (differing + differing.mT == 0).sum(dim=1)
    return float((1 / alike.double()).sum().round())


def straightforward_search(
    space: SearchSpace, scorer: Straightforward
) -> tuple[list[str], dict[tuple[str, int], float]]:
    """Return the supernet after every round, and every condition number by candidate and repeat."""
    supernet, path = space.supernet(), []
    conditions: dict[tuple[str, int], float] = {}
    while removals := space.prunings(supernet):
        changes: dict[str, list[float]] = {name: [] for name in SCORES}
        for left in removals:
            of_repeats: dict[str, list[float]] = {name: [] for name in SCORES}
            for repeat in range(scorer.config.num_inits):
                before, after = scorer.score(supernet, repeat), scorer.score(left, repeat)
                for name in SCORES:
                    of_repeats[name].append((after[name] - before[name]) / before[name])
                conditions[str(supernet), repeat] = before["metantk_cond"]
                conditions[str(left), repeat] = after["metantk_cond"]
            for name in SCORES:
                changes[name].append(float(np.mean(of_repeats[name])))
        # A lower condition number and more regions are better.
        totals = stats.rankdata(changes["metantk_cond"]) + stats.rankdata(np.negative(changes["linear_regions"]))
        order = sorted(range(len(removals)), key=lambda m: (totals[m], changes["metantk_cond"][m], m))
        supernet = _pruned(supernet, [removals[m] for m in order])
        path.append(str(supernet))
    return path, conditions


def _pruned(supernet: Genotype, best_first: Sequence[Genotype]) -> Genotype:
    """Return what is left of a supernet: each edge loses the best operation, or each node its best edges above two."""
    edges = list(supernet.edges)
    lost: set[tuple[str, int, int]] = set()
    for left in best_first:
        edge = next(edge for edge in supernet.edges if edge not in left.edges)
        if supernet.decided:
            if sum((other.cell, other.target) == (edge.cell, edge.target) for other in edges) > DEGREE:
                edges.remove(edge)
        elif (place := (edge.cell, edge.source, edge.target)) not in lost:
            lost.add(place)
            edges[edges.index(edge)] = next(e for e in left.edges if (e.cell, e.source, e.target) == place)
    return Genotype(supernet.family, tuple(edges))


# --- Ours ---


def our_search(
    space: SearchSpace, source: EpisodeSource, config: ScoringConfig, seed: int
) -> tuple[list[str], dict[tuple[str, int], float]]:
    """Return the supernet after every round, and every condition number by candidate and repeat, of the library."""
    plan = SearchConfig.model_validate(
        {"space": space.name, "strategy": "prune", "num_candidates": 1, "prune": {"change": "relative"}}
    )
    setting = Setting(plan, Criterion.of(dict.fromkeys(SCORES, 1.0)), config.num_inits, seed)
    scorer = Scorer(space.supernet(), source, config, seed)
    state, records = start(setting), {}
    while state.supernet is not None and space.prunings(state.supernet):
        for job in state.plan:
            records[job] = scorer.score(job.genotype, range(job.draws))
        state = advance(setting, state, records.__getitem__)
    return [str(closed.after) for closed in state.rounds], _conditions(records, state)


def _conditions(records: Mapping[Job, Sequence[ScoreRecord]], state: SearchState) -> dict[tuple[str, int], float]:
    """Return the condition numbers of all records; one that is none is NaN."""
    return {
        (record.genotype, repeat): np.nan if draw.value is None else draw.value
        for found in records.values()
        for record in found
        if record.score == "metantk_cond"
        for repeat, draw in enumerate(record.draws)
    }


def our_score(scorer: Scorer, genotype: Genotype, repeat: int, seconds: dict[str, float]) -> dict[str, float]:
    """Return both scores of one network in one repeat, and add the times of the parts to ``seconds``."""
    begin = process_time()
    draw = scorer.draw(genotype, repeat)
    drawn = process_time()
    condition = evaluated("metantk_cond", Evidence(draw)).value
    scored = process_time()
    regions = evaluated("linear_regions", Evidence(draw)).value
    seconds["networks"] += drawn - begin
    seconds["kernel"] += scored - drawn
    seconds["linear regions"] += process_time() - scored
    assert condition is not None
    assert regions is not None
    return {"metantk_cond": condition, "linear_regions": regions}


# --- What is measured ---


@dataclass(frozen=True)
class Round:
    """Times of one round of the larger search, in seconds by part.

    Attributes:
        candidates: How many the round has; those measured are some of them.
        straightforward: Of one candidate and repeat: the supernet and what is left of it, both from nothing.
        ours: Of one candidate and repeat.
        supernet: Of the supernet, which we score once for all candidates of a repeat.
        operations: On the edges of the supernet.
    """

    candidates: int
    straightforward: dict[str, float]
    ours: dict[str, float]
    supernet: dict[str, float]
    operations: int


def same_search(space: SearchSpace, source: EpisodeSource, config: ScoringConfig, seed: int) -> dict[str, object]:
    """Run a whole search in both ways and say whether they found the same."""
    begin = process_time()
    path, conditions = straightforward_search(space, Straightforward(source, config, seed))
    middle = process_time()
    our_path, our_conditions = our_search(space, source, config, seed)
    end = process_time()
    differences = [abs(our_conditions[key] / value - 1) for key, value in conditions.items()]
    return {
        "candidates": sum(len(space.prunings(parse_genotype(space.name, text))) for text in _before(space, path)),
        "seconds": {"straightforward": middle - begin, "ours": end - middle},
        "same rounds": [text == our for text, our in zip(path, our_path, strict=True)],
        "same winner": path[-1] == our_path[-1],
        "winner": our_path[-1],
        "differences of condition numbers": {
            "median": float(np.median(differences)),
            "largest": float(np.max(differences)),
            "above 1e-3": int(np.sum(np.array(differences) > PRECISION)),
            "of": len(differences),
        },
    }


def _before(space: SearchSpace, path: Sequence[str]) -> list[str]:
    return [str(space.supernet()), *path[:-1]]


def random_path(space: SearchSpace, seed: int) -> list[Genotype]:
    """Return the supernets of all rounds of a search that prunes at random."""
    supernet, path = space.supernet(), []
    rng = numpy_generator(seed, "benchmark", "path")
    while removals := space.prunings(supernet):
        path.append(supernet)
        supernet = _pruned(supernet, [removals[i] for i in rng.permutation(len(removals))])
    return path


def measured_rounds(
    path: Sequence[Genotype], source: EpisodeSource, config: ScoringConfig, seed: int, candidates: int
) -> list[Round]:
    """Return the times of every round, each from some candidates that are scored in both ways in turns."""
    space = space_named(path[0].space)
    straightforward, scorer = Straightforward(source, config, seed), Scorer(path[0], source, config, seed)
    rng = numpy_generator(seed, "benchmark", "candidates")
    our_score(scorer, path[0], 0, dict.fromkeys(PARTS, 0.0))  # makes what all candidates share
    straightforward.score(path[-1], 0)
    rounds = []
    for supernet in path:
        removals = space.prunings(supernet)
        theirs, ours, base = (dict.fromkeys(PARTS, 0.0) for _ in range(3))
        our_score(scorer, supernet, 0, base)
        for index in rng.choice(len(removals), size=min(candidates, len(removals)), replace=False):
            before = straightforward.score(supernet, 0, theirs)
            found = our_score(scorer, removals[index], 0, ours)
            after = straightforward.score(removals[index], 0, theirs)
            assert before["linear_regions"] >= 1
            assert found["linear_regions"] == after["linear_regions"], "linear regions differ"
            difference = abs(found["metantk_cond"] / after["metantk_cond"] - 1)
            if difference > PRECISION:
                print(f"(condition numbers differ by {difference:.1e})")
        number = min(candidates, len(removals))
        rounds.append(
            Round(
                candidates=len(removals),
                straightforward={part: value / number for part, value in theirs.items()},
                ours={part: value / number for part, value in ours.items()},
                supernet=base,
                operations=len(list(supernet.operations())),
            )
        )
        last = rounds[-1]
        print(
            f"| {len(rounds)} | {last.candidates} | {sum(last.straightforward.values()):.2f} | "
            f"{sum(last.ours.values()):.2f} | {sum(last.straightforward.values()) / sum(last.ours.values()):.1f} |",
            flush=True,
        )
    return rounds


def whole_search(rounds: Sequence[Round], draws: int) -> dict[str, dict[str, float]]:
    """Return the seconds of all candidates of all rounds, by way and part."""
    return {
        "straightforward": {
            part: draws * sum(done.candidates * done.straightforward[part] for done in rounds) for part in PARTS
        },
        "ours": {
            part: draws * sum(done.candidates * done.ours[part] + done.supernet[part] for done in rounds)
            for part in PARTS
        },
    }


def first_networks(space: SearchSpace, source: EpisodeSource, config: ScoringConfig, seed: int) -> float:
    """Return the seconds that making what all candidates of one repeat share takes."""
    scorer = Scorer(space.supernet(), source, config, seed)
    begin = process_time()
    scorer.draw(space.supernet(), 0)
    return process_time() - begin


def reusable_share(supernet: Genotype, source: EpisodeSource, config: ScoringConfig, seed: int) -> dict[str, float]:
    """Return which share of a forward pass, on average over the removals, comes before what a removal changes.

    By the times of the operations on the edges, which are nearly all of a pass: in the first cell of the touched type,
    operations that leave nodes before the node which the touched edge enters; and all cells before that one.
    """
    draw = Scorer(supernet, source, config, seed).draw(supernet, 0)
    assert draw.regions_network is not None
    return {
        "kernel": _before_removals(supernet, draw.network, draw.images),
        "linear regions": _before_removals(supernet, draw.regions_network, draw.regions_images()[0]),
    }


def _before_removals(supernet: Genotype, network: nn.Module, images: Tensor) -> float:
    cells = [cell for cell in network.modules() if isinstance(cell, DartsCell)]
    times: dict[tuple[int, int, int, str], float] = {}
    started: list[float] = []
    for number, cell in enumerate(cells):
        for place, operations in cell.nodes.edges.items():
            source, target = map(int, place.split("-"))
            assert isinstance(operations, nn.ModuleDict)
            for name, operation in operations.items():

                def stop(*seen: object, key: tuple[int, int, int, str] = (number, source, target, name)) -> None:
                    times[key] = process_time() - started.pop()

                operation.register_forward_pre_hook(lambda *seen: started.append(process_time()))
                operation.register_forward_hook(stop)
    with torch.no_grad():
        for _ in range(2):
            network(images)
    first = {kind: next(n for n, cell in enumerate(cells) if cell.reduction == (kind == "reduce")) for kind in CELLS}
    shares = []
    for edge, touched in supernet.operations():
        at = first[edge.cell]
        before = sum(
            spent
            for (number, source, target, name), spent in times.items()
            if number < at
            or (number == at and source < edge.target and (source, target, name) != (edge.source, edge.target, touched))
        )
        shares.append(before / sum(times.values()))
    return statistics.fmean(shares)


def wide_search(cells: int, path: Sequence[Genotype], seed: int) -> dict[str, float]:
    """Return hours of the whole search at the published width, from the scores of the supernets of some rounds."""
    config = scoring_of(48, cells, 32, DRAWS)
    scorer = Scorer(path[0], source_of(config), config, seed)
    times: dict[int, float] = {}
    for number in (0, 3, len(path) - 1):
        seconds = dict.fromkeys(PARTS, 0.0)
        scorer.draw(path[number], 0)
        our_score(scorer, path[number], 0, seconds)
        size = len(list(path[number].operations()))
        times[size] = sum(seconds.values())
        print(
            f"C = 48, {cells} cells, 32 x 32, supernet of {size} operations: {seconds['kernel']:.1f} s a kernel, "
            f"{seconds['linear regions']:.2f} s linear regions",
            flush=True,
        )
    space, known, total = space_named(path[0].space), sorted(times), 0.0
    for supernet in path:
        size = len(list(supernet.operations()))
        total += (len(space.prunings(supernet)) + 1) * float(np.interp(size, known, [times[n] for n in known]))
    hours = DRAWS * total / 3600
    print(f"C = 48, {cells} cells: {hours:.1f} hours of one processor for the whole search")
    return {"seconds of the first supernet": times[known[-1]], "hours": hours}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small search and few candidates, under a minute")
    parser.add_argument(
        "--part",
        action="append",
        choices=["same", "rounds", "wide"],
        help="default: same (8 minutes on one core), rounds (3)",
    )
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--candidates", type=int, default=2, help="measured in each round")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    parts = given.part or ["same", "rounds"]
    results: dict[str, object] = {"torch": torch.__version__, "threads": given.threads}
    print(f"torch {torch.__version__}, {given.threads} threads, seconds of the processor")
    if "same" in parts:
        space, config = (
            (space_named("nasbench201"), scoring_of(2, 1, 8, 1, patches=100))
            if given.quick
            else (space_named(SPACE), scoring_of(2, 3, 8, 1, patches=100))
        )
        results["same search"] = same = same_search(space, source_of(config), config, given.seed)
        print_same(space, config, same)
    path = random_path(space_named(SPACE), given.seed)
    if "rounds" in parts:
        config = scoring_of(4, 3, 8, DRAWS) if given.quick else scoring_of(8, 5, 16, DRAWS)
        results |= rounds_of(
            path[::5] if given.quick else path, config, given.seed, 1 if given.quick else given.candidates
        )
    if "wide" in parts:
        results["wide"] = {cells: wide_search(cells, path, given.seed) for cells in (5, 8)}
    if given.json:
        Path(given.json).write_text(json.dumps(results, indent=2))


def rounds_of(path: Sequence[Genotype], config: ScoringConfig, seed: int, candidates: int) -> dict[str, object]:
    """Measure and print the larger search."""
    source = source_of(config)
    print(f"\n{SPACE}, {_described(config)}: at most {candidates} of the candidates of each round")
    print("| round | candidates | straightforward, s a candidate and repeat | ours | ratio |\n|---|---|---|---|---|")
    rounds = measured_rounds(path, source, config, seed, candidates)
    whole = whole_search(rounds, DRAWS)
    first = first_networks(space_named(SPACE), source, config, seed)
    whole["ours"]["networks"] += DRAWS * first
    print_whole(rounds, whole, DRAWS, first)
    reusable = reusable_share(path[0], source, config, seed)
    print(f"of the first supernet's forward pass, before what a removal changes: {_shares(reusable)}")
    return {"rounds": [vars(done) for done in rounds], "whole": whole, "reusable": reusable}


def _described(config: ScoringConfig) -> str:
    size, network = config.image_size, config.network
    return (
        f"C = {network.channels}, {network.cells} cells, {size} x {size}, {config.num_inits} draws, "
        f"{config.linear_regions.images} patches"
    )


def _shares(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in shares.items())


def print_same(space: SearchSpace, config: ScoringConfig, same: dict) -> None:
    """Print what the whole small search found in both ways."""
    seconds, differences = same["seconds"], same["differences of condition numbers"]
    print(f"\nWhole search of {space.name}, {_described(config)}: {same['candidates']} candidates")
    print(f"straightforward {seconds['straightforward']:.0f} s, ours {seconds['ours']:.0f} s: ", end="")
    print(f"{seconds['straightforward'] / seconds['ours']:.1f} times as fast")
    print(f"rounds with the same removals: {sum(same['same rounds'])} of {len(same['same rounds'])}; ", end="")
    print(f"same winner: {'yes' if same['same winner'] else 'NO'}")
    print(
        f"condition numbers differ by {differences['median']:.0e} (median), {differences['largest']:.0e} (largest); ",
        end="",
    )
    print(f"{differences['above 1e-3']} of {differences['of']} by more than {PRECISION:g}")
    if not same["same winner"]:
        raise SystemExit("the two searches found different winners")


def print_whole(rounds: Sequence[Round], whole: Mapping[str, Mapping[str, float]], draws: int, first: float) -> None:
    """Print the table of the larger search."""
    pairs = draws * sum(done.candidates for done in rounds)
    print(f"\n| part | straightforward, s a candidate and repeat | ours | ratio | share of ours |\n|{'---|' * 5}")
    total = {way: sum(parts.values()) for way, parts in whole.items()}
    for part in PARTS:
        theirs, ours = whole["straightforward"][part], whole["ours"][part]
        print(
            f"| {part} | {theirs / pairs:.3f} | {ours / pairs:.3f} | {theirs / ours:.1f} | {ours / total['ours']:.0%} |"
        )
    ratio = total["straightforward"] / total["ours"]
    met = f"≥ {LEAST_RATIO:g}: {'yes' if ratio >= LEAST_RATIO else 'NO'}"
    print(f"| all | {total['straightforward'] / pairs:.3f} | {total['ours'] / pairs:.3f} | {ratio:.1f} ({met}) | |")
    print(
        f"all {pairs} pairs: {total['straightforward'] / 60:.0f} minutes, ours {total['ours'] / 60:.1f} minutes "
        f"(of these {draws * first:.1f} s to make the supernets of the draws)"
    )


if __name__ == "__main__":
    main()
