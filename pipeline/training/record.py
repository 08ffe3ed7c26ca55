"""What a run reports: metrics, its first samples, the exported encoder, the summary."""

from __future__ import annotations

import io
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from marey.models.encoders.encoder import Encoder
from marey.models.method import Progress
from marey.pipeline.embedding.encoder_files import export_encoder
from marey.pipeline.runtime import counters
from marey.pipeline.runtime.storage import Folder, is_remote
from marey.pipeline.stream.plan import Position
from marey.pipeline.stream.samples import Sample
from marey.pipeline.training.loggers import open_loggers

METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
REFUSED_SAMPLES = "refused_samples.json"
"""Samples refused up to the last checkpoint, by reason."""
NOT_SAMPLED = "not_sampled.json"
"""Events that yield no sample, by reason and name."""
UNTRAINED = "untrained"
"""Subfolder with the encoder as it was before the first step, the baseline of every evaluation."""
SAMPLES, PICTURES = "samples.npz", "pictures.npz"
REMOTE_WRITE_S = 15.0
"""An object store has no append: there the metrics are written again at most this often."""
FEW_VALID = 0.1
"""Below this share of samples that count in the loss (`valid`) a run warns, once."""
SHOWN_SAMPLES = 12
"""First samples of a run that are kept for its report."""


