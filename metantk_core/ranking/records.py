"""Records side by side: score records enter in any order, tables of comparable ones by score and candidate leave."""

import math
from collections.abc import Iterable, Mapping, Sequence

from metantk_core.errors import InputError
from metantk_core.scores.definitions import SCORES, Scale
from metantk_core.scores.record import Outcome, ScoreRecord

RecordTable = Mapping[str, Mapping[str, ScoreRecord]]
"""Records by score, then by the text form of the candidate."""


def tabulate(records: Iterable[ScoreRecord], ranked_by: Sequence[str]) -> RecordTable:
    """Return the records of one run by score, then by candidate; one that comes twice counts once (seconds may differ).

    Args:
        records: Records in any order.
        ranked_by: Names of the scores of which each candidate must have a record.

    Raises:
        InputError: A candidate has no record of such a score, two records contradict each other, or records are of
            different search spaces or seeds.
    """
    table: dict[str, dict[str, ScoreRecord]] = {}
    for record in records:
        kept = table.setdefault(record.score, {}).setdefault(record.genotype, record)
        if kept is not record and (kept.space, kept.seed, kept.draws) != (record.space, record.seed, record.draws):
            raise InputError(
                f"Two different records of {record.score} for {record.genotype} came (seeds {kept.seed} and "
                f"{record.seed}); rank the records of one run at a time."
            )
    everyone = {genotype for group in table.values() for genotype in group}
    for name in ranked_by:
        if name not in table:
            found = ", ".join(sorted(table)) or "no records at all"
            raise InputError(
                f"Expected records of {name} to rank by, but found {found}; score with {name} among the scores."
            )
        missing = sorted(everyone - table[name].keys())
        if missing:
            raise InputError(
                f"{len(missing)} candidates have other scores but no record of {name}, {missing[0]} among them; "
                "score them again."
            )
    _check_one_run(table)
    return table


def check_devices(records: Iterable[ScoreRecord]) -> None:
    """Check that all records are from one kind of device; what is counted is from none.

    Raises:
        InputError: They are not.
    """
    candidates: dict[str, set[str]] = {}
    for record in records:
        if record.device:
            candidates.setdefault(record.device, set()).add(record.genotype)
    if len(candidates) > 1:
        shown = ", ".join(f"{len(candidates[kind])} on {kind}" for kind in sorted(candidates))
        raise InputError(
            f"Expected candidates that were scored on one kind of device, but got {shown}, which round differently; "
            "score all of them on one kind, or allow it with search.mix_devices=true."
        )


def failure(record: ScoreRecord) -> tuple[Outcome, str] | None:
    """Return outcome and reason of a record's first failed draw, if one failed."""
    failed = [draw for draw in record.draws if draw.outcome is not Outcome.OK]
    if not failed:
        return None
    share = "" if len(record.draws) == 1 else f"{len(failed)} of {len(record.draws)} draws: "
    return failed[0].outcome, share + failed[0].reason


def scaled_values(record: ScoreRecord, scale: Scale) -> list[float]:
    """Return the draws of a record without failures, on the scale on which they are averaged."""
    values = [draw.value for draw in record.draws if draw.value is not None]
    return values if scale == "linear" else [math.log10(value) for value in values]


def means(name: str, records: Mapping[str, ScoreRecord]) -> dict[str, float | None]:
    """Return the mean of each candidate's record of one score, on its own scale; None where a draw failed."""
    scale: Scale = SCORES[name].scale if name in SCORES else "linear"
    found: dict[str, float | None] = {}
    for genotype, record in records.items():
        values = scaled_values(record, scale)
        found[genotype] = math.fsum(values) / len(values) if len(values) == len(record.draws) else None
    return found


def _check_one_run(table: RecordTable) -> None:
    records = [record for group in table.values() for record in group.values()]
    for what, values in (
        ("search spaces", {record.space for record in records}),
        ("seeds", {record.seed for record in records}),
    ):
        if len(values) > 1:
            shown = ", ".join(map(str, sorted(values)))
            raise InputError(
                f"Expected the records of one run, but they have different {what} ({shown}); rank each alone."
            )
