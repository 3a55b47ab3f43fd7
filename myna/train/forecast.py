"""Where a learning curve goes: error rates still to come, drawn from all curves that fit those measured so far.

A curve falls from its start `a` towards a floor `c = a * floor_share` as one of three families of the share `u` of the
run that is done (Domhan, Springenberg and Hutter 2015, "Speeding up automatic hyperparameter optimization of deep
neural networks by extrapolation of learning curves"):

    power law    c + (a - c) * (1 + u / tau) ** -beta
    Weibull      c + (a - c) * exp(-(u / tau) ** beta)
    logistic     c + (a - c) / (1 + (u / tau) ** beta)          in log u; also called MMF

A measured rate scatters around its curve by a factor whose logarithm has the variance `noise ** 2 + counting / rate`:
what differs between two checkpoints, and what a validation split of few words cannot tell. Families, parameters and
both parts of the noise are drawn from their posterior by sequential Monte Carlo (Del Moral, Doucet and Jasra 2006): the
likelihood is let in bit by bit; after each bit the draws are chosen anew by weight and moved by Metropolis steps. From
the last measured point on, a curve leaves its family by Brownian motion in log u: no law of three holds exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

DRAWS = 1000
MOVES = 3  # Metropolis steps after each bit of the likelihood
MAX_POINTS = 40  # of a curve that are looked at
SILENT_RATE = 0.98  # above it a model has not begun to speak
SMALLEST_RATE = 0.002  # added to rates before their logarithm is taken: none may be zero
DRIFT = 0.25  # deviation by which a curve leaves its family while the run grows by the factor e
# log start over the highest rate seen, log tau, log beta, logit floor share, log noise, log counting
PRIOR_MEAN = np.array([0.1, np.log(0.2), np.log(2.5), -1.3, np.log(0.04), np.log(1e-3)])
PRIOR_DEVIATION = np.array([0.35, 1.2, 0.8, 2.0, 0.9, 1.5])


@dataclass(frozen=True, slots=True)
class Futures:
    """Possible ends of a run, all equally likely.

    Attributes:
        steps: of the evaluations still to come, (K,).
        best: lowest error rate that was measured until each of them, those measured by now included, (DRAWS, K).
    """

    steps: NDArray[np.int64]
    best: Floats

    def final(self, *shares: float) -> list[float]:
        """Quantiles of the lowest error rate at the end of the run."""
        return [float(value) for value in np.quantile(self.best[:, -1], shares)]

    def first_steps(self, target: float) -> Floats:
        """Step of each future's first evaluation at or below the target, (DRAWS,); infinite where there is none."""
        reached = self.best <= target  # (DRAWS, K), false then true
        return np.where(reached[:, -1], self.steps[reached.argmax(axis=1)], np.inf)