class Record:
    """Files of a run folder, written by the first training process.

    `metrics.jsonl` has one JSON object per line: metrics, a `probe`, or a `warning`. Lines after
    the step that a run resumes from are dropped, so that every curve has one value per step.
    Loggers get the same numbers; one that fails is left out from then on.
    """

    def __init__(
        self,
        run: Folder,
        step: int,
        chance: Mapping[str, float],
        *,
        loggers: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """loggers: names of `trainer.log`; settings: the run's configuration, for them."""
        run.sweep()
        run.sweep("checkpoints")
        self._run = run
        self._shown: Sample | None = None
        before = [line for line in read_metrics(run) if line["step"] <= step]
        self._time_s = before[-1]["time_s"] if before else 0.0
        self._started = time.perf_counter()
        lines = "".join(json.dumps(line) + "\n" for line in before)
        run.write(METRICS, lines.encode())
        run.write("chance.json", json.dumps(dict(chance)).encode())
        run.remove(SUMMARY)
        self._warned = False
        self._refused: dict[str, int] = {}
        self._waiting: list[str] = []
        self._written_s = 0.0
        self._loggers = open_loggers(loggers, run, step, settings or {})

    def _line(self, progress: Progress, values: dict[str, Any]) -> None:
        spent = self._spent_s()
        line = {"step": progress.step, "total": progress.total_steps, "time_s": spent, **values}
        self._waiting.append(json.dumps(line) + "\n")
        if not is_remote(self._run.location) or spent - self._written_s >= REMOTE_WRITE_S:
            self._write_lines()

    def _write_lines(self) -> None:
        """Append the buffered lines to the metrics."""
        if self._waiting:
            self._run.append(METRICS, "".join(self._waiting).encode())
        self._waiting.clear()
        self._written_s = self._spent_s()

    def _spent_s(self) -> float:
        return round(self._time_s + time.perf_counter() - self._started, 3)

    def metrics(self, progress: Progress, rate: float, values: dict[str, float]) -> None:
        """One line of training metrics."""
        rounded = {name: float(f"{value:.6g}") for name, value in values.items()}
        self._line(progress, {"epoch": progress.epoch, "lr": rate, **rounded})
        self._show("train", progress, values | {"lr": rate})
        shown = values | {"step": progress.step, "steps_total": progress.total_steps}
        shown["data_wait_share"] = values.get("data_wait", 0.0)
        for name in ("step", "steps_total", "loss", "samples_per_s", "data_wait_share"):
            if name in shown:
                counters.show(f"marey_{name}", shown[name])
        valid = values.get("valid", 1.0)
        if valid < FEW_VALID and not self._warned:
            self._warned = True
            self.warn(
                progress,
                f"{valid:.1%} of the samples count in the loss; what the others lack, docs/methods "
                "says of each method",
            )

    def probe(self, progress: Progress, values: Mapping[str, float]) -> None:
        """One line of the online probe."""
        self._line(progress, {"probe": dict(values)})
        self._show("probe", progress, values)

    def refused(self, reasons: Mapping[str, int]) -> None:
        """How many samples were refused so far, by reason: written where that has changed."""
        if reasons and dict(reasons) != self._refused:
            self._refused = dict(reasons)
            self._run.write(REFUSED_SAMPLES, json.dumps(self._refused, indent=1).encode())

    def warn(self, progress: Progress, text: str) -> None:
        """A warning for the user, who sees no output of the workers."""
        self._line(progress, {"warning": text})

    def _show(self, group: str, progress: Progress, values: Mapping[str, float]) -> None:
        named = {f"{group}/{name}": value for name, value in values.items()}
        for name, logger in list(self._loggers.items()):
            try:
                logger.log(progress.step, named)
            except Exception as error:  # a service that is away must not end a run
                del self._loggers[name]
                reason = " ".join(str(error).split())[:200]
                self.warn(progress, f"trainer.log={name} takes no more numbers: {reason}")

    def samples(self, samples: list[Sample]) -> None:
        """The first samples of the run, as the trainer got them."""
        first = samples[:SHOWN_SAMPLES]
        names = [name for name in first[0] if name != "refused"]
        self._shown = {name: np.stack([sample[name] for sample in first]) for name in names}
        self._run.write(SAMPLES, _packed(self._shown))

    def shown(self) -> Sample:
        """The columns of those first samples, also in a run that was resumed."""
        if self._shown is None:
            self._shown = read_arrays(self._run, SAMPLES)
        return self._shown

    def pictures(self, step: int, pictures: dict[str, np.ndarray]) -> None:
        """What the method shows of the first samples, uint8 [N, H, W, 3] by name: the latest, and
        those of step 0."""
        if pictures:
            packed = _packed(pictures)
            self._run.write(PICTURES, packed)
            if step == 0:
                self._run.write(f"{UNTRAINED}/{PICTURES}", packed)

    def export(self, encoder: Encoder, provenance: dict[str, Any], subfolder: str = "") -> None:
        """Export the encoder, and write the buffered lines of metrics."""
        self._write_lines()
        folder = Folder(self._run.join(subfolder)) if subfolder else self._run
        export_encoder(folder, encoder, provenance)

    def finish(self, step: int, position: Position, refused: Counter[str]) -> None:
        """Write the summary of a finished run; it is written last."""
        summary = {
            "step": step,
            "samples": len(position) - sum(refused.values()),
            "refused": dict(refused.most_common()),
            "time_s": self._spent_s(),
        }
        self._write_lines()
        self._run.write(SUMMARY, json.dumps(summary, indent=1).encode())
        for logger in self._loggers.values():
            logger.close()


def _packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def read_arrays(run: Folder, name: str) -> dict[str, np.ndarray]:
    """The arrays of a run's `.npz` file by name; none where there is no such file."""
    if not run.exists(name):
        return {}
    with np.load(io.BytesIO(run.read(name))) as archive:
        return {key: archive[key] for key in archive.files}


class NewMetrics:
    """New lines of a run's metrics, each once; for watching a long run."""

    def __init__(self, run: Folder) -> None:
        self._run = run
        self._start = 0

    def take(self) -> list[dict[str, Any]]:
        """Whole lines written since the last call; those of a run that went back come again."""
        size = self._run.size(METRICS)
        if size == self._start:
            return []
        content = self._run.read(METRICS, max(0, self._start - 1))
        if self._start and not content.startswith(b"\n"):  # not the file that it was
            self._start, content = 0, self._run.read(METRICS)
        whole = content[: content.rfind(b"\n") + 1]  # a kill or a look in between cuts the last
        self._start = max(0, self._start - 1) + len(whole)
        return [json.loads(line) for line in whole.splitlines() if line]


def warnings_in(lines: list[dict[str, Any]]) -> list[str]:
    """The warnings among lines of metrics, with their steps."""
    return [f"step {line['step']:,}: {line['warning']}" for line in lines if "warning" in line]


def read_metrics(run: Folder) -> list[dict[str, Any]]:
    """All lines of a run's metrics, without a last line that a kill has cut off."""
    return NewMetrics(run).take()
