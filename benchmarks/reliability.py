"""What makes a ranking trustworthy: strategies, widths and scores enter, tables of reliability and of its price leave.

Run as ``python benchmarks/reliability.py [--quick] [--json FILE] [--only TEXT] [--report]``. With ``--json`` every draw
of a study is written down as one line as soon as it is there, and a run that was stopped goes on where it was.

A study compares candidates as a search does: removals from a supernet (in the first round of the pruning search, later,
in the last one) or decided architectures. Of large comparisons a fixed random part is taken, of removals all those of
some edges; the intraclass correlation is defined on parts as well, and is that of the whole up to their choice. All
candidates of a draw share weights by name, heads and episodes, so that whatever else could have been drawn (everything
afresh for each candidate) is known from the same numbers. Seconds are those of one thread's processor.

Axes: m candidates (the supernet first, where there is one) · k draws · n images.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import monotonic, process_time
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float64
from scipy import stats

from metantk_core.candidates import Genotype, space_named
from metantk_core.candidates.genotype import Edge
from metantk_core.datasets.glyphs import glyphs
from metantk_core.datasets.images import LabelledImages
from metantk_core.episodes import EpisodeConfig, EpisodeSource
from metantk_core.kernels import Outputs
from metantk_core.networks import FewShotNetwork, NetworkConfig, Scheme, build, initialise
from metantk_core.scores import SCORES, Draw, Evidence, Score, ScoringConfig, evaluated, scoring_episodes
from metantk_core.scores.activations import linear_regions
from metantk_core.seeding import generator, numpy_generator

SEED = 0
WAYS = 5
EPISODE = EpisodeConfig(ways=WAYS, shots=1, queries=1)
TRUSTWORTHY = 0.8  # the reliability of a mean that is called trustworthy

Data = Literal["glyphs", "noise"]
Values = dict[str, list[float | None]]
"""By score, one number a candidate; none where there is none."""


# What is compared


@dataclass(frozen=True)
class Comparison:
    """Candidates that a strategy compares with each other.

    Attributes:
        base: The supernet that something is removed from.
        candidates: What is compared.
        groups: For each candidate, the edge that something is removed from: choices are made within an edge.
        whole: Number of candidates of the comparison that these are a part of.
    """

    base: Genotype | None
    candidates: tuple[Genotype, ...]
    groups: tuple[int, ...]
    whole: int

    @property
    def networks(self) -> tuple[Genotype, ...]:
        """Everything that is scored, the supernet first."""
        return (*([self.base] if self.base else []), *self.candidates)


def _thinned(left: int, rng: np.random.Generator) -> Genotype:
    """Return the supernet of DARTS-fewshot with some operations left on every edge, chosen at random."""
    full = space_named("darts_fewshot").supernet()
    edges = [Edge(e.cell, e.source, e.target, tuple(rng.permutation(e.operations)[:left].tolist())) for e in full.edges]
    return Genotype(full.family, tuple(edges))


def removals(left: int, edges: int | None) -> Comparison:
    """Return the removals of one operation from a supernet of DARTS-fewshot.

    Args:
        left: Operations on each edge of that supernet.
        edges: Number of edges, chosen at random, of which all removals are taken; None for all edges.
    """
    rng = numpy_generator(SEED, "reliability", "removals", left)
    base = _thinned(left, rng)
    chosen = sorted(rng.permutation(len(base.edges))[:edges].tolist())
    pairs = [(base.edges[number], number) for number in chosen]
    found = [(base.without(edge, name), number) for edge, number in pairs for name in edge.operations]
    return Comparison(base, tuple(g for g, _ in found), tuple(n for _, n in found), len(base.edges) * left)


def edge_removals(edges: int | None) -> Comparison:
    """Return the removals of whole edges, the last step of the pruning search: two stay at each node."""
    base = _thinned(1, numpy_generator(SEED, "reliability", "edges"))
    found = space_named("darts_fewshot").prunings(base)
    group = {(edge.cell, edge.target): number for number, edge in enumerate(base.edges)}
    lost = [(set(base.edges) - set(genotype.edges)).pop() for genotype in found]
    groups = tuple(group[edge.cell, edge.target] for edge in lost)
    return Comparison(base, found[:edges], groups[:edges], len(found))


def sampled(space: str, count: int) -> Comparison:
    """Return distinct decided architectures of a space, drawn uniformly."""
    rng, drawn = numpy_generator(SEED, "reliability", "sample", space), dict[Genotype, None]()
    while len(drawn) < count:
        drawn.setdefault(space_named(space).sample(rng))
    return Comparison(None, tuple(drawn), (0,) * count, 100)


STRATEGIES: Mapping[str, Callable[[int], Comparison]] = MappingProxyType(
    {
        "prune-first": lambda count: removals(7, count // 7),
        "prune-later": lambda count: removals(3, count // 3),
        "prune-last": lambda count: removals(2, count // 2),
        "prune-edges": edge_removals,
        "sample darts_fewshot": lambda count: sampled("darts_fewshot", count),
        "sample nasbench201": lambda count: sampled("nasbench201", count),
    }
)


# One way of computing


@dataclass(frozen=True)
class Pass:
    """One computation for each network of a draw.

    Attributes:
        tasks: Episodes of its kernel; of more than 3, the parts of 3 are scored too.
        outputs: The kernel of the summed logits, or the sum of the kernels of all logits (the head integrated out).
        scheme: How weights are drawn.
        weights: "own" are those of the draw; "others" of a draw that nothing else uses; "negated" the draw's with the
            opposite sign wherever a normalisation follows.
        head: "own" or "others", as for the weights.
        kind: The kernel's scores, or those of activation codes.
    """

    tasks: int = 3
    outputs: Outputs = "sum"
    scheme: Scheme = "kaiming"
    weights: Literal["own", "others", "negated"] = "own"
    head: Literal["own", "others"] = "own"
    kind: Literal["kernel", "codes", "regions"] = "kernel"


PASSES: Mapping[str, Pass] = MappingProxyType(
    {
        "base": Pass(),
        "9 tasks": Pass(tasks=9),
        "trace": Pass(outputs="trace"),
        "orthogonal": Pass(scheme="orthogonal"),
        "torch_default": Pass(scheme="torch_default"),
        "negated": Pass(weights="negated"),
        "other head": Pass(head="others"),
        "other weights": Pass(weights="others"),
        "codes": Pass(kind="codes"),
        "regions": Pass(kind="regions"),
    }
)
MAIN = (
    "metantk_cond",
    "metantk_logdet",
    "metantk_trace_ratio",
    "metantk_spectral_entropy",
    "metantk_regression_loss",
)
OF_KERNELS = (*MAIN, *(f"{name}_anil" for name in MAIN), "ntk_cond", "ntk_trace", "spectral_entropy")
"""What is scored on every kernel."""

LADDER = ("9 tasks", "trace", "orthogonal", "torch_default", "negated", "other head", "other weights")


@dataclass(frozen=True)
class Study:
    """A comparison at one width and image size.

    Attributes:
        strategy: Key of ``STRATEGIES``.
        channels: Channels after the stem.
        size: Height and width of the images in pixels.
        count: Candidates, at most.
        draws: Draws of each.
        passes: Keys of ``PASSES``.
        data: Embedded images, or white noise.
        cells: Cells; for NAS-Bench-201 of each stage.
    """

    strategy: str
    channels: int
    size: int
    count: int
    draws: int
    passes: tuple[str, ...] = ("base",)
    data: Data = "glyphs"
    cells: int = 5

    @property
    def key(self) -> str:
        """Name of the study in files, from everything that changes numbers but the number of draws and passes."""
        return f"{self.strategy}, C = {self.channels}, {self.size} px, {self.cells} cells, {self.data}, {self.count}"


STUDIES: tuple[Study, ...] = (
    Study("prune-edges", 16, 16, 14, 16),
    Study("prune-last", 16, 16, 12, 16),
    Study("prune-first", 16, 16, 14, 12),
    Study("prune-later", 16, 16, 12, 12),
    Study("sample nasbench201", 8, 16, 24, 12, cells=1),
    Study("sample nasbench201", 8, 32, 24, 12, cells=1),
    Study("sample nasbench201", 16, 32, 24, 12, cells=1),
    Study("sample darts_fewshot", 8, 16, 24, 12),
    Study("sample darts_fewshot", 16, 32, 24, 8),
    Study("prune-first", 8, 16, 14, 8, ("base", "codes", "regions")),
    Study("prune-last", 8, 16, 12, 8, (*LADDER, "codes", "regions")),
    Study("sample nasbench201", 48, 32, 24, 4, cells=1),
    Study("prune-first", 16, 32, 14, 4),
    Study("prune-first", 48, 16, 7, 4),
    Study("sample darts_fewshot", 48, 32, 12, 4),
    Study("sample nasbench201", 16, 16, 24, 8, (*LADDER, "codes", "regions"), cells=1),
    Study("sample darts_fewshot", 16, 16, 24, 8, (*LADDER, "codes", "regions")),
    Study("prune-first", 16, 16, 14, 3, data="noise"),
    Study("sample darts_fewshot", 8, 32, 24, 6),
)
QUICK: tuple[Study, ...] = (
    Study("sample nasbench201", 8, 16, 6, 3, (*LADDER, "codes", "regions"), cells=1),
    Study("prune-last", 4, 8, 4, 3, ("base", "other head"), cells=3),
)


# Measuring


@cache
def source(data: Data, size: int) -> EpisodeSource:
    """Return episodes of the train classes of the embedded images, or of as many classes of white noise."""
    if data == "noise":
        rng = numpy_generator(SEED, "reliability", "noise")
        pixels = rng.integers(0, 256, (1200, 1, size, size)).astype(np.uint8)
        names = tuple(str(number) for number in range(60))
        images = LabelledImages(pixels, np.repeat(np.arange(60), 20), names, "train", "noise")
    else:
        made = glyphs(32, 1, SEED, 20).splits()["train"]
        images = LabelledImages(np.stack(list(made.images())), made.labels, made.class_names, "train", "glyphs")
    scaled = images.images / 255
    return EpisodeSource(images, EPISODE, (float(scaled.mean()),), (float(scaled.std()),), image_size=size)


def measure(study: Study, draw: int) -> dict:
    """Return all scores of one draw of a study, and the seconds that each pass took for each network."""
    values: dict[str, Values] = {}
    seconds: dict[str, list[float]] = {}
    data = source(study.data, study.size)
    config = ScoringConfig(tasks=9, episode=EPISODE, image_size=study.size)
    episodes = scoring_episodes(data, config, SEED, draw)
    for name in study.passes:
        how = PASSES[name]
        own = config.model_copy(update={"tasks": how.tasks, "outputs": how.outputs})
        found: list[dict[str, dict[str, Score]]] = []
        seconds[name] = []
        for network in networks(study, narrow=how.kind == "regions"):
            start = process_time()
            draw_weights(network, how, draw)
            drawn = Draw(network, episodes[: how.tasks], own, SEED, draw, "cpu", data.image_shape, None)
            if how.kind == "kernel":
                evidence = Evidence(drawn)
                of = {part: evidence.of_tasks(chosen) for part, chosen in parts(name, how.tasks).items()}
                found.append({part: {score: evaluated(score, of[part]) for score in OF_KERNELS} for part in of})
            elif how.kind == "codes":
                found.append({name: {"naswot": evaluated("naswot", Evidence(drawn))}})
            else:
                found.append({name: regions(network, draw)})
            seconds[name].append(process_time() - start)
        for part in found[0]:
            values[part] = {
                score: [_number(score, result[part][score]) for result in found] for score in found[0][part]
            }
    return {"study": study.key, "draw": draw, "passes": list(study.passes), "seconds": seconds, "values": values}


@cache
def networks(study: Study, *, narrow: bool) -> tuple[FewShotNetwork, ...]:
    """Return the networks of a study, built once: every draw gives them new weights."""
    size = NetworkConfig(channels=1 if narrow else study.channels, cells=study.cells)
    with torch.random.fork_rng(devices=[]):
        return tuple(
            build(genotype, size, in_channels=1, ways=WAYS, variant="scoring")
            for genotype in STRATEGIES[study.strategy](study.count).networks
        )


@torch.no_grad()
def draw_weights(network: FewShotNetwork, how: Pass, draw: int) -> None:
    """Give a network the weights of a draw."""
    purpose = "others" if how.weights == "others" else "init"
    initialise(network, SEED, "score", purpose, draw, scheme=how.scheme)
    initialise(network.head, SEED, "score", "others" if how.head == "others" else "head", draw, scheme=how.scheme)
    if how.weights == "negated":
        for name, parameter in network.named_parameters():
            # Two convolutions in a row would undo each other's sign, and a kernel does not see that of the head.
            if (
                parameter.dim() > 1
                and not name.startswith("head.")
                and name.split(".")[-2] not in ("depthwise", "across")
            ):
                parameter.neg_()


def parts(name: str, tasks: int) -> dict[str, range]:
    """Return the tasks of a pass that make a kernel each, by the name under which its scores are kept."""
    if tasks != 9:
        return {name: range(tasks)}
    return {
        "base": range(3),
        "other tasks": range(3, 6),
        "third tasks": range(6, 9),
        "6 tasks": range(6),
        "9 tasks": range(9),
    }


def regions(network: FewShotNetwork, draw: int) -> dict[str, Score]:
    """Return the linear regions on noise images of 3 x 3 pixels, and of 2 x 2 (``definition=noise``)."""
    found: dict[str, Score] = {}
    for name, size in (("linear_regions", 3), ("linear_regions of 2 x 2", 2)):
        noise = torch.randn((3000, 1, size, size), generator=generator(SEED, "score", "linear regions", draw))
        found[name] = linear_regions(network, noise)
    return found


def definition(score: str) -> str:
    """Return the score's name in ``SCORES``."""
    return score.split(" ")[0]


