"""Rankings: score records enter in any order, a leaderboard that says how far to trust itself leaves.

Axes: n ranked candidates · k draws, the same for all candidates · u distinct resamples of the draws.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float64
from pydantic import ConfigDict, TypeAdapter, ValidationError
from scipy import stats

from metantk_core import seeding
from metantk_core.candidates import parse_genotype
from metantk_core.errors import InputError
from metantk_core.scores.definitions import SCORES, Direction, Scale
from metantk_core.scores.record import Outcome, ScoreRecord

_RESAMPLES = 2000
_COLUMNS = 256  # resamples averaged at a time: 32 MB for the 15,625 candidates of NAS-Bench-201


@dataclass(frozen=True)
class Standing:
    """The place of one candidate.

    Attributes:
        rank: Competition rank, from 1: one more than the number of candidates that are strictly better, so that equal
            means share a rank and leave a gap after it ("1 2 2 4"). All failed candidates share the last rank.
        genotype: Text form of the candidate.
        key: Digest of the genotype's canonical form.
        mean: Mean over draws, on the leaderboard's scale; none if any draw failed.
        standard_error: Standard error of the mean, on the same scale; none with a single draw or a failed one.
        draws: Number of draws, the failed ones included.
        outcome: ``OK``, or the outcome of the first failed draw.
        reason: Why the candidate failed, for people; empty if it did not.
        others: The other scores by name, in alphabetical order: means on their own scales, none for failed ones.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    rank: int
    genotype: str
    key: str
    mean: float | None
    standard_error: float | None
    draws: int
    outcome: Outcome
    reason: str
    others: tuple[tuple[str, float | None], ...]


