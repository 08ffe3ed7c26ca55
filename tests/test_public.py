"""What Python programs may rely on: the names of `marey`, and the notebook."""

import json
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch

import marey
from tests.corpora import VIEWS, encode_corpus

ROOT = Path(__file__).resolve().parents[1]
SMALL = {
    "trainer.batch_size": 2, "method.sampling.pairs": 4, "data.decode_size": 32,
    "encoder.image_size": 32,
}  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return encode_corpus(tmp_path_factory.mktemp("corpus"), events=3)


def test_importing_marey_imports_neither_torch_nor_ray():
    code = (
        "import sys, marey; assert set(marey.__all__) <= set(dir(marey));"
        "print([m for m in ('torch', 'ray', 'cv2', 'av', 'numpy') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


@pytest.mark.parametrize("name", marey.__all__)
def test_every_public_name_is_there_and_documented(name):
    assert getattr(marey, name) is not None
    if name != "__version__":
        assert f"`marey.{name}" in (ROOT / "docs" / "python.md").read_text(encoding="utf-8")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'indexes'"):
        _ = marey.indexes


def test_the_samples_of_any_number_of_workers_are_those_of_the_trainer(corpus):
    """Each comes once per epoch, with the same frames, and they are those that training sees."""

    def seen(workers):
        samples = marey.Samples(corpus, "tcn", SMALL, epochs=2)
        loader = torch.utils.data.DataLoader(samples, batch_size=None, num_workers=workers)
        found = [(int(s["place"]), tuple(s["time_s"].tolist()), int(s["frames"].sum()))
                 for s in loader]  # fmt: skip
        assert len(found) == len(samples)
        return sorted(found)

    alone = seen(0)
    assert len(alone) == len(set(alone))
    assert seen(2) == alone
    batches = marey.batches(corpus, "tcn", SMALL, epochs=2)
    trained = sorted(
        (int(place), tuple(time_s.tolist()), int(frames.sum()))
        for batch in batches
        for place, time_s, frames in zip(
            batch["place"], batch["time_s"], batch["frames"], strict=True
        )
    )
    assert trained == alone


def test_the_index_names_what_cannot_be_read(tmp_path):
    encode_corpus(tmp_path / "videos", events=1)
    (tmp_path / "videos" / "e9_v0.mp4").write_bytes(b"no video")
    index = marey.index(tmp_path / "videos", tmp_path / "i.parquet", views=VIEWS)
    rows = index.table.select(["video_id", "status"]).to_pylist()
    assert {r["video_id"] for r in rows if r["status"] == "unreadable"} == {"e9_v0.mp4"}
    with pytest.raises(marey.MareyError, match=r"ends in \.parquet"):
        marey.index(tmp_path / "videos", tmp_path / "index")


def test_wrong_settings_are_sentences():
    with pytest.raises(marey.MareyError, match=r"did you mean trainer\.batch_size"):
        marey.recipe("tcn", {"trainer.bach_size": 8})
    with pytest.raises(marey.MareyError, match="no method or preset 'tnc'"):
        marey.recipe("tnc")
    with pytest.raises(marey.MareyError, match="single value"):
        marey.recipe("tcn", {"trainer.batch_size.more": 8})
    changed = marey.recipe(marey.recipe("tcn"), {"trainer.batch_size": 3})
    assert changed.trainer.batch_size == 3


def test_any_module_embeds_frames_and_videos(corpus):
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    video = str(corpus.parent / "e0_v0.mp4")
    times = [0.0, 0.5, 1.0]
    frames = marey.read(video, times, 32)
    expected = frames.mean(axis=(1, 2)) / 255
    np.testing.assert_allclose(marey.embed(network, frames, batch=2), expected, atol=1e-5)
    assert marey.embed(network, video, times).shape == (3, 3)
    with pytest.raises(marey.MareyError, match="uint8"):
        marey.embed(network, frames.astype(np.float32))
    with pytest.raises(marey.MareyError, match="times_s"):
        marey.embed(network, video)


def test_the_notebook_runs(tmp_path, monkeypatch):
    mpl.use("Agg")
    monkeypatch.chdir(tmp_path)
    encode_corpus(tmp_path / "videos", events=2, num_frames=36)
    (tmp_path / "videos" / "index.parquet").unlink()
    notebook = json.loads((ROOT / "docs/notebooks/first_embeddings.ipynb").read_text())
    names: dict = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"], "commit the notebook without outputs"
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    assert (tmp_path / "embeddings.png").stat().st_size > 10_000
