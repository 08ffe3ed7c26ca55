"""Do encoders of clips see the right frames, in every place where embeddings are made?"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError

from marey.configs.base import MethodConfig
from marey.configs.encoder import EncoderConfig
from marey.configs.errors import InputError, SettingError
from marey.configs.schema import RunConfig
from marey.models.augmentation.augment import AugmentConfig
from marey.models.contrastive.simclr import SimCLR, SimCLRConfig
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.heads import SpatialSoftmax
from marey.models.encoders.video_backbones import VIDEO_BACKBONES, build_clip_trunk
from marey.models.method import Method
from marey.pipeline.embedding.embed import embed
from marey.pipeline.embedding.embeddings import load_embeddings
from marey.pipeline.embedding.encoder_files import export_encoder, load_encoder
from marey.pipeline.runtime.storage import Folder
from marey.pipeline.sampling.lookback import clip_times
from marey.pipeline.training.held_out import build_probe
from marey.pipeline.video import read
from tests.corpora import encode_corpus, load, make_video


class OfClips(Method):
    """A method of clips that does nothing."""

    sees_clips = True


CLIPS = EncoderConfig(backbone="tiny_r3d", clip_frames=4, clip_step_s=0.25, image_size=32)


@pytest.mark.parametrize(
    ("name", "stages", "shape"),
    [
        ("tiny_r3d", None, (128, 2, 4, 4)),
        ("tiny_r3d", 2, (32, 8, 8, 8)),
        ("tiny_r2plus1d", None, (128, 2, 4, 4)),
        ("r3d_18", 2, (64, 8, 16, 16)),
        ("mc3_18", 3, (128, 8, 8, 8)),
        ("r2plus1d_18", 4, (256, 2, 4, 4)),
        ("tiny", 2, (64, 8, 8, 8)),
        ("resnet18", 3, (128, 8, 4, 4)),
    ],
)
def test_a_clip_trunk_gives_the_map_it_announces(name: str, stages: int | None, shape: tuple):
    trunk, channels = build_clip_trunk(name, frames=8, stages=stages)
    features = trunk(torch.randn(2, 3, 8, 32, 32))
    assert features.shape == (2, *shape)
    assert channels == shape[0]
    features.square().mean().backward()
    unused = [key for key, value in trunk.named_parameters() if value.grad is None]
    assert unused == []


# the larger sizes of a transformer differ from the smallest by numbers alone
SMALL = [name for name in VIDEO_BACKBONES if not name.endswith(("_base", "_large", "_huge"))]


@pytest.mark.parametrize("name", [*SMALL, "tiny"])
def test_the_order_of_frames_matters_to_all_but_the_mean_of_frames(name: str):
    torch.manual_seed(0)
    clips = torch.randn(2, 3, 8, 32, 32)
    for fusion in ("mean", "convolution", "stack"):
        config = EncoderConfig(backbone=name, clip_frames=8, image_size=32, fusion=fusion)
        encoder = Encoder(config).eval()
        with torch.no_grad():
            blind = torch.allclose(encoder(clips), encoder(clips.flip(2)), atol=1e-5)
        assert blind == (name == "tiny" and fusion == "mean")


def test_a_convolution_over_the_frames_leaves_one_map():
    trunk, _ = build_clip_trunk("tiny", frames=5, fusion="convolution")
    assert trunk(torch.randn(2, 3, 5, 32, 32)).shape == (2, 128, 1, 4, 4)


def test_a_stack_is_one_image_of_all_frames():
    trunk, _ = build_clip_trunk("tiny", frames=5, fusion="stack", stages=2)
    clips = torch.randn(2, 3, 5, 32, 32)
    assert trunk(clips).shape == (2, 64, 1, 8, 8)
    weights = [p for p in trunk.parameters() if p.ndim == 4]
    assert weights[0].shape[1] == 15
    assert torch.equal(trunk(clips)[:, :, 0], trunk.trunk(clips.transpose(1, 2).flatten(1, 2)))


@pytest.mark.parametrize("fusion", ["stack", "convolution"])
def test_differences_forget_what_does_not_move(fusion: str):
    config = {"clip_frames": 4, "differences": True, "fusion": fusion, "image_size": 32}
    encoder = Encoder(EncoderConfig.model_validate(config)).eval()
    clips = torch.randn(2, 3, 4, 32, 32)
    shifted = clips + torch.randn(2, 3, 1, 32, 32)  # another background, the same motion
    torch.testing.assert_close(encoder(clips), encoder(shifted), atol=1e-4, rtol=1e-3)
    assert not torch.allclose(encoder(clips), encoder(clips.flip(2)), atol=1e-3)
    with pytest.raises(ValidationError, match="clip_frames"):
        EncoderConfig(differences=True)


def test_positions_of_a_clip_are_the_mean_of_those_of_its_maps():
    pool = SpatialSoftmax(0.1)
    maps = torch.randn(3, 4, 2, 6, 5)
    expected = torch.stack([pool(maps[:, :, t]) for t in range(2)]).mean(0)
    torch.testing.assert_close(pool(maps), expected)


def test_preprocessing_of_a_clip_is_that_of_its_frames():
    clips = torch.randint(0, 256, (2, 4, 40, 56, 3), dtype=torch.uint8)
    prepared = Encoder(CLIPS).preprocess(clips)
    assert prepared.shape == (2, 3, 4, 32, 32)
    image_encoder = Encoder(EncoderConfig(image_size=32))
    for frame in range(4):
        expected = image_encoder.preprocess(clips[:, frame])
        torch.testing.assert_close(prepared[:, :, frame], expected)


@pytest.mark.parametrize(
    "config",
    [
        EncoderConfig(backbone="tiny_r3d"),
        EncoderConfig(backbone="tiny_r3d", clip_frames=4, pretrained=True),
        EncoderConfig(backbone="tiny_r2plus1d", clip_frames=4, stages=5),
        EncoderConfig(backbone="tiny_r4d", clip_frames=4),
    ],
)
def test_encoders_that_cannot_be_are_refused(config: EncoderConfig):
    with pytest.raises(SettingError):
        Encoder(config)


def test_a_clip_of_another_length_is_refused():
    with pytest.raises(SettingError, match=r"\[2, 3, 5, 32, 32\]"):
        Encoder(CLIPS)(torch.zeros(2, 3, 5, 32, 32))


def test_a_method_of_images_refuses_an_encoder_of_clips():
    with pytest.raises(SettingError, match=r"encoder\.clip_frames must be 1"):
        SimCLR(Encoder(CLIPS), SimCLRConfig())


@pytest.mark.parametrize("colors", ["each_frame", "shared"])
def test_frames_of_a_clip_share_their_crop_and_if_told_their_colours(colors: str):
    varied = AugmentConfig(
        crop_scale=(0.2, 0.6), flip=0.5, jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.4,
        hue=0.1, grayscale=0.3, blur=0.5, colors=colors,
    )  # fmt: skip
    torch.manual_seed(0)
    still = torch.randint(0, 256, (16, 1, 40, 40, 3), dtype=torch.uint8).expand(-1, 4, -1, -1, -1)
    method = OfClips(Encoder(CLIPS), MethodConfig())
    images = method.clips(still, varied)
    assert images.shape == (16, 3, 4, 32, 32)
    alike = (images == images[:, :, :1]).flatten(1).all(1)
    assert alike.all() if colors == "shared" else not alike.any()
    # and clips differ from each other
    same = still[:1].expand(16, -1, -1, -1, -1)
    assert len(torch.unique(method.clips(same, varied).flatten(1), dim=0)) == 16


def test_the_clip_of_a_time_ends_there_and_stays_within_its_shot():
    video = make_video(frames=100, fps=10.0, cuts=(4.0,))
    times = np.array([0.05, 1.05, 3.95, 4.05, 9.95])
    seen, refused = clip_times(video, times, 4, 0.22)
    assert refused == [""] * 5
    assert np.allclose(np.diff(seen, axis=1), 0.2)  # whole frames
    # the first frame of each shot is moved to the clip that begins there
    assert np.allclose(seen[:, -1], [0.65, 1.05, 3.95, 4.65, 9.95])
    assert (seen[:3] < 4).all()
    assert (seen[3:] >= 4).all()


@pytest.mark.parametrize("fps", [10.0, 23.976, 29.97])
@pytest.mark.parametrize("frames", [3, 8])
def test_the_shortest_shot_with_a_clip_has_one_and_a_shorter_one_none(fps: float, frames: int):
    step = 1 / fps
    fits = make_video(frames=frames, fps=fps)
    seen, refused = clip_times(fits, np.array([0.5 / fps]), frames, step)
    assert refused == [""]
    assert np.array_equal(np.floor(seen[0] * fps), np.arange(frames))  # each frame once
    short = make_video(frames=frames - 1, fps=fps)
    assert clip_times(short, np.array([0.5 / fps]), frames, step)[1] == ["too_short"]
    assert clip_times(fits, np.array([0.5 / fps]), 2, 0.5 * step)[1] == ["frame_rate_too_low"]


def test_one_frame_is_the_time_itself():
    times = np.array([0.1, 7.0])
    seen, refused = clip_times(make_video(frames=2), times, 1, 9.0)
    assert np.array_equal(seen, times[:, None])
    assert refused == ["", ""]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode_corpus(tmp_path_factory.mktemp("corpus"), events=2, num_frames=24, fps=12)


def _run(folder: Path, config: EncoderConfig) -> str:
    torch.manual_seed(0)
    export_encoder(Folder(str(folder)), Encoder(config), {})
    return str(folder)


def test_an_exported_encoder_of_clips_is_rebuilt(tmp_path: Path):
    run = _run(tmp_path, CLIPS)
    encoder, about = load_encoder(run)
    assert encoder.config == Encoder(CLIPS).config
    assert about["preprocessing"]["clip_frames"] == 4
    clips = torch.randn(2, 3, 4, 32, 32)
    torch.manual_seed(0)
    torch.testing.assert_close(encoder(clips), Encoder(CLIPS).eval()(clips))


def test_embeddings_of_times_are_those_of_the_clips_that_end_there(corpus: Path, tmp_path: Path):
    run = _run(tmp_path / "run", CLIPS)
    done = embed(run, str(corpus), str(tmp_path / "out"), rate=0, engine="local")
    rows = load_embeddings(tmp_path / "out")
    assert done.frames == len(rows) == 4 * 24
    encoder, _ = load_encoder(run)
    video = load(corpus).event(0).videos[0]
    for row in (0, 5, 12, 23):
        last = max(row, 9)  # 3 steps of 0.25 s are 9 frames at 12 frames/s
        numbers = last - np.array([9, 6, 3, 0])
        clip = read(video.uri, (numbers + 0.5) / 12, (32, 32), fit="cover")
        with torch.no_grad():
            expected = encoder(encoder.preprocess(torch.from_numpy(clip)[None]))[0].numpy()
        np.testing.assert_allclose(rows.features[row], expected, atol=1e-5)
        assert rows.frame[row] == row


def test_videos_too_short_for_a_clip_are_refused_with_the_reason(corpus: Path, tmp_path: Path):
    run = _run(tmp_path / "run", CLIPS.model_copy(update={"clip_step_s": 1.0}))
    done = embed(run, str(corpus), str(tmp_path / "out"), rate=2, engine="local")
    assert done.frames == 0
    assert sum(done.refused.values()) == 4 * 4
    assert all(reason.endswith("too_short") for reason in done.refused)


def test_changed_copies_of_a_clip_change_all_its_frames_alike(corpus: Path, tmp_path: Path):
    run = _run(tmp_path / "run", CLIPS)
    embed(run, str(corpus), str(tmp_path / "out"), rate=2, copies=2, engine="local")
    rows = load_embeddings(tmp_path / "out")
    assert len(rows) == 4 * 4 * 2
    assert not np.allclose(rows.features[0], rows.features[1])


def test_single_images_are_refused_for_an_encoder_of_clips(tmp_path: Path):
    import cv2

    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.zeros((32, 32, 3), np.uint8))
    run = _run(tmp_path / "run", CLIPS)
    with pytest.raises(InputError, match="single images"):
        embed(run, str(tmp_path / "images"), str(tmp_path / "out"), engine="local")


def test_the_online_probe_shows_clips_to_an_encoder_of_clips(corpus: Path):
    config = RunConfig(name="simclr", method=SimCLRConfig(), encoder=CLIPS)
    scores = build_probe(str(corpus), config)(Encoder(CLIPS))
    assert 0 <= scores["alignment_error"] <= 1
    long = CLIPS.model_copy(update={"clip_step_s": 1.0})
    config = config.model_copy(update={"encoder": long})
    with pytest.raises(InputError, match="clips fit"):
        build_probe(str(corpus), config)


def test_the_online_probe_leaves_out_an_event_whose_views_share_no_time(
    corpus: Path, tmp_path: Path
):
    config = RunConfig(name="simclr", method=SimCLRConfig(), encoder=CLIPS)
    table = pq.read_table(corpus)
    offsets = np.zeros(len(table))
    for name, apart in (("one", slice(1)), ("all", slice(None, None, 2))):
        offsets[apart] = -100.0  # views are sorted within their events
        column = table.column_names.index("clock_offset_s")
        changed = table.set_column(column, "clock_offset_s", pa.array(offsets))
        pq.write_table(changed, tmp_path / f"{name}.parquet")
    scores = build_probe(str(tmp_path / "one.parquet"), config)(Encoder(CLIPS))
    assert 0 <= scores["alignment_error"] <= 1
    with pytest.raises(InputError, match="a time that all of them show"):
        build_probe(str(tmp_path / "all.parquet"), config)
