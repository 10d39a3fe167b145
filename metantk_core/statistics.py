"""Quantiles and ranks that intervals and orders are made of: numbers enter, numbers leave.

The same numbers as ``scipy.stats`` gives, to the last bit, from the functions of ``scipy.special`` beneath it: to
import ``scipy.stats`` takes over a second, in every step and command, and ``scipy.special`` a tenth of that.

Axes: n values that are ranked; ``...`` any leading axes.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64

_ROUNDING = 1e-9  # what equal numbers may seem to differ by


def student_quantile(probability: float, freedom: int | float) -> float:
    """Return the number that a variable of Student's t distribution stays below with a probability.

    Args:
        probability: Between 0 and 1.
        freedom: Degrees of freedom, above 0.
    """
    from scipy import special

    return float(special.stdtrit(freedom, probability))


def student_p_value(t: float, freedom: int | float) -> float:
    """Return the probability that a variable of Student's t distribution is as far from 0 as ``t``, on either side.

    Args:
        t: The statistic.
        freedom: Degrees of freedom, above 0.
    """
    from scipy import special

    return float(2 * special.stdtr(freedom, -abs(t)))


def fisher_quantile(probability: float, between: int | float, within: int | float) -> float:
    """Return the number that a variable of Fisher's F distribution stays below with a probability.

    Args:
        probability: Between 0 and 1.
        between: Degrees of freedom of the numerator, above 0.
        within: Degrees of freedom of the denominator, above 0.
    """
    from scipy import special

    return float(special.fdtri(between, within, probability))


def normal_quantile(probability: float) -> float:
    """Return the number that a standard normal variable stays below with a probability.

    Args:
        probability: Between 0 and 1.
    """
    from scipy import special

    return float(special.ndtri(probability))


def log_mean_square_variance(freedom: int | float) -> float:
    r"""Return the variance of the logarithm of a mean square of normal variables, :math:`\psi_1(\nu / 2)`.

    Args:
        freedom: Its degrees of freedom, above 0.
    """
    from scipy import special

    return float(special.polygamma(1, freedom / 2))


def mean_and_half_width(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    r"""Return the mean and the half width of its confidence interval, :math:`t_{n-1} \, s / \sqrt{n}`.

    Args:
        values: At least two independent numbers.
        confidence: Probability that the interval covers the expected value, if the mean is about normal.
    """
    n = len(values)
    mean = math.fsum(values) / n
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    return mean, student_quantile((1 + confidence) / 2, n - 1) * deviation / math.sqrt(n)


def wilson_lower_bound(share: float, number: int, confidence: float = 0.95) -> float:
    """Return the lower end of the confidence interval of a share (Wilson 1927, JASA 22, p. 209).

    Args:
        share: Share of the trials that succeeded, 0 to 1.
        number: Number of independent trials, at least 1.
        confidence: Probability that the interval covers the expected share.
    """
    z = normal_quantile((1 + confidence) / 2)
    spread = z * math.sqrt(share * (1 - share) / number + z**2 / (4 * number**2))
    return (share + z**2 / (2 * number) - spread) / (1 + z**2 / number)


def paired_difference(
    first: Float64[np.ndarray, " n"], second: Float64[np.ndarray, " n"], confidence: float = 0.95
) -> tuple[float, float]:
    """Return the mean difference of two measurements of the same things, and the half width of its interval.

    Student's t over the differences.

    Args:
        first: At least two numbers.
        second: As many, in the same order.
        confidence: Probability that the interval covers the expected difference.
    """
    differences = first - second
    count = len(differences)
    error = float(differences.std(ddof=1)) / math.sqrt(count)
    return float(differences.mean()), student_quantile((1 + confidence) / 2, count - 1) * error


def crossed_half_width(values: Float64[np.ndarray, "n m"], confidence: float = 0.95) -> float:
    r"""Return the half width of an interval for the mean of repetitions of measurements of the same things.

    With :math:`y_{se} = \mu + a_s + b_e + \varepsilon_{se}`, all parts random and independent, the mean squares of
    the two-way table without replication, :math:`A` of its rows, :math:`B` of its columns and :math:`R` of the
    residuals, give the variance of the mean

    .. math:: \frac{A + B - R}{nm}, \quad \text{expected to be}
        \quad \frac{\sigma_a^2}{n} + \frac{\sigma_b^2}{m} + \frac{\sigma_\varepsilon^2}{nm}.

    Rows are few, and one quantile for both parts covers too little (Satterthwaite: 88 % with two rows). So each part
    keeps its own, as Banerjee does for two means,

    .. math:: h^2 = \frac{t_{n-1}^2 \, A + t_{m-1}^2 \, (B - R)_+}{nm},

    which covers at least as often as it says. With one row it is Student's interval over the columns.

    Source: Banerjee, "On confidence interval for two-means problem based on separate estimates of variances and
    tabulated values of t-table", Sankhya A 23, 1961; Satterthwaite, "An approximate distribution of estimates of
    variance components", Biometrics 2, 1946.

    Args:
        values: A row a repetition, a column a thing, such as trainings and episodes; at least two columns.
        confidence: Probability that the interval covers the expected value.
    """
    n, m = values.shape
    between, things = _crossed_variances(values)
    quantile = (1 + confidence) / 2
    rows = student_quantile(quantile, n - 1) ** 2 * between if n > 1 else 0.0
    return math.sqrt(rows + student_quantile(quantile, m - 1) ** 2 * things)


def telling_half_width(half_width: float) -> float | None:
    """Return the half width of an interval for a share, or none if that says nothing of where the share is.

    That is: the interval is wider than from 0 to 1, within which every share lies, or it is a point, to which a
    handful of equal numbers come without being known for sure.

    Args:
        half_width: In the unit of the share, 0 to 1.
    """
    return half_width if _ROUNDING < half_width <= 0.5 else None


def crossed_p_value(values: Float64[np.ndarray, "n m"]) -> float:
    """Return the probability up to which an interval of the mean, as ``crossed_half_width`` gives it, leaves 0 out.

    With one row it is that of Student's test, on either side.

    Args:
        values: As for ``crossed_half_width``.
    """
    n, m = values.shape
    mean = abs(float(values.mean()))
    between, things = _crossed_variances(values)
    if between + things == 0:
        return 1.0 if mean == 0 else 0.0
    if n == 1:
        return student_p_value(mean / math.sqrt(things), m - 1)
    low, high = -300.0, 0.0  # of the logarithm; the half width falls as the probability grows
    for _ in range(60):
        middle = (low + high) / 2
        tail = 10**middle / 2
        squared = student_quantile(tail, n - 1) ** 2 * between + student_quantile(tail, m - 1) ** 2 * things
        low, high = (middle, high) if squared > mean**2 else (low, middle)
    return float(10**high)


def _crossed_variances(values: Float64[np.ndarray, "n m"]) -> tuple[float, float]:
    """Return what rows, and what columns add to the variance of the mean of a table."""
    n, m = values.shape
    rows, columns = values.mean(axis=1), values.mean(axis=0)
    if n == 1:
        return 0.0, float(columns.var(ddof=1)) / m
    residuals = values - rows[:, None] - columns + values.mean()
    residual = float((residuals**2).sum()) / ((n - 1) * (m - 1))
    return float(rows.var(ddof=1)) / n, max(0.0, float(columns.var(ddof=1)) / m - residual / (n * m))


def welch_difference(
    first: Float64[np.ndarray, " n"], second: Float64[np.ndarray, " m"], confidence: float = 0.95
) -> tuple[float, float]:
    """Return the difference of the means of two independent samples, and the half width of its interval.

    Source: Welch, "The generalization of 'Student's' problem when several different population variances are
    involved", Biometrika 34, 1947.

    Args:
        first: At least two numbers.
        second: At least two numbers.
        confidence: Probability that the interval covers the difference of the expected values.
    """
    parts = [float(sample.var(ddof=1)) / len(sample) for sample in (first, second)]
    variance = sum(parts)
    difference = float(first.mean() - second.mean())
    if variance == 0:
        return difference, 0.0
    freedom = variance**2 / sum(
        part**2 / (len(sample) - 1) for part, sample in zip(parts, (first, second), strict=True)
    )
    return difference, student_quantile((1 + confidence) / 2, freedom) * math.sqrt(variance)


def rank_correlation(first: Float64[np.ndarray, " n"], second: Float64[np.ndarray, " n"]) -> float | None:
    """Return Spearman's rank correlation; none if one of both does not vary.

    Args:
        first: Numbers of some things.
        second: Others of the same things, in the same order.
    """
    if len(first) < 2:
        return None
    a, b = (ranks(values) - (len(values) + 1) / 2 for values in (first, second))
    norm = math.sqrt(float(a @ a) * float(b @ b))
    return max(-1.0, min(1.0, float(a @ b) / norm)) if norm else None


def rank_correlation_interval(rho: float, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Fisher's interval of a rank correlation, with the variance of Bonett and Wright.

    Source: Bonett & Wright, "Sample size requirements for estimating Pearson, Kendall and Spearman correlations",
    Psychometrika 65, 2000.

    Args:
        rho: The rank correlation. Of 1 and -1 the interval ends there and begins where that of two neighbours in
            exchanged order does, for Fisher's would be that number alone, however few things there are.
        count: How many things were ranked, at least 4.
        confidence: Probability that the interval covers the true one.
    """
    if abs(rho) >= 1 - 1e-12:
        nearly = 1 - 12 / (count * (count**2 - 1))
        low, _ = rank_correlation_interval(nearly, count, confidence)
        return (low, 1.0) if rho > 0 else (-1.0, -low)
    spread = normal_quantile((1 + confidence) / 2) * math.sqrt((1 + rho**2 / 2) / (count - 3))
    return math.tanh(math.atanh(rho) - spread), math.tanh(math.atanh(rho) + spread)


def ranks(values: Float[np.ndarray, "... n"]) -> Float64[np.ndarray, "... n"]:
    """Return the rank of each value, from 1 for the lowest to n; equal values share the average of their ranks.

    Args:
        values: Numbers, none of them a NaN; each row along the last axis is ranked by itself.
    """
    return np.apply_along_axis(_ranks, -1, values) if values.size else np.zeros(values.shape)


def _ranks(values: Float[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]
