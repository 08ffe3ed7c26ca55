"""How many threads may a tracker use? One: its maps are small, and workers run side by side.

For one box on two cores, torch's thread pool costs over twenty times the work itself; many boxes
are a batch, and many videos are many processes.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import cv2

_lock = threading.Lock()
_inside = 0
_opencv_before = 1


@contextmanager
def one_thread(*, torch_too: bool = False) -> Iterator[None]:
    """OpenCV (and torch, where a tracker uses it) on one thread; the caller's numbers come back.

    OpenCV's number is the process's, so the last of several threads that leave restores it; torch's
    belongs to the calling thread.
    """
    global _inside, _opencv_before
    with _lock:
        if _inside == 0:
            _opencv_before = cv2.getNumThreads()
            cv2.setNumThreads(1)
        _inside += 1
    try:
        if torch_too:
            with _one_torch_thread():
                yield
        else:
            yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                cv2.setNumThreads(_opencv_before)


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
