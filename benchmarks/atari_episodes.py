"""Episodes of Atari games under a random agent, as lossless videos and a table of states.

The agent, the wrappers and what counts as a state are those of AtariARI (Anand et al., NeurIPS
2019, arXiv 1906.08226): actions drawn evenly from all but no-op, frame skip 4 with the maximum of
the last two frames, up to 30 no-ops after a reset, a lost life ends an episode, FIRE after a reset
where the game knows it, grey frames, episodes of 64 steps or fewer dropped, states are bytes of
the console's memory. Frames of 210x160 are centred in a square of 210, which encoders here take.

Needs `ale-py` (GPL-2.0), which only this benchmark uses; the games lie in its wheel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

FPS = 15
"""60 frames of the console a second, every fourth shown."""
SIDE = 210
SKIP, NO_OPS, LEAST_STEPS = 4, 30, 64
Ram = dict[str, dict[str, Any]]
"""Label -> `ram` (address) and `category`, of one game."""


@dataclass(slots=True)
class Episode:
    """frames: uint8 [210, 210] each; memory: uint8 [128] each, at the same steps."""

    frames: list[NDArray[np.uint8]]
    memory: list[NDArray[np.uint8]]


class Console:
    """One game, one agent step at a time."""

    def __init__(self, game: str, seed: int) -> None:
        from ale_py import ALEInterface, LoggerMode, roms

        ALEInterface.setLoggerMode(LoggerMode.Error)
        self._ale = ALEInterface()
        self._ale.setInt("random_seed", seed)
        self._ale.setFloat("repeat_action_probability", 0.0)
        rom = roms.get_rom_path(_rom_name(game, roms.get_all_rom_ids()))
        self._ale.loadROM(str(rom))
        self._actions = list(self._ale.getMinimalActionSet())
        self._fires = any(action.name == "FIRE" for action in self._actions)
        self._rng = np.random.default_rng(seed)
        self._last = np.zeros((2, SIDE, 160), np.uint8)

    def episodes(self) -> Iterator[Episode]:
        """For ever; every one begins after a lost life or a game that is over."""
        ale = self._ale
        ale.reset_game()
        fresh = True
        while True:
            if fresh:
                for _ in range(int(self._rng.integers(1, NO_OPS + 1))):
                    ale.act(self._actions[0])
            else:
                self._step(self._actions[0])
            if self._fires:
                self._step(self._actions[1])
                if len(self._actions) > 2:
                    self._step(self._actions[2])
            lives = ale.lives()
            episode = Episode([], [])
            while not ale.game_over() and not 0 < ale.lives() < lives:
                lives = ale.lives()
                action = self._actions[int(self._rng.integers(1, len(self._actions)))]
                episode.frames.append(self._step(action))
                episode.memory.append(np.array(ale.getRAM(), np.uint8))
            fresh = bool(ale.game_over())
            if fresh:
                ale.reset_game()
            yield episode

    def _step(self, action: Any) -> NDArray[np.uint8]:
        """Four frames of the console; the brighter of the last two, uint8 [210, 210]."""
        for frame in range(SKIP):
            if not self._ale.game_over():
                self._ale.act(action)
            if frame >= SKIP - 2:
                self._last[frame - SKIP + 2] = self._ale.getScreenGrayscale()[:SIDE]
        picture = np.zeros((SIDE, SIDE), np.uint8)
        margin = (SIDE - 160) // 2
        picture[:, margin : margin + 160] = self._last.max(axis=0)
        return picture


def _rom_name(game: str, known: list[str]) -> str:
    """ALE writes words apart by underscores; the published table does not."""
    names = {name.replace("_", ""): name for name in known}
    if game.lower() not in names:
        raise SystemExit(f"there is no game {game!r}; ale-py has {', '.join(sorted(names))}")
    return names[game.lower()]


def record(game: str, ram: Ram, folder: Path, *, steps: int, seed: int) -> int:
    """Write episodes of `steps` agent steps in all, and `states.parquet`; returns the episodes."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[NDArray[Any]]] = {}
    done = count = 0
    for episode in Console(game, seed).episodes():
        length = min(len(episode.frames), steps - done)
        if len(episode.frames) <= LEAST_STEPS or length <= LEAST_STEPS:
            if steps - done <= LEAST_STEPS:
                break
            continue
        name = f"{game.lower()}{count:04d}.mkv"
        write_lossless(folder / name, episode.frames[:length])
        memory = np.stack(episode.memory[:length])
        columns: dict[str, Any] = {
            "video_id": np.full(length, name),
            "time_s": np.arange(length) / FPS,
            "picture": np.array([_digest(frame) for frame in episode.frames[:length]]),
        }
        columns |= {
            f"{about['category']}/{label}": memory[:, about["ram"]].astype(np.int16)
            for label, about in ram.items()
        }
        for column, values in columns.items():
            rows.setdefault(column, []).append(values)
        done, count = done + length, count + 1
        if done >= steps:
            break
    table = pa.table({name: np.concatenate(values) for name, values in rows.items()})
    pq.write_table(table, folder / "states.parquet")
    return count


def _digest(frame: NDArray[np.uint8]) -> str:
    return hashlib.blake2b(frame.tobytes(), digest_size=8).hexdigest()


def write_lossless(path: Path, frames: list[NDArray[np.uint8]]) -> None:
    """Grey frames, uint8 [S, S] each, as FFV1: what is decoded is what was written, but for the
    rounding of some values by one where grey is turned into RGB."""
    unfinished = path.with_suffix(".part")
    with av.open(unfinished, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=FPS)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "gray"
        stream.codec_context.thread_count = 1
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="gray")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    unfinished.replace(path)
