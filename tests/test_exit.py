"""No success ends as a failure: what may still run when Python ends takes no process down."""

import io
import subprocess
import sys
import weakref

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from marey.pipeline.runtime.parquet import read_parquet

LEFT_BEHIND = """
import sys, threading, time
import cv2, numpy as np
from marey.pipeline.cli.main import command

def work():
    large = np.zeros((2000, 2000, 3), np.uint8)
    while True:
        cv2.resize(large, (1000, 1000), interpolation=cv2.INTER_AREA)

threading.Thread(target=work, daemon=True).start()
time.sleep(0.05)
sys.argv = ["marey", "{word}"]
command()
"""


@pytest.mark.parametrize(("word", "code"), [("--version", 0), ("nonsense", 2)])
def test_a_thread_that_is_left_behind_takes_no_process_down(word, code):
    """Of a decoder that hangs, say; in C++ when Python ends, it would end in an abort."""
    for _ in range(3):
        script = LEFT_BEHIND.format(word=word)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert done.returncode == code
        assert "terminate" not in done.stderr
        assert (done.stdout if code == 0 else done.stderr).strip()


def test_no_thread_holds_a_file_that_has_been_read():
    """One of Arrow's that let go of it while Python ended would take the process down."""

    class Content(io.BytesIO):
        pass

    buffer = io.BytesIO()
    table = pa.table({"a": np.arange(10_000), "b": [str(n) for n in range(10_000)]})
    pq.write_table(table, buffer, row_group_size=500)
    for _ in range(50):
        content = Content(buffer.getvalue())
        held = weakref.ref(content)
        assert read_parquet(content, ["b", "a"]).column_names == ["b", "a"]
        del content
        assert held() is None
    assert read_parquet(buffer.getvalue()).equals(table)
