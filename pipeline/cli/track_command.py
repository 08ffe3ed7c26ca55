"""What `marey track` does and says."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from marey.configs import plugins
from marey.configs.errors import UsageError
from marey.pipeline.cli.outcome import DONE, Result
from marey.pipeline.runtime.telling import now


def track(options: argparse.Namespace) -> Result:
    """Draw what a tracker follows over a video."""
    from marey.configs.load import override
    from marey.configs.tracking import tracker_options
    from marey.pipeline.cli.locations import check_suffix, check_there
    from marey.trackers import find_tracker

    find_tracker(plugins.allow_name(options.tracker))
    settings = tracker_options(options.tracker, override({}, options.settings))
    check_suffix(options.out, ".mp4", "what `marey track` draws")
    check_there(options.video, "VIDEO", "give a video file or a URI")
    now("reading the video")
    boxes = _boxes(options.box) if options.box else None
    from marey.pipeline.mining.follow import follow

    result = follow(
        options.video,
        options.out,
        boxes=boxes,
        tracker=options.tracker,
        tracker_settings=settings,
        start_s=options.start,
        seconds=options.seconds,
    )
    lost = "".join(f", {count} {reason}" for reason, count in result.reasons.items())
    print(
        f"{result.kept} of {result.boxes} boxes followed through {result.frames} frames{lost}"
        f" -> {options.out}",
        file=sys.stderr,
    )
    return DONE, {"frames": result.frames, "boxes": result.boxes, "kept": result.kept}


def _boxes(words: list[str]) -> Any:
    import numpy as np

    boxes = []
    for word in words:
        try:
            box = [float(number) for number in word.split(",")]
        except ValueError:
            box = []
        if len(box) != 4 or not np.isfinite(box).all() or min(box[2:]) <= 0:
            raise UsageError(f"--box {word} is not x,y,w,h with positive width and height")
        boxes.append(box)
    return np.array(boxes, dtype=np.float32)