def _number(score: str, value: Score) -> float | None:
    """Return a score on its scale; condition numbers and the like as natural logarithms."""
    number = value.value
    if number is None:
        return None
    if SCORES[definition(score)].scale == "linear":
        return number
    return math.log(number) if number > 0 else None


def run(studies: Sequence[Study], store: Path | None) -> list[dict]:
    """Return all draws of some studies; those in ``store`` are not measured again, and new ones are added to it.

    All studies get a quarter of their draws before one of them gets more.
    """
    records = _stored(store, studies)
    done = {(record["study"], record["draw"]) for record in records}
    todo = [
        (study, draw)
        for quarter in range(4)
        for study in studies
        for draw in range(quarter * study.draws // 4, (quarter + 1) * study.draws // 4)
        if (study.key, draw) not in done
    ]
    start = monotonic()
    cost: dict[str, float] = {}
    for number, (study, draw) in enumerate(todo):
        began = monotonic()
        records.append(measure(study, draw))
        cost[study.key] = monotonic() - began
        if store:
            with store.open("a") as file:
                file.write(json.dumps(records[-1]) + "\n")
        known_cost = [cost[other.key] for other, _ in todo[number + 1 :] if other.key in cost]
        rest = len(todo) - number - 1
        left = sum(known_cost) + (rest - len(known_cost)) * sum(cost.values()) / len(cost)
        print(
            f"{number + 1}/{len(todo)} draws, {monotonic() - start:.0f} s, about {left:.0f} s left: {study.key}",
            file=sys.stderr,
            flush=True,
        )
        if number + 1 < len(todo) and todo[number + 1][0] != study:
            networks.cache_clear()
    return records


def _stored(store: Path | None, studies: Sequence[Study]) -> list[dict]:
    """Return the draws of some studies that a file holds; a line that was cut off counts for nothing."""
    records = []
    for line in store.read_text().splitlines() if store and store.exists() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    passes = {study.key: list(study.passes) for study in studies}
    return [record for record in records if passes.get(record["study"]) == record["passes"]]


# What was found


@dataclass(frozen=True)
class Found:
    """Reliability of one score in one study, from a two-way analysis of variance.

    Attributes:
        single: ICC(C,1), the reliability of one draw when all candidates share it.
        low: Lower end of its 95 % interval.
        high: Upper end.
        signal: Standard deviation of the true differences between candidates, on the score's scale.
        noise: Standard deviation of what is left of one draw after the candidates' and the draw's own effects.
        common: Standard deviation of what a draw adds to all candidates alike.
    """

    single: float
    low: float
    high: float
    signal: float
    noise: float
    common: float

    @property
    def draws(self) -> float:
        """Draws whose mean is trustworthy, by Spearman and Brown; infinite if nothing but noise was seen."""
        return _draws(self.single)


def _draws(single: float) -> float:
    odds = TRUSTWORTHY / (1 - TRUSTWORTHY)
    return odds * (1 - single) / single if single > 0 else math.inf


def analyse(values: Float64[np.ndarray, "m k"], groups: Sequence[int] | None = None) -> Found | None:
    """Return the reliability of rows, as ``metantk_core.ranking.reliability``, but for one draw.

    Args:
        values: Candidates without the supernet, by draws.
        groups: Compare candidates within groups only.
    """
    m, k = values.shape
    labels = np.zeros(m, int) if groups is None else np.array(groups)
    kinds = np.unique(labels)
    if k < 2 or m - len(kinds) < 1:
        return None
    centred = values.copy()
    for kind in kinds:
        centred[labels == kind] -= values[labels == kind].mean(axis=0)
    rows = centred.mean(axis=1, keepdims=True)
    first, second = m - len(kinds), (m - len(kinds)) * (k - 1)
    between, within = k * float((rows**2).sum()) / first, float(((centred - rows) ** 2).sum()) / second
    if within <= 0:
        return None
    ends = (stats.f.ppf(0.975, first, second), 1 / stats.f.ppf(0.975, second, first))
    single, low, high = (
        (ratio - 1) / (ratio + k - 1) for ratio in (between / within / end for end in (1.0, *map(float, ends)))
    )
    columns = values.mean(axis=0)
    common = float(columns.var(ddof=1)) - within / m
    signal = max(between - within, 0.0) / k
    return Found(single, low, high, math.sqrt(signal), math.sqrt(within), math.sqrt(max(common, 0.0)))


@dataclass(frozen=True)
class Results:
    """All draws of one study.

    Attributes:
        study: What was measured.
        records: One a draw.
    """

    study: Study
    records: tuple[dict, ...]

    @property
    def comparison(self) -> Comparison:
        """What was compared."""
        return STRATEGIES[self.study.strategy](self.study.count)

    @property
    def name(self) -> str:
        """First cells of the study's row in a table."""
        study = self.study
        noise = "" if study.data == "glyphs" else ", white noise"
        return f"{study.strategy}{noise} | {study.channels} | {study.size}"

    @property
    def networks(self) -> int:
        """Number of networks that the whole comparison has to score."""
        return self.comparison.whole + (self.comparison.base is not None)

    def values(self, part: str, score: str) -> Float64[np.ndarray, "m k"] | None:
        """Return the values of all networks that never failed by draws; None if that was not measured."""
        if any(score not in record["values"].get(part, {}) for record in self.records):
            return None
        table = np.array([record["values"][part][score] for record in self.records], dtype=float).T
        return table[self._good(score)]

    def _good(self, score: str) -> Bool[np.ndarray, " m"]:
        parts = [part for part in self.records[0]["values"] if score in self.records[0]["values"][part]]
        tables = [[record["values"][part][score] for part in parts] for record in self.records]
        return np.asarray(np.isfinite(np.array(tables, dtype=float)).all(axis=(0, 1)))

    def candidates(self, part: str, score: str) -> Float64[np.ndarray, "m k"] | None:
        """Return the same without the supernet."""
        table = self.values(part, score)
        return table if table is None or self.comparison.base is None else table[1:]

    def groups(self, score: str) -> list[int]:
        """Return the edges of the candidates in :meth:`candidates`."""
        good = self._good(score)[1 if self.comparison.base else 0 :]
        return [group for group, kept in zip(self.comparison.groups, good, strict=True) if kept]

    def failed(self, score: str) -> int:
        """Return the number of networks that a score failed for in some draw."""
        return int((~self._good(score)).sum())

    def found(self, part: str, score: str, *, within: bool = False) -> Found | None:
        """Return the reliability of a score."""
        table = self.candidates(part, score)
        return None if table is None else analyse(table, self.groups(score) if within else None)

    def seconds(self, part: str) -> float:
        """Return processor seconds of one draw of one candidate."""
        if part == "6 tasks":
            return (self.seconds("base") + self.seconds("9 tasks")) / 2
        passes = self.records[0]["seconds"]
        name = part if part in passes else "other head"
        return float(np.mean([record["seconds"][name] for record in self.records]))


def reliability_table(results: Sequence[Results], score: str) -> list[str]:
    """Return how reliable one score is everywhere, and what trust costs."""
    lines = [
        "| strategy | C | pixels | candidates × draws | failed | ICC(C,1) (95 %) | within an edge | draws for 0.8 "
        "| seconds a draw | CPU time, whole comparison |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        found, table = result.found("base", score), result.candidates("base", score)
        if found is None or table is None:
            continue
        seconds = result.seconds("base")
        inside = result.found("base", score, within=True) if result.comparison.base else None
        draws = _count(found.draws) if found.low > 0 else f"at least {_count(_draws(found.high))}"
        needed = found.draws if found.low > 0 else _draws(found.high)
        least = "" if found.low > 0 else "at least "
        lines.append(
            f"| {result.name} | {table.shape[0]} × {table.shape[1]} | {result.failed(score)} | {_interval(found)} "
            f"| {'' if inside is None else _interval(inside)} | {draws} | {seconds:.2f} "
            f"| {least}{_time(result.networks * seconds * needed)} |"
        )
    return lines


def score_table(results: Sequence[Results], scores: Sequence[str]) -> list[str]:
    """Return ICC(C,1) of several scores in all studies."""
    lines = [
        f"| strategy | C | pixels | {' | '.join(f'`{score}`' for score in scores)} |",
        f"|---|---|---|{'---|' * len(scores)}",
    ]
    for result in results:
        found = [result.found(_part(score), score) for score in scores]
        if any(found):
            cells = ["" if one is None else _interval(one) for one in found]
            lines.append(f"| {result.name} | {' | '.join(cells)} |")
    return lines


def price_table(results: Sequence[Results], scores: Sequence[str]) -> list[str]:
    """Return the draws that make the mean of each score trustworthy, and the CPU time of the whole comparison."""
    lines = [
        f"| strategy | C | pixels | {' | '.join(f'`{score}`' for score in scores)} |",
        f"|---|---|---|{'---|' * len(scores)}",
    ]
    for result in results:
        cells = []
        for score in scores:
            found = result.found(_part(score), score)
            cells.append("")
            if found is not None:
                # Nobody takes half a draw, and all of them where an interval reaches zero.
                draws = max(1, math.ceil(found.draws - 1e-9)) if found.low > 0 else max(2.0, _draws(found.high))
                least = "" if found.low > 0 else "≥ "
                price = _time(result.networks * result.seconds(_part(score)) * draws) if math.isfinite(draws) else ""
                cells[-1] = f"{least}{math.ceil(draws):,}: {price}" if math.isfinite(draws) else "∞"
        if any(cells):
            lines.append(f"| {result.name} | {' | '.join(cells)} |")
    return lines


def _part(score: str) -> str:
    return {"naswot": "codes", "linear_regions": "regions"}.get(definition(score), "base")


def effect_table(results: Sequence[Results], score: str) -> list[str]:
    """Return the size of true differences beside that of noise, in percent of the score."""
    lines = [
        "| strategy | C | pixels | true differences, SD (at most) | one draw, shared | candidates' own draws "
        "| supernet's own too |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        whole = result.values("base", score)
        if result.comparison.base is None or whole is None:
            continue
        raw = analyse(whole[1:])
        change = analyse(whole[1:] - whole[0])
        if raw is None or change is None:
            continue
        most = change.noise * math.sqrt(max(change.high, 0.0) / (1 - change.high))
        paired = math.hypot(change.noise, change.common)
        afresh = math.sqrt(raw.noise**2 + raw.common**2 + float(whole[0].var(ddof=1)))
        lines.append(
            f"| {result.name} | {_percent(change.signal)} ({_percent(most)}) "
            f"| {_percent(change.noise)} | {_percent(paired)} | {_percent(afresh)} |"
        )
    return lines


def noise_table(results: Sequence[Results], scores: Sequence[str]) -> list[str]:
    """Return which share of the noise is there again when only weights, only heads or only episodes change."""
    lines = [
        "| strategy | score | noise, SD | other weights | other head | other episodes "
        "| opposite weights: r | also other episodes: r |",
        "|---|---|---|---|---|---|---|---|",
    ]
    parts = ("base", "other tasks", "third tasks", "other weights", "other head", "negated")
    for result in results:
        for score in scores:
            tables = [table for table in (result.candidates(part, score) for part in parts) if table is not None]
            if len(tables) < len(parts):
                continue
            residuals = [_residual(table) for table in tables]
            # Every part is a draw of the same noise, so all of them say how large it is.
            size = np.mean([analyse(table).noise ** 2 for table in tables])  # type: ignore[union-attr]
            pairs = {"weights": [(0, 3)], "head": [(0, 4)], "episodes": [(0, 1), (0, 2), (1, 2)]}
            shares = [
                np.mean([_half_difference(tables[one], tables[other]) for one, other in chosen]) / size
                for chosen in pairs.values()
            ]
            same, second, third = (
                float(np.corrcoef(residuals[part].ravel(), residuals[5].ravel())[0, 1]) for part in (0, 1, 2)
            )
            lines.append(
                f"| {result.study.strategy}, C = {result.study.channels} | `{score}` | {math.sqrt(size):.3f} "
                f"| {' | '.join(f'{100 * share:.0f} %' for share in shares)} | {same:+.2f} "
                f"| {(second + third) / 2:+.2f} |"
            )
    return lines


def ladder_table(result: Results, scores: Sequence[str]) -> list[str]:
    """Return what each step towards less noise buys in one study."""
    lines = [
        f"| {result.study.strategy}, C = {result.study.channels}, {result.study.size} px | seconds a draw "
        f"| {' | '.join(f'`{score}`: ICC(C,1) (95 %) | noise, SD | seconds to 0.8' for score in scores)} |",
        f"|---|---|{'---|---|---|' * len(scores)}",
    ]
    seconds = result.seconds("base")
    steps: list[tuple[str, float, list[tuple[Found | None, float]]]] = []
    for title, part, price in (
        ("shared draws, logarithms", "base", seconds),
        ("6 tasks", "6 tasks", result.seconds("6 tasks")),
        ("9 tasks", "9 tasks", result.seconds("9 tasks")),
        ("head integrated out (trace)", "trace", result.seconds("trace")),
        ("orthogonal", "orthogonal", result.seconds("orthogonal")),
        ("torch's default", "torch_default", result.seconds("torch_default")),
    ):
        steps.append((title, price, [(found, 0.0) for found in (result.found(part, score) for score in scores)]))
    pairs = []
    for score in scores:
        own, opposite = result.candidates("other tasks", score), result.candidates("negated", score)
        pairs.append((analyse((own + opposite) / 2) if own is not None and opposite is not None else None, 0.0))
    steps.append(("weights and their opposite, other episodes: mean of both", 2 * seconds, pairs))
    afresh: list[tuple[Found | None, float]] = []
    for score in scores:
        whole, found = result.values("base", score), result.found("base", score)
        own = 0.0
        if whole is not None and found is not None:
            own = found.common**2
            if result.comparison.base is not None:
                own += float(whole[0].var(ddof=1))
        afresh.append((found, own))
    steps.insert(0, ("everything drawn afresh", seconds * (2 if result.comparison.base else 1), afresh))
    raw: list[tuple[Found | None, float]] = []
    for score in scores:
        whole = result.values("base", score)
        if whole is None or SCORES[score].scale == "linear":
            raw.append((None, 0.0))
        else:
            raw.append((analyse(np.exp(whole[1:] - whole[0]) if result.comparison.base else np.exp(whole)), 0.0))
    steps.insert(1, ("shared draws, values or ratios instead of logarithms", seconds, raw))
    for title, price, columns in steps:
        cells = []
        for found, extra in columns:
            if found is None:
                cells += ["", "", ""]
                continue
            noise = math.sqrt(found.noise**2 + extra)
            single = found.single
            if extra:
                single = found.signal**2 / (found.signal**2 + noise**2)
                cells.append(f"{single:.2f}")
            else:
                cells.append(_interval(found))
            cells += [f"{noise:.3f}", _count(_draws(single) * price)]
        lines.append(f"| {title} | {price:.2f} | {' | '.join(cells)} |")
    return lines


def _residual(values: Float64[np.ndarray, "m k"]) -> Float64[np.ndarray, "m k"]:
    return values - values.mean(axis=1, keepdims=True) - values.mean(axis=0) + values.mean()


def _half_difference(one: Float64[np.ndarray, "m k"], other: Float64[np.ndarray, "m k"]) -> float:
    """Return half the variance of differences, without what all candidates of a draw have in common."""
    difference = one - other
    difference = difference - difference.mean(axis=0)
    m, k = difference.shape
    return float((difference**2).sum()) / ((m - 1) * k) / 2


def _interval(found: Found) -> str:
    return f"{found.single:.2f} ({found.low:.2f} … {found.high:.2f})"


def _count(number: float) -> str:
    if math.isinf(number):
        return "∞"
    return f"{math.ceil(number):,}" if number >= 10 else f"{number:.1f}" if number >= 1 else f"{number:.2f}"


def _time(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}" if seconds < 10 * length else f"{seconds / length:,.0f} {unit}"
    return f"{seconds:.0f} s"


def _percent(number: float) -> str:
    return f"{100 * number:.1f} %"


OTHERS = (
    "metantk_cond_anil",
    "metantk_logdet_anil",
    "ntk_cond",
    "ntk_trace",
    "spectral_entropy",
    "naswot",
    "linear_regions",
    "linear_regions of 2 x 2",
)
PRICED = ("metantk_cond", "metantk_logdet", "metantk_cond_anil", "ntk_cond", "spectral_entropy", "naswot")


def report(results: Sequence[Results]) -> str:
    """Return all tables as Markdown."""
    lines: list[str] = []
    lines += ["Reliability of `metantk_cond`:", "", *reliability_table(results, MAIN[0]), ""]
    lines += ["Draws for 0.8 and CPU time of the whole comparison:", "", *price_table(results, PRICED), ""]
    lines += ["ICC(C,1) of scores:", "", *score_table(results, MAIN), "", *score_table(results, OTHERS), ""]
    lines += ["Removals, `metantk_cond`: the change against the supernet:", "", *effect_table(results, MAIN[0]), ""]
    ladders = [result for result in results if set(LADDER) <= set(result.study.passes)]
    lines += ["Where the noise comes from:", "", *noise_table(ladders, MAIN[:2]), ""]
    for result in ladders:
        lines += [*ladder_table(result, MAIN[:2]), ""]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is not measured yet and print the tables."""
    parser = argparse.ArgumentParser(description="Reliability of rankings, and what it costs.")
    parser.add_argument("--quick", action="store_true", help="two small studies, less than a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep draws there, one line each, and go on from it")
    parser.add_argument("--only", default="", metavar="TEXT", help="studies whose name holds this text")
    parser.add_argument("--report", action="store_true", help="measure nothing: tables of what FILE holds")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    studies = [study for study in (QUICK if options.quick else STUDIES) if options.only in study.key]
    records = run([] if options.report else studies, options.json)
    if options.report:
        records = _stored(options.json, studies)
    results = []
    for study in studies:
        own = sorted((r for r in records if r["study"] == study.key), key=lambda record: record["draw"])
        if len(own) > 1:
            results.append(Results(study, tuple(own)))
    order = list(STRATEGIES)
    results.sort(key=lambda r: (order.index(r.study.strategy), r.study.data, r.study.channels, r.study.size))
    print(report(results))


if __name__ == "__main__":
    main()
