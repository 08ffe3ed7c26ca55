"""What is counted reaches Ray, and stays there as long as work goes on."""

import pytest

from marey.pipeline.runtime import counters


class Series:
    """What Ray's metrics were told of one name."""

    def __init__(self):
        self.told = []

    def inc(self, number, tags):
        self.told.append((number, tags))

    def set(self, value):
        self.told.append(value)


@pytest.fixture
def made(monkeypatch):
    made = {name: Series() for name in (*counters.COUNTERS, *counters.GAUGES)}
    monkeypatch.setattr(counters, "_made", made)
    monkeypatch.setattr(counters, "_shown", {})
    monkeypatch.setattr(counters, "_again", 0.0)
    return made


def test_gauges_are_set_again_while_work_is_counted(made, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(counters.time, "monotonic", lambda: clock[0])
    counters.count("marey_samples_trained", 8)
    counters.show("marey_loss", 0.5)
    for _ in range(10):  # Ray forgets after 20 s
        clock[0] += 2.0
        counters.count("marey_samples_trained", 8)
    assert 2 <= made["marey_loss"].told.count(0.5) <= 5
    assert made["marey_step"].told == []  # nobody has said it


def test_counts_add_up_and_name_their_reasons(made):
    counters.count("marey_refused", 2, reason="decode_gap")
    counters.count("marey_refused", 0, reason="too_short")
    assert made["marey_refused"].told == [(2, {"reason": "decode_gap"})]


def test_where_nobody_exports_nothing_is_kept(monkeypatch):
    monkeypatch.setattr(counters, "_made", None)
    monkeypatch.setattr(counters, "_shown", {})
    counters.show("marey_loss", 0.5)
    counters.count("marey_samples_trained", 8)
    assert counters._shown == {}
