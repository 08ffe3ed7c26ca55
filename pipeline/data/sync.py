"""Which moment of one camera's video is which of another's? Clocks of an event's views, estimated.

Two cameras that recorded one happening heard the same sounds (`audio`) or saw things move at the
same times (`motion`). Windows of one view's signal are found in the other's; a line through the
places where they are found is the clock. A view whose clock cannot be told is taken out of its
event, with the reason: a wrong clock would teach wrong positives. (Generalised cross-correlation:
Knapp, Carter 1976; slope: Theil 1950, Sen 1968.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa

from marey.configs.errors import InputError
from marey.pipeline.runtime.workers import Lost, run_in_processes
from marey.pipeline.video.energy import motion_energy
from marey.pipeline.video.sound import read_sound
from marey.pipeline.video.span import Span

Kind = Literal["audio", "motion"]
MIN_RATIO = 1.2
"""A window counts as found where its best place beats the second best by this factor."""
MAX_SPREAD_S = 0.1
"""Windows farther than this from the line contradict it: TCN's positives bear no more."""
MIN_AGREEING = 0.6
"""Share of the windows that must lie on the line."""
MAX_DRIFT = 1e-3
"""Largest difference of two clocks' rates: quartz drifts by less than 1e-4."""
MAX_WINDOWS = 16
EVENT_LIMIT_S = 3600.0
"""Seconds for the views of one event, which are without a clock then."""


@dataclass(frozen=True, slots=True)
class Signal:
    """How a kind of signal is read and compared."""

    read: Callable[[str, int, Span | None], np.ndarray]
    """(uri, video stream, part of the file) -> float32 [n]"""
    rate_hz: float
    window_s: float
    guard_s: float
    """Places nearer than this to the best one are the same peak."""
    whiten: bool
    """Give every frequency the same weight (PHAT), else take out what changes within 10 s."""


SIGNALS: dict[Kind, Signal] = {
    "audio": Signal(lambda uri, s, span: read_sound(uri, 8000, s, span), 8000.0, 40.0, 0.05, True),
    "motion": Signal(
        lambda uri, s, span: motion_energy(uri, 25.0, s, span), 25.0, 60.0, 0.5, False
    ),
}


class Peak(NamedTuple):
    """Where one signal is found in another."""

    lag_s: float
    ratio: float
    """Height over that of the best peak elsewhere; 1 says nothing."""


@dataclass(frozen=True, slots=True)
class Clock:
    """A time t of the reference is at `rate * t + offset_s` here; or why that cannot be told."""

    offset_s: float = 0.0
    rate: float = 1.0
    windows: int = 0
    """Windows that were compared."""
    agreeing: int = 0
    """Windows that lie on the line."""
    reason: str = ""
    """Empty, or `too_short`, `no_clear_peak`, `windows_disagree`, `implausible_rate`, and of a file
    `no_signal`."""


@dataclass(frozen=True, slots=True)
class ViewClock:
    """What was found for one video of an event."""

    video_id: str
    event: str
    clock: Clock
    detail: str = ""


def find_lag(
    window: np.ndarray,
    other: np.ndarray,
    rate_hz: float,
    *,
    guard_s: float,
    whiten: bool,
    least: int = 0,
    most: int | None = None,
) -> Peak:
    """Where a window [n] lies in a longer signal [m], to a fraction of a sample.

    whiten: phases only (GCC-PHAT), which is sharp for sound; else the correlation coefficient.
    least, most: first and last place that is allowed, in samples; from 0 to m - n if not given.
    """
    most = len(other) - len(window) if most is None else most
    length = 1 << (len(window) + len(other) - 1).bit_length()
    spectrum = np.conj(np.fft.rfft(window, length)) * np.fft.rfft(other, length)
    if whiten:
        size = np.abs(spectrum)
        spectrum /= size + 1e-3 * size.mean() + 1e-30
    match = np.fft.irfft(spectrum, length)[least : most + 1]
    if not whiten:
        energy = np.concatenate([[0.0], np.cumsum(other.astype(np.float64) ** 2)])
        part = (energy[len(window) :] - energy[: -len(window)])[least : most + 1]
        match = match / (np.linalg.norm(window) * np.sqrt(part) + 1e-12)
    best = int(match.argmax())
    guard = max(1, round(guard_s * rate_hz))
    elsewhere = np.concatenate([match[: max(0, best - guard)], match[best + guard + 1 :]])
    second = float(elsewhere.max()) if len(elsewhere) else 0.0
    ratio = float(match[best]) / second if second > 0 else np.inf
    return Peak((least + best + _vertex(match, best)) / rate_hz, ratio if match[best] > 0 else 0.0)


