"""What `marey export` writes is opened by the programs that it is for, without marey."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from marey.configs.encoder import EncoderConfig
from marey.models.encoders.encoder import Encoder
from marey.pipeline.cli.main import main
from marey.pipeline.embedding.embed import embed
from marey.pipeline.embedding.embeddings import load_embeddings
from marey.pipeline.embedding.encoder_files import export_encoder, load_encoder
from marey.pipeline.export.whole_encoder import WholeEncoder
from marey.pipeline.runtime.storage import Folder
from tests.corpora import encode_corpus

TOLERANCE = 1e-4
ENCODERS = {
    "tiny": EncoderConfig(backbone="tiny", image_size=32, embedding_dim=8, unit_norm=True),
    "resnet18": EncoderConfig(backbone="resnet18", image_size=32),
    "vit": EncoderConfig(backbone="vit_tiny_patch16_224", image_size=32, stages=2),
    "clips": EncoderConfig(backbone="tiny_r3d", clip_frames=4, image_size=32),
    "lab": EncoderConfig(backbone="tiny", input="lab_split", image_size=32),
}


def frames_of(encoder, count=3, height=75, width=50):
    clip = encoder.config.clip_frames
    shape = (count, height, width, 3) if clip == 1 else (count, clip, height, width, 3)
    return torch.from_numpy(np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8))


def run_of(folder, config, seed=0):
    """An encoder with batch statistics of its own, as a run leaves it."""
    torch.manual_seed(seed)
    encoder = Encoder(config)
    for name, buffer in encoder.named_buffers():
        if "running" in name:
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    export_encoder(Folder(str(folder)), encoder, {})
    return str(folder)


def without_marey(code, folder):
    """Run Python in which marey cannot be imported; returns what it printed."""
    block = "import sys; sys.modules['marey'] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", block + code], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("size", [(32, 32), (48, 64), (75, 50), (240, 321), (20, 31)])
def test_the_preprocessing_inside_is_that_of_evaluation(size):
    encoder = Encoder(ENCODERS["tiny"]).eval()
    frames = frames_of(encoder, 2, *size)
    torch.testing.assert_close(
        WholeEncoder(encoder)._prepared(frames), encoder.preprocess(frames), atol=2e-5, rtol=0
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "vit"])
def test_timm_opens_the_plain_weights_alone(name, tmp_path):
    run = run_of(tmp_path / "run", ENCODERS[name])
    assert main(["export", run, "--to", "timm", "-o", str(tmp_path / "plain")]) == 0
    encoder, _ = load_encoder(run)
    images = encoder.preprocess(frames_of(encoder))
    torch.save(images, tmp_path / "images.pt")
    without_marey(
        "import torch, timm\n"
        "model = timm.create_model('local-dir:plain', pretrained=True).eval()\n"
        "images = torch.load('images.pt')\n"
        "cfg = timm.data.resolve_model_data_config(model)\n"
        "assert cfg['input_size'][-1] == 32, cfg\n"
        "with torch.no_grad(): torch.save(model(images), 'vectors.pt')\n",
        tmp_path,
    )
    with torch.no_grad():
        expected = encoder(images)
    found = torch.load(tmp_path / "vectors.pt")
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


def test_the_printed_line_loads_a_network_cut_short(tmp_path, capsys):
    """A ResNet without its last stage is a feature network of timm's."""
    config = EncoderConfig(backbone="resnet18", stages=3, image_size=32, embedding_dim=4)
    run = run_of(tmp_path / "run", config)
    out = str(tmp_path / "plain")
    assert main(["export", run, "--to", "timm", "-o", out, "--json"]) == 0
    shown = capsys.readouterr()
    answer = json.loads(shown.out)
    assert "the trunk alone" in shown.err
    encoder, _ = load_encoder(run)
    images = encoder.preprocess(frames_of(encoder))
    names = {}
    exec(f"import timm, safetensors.torch\n{answer['use_with']}", names)
    with torch.no_grad():
        found, expected = names["model"].eval()(images)[-1], encoder.features(images)
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    "name",
    ["tiny", *(pytest.param(n, marks=pytest.mark.slow) for n in ("resnet18", "vit", "clips"))],
)
def test_torch_export_runs_without_marey(name, tmp_path):
    run = run_of(tmp_path / "run", ENCODERS[name])
    assert main(["export", run, "--to", "torch", "-o", str(tmp_path / "e.pt2")]) == 0
    encoder, _ = load_encoder(run)
    frames = frames_of(encoder)
    torch.save(frames, tmp_path / "frames.pt")
    without_marey(
        "import torch\n"
        "encoder = torch.export.load('e.pt2').module()\n"
        "torch.save(encoder(torch.load('frames.pt')), 'vectors.pt')\n",
        tmp_path,
    )
    with torch.no_grad():
        expected = encoder(encoder.preprocess(frames))
    torch.testing.assert_close(
        torch.load(tmp_path / "vectors.pt"), expected, atol=TOLERANCE, rtol=0
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "resnet18", "vit", "clips", "lab"])
def test_onnx_runtime_runs_without_marey(name, tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (marey[export])")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (marey[export])")
    run = run_of(tmp_path / "run", ENCODERS[name])
    assert main(["export", run, "--to", "onnx", "-o", str(tmp_path / "e.onnx")]) == 0
    encoder, _ = load_encoder(run)
    frames = frames_of(encoder)
    np.save(tmp_path / "frames.npy", frames.numpy())
    without_marey(
        "import numpy as np, onnxruntime\n"
        "session = onnxruntime.InferenceSession('e.onnx')\n"
        "np.save('vectors.npy', session.run(None, {'frames': np.load('frames.npy')})[0])\n"
        "assert 'torch' not in sys.modules\n",
        tmp_path,
    )
    with torch.no_grad():
        expected = encoder(encoder.preprocess(frames)).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), expected, atol=TOLERANCE)