@dataclass(frozen=True)
class Reliability:
    """How much of the differences between candidates is there again when everything is drawn anew.

    Attributes:
        icc: ICC(C,k), the consistency of a mean over ``draws`` draws: 1 is an order without noise, 0 or less is
            nothing but noise.
        low: Lower end of its 95 % interval.
        high: Upper end.
        single: ICC(C,1), the same for one draw alone.
        candidates: Candidates compared, failed ones left out.
        draws: Draws of each.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    icc: float
    low: float
    high: float
    single: float
    candidates: int
    draws: int


@dataclass(frozen=True)
class Leaderboard:
    """All candidates in order, best first; equal ones by text form, failed ones last.

    Attributes:
        score: Name of the ranking score.
        direction: Which values of it are better.
        scale: Scale of means and standard errors.
        space: Name of the search space.
        seed: Seed of the records.
        standings: One per candidate.
        reliability: Reliability of the means, if there are two candidates and two draws at least.
        leader_stability: Share of bootstrap resamples of the draws in which no candidate is better than the leader;
            none with a single draw or a single ranked candidate.
        spearman: Rank correlation of the ranking with that by each other score, better with better: positive against
            ``params`` means that the score prefers larger networks. Left out where undefined.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    score: str
    direction: Direction
    scale: Scale
    space: str
    seed: int
    standings: tuple[Standing, ...]
    reliability: Reliability | None
    leader_stability: float | None
    spearman: tuple[tuple[str, float], ...]

    @property
    def label(self) -> str:
        """Name of the means for people, which says on which scale they are."""
        return SCORES[self.score].scaled_label

    @property
    def digest(self) -> str:
        """The digest of the whole leaderboard; times of records are no part of it."""
        return seeding.digest(asdict(self))

    def to_json(self) -> str:
        """Return the leaderboard as JSON, byte for byte the same for the same records in any order."""
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Leaderboard":
        """Return the leaderboard that a text holds.

        Raises:
            InputError: The text is broken or is no leaderboard.
        """
        try:
            return _LEADERBOARD.validate_json(text, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise InputError(
                "Expected a leaderboard as JSON, but got something else "
                f"({place + ': ' if place else ''}{first['msg']}); rank the records again."
            ) from error


_LEADERBOARD = TypeAdapter(Leaderboard)


def rank(records: Iterable[ScoreRecord], *, by: str) -> Leaderboard:
    """Return the leaderboard of all candidates that the records are about.

    A candidate with a failed draw has failed. A record that comes twice counts once (seconds may differ).

    Args:
        records: Records of one run in any order; each candidate has one of the score ``by``.
        by: Name of the score that ranks.

    Raises:
        InputError: There is no such score, a candidate has no record of it, two records contradict each other, or
            records are not comparable (different search spaces, seeds or numbers of draws).
    """
    if by not in SCORES:
        raise InputError(f"There is no score {by!r} to rank by; the scores are {', '.join(SCORES)}.")
    definition = SCORES[by]
    of_score = _by_score(records)
    if by not in of_score:
        found = ", ".join(sorted(of_score)) or "no records at all"
        raise InputError(f"Expected records of {by} to rank by, but found {found}; score with {by} among the scores.")
    ranked_by = of_score.pop(by)
    _check_comparable(by, ranked_by, of_score)

    # Everything below walks through candidates in the order of their texts: no sum depends on the order of the records.
    genotypes = sorted(ranked_by)
    good = [genotype for genotype in genotypes if _failure(ranked_by[genotype]) is None]
    draws = _scaled_draws([ranked_by[genotype] for genotype in good], definition.scale)
    means = {genotype: math.fsum(row) / len(row) for genotype, row in zip(good, draws, strict=True)}
    sign = 1.0 if definition.direction == "lower" else -1.0
    best_first = sorted(good, key=lambda genotype: (sign * means[genotype], genotype))
    failed = [genotype for genotype in genotypes if genotype not in means]

    errors: dict[str, float] = {}
    if good and len(draws[0]) > 1:
        matrix = np.array(draws)
        standard_errors = matrix.std(axis=1, ddof=1) / math.sqrt(matrix.shape[1])
        errors = dict(zip(good, standard_errors.tolist(), strict=True))
    others = {name: _means(name, group) for name, group in sorted(of_score.items())}

    def standing(place: int, genotype: str) -> Standing:
        record = ranked_by[genotype]
        outcome, reason = _failure(record) or (Outcome.OK, "")
        return Standing(
            rank=place,
            genotype=genotype,
            key=parse_genotype(record.space, genotype).key,
            mean=means.get(genotype),
            standard_error=errors.get(genotype),
            draws=len(record.draws),
            outcome=outcome,
            reason=reason,
            others=tuple((name, group[genotype]) for name, group in others.items() if genotype in group),
        )

    standings: list[Standing] = []
    for position, genotype in enumerate(best_first, start=1):
        tied = standings and standings[-1].mean == means[genotype]
        standings.append(standing(standings[-1].rank if tied else position, genotype))
    standings.extend(standing(len(best_first) + 1, genotype) for genotype in failed)

    first = next(iter(ranked_by.values()))
    return Leaderboard(
        score=by,
        direction=definition.direction,
        scale=definition.scale,
        space=first.space,
        seed=first.seed,
        standings=tuple(standings),
        reliability=reliability(np.array(draws)) if good else None,
        leader_stability=_leader_stability(sign * np.array(draws), good.index(best_first[0]), first.seed)
        if good
        else None,
        spearman=_agreement(definition.direction, means, others),
    )


def reliability(draws: Float64[np.ndarray, "n k"]) -> Reliability | None:
    r"""Return the reliability of the means of rows, with columns as draws that all rows share.

    Two-way analysis of variance, consistency definition: what a draw adds to all candidates alike does not count. With
    mean squares between rows and of the residual,

    .. math:: ICC(C,k) = (MS_R - MS_E) / MS_R, \qquad ICC(C,1) = (MS_R - MS_E) / (MS_R + (k - 1) MS_E),

    and the interval from :math:`F = MS_R / MS_E` with :math:`n - 1` and :math:`(n - 1)(k - 1)` degrees of freedom.

    Source: McGraw & Wong, "Forming inferences about some intraclass correlation coefficients", 1996, Tables 4 and 7;
    the same numbers as ICC(3,k) and ICC(3,1) of Shrout & Fleiss 1979.

    Args:
        draws: Scores on the scale on which they are averaged.

    Returns:
        None if it is undefined: fewer than two rows or columns, or rows whose means are all equal.
    """
    n, k = draws.shape
    if n < 2 or k < 2:
        return None
    rows = draws.mean(axis=1) - draws.mean()
    residual = draws - draws.mean(axis=1, keepdims=True) - draws.mean(axis=0) + draws.mean()
    freedom = (n - 1) * (k - 1)
    between, within = float(k * (rows**2).sum() / (n - 1)), float((residual**2).sum() / freedom)
    if between <= np.finfo(float).eps * float((draws**2).mean()):
        return None
    ratio = within / between
    low = 1 - ratio * float(stats.f.ppf(0.975, n - 1, freedom))
    high = 1 - ratio / float(stats.f.ppf(0.975, freedom, n - 1))
    return Reliability(1 - ratio, low, high, (1 - ratio) / (1 + (k - 1) * ratio), n, k)


def render_markdown(leaderboard: Leaderboard, top: int = 10) -> str:
    """Return the leaderboard as Markdown for people: what it says about itself, the best candidates, the failures.

    Args:
        leaderboard: What to show.
        top: Number of candidates to list.
    """
    standings = leaderboard.standings
    ranked = [standing for standing in standings if standing.mean is not None]
    failed = [standing for standing in standings if standing.mean is None]
    lines = [f"# {len(standings)} candidates of {leaderboard.space} by {leaderboard.label}", ""]
    lines.append(f"{leaderboard.direction.capitalize()} is better; mean ± standard error over draws.")
    if leaderboard.reliability is None:
        lines.append("The reliability of the order can't be told from these draws.")
    else:
        trust = leaderboard.reliability
        lines.append(
            f"Reliability of the order, ICC(C,{trust.draws}): {trust.icc:.2f} "
            f"(95 % interval {trust.low:.2f} to {trust.high:.2f}; 1 is no noise, 0 is nothing but noise)."
        )
    if leaderboard.leader_stability is not None:
        lines.append(f"The leader stays first in {leaderboard.leader_stability:.0%} of resamples of the draws.")
    for name, value in leaderboard.spearman:
        lines.append(f"Rank correlation with {SCORES[name].label if name in SCORES else name}: {value:+.2f}.")

    names = [name for name, _ in standings[0].others] if standings else []
    lines += ["", _row(["rank", "genotype", leaderboard.label, *map(_scaled_label, names)])]
    lines.append(_row(["---:", ":---", *["---:"] * (len(names) + 1)]))
    for standing in ranked[:top]:
        error = "" if standing.standard_error is None else f" ± {standing.standard_error:.2g}"
        # A bar inside a genotype would end the cell, even between backticks.
        text = standing.genotype.replace("|", "\\|")
        values = dict(standing.others)
        lines.append(
            _row(
                [
                    str(standing.rank),
                    f"`{text}`",
                    f"{standing.mean:.4g}{error}",
                    *(_number(values.get(n)) for n in names),
                ]
            )
        )
    if len(ranked) > top:
        lines += ["", f"{len(ranked) - top} more were ranked."]
    if failed:
        reasons: dict[str, int] = {}
        for standing in failed:
            reasons[str(standing.outcome)] = reasons.get(str(standing.outcome), 0) + 1
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(reasons.items()))
        lines += ["", f"{len(failed)} could not be scored and share rank {failed[0].rank} ({counts}); for example:", ""]
        for standing in failed[:top]:
            lines.append(f"- `{standing.genotype}`: {standing.reason}")
    return "\n".join(lines) + "\n"


