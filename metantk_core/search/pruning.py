"""The pruning search: a supernet enters, one operation an edge and two edges a node leave, and a history of why.

Every round scores the supernet and what each possible removal leaves of it, compares the two draw by draw, adds up the
weighted ranks of the changes, and removes the best: one operation of every edge, and in the end the edges that a node
has above two [Wang et al. 2022, Algorithm 1]. The last round scores the candidate that is left beside random
ones, which says what the whole search was worth.

Axes: s scores · m removals of the round · k draws · u resamples of the draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import comb, floor, isfinite, log10

import numpy as np
from jaxtyping import Float64

from metantk_core.candidates import Edge, Genotype
from metantk_core.errors import InputError, UnscoredError
from metantk_core.ranking import Criterion, Reliability, halves, reliability, resamples
from metantk_core.scores import SCORES, ScoreRecord
from metantk_core.search.history import Choice, Removal, SearchHistory, SearchRound, tied
from metantk_core.search.rounds import compared_round
from metantk_core.search.sampling import sample
from metantk_core.search.state import Found, Job, SearchState, Setting
from metantk_core.seeding import digest
from metantk_core.statistics import ranks

RANK_SUM = "rank sum"
#: Random numbers of the last round: those that the search has chosen by would flatter its choice.
COMPARISON = "comparison"
_DIGITS = 3  # decimals of a draw's change, and significant digits of their mean, in the published ranks


def start(setting: Setting) -> SearchState:
    """Return the state before the first round: the supernet with all operations."""
    supernet = setting.space.supernet()
    if not setting.allowed(supernet):
        raise InputError("No candidate of the search space is within search.constraints; raise the limits.")
    history = SearchHistory("prune", setting.config.space, None, ())
    return _planned(setting, SearchState(history, (), supernet=supernet, compared=supernet))


def most_rounds(setting: Setting) -> int:
    """Return the number of rounds of the whole search."""
    supernet = setting.space.supernet()
    operations = max(len(edge.operations) for edge in supernet.edges) - 1
    crowded = len(_crowded(setting, supernet))
    edges = crowded if setting.config.prune.edges == "one node at a time" else min(1, crowded)
    return operations + edges + 1


def advance(setting: Setting, state: SearchState, found: Found) -> SearchState:
    """Return the state after the planned round, whose jobs have all been scored.

    Raises:
        InputError: The supernet, or every removal of the round, could not be scored; or the limits leave nothing.
    """
    supernet = _supernet(state)
    removals = _removals(setting, supernet)
    if not removals:
        closed = compared_round(setting, state, found, state.plan, "compare with random candidates")
        history = replace(state.history, winner=supernet, rounds=(*state.rounds, closed))
        return replace(state, history=history, plan=(), board=state.plan)
    draws = state.plan[0].draws
    table = _changes(setting, state, removals, draws, found)
    pruned, closed = _decide(setting, state, supernet, removals, table)
    stale = setting.config.prune.edges == "one node at a time" and supernet.decided
    following = replace(
        state,
        history=replace(state.history, rounds=(*state.rounds, closed)),
        supernet=pruned,
        compared=state.compared if stale else pruned,
    )
    return _planned(setting, following)


@dataclass(frozen=True)
class _Removal:
    """A genotype with something less, and what is less."""

    edge: Edge
    operation: str
    left: Genotype


@dataclass(frozen=True)
class _Changes:
    """Changes by score, oriented so that lower is better, of the removals that could be scored in all draws."""

    names: tuple[str, ...]
    values: Float64[np.ndarray, "s m k"]  # with NaN rows for failed removals
    reasons: tuple[str, ...]


def _supernet(state: SearchState) -> Genotype:
    assert state.supernet is not None
    return state.supernet


def _planned(setting: Setting, state: SearchState) -> SearchState:
    """Return the state with the jobs of its next round."""
    supernet = _supernet(state)
    removals = _removals(setting, supernet)
    draws = setting.num_inits
    if not removals:
        controls = sample(
            setting.config.space, setting.seed, setting.config.num_candidates, setting.allowed, [supernet]
        )
        return replace(state, plan=tuple(Job(genotype, draws, COMPARISON) for genotype in (supernet, *controls)))
    jobs = (job for removal in removals for job in _jobs(setting, state, removal.left, draws))
    return replace(state, plan=tuple(dict.fromkeys(jobs)))


def _jobs(setting: Setting, state: SearchState, left: Genotype, draws: int) -> tuple[Job, ...]:
    """Return the jobs that the change by one removal comes from: the supernets, and last what is left."""
    supernets = tuple(dict.fromkeys(_compared(state, name) for name in setting.criterion.names))
    if setting.config.prune.draws == "shared":
        return tuple(Job(genotype, draws) for genotype in (*supernets, left))
    # Episodes of their own, each with weights of its own; no two rounds look at the same remainder.
    own = digest(str(left))
    return (*(Job(genotype, draws, own, "supernet") for genotype in supernets), Job(left, draws, own, "candidate"))


def _compared(state: SearchState, score: str) -> Genotype:
    """Return the supernet that a score is compared with: that of kernels may be an earlier one than that of others."""
    compared = state.compared if SCORES[score].cost == "pass" else state.supernet
    assert compared is not None
    return compared


def _removals(setting: Setting, supernet: Genotype) -> tuple[_Removal, ...]:
    """Return what a round can remove."""
    prunings = setting.space.prunings(supernet)
    if supernet.decided and setting.config.prune.edges == "one node at a time" and prunings:
        place = _crowded(setting, supernet)[0]
        prunings = tuple(left for left in prunings if _place(_taken(supernet, left)[0]) == place)
    removals = [_Removal(*_taken(supernet, left), left) for left in prunings]
    if setting.config.prune.ranks == "dense":
        # The published ranks depend on the published order: edges as in canonical order, but operations as the space
        # lists them.
        listed = {edge: place for place, edge in enumerate(supernet.edges)}
        order = setting.space.operations
        removals.sort(key=lambda removal: (listed[removal.edge], order.index(removal.operation)))
    return tuple(removals)


def _taken(supernet: Genotype, left: Genotype) -> tuple[Edge, str]:
    """Return the operation, with its edge, that one genotype has and the other has not."""
    kept = {(edge.cell, edge.source, edge.target): edge.operations for edge in left.edges}
    for edge, operation in supernet.operations():
        if operation not in kept.get((edge.cell, edge.source, edge.target), ()):
            return edge, operation
    raise ValueError("nothing was taken away")


def _place(edge: Edge) -> tuple[str, int]:
    return edge.cell, edge.target


def _crowded(setting: Setting, genotype: Genotype) -> list[tuple[str, int]]:
    """Return the nodes with more incoming edges than a candidate has, in canonical order."""
    degree = setting.space.degree
    places = [_place(edge) for edge in genotype.edges]
    return [place for place in dict.fromkeys(places) if degree is not None and places.count(place) > degree]


def _changes(setting: Setting, state: SearchState, removals: Sequence[_Removal], draws: int, found: Found) -> _Changes:
    """Return the change that each removal makes, by score and draw."""
    names, found = setting.criterion.names, cache(found)
    own = setting.config.prune.draws == "own"
    values = np.full((len(names), len(removals), draws), np.nan)
    reasons: list[str] = []
    for number, removal in enumerate(removals):
        *supernets, left = _jobs(setting, state, removal.left, draws)
        before = {job.genotype: found(job) for job in supernets}
        problem = next(filter(None, (_reason(records, setting.criterion) for records in before.values())), "")
        if problem and not own:
            raise UnscoredError(
                f"The supernet itself can't be scored ({problem}); pruning compares with it: change the scores, the "
                "width or the data."
            )
        after = found(left)
        problem = problem or _reason(after, setting.criterion)
        reasons.append(problem)
        if not problem:
            for row, name in enumerate(names):
                base = before[_compared(state, name)]
                values[row, number] = _change(setting, name, _draws(base, name, draws), _draws(after, name, draws))
    if all(reasons):
        raise UnscoredError(
            f"No removal of this round could be scored (for example: {reasons[0]}); change the scores, the width or "
            "the data."
        )
    return _Changes(names, values, tuple(reasons))


def _change(
    setting: Setting, name: str, before: Float64[np.ndarray, " k"], after: Float64[np.ndarray, " k"]
) -> Float64[np.ndarray, " k"]:
    """Return the change of a score in each draw; lower is better."""
    sign = 1.0 if SCORES[name].direction == "lower" else -1.0
    if setting.config.prune.change == "log" and SCORES[name].scale == "log10":
        change = sign * np.log(after / before)
    else:
        change = sign * (after - before) / np.where(before == 0, 1.0, np.abs(before))
    if setting.config.prune.ranks == "dense":
        return np.array([round(value, _DIGITS) for value in change.tolist()])  # numpy's own rounding is not exact
    return change


def _decide(
    setting: Setting, state: SearchState, supernet: Genotype, removals: Sequence[_Removal], table: _Changes
) -> tuple[Genotype, SearchRound]:
    """Return what is left after the best removals, and the round."""
    means = table.values.mean(axis=2)
    ranks = _ranks(setting, means)
    totals = _totals(setting.criterion, ranks)
    order = _order(setting, means, totals)
    groups = _groups(supernet, removals)
    pruned, gone = _remove(setting, supernet, removals, groups, order)
    choices = _choices(setting, supernet, table, removals, groups, gone)

    draws = table.values.shape[2]
    sign = {name: 1.0 if SCORES[name].direction == "lower" else -1.0 for name in table.names}
    errors = table.values.std(axis=2, ddof=1) / np.sqrt(draws) if draws > 1 else np.full_like(means, np.nan)
    listed = tuple(
        Removal(
            cell=removal.edge.cell,
            source=removal.edge.source,
            target=removal.edge.target,
            operation=removal.operation,
            changes=tuple((name, _plain(sign[name] * means[row, m])) for row, name in enumerate(table.names)),
            standard_errors=tuple((name, _plain(errors[row, m])) for row, name in enumerate(table.names)),
            ranks=tuple((name, float(ranks[row, m])) for row, name in enumerate(table.names)),
            total=float(totals[m]),
            removed=m in gone,
            reason=table.reasons[m],
        )
        for m, removal in enumerate(removals)
    )
    good = [m for m, reason in enumerate(table.reasons) if not reason]
    trusted = _reliabilities(setting, table, good)
    measures: list[tuple[str, float]] = [("operations left", float(len(list(pruned.operations()))))]
    for name, value in trusted:
        measures.append((f"reliability {name}", value.icc))
    phase = "edges" if supernet.decided else "operations"
    closed = SearchRound(
        number=state.next_round,
        title=f"prune {phase}",
        scored=len(removals),
        draws=draws,
        failed=len(removals) - len(good),
        measures=tuple(measures),
        reliability=trusted,
        distinct=tuple((name, len(np.unique(means[row, good]))) for row, name in enumerate(table.names)),
        before=supernet,
        after=pruned,
        removals=listed,
        choices=choices,
    )
    # What the order of names decided, all draws agree on: it says nothing about them.
    told = [choice for choice in choices if choice.agreement is not None and not tied(closed, choice)]
    if told:
        agreement = float(np.mean([choice.agreement for choice in told if choice.agreement is not None]))
        chance = float(np.mean([choice.chance for choice in told]))
        halves_agree = [("agreement of halves", agreement), ("agreement by chance", chance)]
        closed = replace(closed, measures=(*closed.measures, *halves_agree))
    return pruned, closed


def _ranks(setting: Setting, means: Float64[np.ndarray, "s m"]) -> Float64[np.ndarray, "s m"]:
    """Return the ranks of mean changes by score, 1 for the best; those of failed removals come last."""
    filled = np.where(np.isnan(means), np.inf, means)
    if setting.config.prune.ranks == "dense":
        return np.stack([_dense_ranks(row) for row in filled])
    return ranks(filled)


def _dense_ranks(means: Float64[np.ndarray, " m"]) -> Float64[np.ndarray, " m"]:
    """Return the published ranks: those that follow each other share one if they are equal before they are rounded."""
    order = _by_rounded(means)
    sorted_means = means[order]
    ranks = np.empty(len(means))
    ranks[order] = 1 + np.concatenate([[0], np.cumsum(sorted_means[1:] != sorted_means[:-1])])
    return ranks


def _by_rounded(means: Float64[np.ndarray, " m"]) -> list[int]:
    """Return the removals by their mean changes at 3 significant digits; those that then are equal as they come."""
    rounded = [_significant(mean) for mean in means.tolist()]
    return sorted(range(len(rounded)), key=rounded.__getitem__)


def _significant(value: float) -> float:
    """Return a number at 3 significant digits."""
    if value == 0 or not isfinite(value):
        return value
    return round(value, _DIGITS - 1 - floor(log10(abs(value))))


def _totals(criterion: Criterion, ranks: Float64[np.ndarray, "s ..."]) -> Float64[np.ndarray, "..."]:
    weights = np.array([weight for _, weight in criterion.weights])
    return np.tensordot(weights, ranks, axes=1)


def _order(setting: Setting, means: Float64[np.ndarray, "s m"], totals: Float64[np.ndarray, " m"]) -> list[int]:
    """Return the removals from best to worst: by total, then by the change of the first score, then as they come."""
    first = np.where(np.isnan(means[0]), np.inf, means[0])
    if setting.config.prune.ranks == "dense":
        return sorted(_by_rounded(first), key=totals.__getitem__)
    return sorted(range(len(totals)), key=lambda m: (totals[m], first[m], m))


def _groups(supernet: Genotype, removals: Sequence[_Removal]) -> list[list[int]]:
    """Return the removals that one decision chooses from: those of an edge, or in the last phase those of a node."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for m, removal in enumerate(removals):
        place = _place(removal.edge) if supernet.decided else (*_place(removal.edge), removal.edge.source)
        groups.setdefault(place, []).append(m)
    return list(groups.values())


