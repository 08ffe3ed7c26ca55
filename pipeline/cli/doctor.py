"""What is installed, what is missing, and what to do about it: what `marey doctor` prints."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from marey.configs import plugins

PACKAGES = ("torch", "torchvision", "av", "cv2", "ray", "pyarrow", "timm")
State = Literal["ok", "optional", "missing"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `missing` must be mended; `optional` is absent and not needed."""

    name: str
    state: State
    found: str
    advice: str = ""


def examine() -> Iterator[Finding]:
    """Look at everything that marey uses, one thing after the other; some take seconds."""
    yield _python()
    yield _cores()
    yield _memory()
    for name in PACKAGES:
        yield _needed(name)
    yield _pair()
    yield _gpu()
    yield _decoder("pyav", "av", "python -m pip install av")
    yield _decoder("decord", "decord", "python -m pip install decord")
    yield _decoder(
        "torchcodec", "torchcodec",
        "python -m pip install torchcodec, and FFmpeg's shared libraries (apt install ffmpeg)",
        needed=False,
    )  # fmt: skip
    yield _contrib()
    yield _ray()
    yield _shared_memory()
    yield from _plugins()


WIDTH = len("torch with torchvision")
"""Of the column of names."""


def line_of(finding: Finding) -> str:
    """A finding as a line of the table, advice below it."""
    advice = f"\n{'':<{WIDTH + 12}}{finding.advice}" if finding.advice else ""
    return f"{finding.state:<9} {finding.name:<{WIDTH}}  {finding.found}{advice}"


def _python() -> Finding:
    version = platform.python_version()
    good = version.startswith(("3.11.", "3.12.", "3.13.", "3.14."))
    return Finding(
        "python", "ok" if good else "missing", version, "" if good else "use CPython 3.11 to 3.14"
    )


def _cores() -> Finding:
    from marey.pipeline.runtime.cores import default_workers

    return Finding("cores", "ok", f"{default_workers()} usable of {os.cpu_count()}")


def _memory() -> Finding:
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    gigabytes = pages * size / 2**30
    advice = "" if gigabytes >= 6 else "Ray, decoding and training want 6 GiB or more"
    return Finding("memory", "ok", f"{gigabytes:.1f} GiB", advice)


def _needed(name: str) -> Finding:
    try:
        module = importlib.import_module(name)
    except Exception as error:  # an import can fail in any way: that is what is looked for
        return Finding(name, "missing", f"does not import: {error}", "run `make setup` again")
    return Finding(name, "ok", str(getattr(module, "__version__", "installed")))


def _pair() -> Finding:
    try:
        import torchvision.ops

        assert torchvision.ops.nms
    except Exception as error:
        return Finding(
            "torch with torchvision", "missing", str(error),
            "install both plainly, from one registry: uv pip install torch torchvision",
        )  # fmt: skip
    return Finding("torch with torchvision", "ok", "they load together")


def _gpu() -> Finding:
    try:
        import torch
    except Exception as error:
        return Finding("gpu", "missing", str(error))
    if not torch.cuda.is_available():
        return Finding("gpu", "optional", "none: training runs on the CPU in float32")
    names = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    return Finding("gpu", "ok", f"{', '.join(names)} (CUDA {torch.version.cuda}), bfloat16")


def _decoder(name: str, package: str, advice: str, needed: bool = True) -> Finding:
    try:
        module = importlib.import_module(package)
    except Exception as error:
        state: State = "missing" if needed else "optional"
        return Finding(f"decoder {name}", state, f"does not import: {_first(error)}", advice)
    version = getattr(module, "__version__", "") or _version(package)
    return Finding(f"decoder {name}", "ok", version)


def _contrib() -> Finding:
    found: Callable[[str], str | None] = lambda name: _version(name) or None  # noqa: E731
    wheels = [
        name
        for name in ("opencv-python", "opencv-python-headless", "opencv-contrib-python",
                     "opencv-contrib-python-headless")
        if found(name)
    ]  # fmt: skip
    if len(wheels) > 1:
        return Finding(
            "opencv wheels", "missing", ", ".join(wheels),
            "they overwrite each other's files: keep one and install it again",
        )  # fmt: skip
    if wheels and "contrib" in wheels[0]:
        return Finding("opencv wheels", "ok", f"{wheels[0]} (with KCF and CSRT)")
    return Finding(
        "opencv wheels", "optional", ", ".join(wheels) or "none",
        "OpenCV's own KCF and CSRT are only in opencv-contrib-python-headless; marey's trackers "
        "do not need them",
    )  # fmt: skip


def _ray() -> Finding:
    address = os.environ.get("RAY_ADDRESS")
    if address:
        return Finding("ray cluster", "ok", f"RAY_ADDRESS={address}")
    return Finding("ray cluster", "ok", "none named: a local instance is started for each command")


def _plugins() -> Iterator[Finding]:
    """The plugins that installed packages declare, and whether they can be imported."""
    plugins.load()
    faults = plugins.faults()
    for module, package in plugins.installed().items():
        if module in faults:
            advice = f"mend the package, or uninstall it: {package}"
            yield Finding(f"plugin {module}", "missing", faults[module], advice)
        else:
            yield Finding(f"plugin {module}", "ok", package)


def _shared_memory() -> Finding:
    if not os.path.isdir("/dev/shm"):
        return Finding("shared memory", "ok", "this system has no /dev/shm; Ray uses files")
    free = shutil.disk_usage("/dev/shm").free / 2**30
    advice = "" if free >= 1 else "in a container, raise --shm-size; Ray is slow with less"
    return Finding(
        "shared memory", "ok" if free >= 1 else "missing", f"{free:.1f} GiB free", advice
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _first(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:120] if lines else type(error).__name__
