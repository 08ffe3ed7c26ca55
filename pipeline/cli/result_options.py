"""The options of the commands that train, embed, and look at what came of it."""

from __future__ import annotations

from marey.pipeline.cli.commands import report
from marey.pipeline.cli.embed_command import embed
from marey.pipeline.cli.estimate_command import estimate
from marey.pipeline.cli.eval_command import evaluate
from marey.pipeline.cli.explore_command import explore
from marey.pipeline.cli.export_command import export
from marey.pipeline.cli.find_command import find
from marey.pipeline.cli.parser import Adds, add_engine
from marey.pipeline.cli.status_command import status
from marey.pipeline.cli.train_command import train


def train_options(command: Adds) -> None:
    """Of `marey train`."""
    made = command("train", train, "Train a method on an index, shards or images.")
    made.add_argument("method", help="preset name (see `marey methods`) or a YAML file")
    made.add_argument(
        "--data", required=True, action="append",
        help="index, shards, image table or image folder; given several times, a mixture of "
        "corpora, with weights: --data a.parquet:3 --data b.parquet:1",
    )  # fmt: skip
    made.add_argument("-o", "--out", required=True, help="run folder")
    made.add_argument("--probe", help="held-out index or image table for the online probe")
    made.add_argument("--resume", action="store_true", help="resume from the latest checkpoint")
    add_engine(made)
    made.add_argument(
        "settings", nargs="*", metavar="key=value",
        help="e.g. trainer.epochs=5; mining.KEY=VALUE for tracks that are mined first",
    )  # fmt: skip


def estimate_options(command: Adds) -> None:
    """Of `marey estimate`."""
    made = command(
        "estimate", estimate,
        "Say what a run will take: parameters, operations, memory, decoding, hours.",
    )  # fmt: skip
    made.add_argument("method", help="preset name (see `marey methods`) or a YAML file")
    made.add_argument("--data", required=True, help="index, shards, image table or image folder")
    made.add_argument("--gpus", type=int, default=0, help="number of GPUs (default 0: the CPU)")
    made.add_argument(
        "--tflops", type=float, metavar="N",
        help="sustained TFLOP/s of one GPU, or of the CPU (default 150, or 0.05)",
    )  # fmt: skip
    made.add_argument("settings", nargs="*", metavar="key=value", help="e.g. trainer.epochs=5")


def embed_options(command: Adds) -> None:
    """Of `marey embed`."""
    made = command("embed", embed, "Write an embedding for every frame of a corpus.")
    made.add_argument(
        "encoder", help="run folder, pixels, histogram, timm:NAME or timm:NAME@WEIGHTS"
    )
    made.add_argument("--data", required=True, help="index, image table or image folder")
    made.add_argument("-o", "--out", required=True, help="folder of embeddings")
    made.add_argument(
        "--fps", type=float, default=1.0, help="frames per second (default 1; 0: every frame)"
    )
    made.add_argument(
        "--copies", type=int, default=0,
        help="embed N strongly augmented copies of each frame instead (for `marey eval copies`)",
    )  # fmt: skip
    made.add_argument(
        "--dtype", choices=("float32", "float16"), default="float32",
        help="data type of the stored embeddings (default float32)",
    )  # fmt: skip
    add_engine(made)


def eval_options(command: Adds) -> None:
    """Of `marey eval`."""
    made = command("eval", evaluate, "Measure how good embeddings are.")
    made.add_argument("protocol", help="what is measured; see below")
    made.add_argument(
        "embeddings",
        help="folder of embeddings; for propagation, finetune and attentive: the encoder (run "
        "folder or timm:NAME); for pretext: the run folder; for tracking: a folder of sequences "
        "(OTB, LaSOT, GOT-10k, VOT)",
    )
    made.add_argument(
        "--data",
        help="finetune, attentive, pretext: index or image table; propagation: folder of tracked "
        "sequences",
    )
    made.add_argument(
        "--gallery", help="training embeddings (finetune, attentive: index or image table)"
    )
    made.add_argument("--labels", help="folder of JSON files, or a CSV or Parquet table")
    made.add_argument("--baseline", help="the same of another encoder (mostly untrained)")
    made.add_argument("--baseline-gallery", help="the gallery of the baseline's encoder")
    made.add_argument("settings", nargs="*", metavar="key=value", help="e.g. k=20")


