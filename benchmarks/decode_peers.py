"""How does each library deliver a list of frames? One process a library, for `decode.py`.

Reads one JSON line a repeat: {"paths": [...], "requests": [[frame numbers], ...]}, and answers with
CPU seconds, frames delivered to samples, frames decoded (0 where the library hides it) and peak
memory; to one with "look": true, also with thumbnails of the frames of the first path.

The names with `-merged` are given all frames of all samples in one sorted call, which a user of the
library would have to arrange; the names without are asked sample by sample.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

FPS = 25
SHORT_SIDE = 224

THUMBNAIL = (32, 24)
"""Width and height of the pictures that tell which frames a library has given."""

Reader = Callable[[str, list[list[int]]], tuple[Sequence[np.ndarray], int]]
"""(path, requests as frame numbers) -> (frames uint8 [H, W, 3] in the order in which they are asked
for, frames decoded)."""


def merged(requests: list[list[int]]) -> list[int]:
    """Every wanted frame once, ascending: the best order to ask any library for."""
    return sorted({k for request in requests for k in request})


def scaled(width: int, height: int) -> tuple[int, int]:
    factor = SHORT_SIDE / min(width, height)
    return round(width * factor), round(height * factor)


def bare() -> Reader:
    """libav's decoder alone on the packets that these frames need; nothing is converted."""
    from marey.pipeline.video.container import open_video
    from marey.pipeline.video.packet_plan import plan_runs
    from marey.pipeline.video.timeline import scan

    def run(path: str, requests: list[list[int]]) -> tuple[Sequence[np.ndarray], int]:
        wanted = np.array(merged(requests))
        decoded = 0
        with open_video(path) as source:  # with libav's own probing, as every library opens
            timeline, packets = scan(source, keep_bytes=2**30)
            assert packets is not None
            context = source.stream.codec_context
            context.thread_count, context.thread_type = 1, "SLICE"
            for part in plan_runs(timeline, wanted):
                for packet in packets[part.start : part.stop]:
                    decoded += len(context.decode(packet))
                decoded += len(context.decode(None))
                context.flush_buffers()
        return [], decoded

    return run


def marey() -> Reader:
    from marey.pipeline.video import FrameRequest, read_plan

    def run(path: str, requests: list[list[int]]) -> tuple[Sequence[np.ndarray], int]:
        asked = [FrameRequest(k, np.array(r) / FPS) for k, r in enumerate(requests)]
        plan = read_plan(path, asked, SHORT_SIDE)
        clips = {clip.request_id: clip.frames for clip in plan}
        assert not plan.failures, plan.failures
        frames = [frame for k in range(len(requests)) for frame in clips[k]]
        return frames, plan.stats.decoded

    return run


def pyav() -> Reader:
    """The usual loop: seek, decode to the frame, `reformat` to small RGB."""
    import av

    def run(path: str, requests: list[list[int]]) -> tuple[Sequence[np.ndarray], int]:
        decoded, got = 0, []
        with av.open(path) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count, stream.codec_context.thread_type = 1, "SLICE"
            tick = float(stream.time_base)
            first = stream.start_time or 0
            wanted = merged(requests)
            gap = 50
            at = 0
            while at < len(wanted):
                if at == 0 or wanted[at] - wanted[at - 1] > gap:
                    target = int(wanted[at] / FPS / tick) + first
                    container.seek(target, stream=stream, backward=True)
                    frames = container.decode(stream)
                for frame in frames:
                    decoded += 1
                    if (frame.pts - first) * tick >= wanted[at] / FPS - 0.5 / FPS:
                        size = scaled(frame.width, frame.height)
                        small = frame.reformat(*size, format="rgb24", threads=1)
                        got.append(small.to_ndarray())
                        break
                at += 1
        return got, decoded

    return run


def calls(requests: list[list[int]], merge: bool) -> list[list[int]]:
    """What to ask for: all frames at once, or sample by sample as a data loader does."""
    return [merged(requests)] if merge else requests


def decord(merge: bool) -> Reader:
    import decord as library

    def run(path: str, requests: list[list[int]]) -> tuple[Sequence[np.ndarray], int]:
        width, height = scaled(768, 576)
        reader = library.VideoReader(path, width=width, height=height, num_threads=1)
        clips = [reader.get_batch(c).asnumpy() for c in calls(requests, merge)]
        return [frame for clip in clips for frame in clip], 0

    return run


def torchcodec(mode: str, merge: bool) -> Reader:
    import torch
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import Resize

    torch.set_num_threads(1)

    def run(path: str, requests: list[list[int]]) -> tuple[Sequence[np.ndarray], int]:
        small = (SHORT_SIDE, scaled(768, 576)[0])
        decoder = VideoDecoder(
            path,
            seek_mode=mode,
            num_ffmpeg_threads=1,
            dimension_order="NHWC",
            transforms=[Resize(small)],
        )
        clips = [decoder.get_frames_at(c).data.numpy() for c in calls(requests, merge)]
        return [frame for clip in clips for frame in clip], 0

    return run


def opencv() -> Reader:
    os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"  # it has no AV1 decoder, and says so every frame
    import cv2

    cv2.setNumThreads(1)

    def run(path: str, requests: list[list[int]]) -> tuple[Sequence[np.ndarray], int]:
        capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        at, got = 0, []
        for wanted in merged(requests):
            if wanted - at > 50:
                capture.set(cv2.CAP_PROP_POS_FRAMES, wanted)
                at = wanted
            while at < wanted:
                capture.grab()
                at += 1
            found, picture = capture.read()
            at += 1
            if not found:
                raise RuntimeError(f"no frame {wanted}")
            size = scaled(picture.shape[1], picture.shape[0])
            small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
            got.append(cv2.cvtColor(small, cv2.COLOR_BGR2RGB))
        capture.release()
        return got, 0

    return run


