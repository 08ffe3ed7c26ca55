"""Fine-tuning as an evaluation: a run and labelled frames in, figures beside a baseline out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from marey.configs.errors import InputError
from marey.configs.evaluation import AttentiveSettings, FinetuneSettings
from marey.models.encoders.encoder import Encoder
from marey.pipeline.data.source import need_frames, open_source
from marey.pipeline.embedding.baselines import encoder_location, open_encoder
from marey.pipeline.embedding.embeddings import Embeddings
from marey.pipeline.embedding.frame_parts import FrameParts
from marey.pipeline.embedding.read_part import ReadPart
from marey.pipeline.evaluate.attentive_probe import AttentiveProbe
from marey.pipeline.evaluate.bootstrap import split_by_group
from marey.pipeline.evaluate.few_labels import few_rows
from marey.pipeline.evaluate.finetune_network import (
    Build,
    Classifier,
    LabelledFrames,
    fine_tune,
)
from marey.pipeline.evaluate.label_protocols import interval, labelled_as
from marey.pipeline.evaluate.labels import check_common_classes, encode_classes, load_labels
from marey.pipeline.evaluate.protocols import Inputs
from marey.pipeline.evaluate.run import check_disjoint
from marey.pipeline.runtime.cores import default_workers
from marey.pipeline.runtime.progress import each
from marey.pipeline.stream.graph import ahead

MOST_BYTES = 8 * 2**30
"""Frames that are held in memory at most."""


def run_finetune(inputs: Inputs, settings: FinetuneSettings) -> dict[str, Any]:
    """Tune the whole encoder on labelled frames and score it on frames of other videos."""
    return measured(inputs, settings, Classifier)


def run_attentive(inputs: Inputs, settings: AttentiveSettings) -> dict[str, Any]:
    """Train an attentive probe on a frozen encoder's maps, likewise."""
    return measured(inputs, settings, AttentiveProbe)


def measured(inputs: Inputs, settings: FinetuneSettings, build: Build) -> dict[str, Any]:
    """Train what `build` makes of an encoder on labelled frames; score it on other videos' frames.

    inputs: target is a run folder or timm trunk; data, an index or image table with the test
    frames; gallery, the same with the training frames (without it the events of `data` are split
    60/20/20); baseline, another encoder with the same budget (`RUN/untrained`: supervised from
    scratch). Returns "figures", "baseline"? and "embeddings", as `run_eval` does. Raises InputError
    for data without labels or too large.
    """
    assert inputs.data is not None  # `required` of the protocol
    encoder, data, gallery, labels = inputs.target, inputs.data, inputs.gallery, inputs.labels
    attribute, fps, seed = settings.attribute, settings.fps, settings.seed
    result: dict[str, Any] = {}
    for side, name in (("figures", encoder), ("baseline", inputs.baseline)):
        if name is None:
            continue
        network, about = open_encoder(encoder_location(name))
        if not isinstance(network, Encoder):
            raise InputError(f"{name} has no weights to tune; give a run folder or timm:NAME")
        network.to("cuda" if torch.cuda.is_available() else "cpu")
        test, test_frames = _labelled_frames(data, network, fps, labels, attribute)
        pool, pool_frames = test, test_frames
        if gallery is not None:
            pool, pool_frames = _labelled_frames(gallery, network, fps, labels, attribute)
            check_disjoint(test, pool)
        number, names = encode_classes(np.concatenate([_labels(pool), _labels(test)]))
        known, target = number[: len(pool)], number[len(pool) :]
        check_common_classes(target, known, names)
        fit, choose, held_out = _rows(test, pool, gallery is None, seed)
        fit, choose = (
            rows[
                few_rows(
                    known[rows],
                    pool.event[rows],
                    share=settings.labelled,
                    shots=settings.shots,
                    seed=seed,
                )
            ]
            for rows in (fit, choose)
        )
        figures, chance = fine_tune(
            network,
            LabelledFrames(pool_frames[fit], known[fit]),
            LabelledFrames(pool_frames[choose], known[choose]),
            LabelledFrames(test_frames[held_out], target[held_out]),
            len(names),
            rates=settings.rates,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            flip=settings.flip,
            seed=seed,
            build=build,
        )
        common = np.bincount(known[fit]).argmax()
        figures["accuracy_chance"] = float((target[held_out] == common).mean())
        hit = (chance.argmax(axis=1) == target[held_out]).astype(float)
        figures |= interval("accuracy", hit, test.event[held_out], seed)
        figures |= {
            "classes": len(names),
            "frames_train": len(fit),
            "frames_validation": len(choose),
            "frames_test": len(held_out),
            "seed": seed,
        }
        result[side] = figures
        if side == "figures":
            result["embeddings"] = {
                "location": encoder,
                "frames": len(test),
                "videos": len(np.unique(test.video_id)),
                "dim": about["out_dim"],
                "encoder_sha256": about["sha256"],
            }
    return result


def _rows(
    test: Embeddings, pool: Embeddings, alone: bool, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Rows to fit on and to choose on (of the pool), and to report on (of the test frames)."""
    try:
        if alone:
            fit, choose, held_out = split_by_group(test.event, (0.6, 0.2, 0.2), seed)
            return fit, choose, held_out
        fit, choose = split_by_group(pool.event, (0.8, 0.2), seed)
    except ValueError as error:
        raise InputError(f"fine-tuning: too few videos to split: {error}") from error
    return fit, choose, np.arange(len(test))


def _labels(rows: Embeddings) -> NDArray[np.object_]:
    assert rows.label is not None  # `_labelled_frames` keeps labelled frames only
    return rows.label


def _labelled_frames(
    location: str, encoder: Encoder, fps: float, labels: str | None, attribute: str
) -> tuple[Embeddings, NDArray[np.uint8]]:
    """The keys and labels of a corpus's frames (as embeddings of no dimension), and the frames."""
    source = open_source(location)
    need_frames(source)
    source.check_present()
    config = encoder.config
    todo = FrameParts(source, fps)
    count = todo.frames
    size = count * config.clip_frames * config.image_size**2 * 3
    if size > MOST_BYTES:
        raise InputError(
            f"{location}: {count} frames of {config.image_size} px take {size / 2**30:.0f} GiB, "
            f"and at most {MOST_BYTES >> 30} GiB are held; lower fps={fps}"
        )
    side = config.image_size
    read = ReadPart(source.reader, fps, (side, side), clip=(config.clip_frames, config.clip_step_s))
    reading = ahead(lambda part: [read.columns(part)], todo, default_workers())
    rows = list(each(reading, "read", "parts", len(todo)))
    good = np.concatenate([part["refused"] == "" for part in rows])
    if not good.any():
        raise InputError(f"{location}: no frame could be read")

    def column(name: str, kind: Any) -> NDArray[Any]:
        return np.concatenate([part[name] for part in rows])[good].astype(kind)

    keys = Embeddings(
        video_id=column("video_id", object),
        event=column("event", object),
        view=column("view", object),
        frame=column("frame", np.int64),
        time_s=column("time_s", np.float64),
        features=np.zeros((int(good.sum()), 1), np.float32),
        label=column("label", object) if "label" in rows[0] else None,
        meta={"data": location, "kind": source.kind},
    )
    found = load_labels(None if labels is None else Path(labels), keys, attribute=attribute)
    frames = np.concatenate([part["frames"] for part in rows])[good]
    return labelled_as(keys, found).take(found.known), frames[found.known]
