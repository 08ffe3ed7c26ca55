"""The benchmark for GPUs also runs on a CPU at the smallest size, so that it never rots."""

import json

from benchmarks.gpu import TINY, main


def test_every_row_of_the_tiny_run_has_figures(tmp_path):
    rows = main(["--tiny", "--seconds", "0.05", "--json", str(tmp_path / "rows.json")])
    assert [row.name for row in rows] == [*TINY]
    for row in rows:
        assert row.batch == 4
        assert row.samples_per_s >= row.with_augmentation * 0.5 > 0
        assert row.share_of_peak > 0
    assert len(json.loads((tmp_path / "rows.json").read_text())) == len(TINY)
