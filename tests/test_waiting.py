"""The queue against queueing theory, and conservation of the total wait."""

import numpy as np
import pytest

from covidxr import InputError, waiting

RNG = np.random.default_rng(5)


def traffic(n, per_minute, mean, variation, seed=0):
    rng = np.random.default_rng(seed)
    shape = variation**-2
    return np.cumsum(rng.exponential(1 / per_minute, n)), rng.gamma(shape, mean / shape, n)


@pytest.fixture(scope="module")
def pairs():
    """True extents (0-8, half of the films normal) and urgencies with an error of 1."""
    rng = np.random.default_rng(1)
    severity = np.where(rng.random(400) < 0.5, 0, rng.integers(1, 9, 400)).astype(float)
    return severity, severity + rng.normal(0, 1, 400)


def test_single_server_waits_as_long_as_theory_says():
    """M/M/1: rho / (mu - lambda). M/G/1: Pollaczek and Khinchine."""
    n, rate, mean = 300_000, 0.7, 1.0
    arrival, reading = traffic(n, rate, mean, 1.0)
    assert waiting.waits(arrival, reading, np.zeros(n)).mean() == pytest.approx(7 / 3, rel=0.05)
    arrival, reading = traffic(n, rate, mean, 0.5)
    expected = 0.7 * mean * (1 + 0.5**2) / (2 * (1 - 0.7))
    assert waiting.waits(arrival, reading, np.zeros(n)).mean() == pytest.approx(expected, rel=0.05)


def test_two_priorities_wait_as_long_as_theory_says():
    """Cobham (1954), without preemption: W0 / (1 - rho1) and W0 / ((1 - rho1)(1 - rho))."""
    n, urgent = 300_000, np.random.default_rng(2).random(300_000) < 0.3
    arrival, reading = traffic(n, 0.7, 1.0, 1.0)
    found = waiting.waits(arrival, reading, urgent)
    assert found[urgent].mean() == pytest.approx(0.7 / (1 - 0.21), rel=0.05)
    assert found[~urgent].mean() == pytest.approx(0.7 / ((1 - 0.21) * (1 - 0.7)), rel=0.05)


def test_several_readers_wait_as_long_as_theory_says():
    """M/M/2: Erlang's C / (2 mu - lambda), C = 2 rho^2 / (1 + rho) for two readers."""
    n, rho = 300_000, 0.75
    arrival, reading = traffic(n, 2 * rho, 1.0, 1.0)
    expected = 2 * rho**2 / (1 + rho) / (2 - 2 * rho)
    assert waiting.waits(arrival, reading, np.zeros(n), 2).mean() == pytest.approx(
        expected, rel=0.05
    )


@pytest.mark.parametrize("readers", [1, 3])
def test_no_order_changes_the_total_wait(readers):
    arrival, reading = traffic(500, 0.24 * readers, 4.0, 0.5)
    total = [
        waiting.waits(arrival, reading, urgency, readers).sum()
        for urgency in (np.zeros(500), RNG.random(500), -np.arange(500))
    ]
    assert total == pytest.approx([total[0]] * 3, rel=1e-12)


def test_a_reading_is_never_interrupted_and_no_reader_idles():
    found = waiting.waits([0, 1, 2, 3, 50], [10, 10, 10, 10, 10], [0, 1, 3, 3, 9])
    assert found.tolist() == [0, 29, 8, 17, 0]  # equal urgency by arrival; 40-50 nothing waits


def test_orders_rank_as_they_must(pairs):
    minutes = waiting.simulate(*pairs, n_runs=200)
    table = waiting.summary(minutes).set_index("order")
    assert list(table.index) == list(waiting.ORDERS) and (table["n"] == 200).all()
    mean = table["minutes"]
    assert mean["perfect"] <= mean["model"] < mean["first come"] < mean["wrong"]
    assert (table["low"] < mean).all() and (mean < table["high"]).all()
    assert (table["run_low"] < table["low"]).all() and (table["high"] < table["run_high"]).all()
    assert table["ratio"]["first come"] == table["ratio_high"]["first come"] == 1
    assert table["ratio"]["model"] == pytest.approx(mean["model"] / mean["first come"])
    assert table["ratio_high"]["model"] < 0.5  # at least halved


def test_urgency_without_knowledge_gains_nothing_and_perfect_urgency_is_perfect(pairs):
    severity, _ = pairs
    blind = waiting.simulate(severity, np.zeros(len(severity)), n_runs=30)
    assert (blind["model"] == blind["first come"]).all()
    assert (waiting.simulate(severity, 3 * severity, n_runs=30).eval("model - perfect") == 0).all()


def test_same_seed_same_minutes(pairs):
    one, two, other = (waiting.simulate(*pairs, n_runs=5, seed=seed) for seed in (3, 3, 4))
    assert one.equals(two) and not one.equals(other)


@pytest.mark.parametrize(
    ("severity", "urgency", "load", "message"),
    [
        ([], [], {}, "0 severities"),
        ([1, 2], [1], {}, "2 severities and 1 urgencies"),
        ([1, np.nan], [1, 2], {}, "finite"),
        ([1], [1], {"films_per_hour": 0}, "above 0"),
        ([1], [1], {"readers": 0}, "at least 1"),
    ],
)
def test_bad_input_is_refused(severity, urgency, load, message):
    with pytest.raises(InputError, match=message):
        waiting.simulate(severity, urgency, waiting.Load(**load), n_runs=2)