def _by_score(records: Iterable[ScoreRecord]) -> dict[str, dict[str, ScoreRecord]]:
    """Return the records by score, then genotype; refuse those that contradict each other."""
    of_score: dict[str, dict[str, ScoreRecord]] = {}
    for record in records:
        kept = of_score.setdefault(record.score, {}).setdefault(record.genotype, record)
        if (kept.space, kept.seed, kept.draws) != (record.space, record.seed, record.draws):
            raise InputError(
                f"Two different records of {record.score} for {record.genotype} came (seeds {kept.seed} and "
                f"{record.seed}); rank the records of one run at a time."
            )
    return of_score


def _check_comparable(by: str, ranked_by: dict[str, ScoreRecord], of_score: dict[str, dict[str, ScoreRecord]]) -> None:
    missing = sorted({genotype for group in of_score.values() for genotype in group} - ranked_by.keys())
    if missing:
        raise InputError(
            f"{len(missing)} candidates have other scores but no record of {by}, {missing[0]} among them; "
            "score them again."
        )
    records = [record for group in (ranked_by, *of_score.values()) for record in group.values()]
    for what, values in (
        ("search spaces", {record.space for record in records}),
        ("seeds", {record.seed for record in records}),
        ("numbers of draws", {len(record.draws) for record in ranked_by.values()}),
    ):
        if len(values) > 1:
            shown = ", ".join(map(str, sorted(values)))
            raise InputError(
                f"Expected the records of one run, but they have different {what} ({shown}); rank each alone."
            )