def _quota(setting: Setting, supernet: Genotype, group: Sequence[int]) -> int:
    """Return how many removals of a group are made: one operation, or the edges that a node has too many."""
    return len(group) - (setting.space.degree or 0) if supernet.decided else 1


def _remove(
    setting: Setting,
    supernet: Genotype,
    removals: Sequence[_Removal],
    groups: Sequence[Sequence[int]],
    order: Sequence[int],
) -> tuple[Genotype, set[int]]:
    """Return what is left when every group lost its best removals that keep a candidate within the limits."""
    place = {m: position for position, m in enumerate(order)}
    gone: set[int] = set()
    left = supernet
    for group in groups:
        wanted = _quota(setting, supernet, group)
        for m in sorted(group, key=place.__getitem__):
            if not wanted:
                break
            lighter = _without(left, removals[m])
            if setting.allowed(lighter):
                left, wanted = lighter, wanted - 1
                gone.add(m)
        if wanted:
            # With one limit this can't be: the cheapest operations can always stay.
            raise InputError(
                "The search met a supernet in which no candidate is within all of search.constraints at once; raise "
                "one of the limits."
            )
    return left, gone


def _without(genotype: Genotype, removal: _Removal) -> Genotype:
    for edge in genotype.edges:
        if (_place(edge), edge.source) == (_place(removal.edge), removal.edge.source):
            return genotype.without(edge, removal.operation)
    raise ValueError("the edge is gone already")


