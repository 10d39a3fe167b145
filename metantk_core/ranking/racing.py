"""Who can't be among the best any more: draws that all candidates share enter, who is out of the race leaves.

Axes: n candidates · k draws, which all of them share.
"""

import math

import numpy as np
from jaxtyping import Bool, Float64

from metantk_core.statistics import student_quantile

_TOLERANCE = 1e-12  # of the largest value: a difference that only rounding made is none


def separated(
    values: Float64[np.ndarray, "n k"],
    keep: int,
    confidence: float = 0.95,
    *,
    looks: int = 1,
    started: int | None = None,
) -> Bool[np.ndarray, " n"]:
    r"""Return which candidates are told apart from the ``keep`` best ones, and so can leave the race.

    Draws are shared, so that candidates are compared by the differences :math:`d = \ell_i - \ell_b` within each draw.
    Candidate i is out if, for each b of the ``keep`` lowest means, the one-sided interval of d lies above 0:

    .. math:: \bar d > t_{1 - \alpha', k-1} \, s_d / \sqrt{k}, \qquad
        \alpha' = \frac{1 - \mathrm{confidence}}{\mathrm{looks} \cdot (m (n_0 - 1) - m (m - 1) / 2)}, \quad m = keep .

    Whoever truly is among the ``keep`` best is out only if found worse than somebody who truly is no better, as fewer
    than ``keep`` are better. So :math:`\alpha'` is Bonferroni's: it counts the pairs of one that truly belongs to the
    best and one that truly is no better (:math:`n_0 - r` for the r-th best, :math:`n_0` candidates at the start), over
    all looks. Which candidate leads in the sample may depend on the draws: all pairs are counted. Hence

    **all of the truly best ``keep`` are in the race after all looks with a probability of ``confidence`` at least**,

    for normal differences, any correlation between candidates, and any true means. (Where candidates are truly equal,
    this holds for any ``keep`` of them named in advance; that one out of equally good ones leaves is no error.)

    Numbers of draws at the looks must not depend on the draws. For combined ranks, which are those among the candidates
    in the race, and for scores far from normal the probability is approximate.

    Source: screening by Bonferroni's inequality and paired t, after Gupta 1965 and Nelson, Swann, Goldsman & Song,
    "Simple procedures for selecting the best simulated system when the number of alternatives is large", Operations
    Research 49(6), 2001; eliminating while running: Maron & Moore, "Hoeffding races", NIPS 1993; sharing draws:
    Moore & Lee, "Efficient algorithms for minimizing cross validation error", ICML 1994. The count of pairs for
    ``keep`` above 1 is this project's.

    Args:
        values: All draws so far of those who are still in the race; lower is better (as ``Losses.values``).
        keep: How many of the best are wanted.
        confidence: Probability with which all of them survive the whole race.
        looks: How many times this is asked during the whole race, at most.
        started: Number of candidates at the start of the race; None for as many as are there now.

    Raises:
        ValueError: An argument is out of range.
    """
    n, k = values.shape
    runners = n if started is None else started
    if keep < 1 or looks < 1 or runners < n or not 0 < confidence < 1:
        raise ValueError(
            "a race keeps at least 1, is looked at at least once, starts with everybody who is still there, and has a "
            f"confidence between 0 and 1, got {keep}, {looks}, {runners} for {n}, and {confidence:g}"
        )
    if k < 2 or n <= keep:
        return np.zeros(n, dtype=np.bool_)
    pairs = keep * (runners - 1) - keep * (keep - 1) // 2
    quantile = -student_quantile((1 - confidence) / (looks * pairs), k - 1)  # the far tail, without rounding it off
    floor = _TOLERANCE * float(np.abs(values).max())
    leaders = np.argsort(values.mean(axis=1), kind="stable")[:keep]
    out = np.ones(n, dtype=np.bool_)
    for leader in leaders:
        differences = values - values[leader]
        errors = differences.std(axis=1, ddof=1) / math.sqrt(k)
        out &= differences.mean(axis=1) > np.maximum(quantile * errors, floor)
    return out
