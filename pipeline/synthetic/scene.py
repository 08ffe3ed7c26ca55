"""What happens in one generated event: an arm fetches a block, carries it to a pad and returns.

Everything is a pure function of (seed, event): when each phase starts, where the block lies and
where it goes, and from that the state of the arm at any time. Lengths are metres on the scale of a
table of one metre radius, z points up, the arm stands at the origin and works towards +x.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PHASES = ("rest", "reach", "lift", "carry", "place", "return")
_SHARES = np.array([0.08, 0.22, 0.15, 0.23, 0.15, 0.17])
"""Nominal share of the event's duration for each phase."""

UPPER_ARM = 0.52
FOREARM = 0.50
HAND = 0.17
"""Lengths of the three links; the hand always points straight down."""
SHOULDER_HEIGHT = 0.36
BLOCK_HALF = 0.085
_GRIP_OPEN = 0.135
_GRIP_CLOSED = BLOCK_HALF + 0.022
"""Half the distance between the fingers' axes."""


@dataclass(frozen=True, slots=True)
class State:
    """The scene at one instant."""

    phase: int
    yaw: float
    shoulder: float
    """Angle of the upper arm above the horizontal, radians."""
    elbow: float
    """Angle between the two links, radians; 0 is a straight arm."""
    grip: float
    """Half the opening of the fingers."""
    elbow_xyz: NDArray[np.float64]
    wrist_xyz: NDArray[np.float64]
    block_xyz: NDArray[np.float64]
    block_yaw: float


def _ease(share: float) -> float:
    """Minimum-jerk progress along a movement, [0, 1] -> [0, 1]."""
    s = min(1.0, max(0.0, share))
    return s * s * s * (10 + s * (6 * s - 15))


def _cylinder(yaw: float, radius: float, height: float) -> NDArray[np.float64]:
    return np.array([radius * np.cos(yaw), radius * np.sin(yaw), height])


class Event:
    """One execution of the task: `state(t)` for t in [0, `seconds`]."""

    def __init__(self, seed: int, number: int, seconds: float) -> None:
        rng = np.random.default_rng([seed, number])
        shares = _SHARES * rng.uniform(0.7, 1.35, len(_SHARES))
        self.seconds = seconds
        self.ends_s = seconds * np.cumsum(shares) / shares.sum()
        self._home = np.array([rng.uniform(-0.15, 0.15), rng.uniform(0.36, 0.44), 0.62])
        self._start = np.array([rng.uniform(-0.95, -0.6), rng.uniform(0.58, 0.76), BLOCK_HALF])
        self._goal = np.array([rng.uniform(0.6, 0.95), rng.uniform(0.58, 0.76), BLOCK_HALF])
        self._block_yaw = rng.uniform(-np.pi, np.pi)
        self._lift = rng.uniform(0.42, 0.55)

    @property
    def start_xyz(self) -> NDArray[np.float64]:
        """Where the block lies at first."""
        return _cylinder(*self._start)

    @property
    def goal_xyz(self) -> NDArray[np.float64]:
        """Where the block is put down."""
        return _cylinder(*self._goal)

    def state(self, time_s: float) -> State:
        """The scene at `time_s` seconds from the start of the event."""
        phase = min(int(np.searchsorted(self.ends_s, time_s, side="right")), len(PHASES) - 1)
        begin = self.ends_s[phase - 1] if phase else 0.0
        share = (time_s - begin) / (self.ends_s[phase] - begin)
        tip, grip = self._gripper(phase, float(share))
        yaw, radius, height = tip
        held = (phase == 2 and share > 0.2) or phase == 3 or (phase == 4 and share < 0.7)
        if held:
            block, turn = _cylinder(*tip), yaw - self._start[0]
        elif phase <= 2:
            block, turn = self.start_xyz, 0.0
        else:
            block, turn = self.goal_xyz, self._goal[0] - self._start[0]
        shoulder, elbow = self._solve(radius, height + HAND)
        elbow_xyz = _cylinder(
            yaw,
            UPPER_ARM * np.cos(shoulder),
            SHOULDER_HEIGHT + UPPER_ARM * np.sin(shoulder),
        )
        return State(
            phase=phase,
            yaw=float(yaw),
            shoulder=shoulder,
            elbow=elbow,
            grip=grip,
            elbow_xyz=elbow_xyz,
            wrist_xyz=_cylinder(yaw, radius, height + HAND),
            block_xyz=block,
            block_yaw=self._block_yaw + turn,
        )

    def _gripper(self, phase: int, share: float) -> tuple[NDArray[np.float64], float]:
        """Where the fingers are, as (yaw, radius, height), and how far they are open."""
        above_start = np.array([self._start[0], self._start[1], self._lift])
        above_goal = np.array([self._goal[0], self._goal[1], self._lift])
        if phase == 0:
            grip = _GRIP_CLOSED + (_GRIP_OPEN - _GRIP_CLOSED) * _ease(share)
            return self._home, grip
        if phase == 1:
            swing, sink = _ease(share / 0.75), _ease((share - 0.35) / 0.65)
            tip = self._home + swing * (above_start - self._home)
            return tip + sink * (self._start - above_start), _GRIP_OPEN
        if phase == 2:
            close = _ease(share / 0.2)
            tip = self._start + _ease((share - 0.2) / 0.8) * (above_start - self._start)
            return tip, _GRIP_OPEN + (_GRIP_CLOSED - _GRIP_OPEN) * close
        if phase == 3:
            return above_start + _ease(share) * (above_goal - above_start), _GRIP_CLOSED
        if phase == 4:
            tip = above_goal + _ease(share / 0.7) * (self._goal - above_goal)
            return tip, _GRIP_CLOSED + (_GRIP_OPEN - _GRIP_CLOSED) * _ease((share - 0.7) / 0.3)
        rise, swing = _ease(share / 0.65), _ease((share - 0.25) / 0.75)
        tip = self._goal + rise * (above_goal - self._goal)
        return tip + swing * (self._home - above_goal), _GRIP_OPEN

    @staticmethod
    def _solve(radius: float, height: float) -> tuple[float, float]:
        """Joint angles (elbow up) that bring the wrist to this radius and height."""
        rise = height - SHOULDER_HEIGHT
        square = radius * radius + rise * rise
        cosine = (square - UPPER_ARM**2 - FOREARM**2) / (2 * UPPER_ARM * FOREARM)
        elbow = float(np.arccos(np.clip(cosine, -1, 1)))
        shoulder = np.arctan2(rise, radius) + np.arctan2(
            FOREARM * np.sin(elbow), UPPER_ARM + FOREARM * np.cos(elbow)
        )
        return float(shoulder), elbow
