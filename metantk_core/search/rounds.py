"""A round of decided candidates that are compared with each other: scored jobs enter, its summary leaves."""

from collections.abc import Sequence

import numpy as np

from metantk_core.candidates import Genotype
from metantk_core.ranking import losses, reliability
from metantk_core.search.history import SearchRound
from metantk_core.search.state import Found, Job, SearchState, Setting


def compared_round(
    setting: Setting,
    state: SearchState,
    found: Found,
    jobs: Sequence[Job],
    title: str,
    *,
    scored: int | None = None,
    measures: Sequence[tuple[str, float]] = (),
) -> SearchRound:
    """Return the summary of a round after which candidates are compared.

    Args:
        setting: The search.
        state: The state that planned the round.
        found: Gives the records of jobs.
        jobs: The candidates that are compared.
        title: The round's name for people.
        scored: Number of candidates that the round scored; all of ``jobs`` if not given.
        measures: More numbers about the round.
    """
    compared = losses([record for job in jobs for record in found(job)], setting.criterion)
    criterion = setting.criterion
    sign = -1.0 if criterion.single and criterion.direction == "higher" else 1.0
    numbers: list[tuple[str, float]] = []
    trusted = None
    if len(compared.genotypes):
        means = sign * compared.values.mean(axis=1)
        numbers = [("best", float(sign * (sign * means).min())), ("mean", float(means.mean()))]
        trusted = reliability(compared.values)
    if trusted is not None:
        numbers.append(("reliability", trusted.icc))
    return SearchRound(
        number=state.next_round,
        title=title,
        scored=len(jobs) if scored is None else scored,
        draws=max(job.draws for job in jobs),
        failed=len(compared.failed),
        measures=(*numbers, *measures),
        reliability=() if trusted is None else ((criterion.label, trusted),),
        distinct=((criterion.label, len(np.unique(compared.values.mean(axis=1)))),) if len(compared.genotypes) else (),
    )


def best_first(setting: Setting, jobs: Sequence[Job], found: Found) -> list[Genotype]:
    """Return the candidates of jobs, best first, failed ones last."""
    candidates = {str(job.genotype): job.genotype for job in jobs}
    compared = losses([record for job in jobs for record in found(job)], setting.criterion)
    means = compared.values.mean(axis=1) if len(compared.genotypes) else []
    order = sorted(zip(means, compared.genotypes, strict=True))
    texts = [text for _, text in order] + [text for text, *_ in compared.failed]
    return [candidates[text] for text in texts]
