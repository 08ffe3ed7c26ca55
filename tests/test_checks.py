"""`marey check`: faults that were planted are found, sound videos are left in peace."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from marey.pipeline.cli.main import main
from marey.pipeline.data.build_index import make_index, write_index
from marey.pipeline.data.checks.check_index import Checked, check_index
from marey.pipeline.data.checks.finding import KEPT
from tests.planted_faults import Truth, plant


def figures(checked: Checked, must: Truth, may: Truth) -> tuple[float, float, Truth, Truth]:
    """Precision, recall, what was found wrongly, what was missed."""
    found = {(finding.kind, finding.video_id) for finding in checked.findings}
    wrong, missed = found - must - may, must - found
    return 1 - len(wrong) / max(1, len(found)), 1 - len(missed) / len(must), wrong, missed


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth, Truth]:
    """A set with a fault or two of each kind, indexed."""
    root = tmp_path_factory.mktemp("planted")
    must, may = plant(root / "set", 1)
    write_index(make_index([str(root / "set")]), str(root / "i.parquet"))
    return root, must, may


def test_planted_faults_are_found_and_nothing_else(planted: tuple[Path, Truth, Truth]) -> None:
    root, must, may = planted
    precision, recall, wrong, missed = figures(check_index(str(root / "i.parquet")), must, may)
    assert (precision, recall) == (1.0, 1.0), f"wrongly: {wrong}; missed: {missed}"


@pytest.mark.slow
def test_of_two_hundred_planted_faults_nearly_all_are_found(tmp_path: Path) -> None:
    must, may = plant(tmp_path / "set", 15, sound=60, seed=1)
    write_index(make_index([str(tmp_path / "set")], workers=2), str(tmp_path / "i.parquet"))
    checked = check_index(str(tmp_path / "i.parquet"), workers=2)
    precision, recall, wrong, missed = figures(checked, must, may)
    assert len(must) >= 200
    assert precision >= 0.95, wrong
    assert recall >= 0.95, missed


def test_the_command_says_writes_and_cleans(
    planted: tuple[Path, Truth, Truth], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    root, must, _ = planted
    clean, page = tmp_path / "clean.parquet", tmp_path / "check.html"
    words = ["check", str(root / "i.parquet"), "-o", str(clean), "--page", str(page)]
    assert main([*words, "--workers", "1"]) == 3
    said = capsys.readouterr()
    assert "frozen" in said.out
    left = set(pq.read_table(clean)["video_id"].to_pylist())
    assert left.isdisjoint({name for kind, name in must if kind not in KEPT})
    text = page.read_text()
    assert "Swapped cameras" in text
    assert text.count("<img") > 10
    assert main(["check", str(clean), "--workers", "1"]) in (0, 3)
