"""Is what a command was given there, and of the right kind? Said before anything heavy is loaded.

What a location really holds is for the room that opens it to say; here is what its name shows.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from marey.configs import plugins
from marey.configs.errors import InputError, UsageError
from marey.configs.load import check, read_preset
from marey.configs.recipes import method_of, presets
from marey.configs.schema import RunConfig
from marey.pipeline.cli.declared import method_settings

VIDEOS = frozenset(
    f".{end}"
    for end in ["mp4", "mkv", "mov", "avi", "webm", "m4v", "mpg", "mpeg", "ts", "mts", "wmv", "flv"]
)
IMAGES = frozenset(f".{end}" for end in ["jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff"])


def check_data(location: str, option: str = "--data") -> None:
    """Raises UsageError for a video, InputError for what is not there.

    Where a plugin has brought a layout, `open_source` has to say what it reads.
    """
    plugins.load()
    if plugins.brought("layout"):
        return
    if Path(location).suffix.lower() in VIDEOS:
        raise UsageError(
            f"{option} {location} is a video; index it first: "
            f"marey index {location} -o index.parquet, then give {option} index.parquet"
        )
    check_there(location, option, "write one with `marey index FOLDER -o index.parquet`")
    if _holds_videos_alone(Path(location)):
        raise UsageError(
            f"{option} {location} is a folder of videos; index it first: "
            f"marey index {location} -o index.parquet, then give {option} index.parquet"
        )


def _holds_videos_alone(folder: Path) -> bool:
    """Whether a local folder has videos, and is neither shards nor holds an image."""
    if not folder.is_dir():
        return False
    ends = {path.suffix.lower() for path in folder.rglob("*")}
    return bool(ends & VIDEOS) and not ends & {*IMAGES, ".parquet"}


def check_there(location: str, option: str, advice: str) -> None:
    """Raises InputError for a local file or folder that does not exist, with what makes one."""
    if "://" not in location and not Path(location).exists():
        file, mark, weight = location.rpartition("=")
        if mark and weight.replace(".", "", 1).isdigit() and Path(file).exists():
            advice = f"a weight stands behind a colon: {option} {file}:{weight}"
        raise InputError(f"{option} {location}: no such file or folder; {advice}")


def check_encoder(location: str) -> None:
    """Raises InputError for what looks like a folder and is none, UsageError for weights alone."""
    suffix = Path(location).suffix
    if suffix in (".safetensors", ".pt", ".pth", ".ckpt"):
        folder = Path(location).parent
        raise UsageError(
            f"{location} is a file of weights: give the folder of the run ({folder}), or "
            f"timm:NAME@{location} for the weights of a timm model"
        )


def check_suffix(location: str, suffix: str, what: str) -> None:
    """Raises UsageError for an output whose name does not end as its kind does."""
    if not location.endswith(suffix):
        stem = (
            Path(location).with_suffix(suffix) if Path(location).suffix else f"{location}{suffix}"
        )
        raise UsageError(f"-o {location}: {what} is a {suffix} file; for example -o {stem}")


def check_views(preset: str, config: RunConfig, data: str) -> None:
    """Raises InputError where samples pair two cameras and no event of the index has two.

    The message shows how to group the videos, by their own names, and the presets of the method
    that need one camera only.
    """
    from marey.pipeline.data.guess_views import guess_views

    kind = getattr(getattr(config.method, "sampling", None), "kind", "")
    if kind != "view_pairs" or not data.endswith(".parquet") or not Path(data).is_file():
        return
    names, events = _videos(data)
    if not names or max(Counter(events).values()) > 1:
        return
    guess = guess_views(names)
    example = guess.expression if guess else r"(?P<event>take\d+)_(?P<view>\w+)"
    own = (
        f" ({guess.events} events with the views {', '.join(guess.views)})"
        if guess
        else " (here for take1_left.mp4; or a CSV with video_id,event,view)"
    )
    others = _presets_for_one_camera(config.name)
    single = f", or train {' or '.join(others)}, for one camera" if others else ""
    raise InputError(
        f"{preset} pairs two cameras that saw one event, and all {len(names)} videos of {data} are "
        f"events of their own (e.g. {', '.join(names[:3])}). Group them: "
        f"marey index FOLDER -o {data} --overwrite --views '{example}'{own}{single}"
    )


def _videos(index: str) -> tuple[list[str], list[str]]:
    """Names and events of the videos of an index; none where the file is something else."""
    import pyarrow.parquet as pq

    columns = ["video_id", "event"]
    try:
        table = pq.read_table(index, columns=columns)
    except Exception:  # what it is instead, the room that opens it says
        return [], []
    if table.column_names != columns:
        return [], []
    return table["video_id"].to_pylist(), table["event"].to_pylist()


def _presets_for_one_camera(method: str) -> list[str]:
    found = []
    for preset in presets():
        if method_of(preset) == method and preset != "demo":
            tree = read_preset(preset)
            settings = check(method_settings(method), tree.get("method") or {})
            kind = getattr(getattr(settings, "sampling", None), "kind", "")
            if kind != "view_pairs" and _is_for_images(tree):
                found.append(preset)
    return found


def _is_for_images(tree: dict[str, object]) -> bool:
    """Whether a preset's encoder sees single frames, as most do."""
    encoder = tree.get("encoder")
    return not isinstance(encoder, dict) or encoder.get("clip_frames", 1) == 1