def test_what_no_library_has_is_refused_with_the_way_that_is_left(tmp_path, capsys):
    run = run_of(tmp_path / "run", ENCODERS["tiny"])
    assert main(["export", run, "--to", "timm", "-o", str(tmp_path / "plain")]) == 1
    assert "--to torch or --to onnx" in capsys.readouterr().err
    assert main(["export", "pixels", "--to", "torch", "-o", str(tmp_path / "p.pt2")]) == 1
    assert "give a run folder or timm:NAME" in capsys.readouterr().err
    assert main(["export", run, "--to", "onnx", "-o", str(tmp_path / "e.pt2")]) == 2
    assert ".onnx file" in capsys.readouterr().err
    assert not (tmp_path / "plain").exists()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    index = encode_corpus(home / "videos", events=3, num_frames=20)
    embed("pixels", str(index), str(home / "embeddings"), rate=0, engine="local")
    return home / "embeddings"


def test_the_atlas_file_has_map_neighbours_and_pictures(folder, tmp_path):
    out = tmp_path / "frames.parquet"
    words = ["export", str(folder), "--to", "atlas", "-o", str(out), "--neighbors", "3"]
    assert main(words) == 0
    rows = pq.read_table(out).to_pylist()
    embeddings = load_embeddings(folder)
    assert len(rows) == len(embeddings) == 120
    unit = embeddings.features / np.linalg.norm(embeddings.features, axis=1, keepdims=True)
    for number in (0, 57):
        row = rows[number]
        assert row["video_id"] == embeddings.video_id[number]
        image = cv2.imdecode(np.frombuffer(row["image"]["bytes"], np.uint8), cv2.IMREAD_COLOR)
        assert image.shape == (96, 96, 3)
        ids, distances = row["neighbors"]["ids"], row["neighbors"]["distances"]
        assert len({rows[i]["video_id"] for i in ids} | {row["video_id"]}) == 4
        np.testing.assert_allclose(distances, 1 - unit[ids] @ unit[number], atol=1e-5)
        others = embeddings.video_id != row["video_id"]
        assert distances[0] == pytest.approx(1 - (unit[others] @ unit[number]).max(), abs=1e-5)
    assert np.isfinite([(row["x"], row["y"]) for row in rows]).all()


def test_the_projector_folder_has_a_line_and_a_picture_for_each_vector(folder, tmp_path):
    out = tmp_path / "projector"
    assert main(["export", str(folder), "--to", "projector", "-o", str(out)]) == 0
    embeddings = load_embeddings(folder)
    vectors = np.fromfile(out / "vectors.bytes", "<f4").reshape(len(embeddings), -1)
    np.testing.assert_array_equal(vectors, embeddings.features)
    lines = (out / "metadata.tsv").read_text().splitlines()
    assert lines[0].split("\t")[:2] == ["video_id", "event"]
    assert [line.split("\t")[0] for line in lines[1:]] == embeddings.video_id.tolist()
    sprite = cv2.imread(str(out / "sprite.png"))
    assert sprite.shape == (11 * 96, 11 * 96, 3)
    assert sprite[: 10 * 96].reshape(10, 96, 11, 96, 3).std(axis=(1, 3, 4)).min() > 1
    config = (out / "projector_config.pbtxt").read_text()
    assert f"tensor_shape: [120, {vectors.shape[1]}]" in config
    assert main(["export", str(folder), "--to", "projector", "-o", str(folder)]) == 2