def spdl() -> Reader:
    import spdl.io as library

    def run(path: str, requests: list[list[int]]) -> tuple[Sequence[np.ndarray], int]:
        packets = library.demux_video(path)
        config = library.decode_config(decoder_options={"threads": "1"})
        frames = library.sample_decode_video(
            packets,
            merged(requests),
            decode_config=config,
            filter_desc=library.get_video_filter_desc(
                scale_width=scaled(768, 576)[0], scale_height=SHORT_SIDE, pix_fmt="rgb24"
            ),
        )
        return list(library.to_numpy(library.convert_frames(frames))), 0

    return run


def torchvision() -> Reader:
    import torch
    from torchvision.io import read_video
    from torchvision.transforms.v2.functional import resize

    torch.set_num_threads(1)

    def run(path: str, requests: list[list[int]]) -> tuple[Sequence[np.ndarray], int]:
        wanted = merged(requests)
        start = wanted[0]
        video, _, _ = read_video(
            path, start / FPS, (wanted[-1] + 0.5) / FPS, pts_unit="sec", output_format="TCHW"
        )
        small = resize(video[torch.tensor(wanted) - start], [SHORT_SIDE], antialias=True)
        return list(small.permute(0, 2, 3, 1).numpy()), len(video)

    return run


def ray() -> Reader:
    """Ray Data's `read_videos` decodes every frame at full size; the wanted ones are then resized.

    Its workers' CPU time is counted through the cgroup-free way of reading it from their processes.
    """
    import cv2
    import ray as library

    library.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    cv2.setNumThreads(1)

    def run(path: str, requests: list[list[int]]) -> tuple[Sequence[np.ndarray], int]:
        wanted = set(merged(requests))
        dataset = library.data.read_videos(path, override_num_blocks=1)
        decoded, got = 0, {}
        for batch in dataset.iter_batches(batch_size=32):
            for index, picture in zip(batch["frame_index"], batch["frame"], strict=True):
                decoded += 1
                if int(index) in wanted:
                    size = scaled(picture.shape[1], picture.shape[0])
                    got[int(index)] = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        return [got[k] for k in sorted(wanted)], decoded

    return run


READERS: dict[str, Callable[[], Reader]] = {
    "bare": bare,
    "marey": marey,
    "pyav": pyav,
    "decord": lambda: decord(False),
    "decord-merged": lambda: decord(True),
    "torchcodec-exact": lambda: torchcodec("exact", False),
    "torchcodec-approx": lambda: torchcodec("approximate", False),
    "torchcodec-merged": lambda: torchcodec("approximate", True),
    "torchcodec-exact-merged": lambda: torchcodec("exact", True),
    "opencv": opencv,
    "spdl": spdl,
    "torchvision": torchvision,
    "ray": ray,
}


MERGING = frozenset(
    {
        "pyav",
        "decord-merged",
        "torchcodec-merged",
        "torchcodec-exact-merged",
        "opencv",
        "spdl",
        "torchvision",
        "ray",
    }
)
"""Readers that give each frame once, ascending; the others give them sample by sample."""


def thumbnails(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Frames made tiny: uint8 [N, 24, 32, 3]."""
    import cv2

    small = [cv2.resize(frame, THUMBNAIL, interpolation=cv2.INTER_AREA) for frame in frames]
    return np.stack(small) if small else np.empty((0, *THUMBNAIL[::-1], 3), np.uint8)


def peak_mib() -> float:
    """Largest resident size since the last reset, in MiB (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def tree_cpu_s() -> float:
    """CPU seconds of this process, and of its live descendants (Ray's workers)."""
    children: dict[int, list[int]] = {}
    seconds: dict[int, float] = {}
    tick = os.sysconf("SC_CLK_TCK")
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(entry.name))
        seconds[int(entry.name)] = (int(fields[11]) + int(fields[12])) / tick
    total, waiting = time.process_time(), list(children.get(os.getpid(), []))
    while waiting:
        process = waiting.pop()
        total += seconds.get(process, 0.0)
        waiting += children.get(process, [])
    return total


def main() -> None:
    peer = sys.argv[1]
    clock = tree_cpu_s if peer == "ray" else time.process_time
    try:
        reader = READERS[peer]()
    except Exception as error:  # whatever a library raises when it cannot be loaded
        print(json.dumps({"missing": str(error).splitlines()[0][:120]}), flush=True)
        return
    print(json.dumps({"ready": peer}), flush=True)
    for line in sys.stdin:
        message = json.loads(line)
        reset_peak()
        before, began = peak_mib(), clock()
        try:
            got = [reader(path, message["requests"]) for path in message["paths"]]
            answer: dict[str, object] = {
                "cpu_s": clock() - began,
                "frames": len(message["paths"]) * sum(len(r) for r in message["requests"]),
                "decoded": sum(decoded for _, decoded in got),
                "peak_mib": peak_mib() - before,
            }
            if message.get("look"):
                small = thumbnails([np.ascontiguousarray(frame) for frame in got[0][0]])
                answer["thumbnails"] = base64.b64encode(small.tobytes()).decode()
        except Exception as error:  # one library failing must not end the table
            answer = {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