def find_options(command: Adds) -> None:
    """Of `marey find`."""
    made = command("find", find, "Find the moments of other events that are most like one.")
    made.add_argument("embeddings", help="folder of embeddings")
    made.add_argument("video", help="its video_id, or the end of it, e.g. walk.mp4")
    made.add_argument("time_s", type=float, metavar="SECONDS", help="the moment in it")
    made.add_argument(
        "--count", type=int, default=5, help="how many, one from each event (default 5)"
    )
    made.add_argument("--page", metavar="FILE", help="draw them on a page (.html)")
    made.add_argument("--data", help="what was embedded, if it has moved")


def report_options(command: Adds) -> None:
    """Of `marey report`."""
    made = command(
        "report", report, "One page with pictures of a run, index, shards or embeddings."
    )
    made.add_argument("target", help="run folder, index, shards or folder of embeddings")
    made.add_argument("--baseline", help="embeddings of another encoder, shown beside")
    made.add_argument("--labels", help="labels of embeddings, as for `marey eval`")
    made.add_argument("-o", "--out", required=True, help="page to write (.html)")


def export_options(command: Adds) -> None:
    """Of `marey export`."""
    made = command("export", export, "Write embeddings or an encoder for other programs.")
    made.add_argument("target", help="folder of embeddings; for an encoder: run folder, timm:NAME")
    made.add_argument(
        "--to", required=True,
        choices=("atlas", "projector", "timm", "transformers", "torch", "onnx"),
        help="embeddings: atlas (Parquet for Embedding Atlas), projector (folder for TensorBoard); "
        "encoders: timm (plain weights for timm or torchvision, a folder), transformers (of V-JEPA "
        "2, a folder), torch (torch.export program, .pt2), onnx (.onnx), both with the "
        "preprocessing inside",
    )  # fmt: skip
    made.add_argument("-o", "--out", required=True, help="file or folder to write")
    made.add_argument("--data", help="embeddings: what was embedded, if it has moved")
    made.add_argument(
        "--neighbors", type=int, default=10,
        help="atlas: nearest moments of this many other videos for each frame (default 10)",
    )  # fmt: skip
    made.add_argument(
        "--thumbnail", type=int, default=96, metavar="PIXELS",
        help="embeddings: longer side of each frame's picture (default 96; 0: no pictures)",
    )  # fmt: skip


def explore_options(command: Adds) -> None:
    """Of `marey explore`."""
    made = command("explore", explore, "Explore embeddings in the browser of this machine.")
    made.add_argument("embeddings", help="folder of embeddings")
    made.add_argument("--data", help="what was embedded, if it has moved")
    made.add_argument("--baseline", help="embeddings of another encoder (mostly untrained), beside")
    made.add_argument("--labels", help="labels to colour by, as for `marey eval`")
    made.add_argument(
        "--port", type=int, default=0, help="port of this machine (default: any free one)"
    )


def status_options(command: Adds) -> None:
    """Of `marey status`."""
    made = command("status", status, "Say how far a command is, while it runs and after.")
    made.add_argument(
        "run_folder", metavar="FOLDER",
        help="the -o of a command: run folder, shards, embeddings, demo, or an index (.parquet)",
    )  # fmt: skip
    made.add_argument(
        "--watch", type=float, metavar="SECONDS", help="again every so many seconds until it ends"
    )
    made.add_argument(
        "--refused-above", type=float, metavar="SHARE",
        help="alarm (exit code 5) where a larger share of what was read is refused, e.g. 0.05",
    )  # fmt: skip
    made.add_argument(
        "--rate-below", type=float, metavar="SHARE",
        help="alarm where the rate of the last minute is below this share of the highest so far",
    )  # fmt: skip
    made.add_argument(
        "--on-alarm", metavar="COMMAND",
        help="command to run at the first alarm, without a shell, with the status as JSON on its "
        "input, e.g. 'curl -sd @- https://example.org/hook'",
    )  # fmt: skip
