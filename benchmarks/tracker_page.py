"""Where do trackers hold and where do they fail? Best, median and worst sequence of each, drawn.

    python -m benchmarks.tracker_page --tracking BENCHMARK/reported --rows ROWS --out PAGE.png

ROWS: the file that `python -m benchmarks.trackers accuracy --rows ROWS` wrote for that folder. The
truth is white, the tracker's box red where its overlap is at most 0.5 and green above.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.trackers import one_thread
from marey.pipeline.evaluate.tracking_layouts import Recording, read_sequence, truth_files
from marey.trackers import build, iou

SHOWN = 6  # frames of a sequence
WIDTH, HEAD, GAP = 190, 16, 4
WHITE, GREEN, RED, BLACK = (255, 255, 255), (40, 220, 60), (255, 60, 40), (0, 0, 0)


def main() -> None:
    """Writes one picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tracking", required=True, help="folder of sequences")
    parser.add_argument("--rows", required=True, help="scores of trackers on them")
    parser.add_argument("--out", required=True, help="picture to write")
    parser.add_argument("--trackers", nargs="+", help="only these")
    options = parser.parse_args()
    one_thread()
    rows = [json.loads(line) for line in Path(options.rows).read_text().splitlines()]
    names = options.trackers or list(dict.fromkeys(row["tracker"] for row in rows))
    files = {file.parent.name: file for file in truth_files(options.tracking)}
    strips = [
        strip(name, which, row, read_sequence(files[row["sequence"]]))
        for name in names
        for which, row in best_median_worst([r for r in rows if r["tracker"] == name])
    ]
    page = np.concatenate([padded(s, max(s.shape[1] for s in strips)) for s in strips])
    cv2.imwrite(options.out, page[:, :, ::-1])
    print(f"{len(strips)} sequences -> {options.out}")


def best_median_worst(rows: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Three of the rows, by success AUC."""
    order = sorted(rows, key=lambda row: -row["success_auc"])
    return [("best", order[0]), ("median", order[len(order) // 2]), ("worst", order[-1])]


def strip(name: str, which: str, row: dict[str, Any], sequence: Recording) -> np.ndarray:
    """uint8 [H, W, 3]: `SHOWN` frames of the tracker's run, a line of text above them."""
    known = np.flatnonzero(np.isfinite(sequence.truth).all(axis=1))
    first = int(known[0])
    track = build(name, persistent=True).track(
        sequence.frames, sequence.truth[first : first + 1], start=first
    )
    shown = np.linspace(first, len(sequence.frames) - 1, SHOWN).round().astype(int)
    pictures = [
        picture(sequence.frames[t], track.boxes[t, 0], sequence.truth[t], f"{t}") for t in shown
    ]
    body = np.concatenate([padded(p, WIDTH + GAP) for p in pictures], axis=1)
    head = np.full((HEAD, body.shape[1], 3), 255, np.uint8)
    text = f"{name}, {which}: {row['sequence']}, AUC {row['success_auc']:.2f}"
    cv2.putText(head, text, (2, HEAD - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.4, BLACK, 1, cv2.LINE_AA)
    return np.concatenate([head, body, np.full((GAP, body.shape[1], 3), 255, np.uint8)])


def picture(frame: np.ndarray, box: np.ndarray, truth: np.ndarray, text: str) -> np.ndarray:
    """uint8 [h, WIDTH, 3]: one frame with both boxes."""
    factor = WIDTH / frame.shape[1]
    small = cv2.resize(frame, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    seen = bool(np.isfinite(truth).all())
    right = seen and float(iou(box, truth)) > 0.5
    for corners, colour in ((truth, WHITE), (box, GREEN if right else RED)):
        if np.isfinite(corners).all():
            x, y, w, h = np.round(np.asarray(corners) * factor).astype(int).tolist()
            cv2.rectangle(small, (x, y), (x + w, y + h), colour, 1, cv2.LINE_AA)
    for thick, colour in ((3, BLACK), (1, WHITE)):
        cv2.putText(
            small, text, (3, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.35, colour, thick, cv2.LINE_AA
        )
    return np.asarray(small, dtype=np.uint8)


def padded(image: np.ndarray, width: int) -> np.ndarray:
    """The image with white on its right."""
    wider = np.full((image.shape[0], width, 3), 255, np.uint8)
    wider[:, : image.shape[1]] = image
    return wider


if __name__ == "__main__":
    main()
