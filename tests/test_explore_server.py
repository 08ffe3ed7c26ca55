"""The explorer's server: what it answers, to whom, and what it never reads."""

import http.client
import json
import threading

import cv2
import numpy as np
import pytest

from marey.configs.errors import InputError
from marey.pipeline.data.build_index import make_index, write_index
from marey.pipeline.embedding.embed import embed
from marey.pipeline.embedding.embeddings import load_embeddings
from marey.pipeline.explore.columns import column
from marey.pipeline.explore.open_session import open_session
from marey.pipeline.explore.server import Server
from marey.pipeline.video import read, read_range
from tests.corpora import encode_corpus
from tests.videos import encode_video

EVENTS, FRAMES, FPS = 3, 40, 12


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    index = encode_corpus(home / "videos", events=EVENTS, num_frames=FRAMES)
    for name in ("pixels", "histogram"):
        embed(name, str(index), str(home / name), rate=0, engine="local")
    return home


@pytest.fixture(scope="module")
def server(home):
    session = open_session(str(home / "pixels"), baseline=str(home / "histogram"))
    with Server(session) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def ask(server, path, method="GET", body=None, token=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    token = server.token if token is None else token
    connection.request(method, f"/{token}/{path}", body, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content, answer.headers


def answered(server, path, **more):
    status, content, _ = ask(server, path, **more)
    assert status == 200, content
    return json.loads(content)


def test_it_listens_on_this_machine_alone(server):
    assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize("token", ["", "x" * 32, "..", "%2e%2e"])
def test_without_the_secret_nothing_is_answered(server, token):
    for path in ("", "about", "frame?row=0"):
        status, content, _ = ask(server, path, token=token)
        assert status == 404
        assert b"e0_v0" not in content


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", "127.0.0.1:1"])
def test_another_host_name_is_refused(server, host):
    assert ask(server, "about", Host=host)[0] == 403


def test_a_search_from_another_page_is_refused(server):
    status, content, _ = ask(server, "like", "POST", b"x", Origin="http://evil.example")
    assert status == 400
    assert b"only this page" in content


@pytest.mark.parametrize(
    "path",
    [
        "../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "page.html", "/etc/passwd", "server.py",
        "frame?row=-1", "frame?row=999999", "frame?row=1e3", "frame?row=../x", "frame", "points",
        "points?side=7", "column?number=99", "clip?row=%00", "between?event=../&first=0&second=1",
    ],
)  # fmt: skip
def test_what_the_page_never_asks_is_refused_in_a_sentence(server, path):
    status, content, _ = ask(server, path)
    assert status in (400, 404)
    assert json.loads(content)["error"]


def test_nothing_is_loaded_from_elsewhere(server):
    _, page, headers = ask(server, "")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["Referrer-Policy"] == "no-referrer"
    for name in ("page.css", "page.js", "points.js"):
        page += ask(server, name)[1]
    assert b"http://" not in page
    assert b"https://" not in page


def test_points_and_columns_have_a_value_for_each_row(server):
    about = answered(server, "about")
    assert about["frames"] == EVENTS * 2 * FRAMES
    assert [side["name"] for side in about["sides"]] == ["trained", "untrained"]
    for side in range(2):
        points = np.frombuffer(ask(server, f"points?side={side}")[1], "<f4").reshape(-1, 2)
        assert len(points) == about["frames"]
        assert np.abs(points).max() == pytest.approx(1)
    titles = [one["title"] for one in about["columns"]]
    assert titles == ["time in the event", "time (s)", "event", "view", "video"]
    for number, one in enumerate(about["columns"]):
        kind = "<u2" if "names" in one else "<f4"
        values = np.frombuffer(ask(server, f"column?number={number}")[1], kind)
        assert len(values) == about["frames"]
        if "names" in one:
            assert np.bincount(values).tolist() == one["counts"]


def test_a_frame_and_its_clip_are_those_of_the_row(server, home, tmp_path):
    row = 2 * FRAMES + 20
    about = answered(server, f"row?row={row}")
    assert (about["video"], about["frame"]) == ("e1_v0.mp4", 20)
    assert about["time_s"] == pytest.approx(20 / FPS, abs=1e-3)
    truth = read(str(home / "videos" / about["video"]), [20.5 / FPS], 64)[0].astype(int)
    _, content, _ = ask(server, f"frame?row={row}")
    shown = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(cv2.resize(shown, (64, 64)).astype(int) - truth).mean() < 12
    _, content, headers = ask(server, f"clip?row={row}")
    (tmp_path / "clip.mp4").write_bytes(content)
    frames, times_s, _ = read_range(str(tmp_path / "clip.mp4"), 0, 9, 64)
    at = int(np.abs(times_s - float(headers["X-Moment"])).argmin())
    assert 30 <= len(frames) <= 38
    assert np.abs(frames[at].astype(int) - truth).mean() < 12


def test_nearest_moments_are_the_most_alike_of_other_videos(server, home):
    row = 2 * FRAMES + 20
    for found, name in zip(
        answered(server, f"near?row={row}"), ("pixels", "histogram"), strict=True
    ):
        rows = load_embeddings(home / name)
        unit = rows.features / np.linalg.norm(rows.features, axis=1, keepdims=True)
        cosine = unit @ unit[row]
        cosine[rows.video_id == rows.video_id[row]] = -1
        assert found[0]["similarity"] == pytest.approx(cosine.max(), abs=1e-3)
        assert len({one["video"] for one in found}) == len(found) == EVENTS * 2 - 1


def test_an_image_of_a_frame_finds_that_frame(server, home):
    frame = read(str(home / "videos" / "e2_v1.mp4"), [10.5 / FPS], 64)[0]
    content = cv2.imencode(".png", frame[..., ::-1])[1].tobytes()
    found = answered(server, "like", method="POST", body=content)
    assert abs(found[0][0]["frame"] - 10) <= 1
    assert found[0][0]["similarity"] > 0.99
    for content in (b"no image", b""):
        status, text, _ = ask(server, "like", "POST", content)
        assert status == 400
        assert json.loads(text)["error"]


def test_two_views_are_compared_at_their_own_times(server, home):
    answer = answered(server, "between?event=e1&first=0&second=1")
    rows = load_embeddings(home / "pixels")
    one, other = answer["rows"]
    assert set(rows.view[one]) == {"0"}
    assert set(rows.view[other]) == {"1"}
    assert answer["times"][0] == pytest.approx(rows.time_s[one], abs=1e-3)
    unit = rows.features / np.linalg.norm(rows.features, axis=1, keepdims=True)
    np.testing.assert_allclose(answer["cosines"][0], unit[one] @ unit[other].T, atol=1e-3)


def test_embeddings_whose_videos_are_gone_are_explored_without_pictures(home, tmp_path):
    said = []
    data = encode_corpus(tmp_path / "gone", events=1)
    embed("pixels", str(data), str(tmp_path / "e"), rate=0, engine="local")
    data.unlink()
    session = open_session(str(tmp_path / "e"), say=said.append)
    assert any("no pictures" in text for text in said)
    assert session.about()["pixels"] is False
    assert session.near(0)[0]
    with pytest.raises(InputError, match="give --data"):
        session.frame(0)
    (tmp_path / "other").mkdir()
    encode_video(tmp_path / "other" / "x.mp4", 12)
    other = str(tmp_path / "other" / "index.parquet")
    write_index(make_index([str(tmp_path / "other")], motion="none"), other)
    with pytest.raises(InputError, match="not what was embedded"):
        open_session(str(home / "pixels"), data=other)


def test_columns_are_numbers_or_classes():
    numbers = column("n", [0.5, None, 2.0])
    assert numbers.names is None
    assert np.isnan(numbers.values[1])
    classes = column("c", ["b", "a", None, "b"])
    assert classes.names == ("a", "b", "none")
    assert classes.values.tolist() == [1, 0, 2, 1]
    assert column("few", [1, 2, 1]).names == ("1", "2")
    assert column("many", list(range(50))).names is None
