"""`marey find`: the moments of other events that are most like a given one."""

import json

import numpy as np
import pytest

import marey
from marey.configs.errors import InputError
from marey.pipeline.cli.main import main
from marey.pipeline.embedding.embed import embed
from tests.corpora import encode_corpus

EVENTS, FRAMES, FPS = 3, 40, 12
ASKED = ["e1_v0.mp4", "1.5"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Three events that two cameras saw, and every frame's pixels."""
    home = tmp_path_factory.mktemp("home")
    index = encode_corpus(home / "videos", events=EVENTS, num_frames=FRAMES)
    embed("pixels", str(index), str(home / "pixels"), rate=0, engine="local")
    return home


def test_found_are_the_most_similar_frames_of_every_other_event(home):
    rows = marey.load_embeddings(home / "pixels")
    unit = rows.features / np.linalg.norm(rows.features, axis=1, keepdims=True)
    (asked,) = np.flatnonzero((rows.video_id == "e1_v0.mp4") & (rows.frame == 18))
    cosines = unit @ unit[asked]
    best = {event: cosines[rows.event == event].max() for event in ("e0", "e2")}
    found = marey.find(home / "pixels", "e1_v0.mp4", 1.5)
    assert [one.event for one in found] == sorted(best, key=lambda event: -best[event])
    for one in found:
        assert one.similarity == pytest.approx(best[one.event], abs=1e-5)
        (row,) = np.flatnonzero((rows.video_id == one.video_id) & (rows.frame == one.frame))
        assert one.time_s == rows.time_s[row]
        assert cosines[row] == pytest.approx(one.similarity, abs=1e-5)


def test_count_bounds_what_is_found(home):
    assert len(marey.find(home / "pixels", "e1_v0.mp4", 1.5, count=1)) == 1


def test_the_end_of_a_path_names_a_video(home):
    rows = marey.load_embeddings(home / "pixels")
    whole = marey.find(rows, "e1_v0.mp4", 1.5)
    assert marey.find(rows, f"{home}/videos/e1_v0.mp4", 1.5) == whole


@pytest.mark.parametrize(
    ("video", "time_s", "said"),
    [
        ("e1_v9.mp4", 1.5, r"no embedded video is called e1_v9.mp4; did you mean e1_v"),
        ("e1_v0.mp4", 60, r"no embedded frame at 60 s; its frames go from 0.00 to 3.25 s"),
        ("e1_v0.mp4", -2, r"no embedded frame at -2 s"),
    ],
)
def test_what_is_not_there_is_refused(home, video, time_s, said):
    with pytest.raises(InputError, match=said):
        marey.find(home / "pixels", video, time_s)


def test_one_event_alone_is_refused(home):
    rows = marey.load_embeddings(home / "pixels")
    with pytest.raises(InputError, match="all embedded frames are of the event e1"):
        marey.find(rows.take(rows.event == "e1"), "e1_v0.mp4", 1.5)


def test_a_name_of_several_videos_is_refused(home):
    rows = marey.load_embeddings(home / "pixels")
    rows.video_id[:] = [f"{name[:2]}/cam{name[4]}.mp4" for name in rows.video_id]
    with pytest.raises(InputError, match=r"cam0.mp4 may be any of e0/cam0.mp4, e1/cam0.mp4"):
        marey.find(rows, "cam0.mp4", 1.5)
    assert marey.find(rows, "e1/cam0.mp4", 1.5)


def test_the_command_prints_and_draws_them(home, tmp_path, capsys):
    page = tmp_path / "moments.html"
    assert main(["find", str(home / "pixels"), *ASKED, "--page", str(page)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "e1_v0.mp4, frame 18 at 1.50 s is most like:"
    assert len(lines) == 2 + EVENTS - 1
    text = page.read_text()
    assert text.count("<img ") == EVENTS
    assert all(line.split()[0] in text for line in lines[2:])


def test_the_command_gives_json(home, capsys):
    assert main(["find", str(home / "pixels"), *ASKED, "--count", "1", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["query"]["frame"], len(figures["found"])) == (18, 1)
