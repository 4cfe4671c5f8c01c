"""How long the sickest wait: a queue of films in front of readers, simulated event by event.

Films arrive at random (Poisson). A free reader takes the most urgent film that waits, else the next
to arrive, and reads it to its end. What the order of reading is worth is the time that the sickest
tenth of the films waits until its reading starts.
"""

import heapq
from dataclasses import dataclass

import numpy as np
import pandas as pd

from covidxr import InputError, metrics

ORDERS = ("first come", "model", "perfect", "wrong")


@dataclass(frozen=True)
class Load:
    """A reading room; the defaults (busy 90% of the time) are an illustration, not a survey."""

    films_per_hour: float = 13.5  # mean of the Poisson arrivals
    readers: int = 1
    minutes_per_film: float = 4.0  # mean reading time (gamma)
    variation: float = 0.5  # of reading time, sd / mean; 1 is exponential
    n_films: int = 200  # a run; it starts with an empty queue


def waits(arrival, reading, urgency, readers: int = 1) -> np.ndarray:
    """Minutes (N,) from the arrival of each film to the start of its reading.

    Args:
        arrival: minutes (N,), ascending.
        reading: minutes (N,) that the first, second, ... reading to start takes. They belong to
            the readings and not to the films, so every order has the same sum of waits.
        urgency: (N,), the highest is read first; equal ones by arrival.
    """
    arrival, reading = np.asarray(arrival, float).tolist(), np.asarray(reading, float).tolist()
    key = (-np.asarray(urgency, float)).tolist()
    free, queue, arrived, n = [0.0] * readers, [], 0, len(arrival)
    start = [0.0] * n
    for minutes in reading:
        now = heapq.heappop(free)  # the next reader to be free
        if not queue:
            now = max(now, arrival[arrived])
        while arrived < n and arrival[arrived] <= now:
            heapq.heappush(queue, (key[arrived], arrived))
            arrived += 1
        film = heapq.heappop(queue)[1]
        start[film] = now
        heapq.heappush(free, now + minutes)
    return np.subtract(start, arrival)


def simulate(
    severity, urgency, load: Load | None = None, n_runs: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Mean minutes waited by the sickest tenth of the films, one row per run, one column per order.

    Every run draws films with replacement from the pairs of true severity and the model's urgency
    (N,), and its four orders meet the same arrivals and reading times: "first come" first served,
    the "model"'s urgency, "perfect" (true severity) and "wrong" (the reverse of it). Which of
    equally sick films belong to the sickest tenth is drawn by lot.

    Raises:
        InputError: no pairs, unequal lengths, values that are not finite, or a load out of range.
    """
    load = load or Load()
    severity, urgency = np.asarray(severity, float), np.asarray(urgency, float)
    _check(severity, urgency, load, n_runs)
    rng, n = np.random.default_rng(seed), load.n_films
    gap, shape = 60 / load.films_per_hour, load.variation**-2
    rows = np.empty((n_runs, len(ORDERS)))
    for run in range(n_runs):
        films = rng.integers(len(severity), size=n)
        arrival = np.cumsum(rng.exponential(gap, n))
        reading = rng.gamma(shape, load.minutes_per_film / shape, n)
        sick = severity[films]
        sickest = np.lexsort((rng.random(n), sick))[-max(n // 10, 1) :]
        for column, by in enumerate((np.zeros(n), urgency[films], sick, -sick)):
            rows[run, column] = waits(arrival, reading, by, load.readers)[sickest].mean()
    return pd.DataFrame(rows, columns=list(ORDERS))


def _check(severity: np.ndarray, urgency: np.ndarray, load: Load, n_runs: int) -> None:
    if len(severity) == 0 or severity.shape != urgency.shape:
        raise InputError(
            f"waiting: found {len(severity)} severities and {len(urgency)} urgencies, expected as "
            "many of both and at least one"
        )
    if not (np.isfinite(severity).all() and np.isfinite(urgency).all()):
        raise InputError("waiting: severity or urgency is not finite; leave such films out")
    if min(load.films_per_hour, load.minutes_per_film, load.variation) <= 0:
        raise InputError(f"waiting: found {load}, expected rates, minutes and variation above 0")
    if min(load.readers, load.n_films, n_runs) < 1:
        raise InputError(f"waiting: found {n_runs} runs of {load}, expected at least 1 of each")


def summary(minutes: pd.DataFrame) -> pd.DataFrame:
    """Minutes of each order over the runs, and its ratio to first come first served.

    Returns:
        One row per order: `minutes` (mean over runs) with `low`, `high` (95% interval of that mean,
        bootstrap over runs), `run_low`, `run_high` (where 95% of single runs lie), `ratio` (of
        means, to "first come") with `ratio_low`, `ratio_high` (bootstrap, runs paired), n (runs).
    """
    values = minutes.to_numpy()
    draws = metrics.resampled(lambda counts: values.T @ counts, np.arange(len(values)))
    draws = draws / len(values)
    mean, first = values.mean(axis=0), list(minutes).index("first come")
    columns = {"order": list(minutes), "minutes": mean}
    columns["low"], columns["high"] = np.quantile(draws, (0.025, 0.975), axis=1)
    columns["run_low"], columns["run_high"] = np.quantile(values, (0.025, 0.975), axis=0)
    columns["ratio"] = mean / mean[first]
    ratios = np.quantile(draws / draws[first], (0.025, 0.975), axis=1)
    columns["ratio_low"], columns["ratio_high"] = ratios
    return pd.DataFrame(columns).assign(n=len(values))
