"""Correlation filters follow known motion, batched as alone, and know when the target is gone."""

import cv2
import numpy as np
import pytest
import torch

from marey.trackers import State, build, iou
from marey.trackers.consistency import forward_backward
from marey.trackers.crops import DeviceCrops, HostCrops
from marey.trackers.features import FHOG, _gradient
from marey.trackers.filters import Kernelised, Mosse, SpatioTemporal, gaussian_target, hann
from marey.trackers.peaks import find_peaks, shift_spectra
from tests.tracked_scenes import moving_square, texture

CPU = torch.device("cpu")
FILTERS = ("dcf-grey", "kcf-grey", "dcf-hog", "kcf-hog", "strcf", "mosse")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


def centre_error(track, truth):
    middle = track.boxes[:, 0, :2] + track.boxes[:, 0, 2:] / 2
    return np.linalg.norm(middle - truth[:, :2] - truth[:, 2:] / 2, axis=1)


@pytest.mark.parametrize(("name", "pixels"), [("kcf-grey", 1.0), ("kcf-hog", 1.5)])
@pytest.mark.parametrize("step", [(16, 0), (-12, 10), (0, 16), (0, -16)])
def test_fast_motion_is_followed_from_the_first_step(name, pixels, step):
    """0.4 box widths a frame: a filter that learns late would lag by a whole step."""
    start = (60 if step[0] >= 0 else 420, 60 if step[1] >= 0 else 420)
    errors = []
    for seed in range(5):
        frames, truth = moving_square(21, step, start=start, size=(480, 500), seed=seed)
        track = build(name).track(frames, truth[:1])
        if (track.state == State.TRACKED).all():
            errors.append(centre_error(track, truth).max())
    assert len(errors) >= 4
    assert np.median(errors) <= pixels
    assert max(errors) <= 2.5  # half a cell of the features, a sixth of a step