def _failure(record: ScoreRecord) -> tuple[Outcome, str] | None:
    """Return outcome and reason of a record's first failed draw, if one failed."""
    failed = [draw for draw in record.draws if draw.outcome is not Outcome.OK]
    if not failed:
        return None
    share = "" if len(record.draws) == 1 else f"{len(failed)} of {len(record.draws)} draws: "
    return failed[0].outcome, share + failed[0].reason


def _scaled_draws(records: Sequence[ScoreRecord], scale: Scale) -> list[list[float]]:
    """Return the draws of records without failures, on the scale on which they are averaged."""
    values = [[draw.value for draw in record.draws if draw.value is not None] for record in records]
    return values if scale == "linear" else [[math.log10(value) for value in row] for row in values]


def _means(name: str, records: dict[str, ScoreRecord]) -> dict[str, float | None]:
    """Return the mean of each candidate's record of one score, on its own scale; None where a draw failed."""
    scale: Scale = SCORES[name].scale if name in SCORES else "linear"
    means: dict[str, float | None] = dict.fromkeys(records)
    good = [genotype for genotype, record in records.items() if _failure(record) is None]
    for genotype, row in zip(good, _scaled_draws([records[genotype] for genotype in good], scale), strict=True):
        means[genotype] = math.fsum(row) / len(row)
    return means


def _leader_stability(losses: Float64[np.ndarray, "n k"], leader: int, seed: int) -> float | None:
    """Return the share of bootstrap resamples of the columns in which no row's mean loss is below the leader's."""
    n, k = losses.shape
    if n < 2 or k < 2:
        return None
    rng = seeding.numpy_generator(seed, "ranking", "leader stability")
    counts, times = np.unique(rng.multinomial(k, [1 / k] * k, size=_RESAMPLES), axis=0, return_counts=True)
    tolerance = 1e-12 * float(np.abs(losses).max())  # a tie in exact arithmetic is no loss of the lead
    stays = 0
    for start in range(0, len(counts), _COLUMNS):
        means = losses @ (counts[start : start + _COLUMNS].T / k)
        leads = means[leader] <= means.min(axis=0) + tolerance
        stays += int(times[start : start + _COLUMNS][leads].sum())
    return stays / _RESAMPLES


def _agreement(
    direction: Direction, means: dict[str, float], others: dict[str, dict[str, float | None]]
) -> tuple[tuple[str, float], ...]:
    """Return Spearman's correlation with each other score, over candidates that have both, better with better."""
    correlations: list[tuple[str, float]] = []
    for name, group in others.items():
        pairs = [(mean, other) for genotype, mean in means.items() if (other := group.get(genotype)) is not None]
        ours, theirs = np.array(pairs).reshape(-1, 2).T
        if len(pairs) < 3 or np.ptp(ours) == 0 or np.ptp(theirs) == 0:
            continue
        sign = 1.0 if name in SCORES and SCORES[name].direction == direction else -1.0
        correlation = np.corrcoef(stats.rankdata(ours), stats.rankdata(theirs))[0, 1]
        correlations.append((name, sign * float(correlation)))
    return tuple(correlations)


def _scaled_label(name: str) -> str:
    return SCORES[name].scaled_label if name in SCORES else name


def _number(value: float | None) -> str:
    if value is None:
        return "failed"
    return f"{value:,.0f}" if value.is_integer() else f"{value:.4g}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
