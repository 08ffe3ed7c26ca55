"""Do baselines run as encoders do, and mean what they say? Pixels, histograms, timm files."""

import time

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import timm
import torch

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import InputError, SettingError
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.pretrained import WAIT_S, with_input_scale
from marey.pipeline.embedding.baselines import open_encoder
from marey.pipeline.embedding.copies import strong_copy
from marey.pipeline.embedding.embed import embed
from marey.pipeline.embedding.embeddings import load_embeddings


def picture(rng, size=64):
    """A smooth random picture, uint8 [size, size, 3]."""
    coarse = rng.integers(0, 256, (6, 6, 3)).astype(np.uint8)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    rng = np.random.default_rng(0)
    rows = [cv2.imencode(".png", picture(rng))[1].tobytes() for _ in range(30)]
    path = tmp_path_factory.mktemp("images") / "images.parquet"
    pq.write_table(pa.table({"image": rows, "label": np.arange(30) % 3}), path)
    return str(path)


def test_pixels_are_standardised_and_ignore_brightness_and_contrast():
    encoder, about = open_encoder("pixels")
    rng = np.random.default_rng(1)
    frame = torch.from_numpy(picture(rng) // 4 + 20)[None]
    other = frame * 2 - 15
    one, two = (encoder(encoder.preprocess(f)) for f in (frame, other))
    assert one.shape == (1, about["out_dim"]) == (1, 1024)
    assert one.mean() == pytest.approx(0, abs=1e-5)
    assert one.std(correction=0) == pytest.approx(1, abs=1e-5)
    assert torch.allclose(one, two, atol=0.02)
    blank = torch.full((1, 40, 40, 3), 9, dtype=torch.uint8)
    assert encoder(encoder.preprocess(blank)).abs().max() < 1e-3


def test_histograms_count_colours_wherever_they_are():
    encoder, _ = open_encoder("histogram")
    frame = torch.zeros(1, 4, 4, 3, dtype=torch.uint8)
    frame[:, :, 0] = torch.tensor([255, 0, 40], dtype=torch.uint8)
    vector = encoder(encoder.preprocess(frame))[0]
    assert vector[0] == pytest.approx(0.75**0.5)
    assert vector[7 * 64 + 0 * 8 + 1] == pytest.approx(0.5)
    assert (vector > 0).sum() == 2
    moved = frame.flip(1, 2).roll(1, 2)
    assert torch.equal(encoder(encoder.preprocess(moved))[0], vector)


@pytest.mark.parametrize("name", ["pixels", "histogram"])
def test_a_baseline_is_embedded_by_name_like_a_run(images, tmp_path, name):
    embed(name, images, str(tmp_path / name), engine="local")
    rows = load_embeddings(tmp_path / name)
    assert len(rows) == 30
    assert rows.label is not None
    assert rows.features.shape[1] == open_encoder(name)[1]["out_dim"]
    assert rows.meta["encoder"] == name


def test_copies_differ_from_their_frame_and_repeat_exactly(images, tmp_path):
    frame = picture(np.random.default_rng(2))
    one, again, other = (strong_copy(frame, key) for key in ("a", "a", "b"))
    assert np.array_equal(one, again)
    assert np.abs(one.astype(int) - frame).mean() > 10
    assert np.abs(one.astype(int) - other).mean() > 10
    for folder in ("first", "second"):
        embed("pixels", images, str(tmp_path / folder), copies=3, engine="local")
    first, second = (load_embeddings(tmp_path / folder) for folder in ("first", "second"))
    assert len(first) == 90
    assert first.copy is not None
    assert first.copy[:6].tolist() == [0, 1, 2, 0, 1, 2]
    assert np.array_equal(first.features, second.features)
    assert len(np.unique(first.features.round(4), axis=0)) == 90


def save_resnet(folder, rename=lambda name: name, drop=()):
    torch.manual_seed(3)
    model = timm.create_model("resnet10t").eval()
    state = {rename(k): v for k, v in model.state_dict().items() if k not in drop}
    torch.save(state, folder / "weights.pth")
    safetensors.torch.save_file(state, folder / "weights.safetensors")
    return model


@pytest.mark.parametrize("file", ["weights.pth", "weights.safetensors"])
def test_a_timm_trunk_takes_its_weights_from_a_file(tmp_path, file):
    model = save_resnet(tmp_path)
    encoder, about = open_encoder(f"timm:resnet10t@{tmp_path / file}")
    assert isinstance(encoder, Encoder)
    frames = torch.randint(0, 255, (2, 64, 64, 3), dtype=torch.uint8)
    images = encoder.preprocess(frames)
    with torch.inference_mode():
        expected = model.forward_features(images).mean((2, 3))
        assert torch.allclose(encoder(images), expected, atol=1e-5)
    assert about["out_dim"] == expected.shape[1]
    save_resnet(tmp_path, rename=lambda name: f"_net_{name}")
    if file.endswith("pth"):
        renamed, same = open_encoder(f"timm:resnet10t@{tmp_path / file}")
        assert same["sha256"] == about["sha256"]
        with torch.inference_mode():
            assert torch.allclose(renamed(images), expected, atol=1e-5)


def under(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: under("module.", state),
        lambda state: {"state_dict": under("backbone.", state)},
        lambda state: {"model": under("module.", state), "epoch": 3},
        lambda state: {
            "student": under("module.backbone.", state) | {"module.head.weight": torch.zeros(3)},
            "teacher": under("backbone.", state) | {"head.weight": torch.zeros(3)},
        },
        lambda state: {
            "state_dict": under("module.encoder_q.", state) | under("module.encoder_k.", state)
        },
    ],
    ids=["DDP", "Lightning", "timm and DeiT", "DINO", "MoCo"],
)
def test_weights_are_found_where_training_programs_keep_them(tmp_path, wrap):
    state = save_resnet(tmp_path).state_dict()
    plain = open_encoder(f"timm:resnet10t@{tmp_path / 'weights.pth'}")[1]["sha256"]
    state = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    torch.save(wrap(state), tmp_path / "wrapped.pth")
    assert open_encoder(f"timm:resnet10t@{tmp_path / 'wrapped.pth'}")[1]["sha256"] == plain