def _vertex(values: np.ndarray, place: int) -> float:
    """Where the parabola through a maximum and its neighbours peaks, in (-1/2, 1/2) of a place."""
    if not 0 < place < len(values) - 1:
        return 0.0
    before, top, after = values[place - 1 : place + 2]
    bend = before - 2 * top + after
    return float(np.clip(0.5 * (before - after) / bend, -0.5, 0.5)) if bend < 0 else 0.0


def estimate_clock(
    reference: np.ndarray, other: np.ndarray, signal: Signal, *, within_s: float = 30.0
) -> Clock:
    """The clock of one signal against another's, of one rate, each from its own time 0.

    within_s: largest offset that is looked for. A rate other than 1 is fitted where the signals are
    long enough for it to show.
    """
    rate = signal.rate_hz
    size = min(round(signal.window_s * rate), min(len(reference), len(other)) // 2)
    if size < max(rate, 3 * signal.guard_s * rate):
        return Clock(reason="too_short")
    if not signal.whiten:
        reference, other = _detrended(reference, rate), _detrended(other, rate)
    reach = round(within_s * rate)
    last = len(reference) - size
    padded = np.pad(other, (reach, reach + 2 * size + max(0, last - len(other))))
    loud = reference.std()
    found: list[tuple[float, Peak]] = []
    starts = np.linspace(0, last, min(MAX_WINDOWS, max(2, 4 * last // size))).astype(int)
    for start in starts.tolist():
        window = reference[start : start + size]
        # places where less than half of the window is covered prove nothing
        least = max(0, reach - start - size // 2)
        most = min(2 * reach, reach - start + len(other) - size // 2)
        if most <= least or window.std() < 0.01 * loud:
            continue
        peak = find_lag(
            window - window.mean(),
            padded[start : start + size + 2 * reach],
            rate,
            guard_s=signal.guard_s,
            whiten=signal.whiten,
            least=least,
            most=most,
        )
        found.append(((start + size / 2) / rate, peak._replace(lag_s=peak.lag_s - within_s)))
    return fit_clock(found, other_s=len(other) / rate, window_s=size / rate)


def fit_clock(
    found: Sequence[tuple[float, Peak]], *, other_s: float = np.inf, window_s: float = 0.0
) -> Clock:
    """A line through (time at the middle of a window, where it was found), robustly.

    other_s, window_s: lengths; windows that the other signal does not cover are not counted.
    """
    clear = [(time_s, peak.lag_s) for time_s, peak in found if peak.ratio >= MIN_RATIO]
    if not clear:
        return Clock(windows=len(found), reason="no_clear_peak")
    time_s, lag_s = np.array(clear).T
    slope, offset_s = _line(time_s, lag_s)
    mapped = np.array([time for time, _ in found]) * (1 + slope) + offset_s
    covered = ((mapped >= window_s / 2 - 0.05) & (mapped <= other_s - window_s / 2 + 0.05)).sum()
    on_line = np.abs(lag_s - slope * time_s - offset_s) <= MAX_SPREAD_S
    windows = max(int(covered), len(clear))
    if on_line.sum() < max(1.0, MIN_AGREEING * windows):
        # few clear windows and a clear contradiction are different failures
        reason = "windows_disagree" if on_line.mean() < MIN_AGREEING else "no_clear_peak"
        return Clock(windows=windows, agreeing=int(on_line.sum()), reason=reason)
    if abs(slope) > MAX_DRIFT:
        return Clock(windows=windows, agreeing=int(on_line.sum()), reason="implausible_rate")
    return Clock(float(offset_s), float(1 + slope), windows, int(on_line.sum()))


def _line(time_s: np.ndarray, lag_s: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of Theil and Sen; slope 0 where it does not stand out of the noise."""
    level = float(np.median(lag_s))
    if len(time_s) < 4:
        return 0.0, level
    first, second = np.triu_indices(len(time_s), 1)
    slope = float(np.median((lag_s[second] - lag_s[first]) / (time_s[second] - time_s[first])))
    offset_s = float(np.median(lag_s - slope * time_s))
    # deviation of the lags, from their median absolute one, and what it makes of the slope
    noise = 1.48 * float(np.median(np.abs(lag_s - slope * time_s - offset_s)))
    if abs(slope) <= 4 * noise / (np.sqrt(len(time_s)) * time_s.std()):
        return 0.0, level
    return slope, offset_s


def _detrended(values: np.ndarray, rate_hz: float, slow_s: float = 10.0) -> np.ndarray:
    """Less its mean over 10 s around each value, and bounded to three standard deviations."""
    size = min(len(values), round(slow_s * rate_hz))
    weight = np.convolve(np.ones(len(values)), np.ones(size), mode="same")
    quick = values - np.convolve(values, np.ones(size), mode="same") / weight
    bound = 3 * quick.std()
    return np.clip(quick, -bound, bound)


def synchronise(
    table: pa.Table,
    kind: Kind,
    *,
    within_s: float = 30.0,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[pa.Table, list[ViewClock]]:
    """The index with the clocks of every event's views, and what was found for each view.

    The first view of an event whose signal can be read is its reference: offset 0, rate 1. A view
    that cannot be placed beside it becomes an event of its own, named after its video.
    progress: called with (events done, events in all); events of one view need nothing.
    """
    rows = table.to_pylist()
    events: dict[str, list[int]] = {}
    for place in sorted(range(len(rows)), key=lambda n: (rows[n]["event"], rows[n]["view"])):
        events.setdefault(rows[place]["event"], []).append(place)
    several = [places for places in events.values() if len(places) > 1]
    jobs: list[Job] = [([rows[n] for n in places], kind, within_s) for places in several]
    found: dict[int, list[ViewClock]] = {}
    for done, (number, clocks) in enumerate(_all_clocks(jobs, workers), start=1):
        found[number] = clocks
        for place, result in zip(several[number], clocks, strict=True):
            rows[place]["clock_offset_s"] = result.clock.offset_s
            rows[place]["clock_rate"] = result.clock.rate
            if result.clock.reason:
                rows[place]["event"] = rows[place]["video_id"]
        progress(done, len(several))
    results = [clock for number in sorted(found) for clock in found[number]]
    return pa.Table.from_pylist(rows, schema=table.schema), results


Job = tuple[list[dict], Kind, float]
"""Index rows of an event's views, what is compared, and the largest offset in seconds."""


def _all_clocks(jobs: list[Job], workers: int) -> Iterator[tuple[int, list[ViewClock]]]:
    """Each job's number and clocks, as they are found."""
    if workers <= 1 or len(jobs) <= 1:
        yield from enumerate(map(_event_clocks, jobs))
        return
    for number, clocks in run_in_processes(
        _event_clocks, jobs, workers=workers, limit_s=EVENT_LIMIT_S
    ):
        if isinstance(clocks, Lost):
            lost = Clock(reason="no_signal")
            views = jobs[number][0]
            clocks = [ViewClock(v["video_id"], v["event"], lost, clocks.reason) for v in views]
        yield number, clocks


def _event_clocks(job: Job) -> list[ViewClock]:
    views, kind, within_s = job
    signal = SIGNALS[kind]
    reference: np.ndarray | None = None
    results = []
    for view in views:
        clock, detail = Clock(), ""
        try:
            span = None if view["start_s"] is None else Span(view["start_s"], view["end_s"])
            values = signal.read(view["uri"], view["stream"], span)
            if not values.any() or np.ptp(values) == 0:
                raise InputError(f"{view['uri']}: nothing is heard or moves in it")
            if reference is None:
                reference = values
            else:
                clock = estimate_clock(reference, values, signal, within_s=within_s)
        except InputError as error:
            clock, detail = Clock(reason="no_signal"), str(error)
        results.append(ViewClock(view["video_id"], view["event"], clock, detail))
    return results