@pytest.mark.parametrize(
    "name", ["kcf-hog", "kcf-grey", "mosse", "dcf-colour", "dcf-colour-scale", "strcf"]
)
def test_a_batch_of_many_equals_single_runs(name):
    """To two steps of the grid that centres lie on: most are the same bits."""
    num = 24 if name == "strcf" else 500
    frames = np.stack([texture(240, 320, 5)[t : t + 200, 2 * t : 2 * t + 280] for t in range(4)])
    rng = np.random.default_rng(0)
    side = rng.uniform(20, 60, (num, 2))
    corner = rng.uniform(0, 1, (num, 2)) * (np.array([280, 200]) - side)
    boxes = np.concatenate([corner, side], axis=1).astype(np.float32)
    tracker = build(name, min_score=0.0)
    together = tracker.track(frames, boxes)
    for b in range(0, num, max(num // 12, 1)):
        alone = tracker.track(frames, boxes[b : b + 1])
        np.testing.assert_allclose(together.boxes[:, b], alone.boxes[:, 0], rtol=0, atol=1e-3)
        assert together.reason[b] == alone.reason[0]


@pytest.mark.parametrize("settings", [{"scale_step": 1.0}, {"scale_step": 1.05, "scale_every": 3}])
def test_slots_that_empty_and_refill_change_nothing(settings):
    """Boxes that end at different times, starts spread over the clip, any batch size; and with
    sizes that are searched in every third frame of each box, whenever it began."""
    frames, _ = moving_square(14)
    frames[7:, :, :150] = texture(200, 150, 9)  # half of the boxes lose their target here
    rng = np.random.default_rng(1)
    boxes = np.column_stack([rng.uniform(0, 230, 30), rng.uniform(0, 150, 30), *[[40] * 30] * 2])
    start = rng.integers(0, 12, 30)
    results = [
        build("kcf-hog", batch=batch, **settings).track(
            frames, boxes.astype(np.float32), start=start
        )
        for batch in (1, 4, 64)
    ]
    assert len(set(results[0].reason)) > 1
    for other in results[1:]:
        np.testing.assert_array_equal(results[0].state, other.state)
        np.testing.assert_allclose(results[0].boxes, other.boxes, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["kcf-hog", "kcf-grey", "dcf-hog"])
def test_a_vanished_target_is_lost_at_once_and_stays_lost(name):
    frames, truth = moving_square(16)
    background = texture(200, 280, seed=1)
    frames[10:13] = background
    track = build(name).track(frames, truth[:1])
    assert (track.state[:10, 0] == State.TRACKED).all()
    assert (track.state[10:, 0] == State.LOST).all()
    assert track.reason == ("low_score",)
    np.testing.assert_array_equal(track.boxes[10:, 0], np.repeat(track.boxes[9:10, 0], 6, axis=0))


def test_patience_bridges_a_short_occlusion_and_ends_before_a_long_one():
    frames, truth = moving_square(20)
    background = texture(200, 280, seed=1)
    hidden = frames.copy()
    hidden[8:10] = background
    bridged = build("kcf-hog", patience=3).track(hidden, truth[:1])
    assert (bridged.state == State.TRACKED).all()
    assert iou(bridged.boxes[-1, 0], truth[-1]) > 0.8
    hidden[8:14] = background
    ended = build("kcf-hog", patience=3).track(hidden, truth[:1])
    assert (ended.state[:8, 0] == State.TRACKED).all()
    assert (ended.state[8:, 0] == State.LOST).all()


def test_a_target_that_leaves_is_out_of_frame():
    frames, truth = moving_square(8, (4, 0), start=(30, 60))
    wide = np.concatenate([frames, np.repeat(frames[-1:], 12, axis=0)])
    for t in range(8, 20):  # the window slides off to the right
        wide[t] = np.roll(frames[7], -8 * (t - 7), axis=1)
    track = build("kcf-hog", min_score=0.0).track(wide, truth[:1])
    assert track.reason == ("out_of_frame",)
    last = int(track.num_frames[0])
    assert (track.state[last:, 0] == State.OUT_OF_FRAME).all()


@pytest.mark.parametrize("name", ["kcf-hog", "kcf-grey"])
def test_mirrored_frames_give_mirrored_tracks(name):
    frames, truth = moving_square(12, (3, 2), size=(190, 270))
    mirrored = np.ascontiguousarray(frames[:, :, ::-1])
    box = truth[:1].copy()
    box[:, 0] = 270 - box[:, 0] - box[:, 2]
    plain, other = build(name).track(frames, truth[:1]), build(name).track(mirrored, box)
    back = other.boxes[:, 0].copy()
    back[:, 0] = 270 - back[:, 0] - back[:, 2]
    np.testing.assert_allclose(plain.boxes[:, 0], back, atol=0.6)


def test_there_and_back_again_meets_the_start():
    frames, truth = moving_square(24)
    tracker = build("kcf-hog")
    overlap, error = forward_backward(tracker, frames, tracker.track(frames, truth[:1]))
    assert overlap[0] >= 0.9
    assert error[0] <= 0.05


def test_repeated_frames_move_nothing_and_teach_nothing():
    frames, truth = moving_square(10)
    doubled = np.repeat(frames, 2, axis=0)
    plain = build("kcf-hog").track(frames, truth[:1])
    slow = build("kcf-hog").track(doubled, truth[:1])
    np.testing.assert_allclose(slow.boxes[::2], plain.boxes, atol=1e-3)
    np.testing.assert_array_equal(slow.boxes[1::2], slow.boxes[::2])


@pytest.mark.parametrize(("growth", "tolerance"), [(1.01, 0.15), (1 / 1.01, 0.15), (1.0, 0.08)])
@pytest.mark.parametrize(
    ("name", "settings"),
    [("kcf-hog-scale", {}), ("kcf-hog-scale", {"scale_every": 2}), ("dsst-hog", {})],
)
def test_the_size_follows_the_target(name, settings, growth, tolerance):
    side = 60.0 * growth ** np.arange(31)
    ratios = []
    for seed in range(5):
        square = texture(160, 160, 2 * seed, smooth=4)
        frames = np.repeat(texture(240, 320, 2 * seed + 1)[None], 31, axis=0)
        for t, length in enumerate(side):
            matrix = np.array(
                [[length / 160, 0, 160 - length / 2], [0, length / 160, 120 - length / 2]]
            )
            small = cv2.GaussianBlur(square, (0, 0), 0.5 * 160 / length)
            cv2.warpAffine(
                small, matrix, (320, 240), dst=frames[t], borderMode=cv2.BORDER_TRANSPARENT
            )
        track = build(name, **settings).track(frames, np.array([[130, 90, 60, 60]], np.float32))
        assert (track.state == State.TRACKED).all()
        ratios.append(track.boxes[-1, 0, 2] / side[-1])
    assert np.median(ratios) == pytest.approx(1.0, abs=tolerance)
    # a box that never changed would be off by 0.26 and 0.35
    assert np.abs(np.array(ratios) - 1).max() < 0.2


def test_sizes_of_frames_and_boxes_may_be_odd():
    frames, truth = moving_square(6, (5, 3), side=37, size=(151, 233), start=(51, 33))
    for name in ("kcf-hog", "kcf-grey"):
        track = build(name, pixels=84 if name == "kcf-hog" else 63).track(frames, truth[:1])
        assert centre_error(track, truth).max() < 1.0


@pytest.mark.parametrize("cells", [24, 21])
@pytest.mark.parametrize("kind", ["gaussian", "linear", "mosse", "strcf"])
def test_the_peak_lies_where_the_content_went(kind, cells):
    """Circular shifts are recovered exactly, with the right sign, by every filter."""
    torch.manual_seed(0)
    window = hann(cells, CPU)
    channels = 1 if kind == "mosse" else 4
    maps = torch.randn(5, channels, cells, cells)
    shift = torch.tensor([[0, 0], [3, -2], [-4, 1], [5, 5], [-1, -6]])
    moved = torch.stack(
        [m.roll((int(y), int(x)), (1, 2)) for m, (x, y) in zip(maps, shift, strict=True)]
    )
    made = {
        "gaussian": Kernelised(cells, channels, 1.0, 0.5, 1e-4, CPU),
        "linear": Kernelised(cells, channels, 1.0, 0.0, 1e-4, CPU),
        "mosse": Mosse(cells, 1.0, 1e-2, CPU),
        "strcf": SpatioTemporal(cells, 1.0, CPU, 0.0),
    }[kind]
    if kind == "mosse":
        window = torch.ones_like(window)
    model = made.start(torch.fft.rfft2(maps * window), torch.full((5, 2), cells * 0.6))
    peak = find_peaks(made.respond(model, torch.fft.rfft2(moved * window)), with_psr=True)
    np.testing.assert_allclose(peak[:, 1:3].numpy(), shift.numpy(), atol=0.75)


def test_kernel_ridge_regression_in_float64_by_the_definition():
    """alpha solves (K + lambda I) alpha = y over all cyclic shifts (arXiv 1404.7584, eq. 16)."""
    torch.manual_seed(1)
    cells, channels, sigma, ridge = 6, 2, 0.5, 1e-2
    x = torch.randn(1, channels, cells, cells)
    z = torch.randn(1, channels, cells, cells)
    made = Kernelised(cells, channels, 0.8, sigma, ridge, CPU)
    model = made.start(torch.fft.rfft2(x), torch.ones(1, 2))
    got = made.respond(model, torch.fft.rfft2(z))[0].double().numpy()

    shifts = [(i, j) for i in range(cells) for j in range(cells)]
    rolled = np.stack([x[0].double().roll(s, (1, 2)).numpy().ravel() for s in shifts])
    tested = np.stack([z[0].double().roll((-s[0], -s[1]), (1, 2)).numpy().ravel() for s in shifts])

    def kernel(a, b):
        distance = ((a[:, None] - b[None]) ** 2).sum(2)
        return np.exp(-distance / (sigma**2 * x.numel()))

    goal = gaussian_target(cells, 0.8, CPU).double().numpy().ravel()
    dual = np.linalg.solve(kernel(rolled, rolled) + ridge * np.eye(len(shifts)), goal)
    want = (kernel(tested, rolled) @ dual).reshape(cells, cells)
    np.testing.assert_allclose(got, want, atol=2e-3)


def test_host_and_device_crops_agree():
    frames = np.stack([texture(91, 133, 4), texture(91, 133, 5)])
    rng = np.random.default_rng(0)
    num = 40
    which, frame = np.zeros(num, np.int64), rng.integers(0, 2, num)
    centre = rng.uniform(-5, 140, (num, 2))
    size = rng.uniform(15, 260, (num, 1)) * np.ones((1, 2))
    for colour in (False, True):
        host = HostCrops([frames], colour=colour)(which, frame, centre, size, 32)
        device = DeviceCrops([frames], colour=colour, device=CPU)(which, frame, centre, size, 32)
        difference = (host.float() - device.float()).abs()
        assert difference.mean() < 0.6
        assert difference.max() <= 6


@pytest.mark.parametrize("colour", [False, True])
def test_a_window_alone_is_cut_as_among_many(colour):
    """Of a frame that only one box looks at, only what its window reads is made grey."""
    frames = texture(91, 133, 4)[None]
    rng = np.random.default_rng(0)
    num = 60
    which = np.zeros(num, np.int64)
    centre = rng.uniform(-30, 160, (num, 2))
    size = rng.uniform(15, 90, (num, 2))
    together = HostCrops([frames], colour=colour)(which, which, centre, size, 32)
    for n in range(num):
        one = slice(n, n + 1)
        alone = HostCrops([frames], colour=colour)(
            which[one], which[one], centre[one], size[one], 32
        )
        np.testing.assert_array_equal(alone[0].numpy(), together[n].numpy())


def test_a_crop_at_the_frame_corner_is_the_frame_corner():
    frames = texture(60, 80, 6)[None]
    one = np.zeros(1, np.int64)
    crop = HostCrops([frames], colour=True)(
        one, one, np.array([[16.0, 16.0]]), np.array([[32.0, 32.0]]), 32
    )
    np.testing.assert_array_equal(crop[0].numpy(), frames[0, :32, :32])
    crop = HostCrops([frames], colour=True)(
        one, one, np.array([[64.0, 44.0]]), np.array([[32.0, 32.0]]), 32
    )
    np.testing.assert_array_equal(crop[0].numpy(), frames[0, 28:, 48:])


def slow_fhog(crop: np.ndarray) -> np.ndarray:
    """FHOG pixel by pixel in float64, triangle pooling over 2 x 2 blocks."""
    side = len(crop)
    cells, value = side // 4, crop.astype(np.float64) / 255
    hist = np.zeros((18, cells + 2, cells + 2))
    weight = {-1: 0.25, 0: 0.75, 1: 0.75, 2: 0.25}
    for y in range(side):
        for x in range(side):
            dx = value[y, x + 1] - value[y, x - 1] if 0 < x < side - 1 else 0.0
            dy = value[y + 1, x] - value[y - 1, x] if 0 < y < side - 1 else 0.0
            angle = np.floor(np.arctan2(dy, dx) * 9 / np.pi + 9.5)
            direction = int(angle) % 18
            for cy in range(-1, cells + 1):
                for cx in range(-1, cells + 1):
                    wy, wx = weight.get(y // 2 - 2 * cy, 0), weight.get(x // 2 - 2 * cx, 0)
                    hist[direction, cy + 1, cx + 1] += np.hypot(dx, dy) * wy * wx
    hist = hist[:, 1:-1, 1:-1]
    unsigned = hist[:9] + hist[9:]
    energy = np.pad((unsigned**2).sum(0), 1, mode="edge")
    out = np.zeros((31, cells, cells))
    for q, (i, j) in enumerate(((0, 0), (1, 0), (0, 1), (1, 1))):
        for y in range(cells):
            for x in range(cells):
                block = energy[y + i : y + i + 2, x + j : x + j + 2].sum()
                norm = 1 / np.sqrt(block + 1e-2)
                signed = np.minimum(hist[:, y, x] * norm, 0.2)
                out[:18, y, x] += 0.5 * signed
                out[18:27, y, x] += 0.5 * np.minimum(unsigned[:, y, x] * norm, 0.2)
                out[27 + q, y, x] = 0.2357 * signed.sum()
    return out


def test_of_three_colours_the_largest_gradient_counts():
    """The slow way, on what one plane would have given at each pixel."""
    crop = np.stack([texture(24, 24, seed)[:, :, 0] for seed in range(3)], axis=-1)
    value = crop.astype(np.float64) / 255
    dx, dy = np.zeros_like(value), np.zeros_like(value)
    dx[:, 1:-1], dy[1:-1] = value[:, 2:] - value[:, :-2], value[2:] - value[:-2]
    most = (dx**2 + dy**2).argmax(axis=2)[..., None]
    got_x, got_y = (g[0].numpy() for g in _gradient(torch.from_numpy(crop)[None]))
    np.testing.assert_allclose(got_x, np.take_along_axis(dx, most, 2)[..., 0], atol=1e-6)
    np.testing.assert_allclose(got_y, np.take_along_axis(dy, most, 2)[..., 0], atol=1e-6)


def test_fhog_equals_the_slow_one():
    crops = np.stack([texture(24, 24, seed)[:, :, 0] for seed in range(2)])
    got = FHOG()(torch.from_numpy(crops)).numpy()
    for n in range(2):
        np.testing.assert_allclose(got[n], slow_fhog(crops[n]), atol=1e-4)


def test_shifting_spectra_is_shifting_the_window():
    torch.manual_seed(0)
    maps = torch.randn(2, 3, 20, 20)
    moved = shift_spectra(torch.fft.rfft2(maps), torch.tensor([[3.0, -2.0], [0.0, 0.0]]), 20)
    got = torch.fft.irfft2(moved, s=(20, 20))
    torch.testing.assert_close(got[0], maps[0].roll((2, -3), (1, 2)), atol=1e-4, rtol=0)
    torch.testing.assert_close(got[1], maps[1], atol=1e-4, rtol=0)