def _choices(
    setting: Setting,
    supernet: Genotype,
    table: _Changes,
    removals: Sequence[_Removal],
    groups: Sequence[Sequence[int]],
    gone: set[int],
) -> tuple[Choice, ...]:
    """Return the decisions, each with how often resamples of the draws, and their halves, decide alike."""
    draws = table.values.shape[2]

    def decided(weights: Float64[np.ndarray, " k"]) -> list[frozenset[int]]:
        """Return what each group would lose by a weighted mean of the draws."""
        means = table.values @ weights
        place = {
            m: at for at, m in enumerate(_order(setting, means, _totals(setting.criterion, _ranks(setting, means))))
        }
        return [frozenset(sorted(group, key=place.__getitem__)[: _quota(setting, supernet, group)]) for group in groups]

    shares: list[float | None] = [None] * len(groups)
    alike: list[float | None] = [None] * len(groups)
    if draws > 1:
        counts, times = resamples(draws, setting.seed)
        actual = [gone.intersection(group) for group in groups]
        same = np.array([[one == two for one, two in zip(decided(c / draws), actual, strict=True)] for c in counts])
        shares = [float(share) for share in times @ same / times.sum()]
        splits = halves(draws, setting.seed)
        pairs = [zip(decided(h / h.sum()), decided((1 - h) / (1 - h).sum()), strict=True) for h in splits]
        alike = [float(share) for share in np.mean([[one == two for one, two in pair] for pair in pairs], axis=0)]
    choices = []
    for group, share, agreed in zip(groups, shares, alike, strict=True):
        edge, removed = removals[group[0]].edge, sorted(gone.intersection(group))
        options = comb(len(group), _quota(setting, supernet, group))
        names = tuple(
            f"{removals[m].edge.source}-{edge.target}" if supernet.decided else removals[m].operation for m in removed
        )
        source = None if supernet.decided else edge.source
        choices.append(Choice(edge.cell, source, edge.target, names, options, share, agreed, 1 / options))
    return tuple(choices)