def test_weights_of_another_network_are_refused(tmp_path):
    save_resnet(tmp_path, drop=("conv1.0.weight",))
    with pytest.raises(InputError, match="not of this timm model"):
        open_encoder(f"timm:resnet10t@{tmp_path / 'weights.pth'}")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(InputError, match="not readable as weights"):
        open_encoder(f"timm:resnet10t@{tmp_path / 'text.pth'}")
    with pytest.raises(SettingError, match="resnet_ten"):
        open_encoder(f"timm:resnet_ten@{tmp_path / 'weights.pth'}")
    with pytest.raises(InputError, match=r"encoder\.json"):
        open_encoder(str(tmp_path))


@pytest.mark.parametrize("name", ["convnext_atto", "pvt_v2_b0", "mambaout_femto", "resnet10t"])
@pytest.mark.parametrize("classes", [1000, 7, 0])
def test_timms_own_state_dicts_fit_whatever_their_classifier(tmp_path, name, classes):
    """Feature networks of these families rename the layers that they wrap."""
    torch.manual_seed(3)
    model = timm.create_model(name, num_classes=classes).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    encoder, _ = open_encoder(f"timm:{name}@{tmp_path / 'weights.pth'}")
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = model.forward_intermediates(images, intermediates_only=True)[-1]
        assert torch.allclose(encoder.trunk(images), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("backbone", "mean"),
    [
        ("resnet18", (0.485, 0.456, 0.406)),
        ("vit_base_patch16_clip_224.openai", (0.48145466, 0.4578275, 0.40821073)),
        ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", (0.5, 0.5, 0.5)),
        ("r3d_18", (0.43216, 0.394666, 0.37645)),
        ("tiny", (0.485, 0.456, 0.406)),
    ],
)
def test_the_input_scale_is_that_of_the_weights_unless_it_is_set(backbone, mean):
    clips = {"clip_frames": 4} if backbone == "r3d_18" else {}
    config = EncoderConfig(backbone=backbone, pretrained=backbone != "tiny", **clips)
    assert with_input_scale(config).mean == pytest.approx(mean)
    own = config.model_copy(update={"mean": (0.1, 0.2, 0.3), "std": (1.0, 1.0, 1.0)})
    assert with_input_scale(own) == own
    random = config.model_copy(update={"pretrained": False})
    assert with_input_scale(random).mean == pytest.approx((0.485, 0.456, 0.406))


def test_weights_whose_server_does_not_answer_are_refused_at_once(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(InputError, match=r"weights of 'resnet10t' cannot be fetched"):
        Encoder(EncoderConfig(backbone="resnet10t", pretrained=True))
    assert time.monotonic() - started < WAIT_S + 20
