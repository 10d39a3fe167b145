"""Leaderboards for people: a leaderboard enters, Markdown leaves."""

from collections.abc import Sequence

from metantk_core.ranking.leaderboard import Leaderboard
from metantk_core.scores.definitions import SCORES


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
    if leaderboard.devices:
        lines.append(f"Scored on {' and '.join(leaderboard.devices)}.")
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
    tops = [f"the best {size} in {share:.0%}" for size, share in leaderboard.top_stability if size > 1]
    if tops:
        lines.append(f"The same candidates stay at the top, in any order: {', '.join(tops)}.")
    draws = sorted({standing.draws for standing in ranked})
    if len(draws) > 1:
        lines.append(
            f"Candidates had {draws[0]} to {draws[-1]} draws; those that got fewer were left behind and rank below."
        )
    if standings and leaderboard.winner != standings[0].genotype:
        lines.append(f"The search chose `{leaderboard.winner}`, which has rank {leaderboard.best.rank} here.")
    for name, value in leaderboard.spearman:
        lines.append(f"Rank correlation with {SCORES[name].label if name in SCORES else name}: {value:+.2f}.")

    names = [name for name, _ in standings[0].others] if standings else []
    many = ["draws"] if len(draws) > 1 else []
    lines += ["", _row(["rank", "genotype", leaderboard.label, *many, *map(_scaled_label, names)])]
    lines.append(_row(["---:", ":---", *["---:"] * (len(names) + len(many) + 1)]))
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
                    *([str(standing.draws)] if many else []),
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


def _scaled_label(name: str) -> str:
    return SCORES[name].scaled_label if name in SCORES else name


def _number(value: float | None) -> str:
    if value is None:
        return "failed"
    return f"{value:,.0f}" if value.is_integer() else f"{value:.4g}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
