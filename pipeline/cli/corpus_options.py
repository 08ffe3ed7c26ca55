"""The options of the commands that describe a corpus, look for faults in it, and mine it."""

from __future__ import annotations

from marey.pipeline.cli.check_command import check
from marey.pipeline.cli.index_command import index
from marey.pipeline.cli.mine_command import mine
from marey.pipeline.cli.parser import Adds, add_engine
from marey.pipeline.cli.track_command import track


def index_options(command: Adds) -> None:
    """Of `marey index`."""
    made = command("index", index, "Describe a corpus of videos without decoding it.")
    made.add_argument(
        "source", nargs="+",
        help="folder, file, glob, list file (.csv, .tsv, .json, .jsonl, .parquet, .txt) or URI",
    )  # fmt: skip
    made.add_argument(
        "-o",
        "--out",
        required=True,
        help="index to write: a .parquet file, or FOLDER/ for one in parts",
    )
    made.add_argument(
        "--views",
        help="regular expression with the groups event and view, or label, or a CSV of placements",
    )
    made.add_argument(
        "--labels-from", metavar="RULE",
        help="class of a video: `folder` (its parent's name), or a regular expression with the "
        "group label",
    )  # fmt: skip
    made.add_argument(
        "--columns", metavar="NAME=COLUMN,...",
        help="columns of a list file that do not go by their usual names; or how a name is made: "
        "uri={id}.mp4",
    )  # fmt: skip
    again = made.add_mutually_exclusive_group()
    again.add_argument(
        "--append", action="store_true",
        help="add what is new or changed in the sources to an index that is there",
    )  # fmt: skip
    again.add_argument(
        "--refresh", action="store_true",
        help="the same, and drop rows that the sources no longer have",
    )  # fmt: skip
    made.add_argument("--root", help="where a list's relative paths start (default: its folder)")
    made.add_argument(
        "--times", choices=("seconds", "frames"), default="seconds",
        help="what starts and ends in a list file count",
    )  # fmt: skip
    made.add_argument("--rows-at", metavar="NAMES", help="where in a JSON list the rows are: a.b")
    made.add_argument(
        "--layout", metavar="NAME",
        help="how the videos lie in storage: files, lerobot, webdataset, zip, huggingface, frames "
        "(default: recognised; docs/corpora.md)",
    )  # fmt: skip
    made.add_argument(
        "--frames-fps", type=float, metavar="FPS",
        help="the sources are folders of numbered images, so many frames per second",
    )  # fmt: skip
    made.add_argument(
        "--motion", choices=("packets", "vectors", "flow", "none"), default="packets",
        help="how motion is measured (packets: without decoding; vectors and flow decode)",
    )  # fmt: skip
    made.add_argument(
        "--scan", choices=("header", "full"), default="header",
        help="header: MP4 and MOV files by their tables, a few reads each; full: read every file "
        "to its end",
    )  # fmt: skip
    made.add_argument(
        "--sync", choices=("audio", "motion"),
        help="estimate the clock offsets of an event's views from their sound or their motion",
    )  # fmt: skip
    made.add_argument(
        "--sync-within", type=float, default=30.0, metavar="SECONDS",
        help="largest offset that --sync looks for (default 30)",
    )  # fmt: skip
    made.add_argument("--workers", type=int, help="number of processes (default: one per core)")
    made.add_argument(
        "--engine", choices=("local", "ray"), default="local",
        help="local: processes of this machine; ray: actors of the cluster, which all reach the "
        "files and the folder of the index (default: local)",
    )  # fmt: skip
    made.add_argument(
        "--time-limit", type=float, metavar="SECONDS",
        help="timeout per file; a file that exceeds it is marked unreadable "
        "(default 600, or 3600 where --motion decodes)",
    )  # fmt: skip


def check_options(command: Adds) -> None:
    """Of `marey check`."""
    made = command(
        "check", check, "Look for faults in a data set: broken, frozen, doubled, swapped."
    )
    made.add_argument("index", help="index to check (.parquet)")
    made.add_argument("-o", "--out", help="index to write without the faulty videos (.parquet)")
    made.add_argument("--page", help="page to write, with the worst cases as pictures (.html)")
    made.add_argument(
        "--min-seconds", type=float, default=0.0, metavar="SECONDS",
        help="shorter videos are too short (default: only those below a fifth of the median)",
    )  # fmt: skip
    made.add_argument("--workers", type=int, help="number of processes (default: one per core)")


def mine_options(command: Adds) -> None:
    """Of `marey mine`."""
    made = command(
        "mine", mine, "Write samples to shards: tracked patches, tuples, pairs, clips, ..."
    )
    made.add_argument("data", help="index, image table or image folder")
    made.add_argument("-o", "--out", required=True, help="folder of shards")
    made.add_argument(
        "--kind", default="tracks",
        help="tracks (default), tuples, pairs (or view_pairs), time_pairs, clips, spread or frames",
    )  # fmt: skip
    add_engine(made)
    made.add_argument("settings", nargs="*", metavar="key=value", help="e.g. proposals.every_s=2")


def track_options(command: Adds) -> None:
    """Of `marey track`."""
    made = command("track", track, "Track objects in a video and draw their boxes.")
    made.add_argument("video", help="file or URI")
    made.add_argument(
        "--box", action="append",
        help="x,y,w,h in pixels; may be repeated (default: what moves at the start)",
    )  # fmt: skip
    made.add_argument(
        "--tracker", default="strcf", help="name of the tracker (default strcf); see below"
    )
    made.add_argument("--start", type=float, default=0.0, help="seconds (default 0)")
    made.add_argument("--seconds", type=float, default=20.0, help="length (default 20)")
    made.add_argument("-o", "--out", required=True, help="video to write (.mp4)")
    made.add_argument("settings", nargs="*", metavar="key=value", help="e.g. min_score=0.2")