def _reliabilities(setting: Setting, table: _Changes, good: Sequence[int]) -> tuple[tuple[str, Reliability], ...]:
    """Return how far the changes can be trusted, by score and for their rank sum, where that is defined."""
    values = table.values[:, good]
    found = [(name, reliability(values[row])) for row, name in enumerate(table.names)]
    if len(table.names) > 1:
        ranks = np.stack([_ranks(setting, values[:, :, k]) for k in range(values.shape[2])], axis=2)
        found.append((RANK_SUM, reliability(_totals(setting.criterion, ranks))))
    return tuple((name, value) for name, value in found if value is not None)


def _draws(records: Sequence[ScoreRecord], name: str, draws: int) -> Float64[np.ndarray, " k"]:
    """Return the values of one score; one that is drawn once is the same in every draw."""
    record = next(record for record in records if record.score == name)
    values = np.array([draw.value for draw in record.draws], dtype=float)
    return np.broadcast_to(values, (draws,)).copy() if len(values) == 1 else values


def _reason(records: Sequence[ScoreRecord], criterion: Criterion) -> str:
    """Return why a candidate counts as failed, or nothing if it doesn't."""
    for record in records:
        if record.score in criterion.names:
            for draw in record.draws:
                if draw.value is None:
                    return f"{SCORES[record.score].label}: {draw.reason}"
    return ""


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