def foresee(steps: Sequence[int], rates: Sequence[float], future_steps: Sequence[int], seed: int = 0) -> Futures:
    """Continue a learning curve.

    Args:
        steps: of the evaluations so far, rising; at least one.
        rates: error rates they gave, 1 is 100 %.
        future_steps: of the evaluations still to come, rising; the last one ends the run; at least one.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    ahead = np.asarray(future_steps, dtype=np.int64)
    seen, measured = _telling(np.asarray(steps) / ahead[-1], np.asarray(rates, dtype=np.float64))
    families, parameters = _posterior(seen, np.log(measured + SMALLEST_RATE), rng)
    middle, deviation = curves_of(ahead / ahead[-1], measured.max(), families, parameters)  # (DRAWS, K) each
    paces = np.diff(np.log(ahead / ahead[-1]), prepend=np.log(max(seen[-1], 1e-3)))  # (K,)
    drift = np.cumsum(DRIFT * np.sqrt(paces) * rng.standard_normal(middle.shape), axis=1)
    drawn = np.exp(middle + drift + deviation * rng.standard_normal(middle.shape)) - SMALLEST_RATE
    best = np.minimum(np.minimum.accumulate(drawn, axis=1), min(rates))
    return Futures(ahead, np.maximum(best, 0.0))


def _telling(shares: Floats, rates: Floats) -> tuple[Floats, Floats]:
    """The points that say something: of a silent start only the last, and not too many of the others."""
    speaking = np.flatnonzero(rates < SILENT_RATE)
    first = max(0, int(speaking[0]) - 1) if len(speaking) else len(rates) - 1
    chosen = np.unique(np.linspace(first, len(rates) - 1, min(MAX_POINTS, len(rates) - first)).round().astype(int))
    return shares[chosen], rates[chosen]


def curves_of(shares: Floats, highest: float, families: NDArray[np.int64], parameters: Floats) -> tuple[Floats, Floats]:
    """What each draw's curve expects to be measured.

    Args:
        shares: of the run that are done, (K,).
        highest: rate that was measured; starts are drawn around it.
        families: power law 0, Weibull 1, logistic 2, (DRAWS,).
        parameters: in the order of `PRIOR_MEAN`, (DRAWS, 6).

    Returns:
        Mean and deviation of the logarithm of the rate, (DRAWS, K) each.
    """
    start = highest * np.exp(parameters[:, :1])  # (DRAWS, 1)
    log_ratio = np.log(np.maximum(shares, 1e-6)) - parameters[:, 1:2]  # log(u / tau), (DRAWS, K)
    beta = np.exp(parameters[:, 2:3])
    scaled = np.clip(beta * log_ratio, -50, 50)
    left = np.empty_like(scaled)  # of what can be gained
    power, weibull, logistic = (families == number for number in range(3))
    left[power] = np.exp(-beta[power] * np.log1p(np.exp(log_ratio[power])))
    left[weibull] = np.exp(-np.exp(np.minimum(scaled[weibull], 5)))
    left[logistic] = 1 / (1 + np.exp(scaled[logistic]))
    floor_share = 1 / (1 + np.exp(-parameters[:, 3:4]))
    rates = start * (floor_share + (1 - floor_share) * left) + SMALLEST_RATE
    return np.log(rates), np.sqrt(np.exp(2 * parameters[:, 4:5]) + np.exp(parameters[:, 5:6]) / rates)


def _posterior(shares: Floats, log_rates: Floats, rng: np.random.Generator) -> tuple[NDArray[np.int64], Floats]:
    """Families (DRAWS,) and parameters (DRAWS, 6) of curves that fit the measured ones."""
    highest = float(np.exp(log_rates.max()) - SMALLEST_RATE)

    def log_likelihood(families: NDArray[np.int64], parameters: Floats) -> Floats:
        middle, deviation = curves_of(shares, highest, families, parameters)
        fit: Floats = -0.5 * ((log_rates - middle) / deviation) ** 2 - np.log(deviation)
        total: Floats = fit.sum(axis=1)
        return total

    families = rng.integers(3, size=DRAWS)
    parameters = PRIOR_MEAN + PRIOR_DEVIATION * rng.standard_normal((DRAWS, len(PRIOR_MEAN)))
    fits, share = log_likelihood(families, parameters), 0.0  # of the likelihood that was let in
    while share < 1:
        more = _next_share(fits, 1 - share)
        share += more
        weights = np.exp(more * (fits - fits.max()))
        kept = np.searchsorted(np.cumsum(weights / weights.sum()), (np.arange(DRAWS) + rng.random()) / DRAWS)
        kept = np.minimum(kept, DRAWS - 1)  # rounding may leave the sum below 1
        families, parameters, fits = families[kept], parameters[kept], fits[kept]
        # Roberts, Gelman and Gilks 1997; the second term keeps it positive definite where few draws are left
        spread = np.cov(parameters.T) * 2.38**2 / len(PRIOR_MEAN) + 1e-6 * np.diag(PRIOR_DEVIATION**2)
        for _ in range(MOVES):
            tried = parameters + rng.multivariate_normal(np.zeros(len(PRIOR_MEAN)), spread, DRAWS, method="cholesky")
            tried_fits = log_likelihood(families, tried)
            gain = share * (tried_fits - fits) + _log_prior(tried) - _log_prior(parameters)
            taken = np.log(rng.random(DRAWS)) < gain
            parameters[taken], fits[taken] = tried[taken], tried_fits[taken]
    return families, parameters


def _log_prior(parameters: Floats) -> Floats:
    total: Floats = -0.5 * (((parameters - PRIOR_MEAN) / PRIOR_DEVIATION) ** 2).sum(axis=1)
    return total


def _next_share(fits: Floats, left: float) -> float:
    """As much more of the likelihood as leaves half of the draws in effect; all that is left where that is enough."""

    def in_effect(share: float) -> float:
        weights = np.exp(share * (fits - fits.max()))
        return float(weights.sum() ** 2 / (weights**2).sum())

    if in_effect(left) >= DRAWS / 2:
        return left
    low, high = 0.0, left
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if in_effect(middle) >= DRAWS / 2 else (low, middle)
    return high
