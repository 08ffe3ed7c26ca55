"""The explorer in a real browser: what a person points at, clicks, types and drops."""

import shutil
import threading

import cv2
import numpy as np
import pytest

from marey.pipeline.embedding.embed import embed
from marey.pipeline.embedding.embeddings import load_embeddings
from marey.pipeline.explore.columns import Column
from marey.pipeline.explore.open_session import open_session
from marey.pipeline.explore.server import Server
from marey.pipeline.explore.session import Session, side_of
from marey.pipeline.video import read
from tests.corpora import encode_corpus

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
FRAMES, FPS = 40, 12


@pytest.fixture(scope="module")
def browser():
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM:
        pytest.skip("no chromium on PATH")
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    index = encode_corpus(home / "videos", events=3, num_frames=FRAMES)
    for name in ("pixels", "histogram"):
        embed(name, str(index), str(home / name), rate=0, engine="local")
    return home


@pytest.fixture(scope="module")
def server(home):
    with Server(open_session(str(home / "pixels"), baseline=str(home / "histogram"))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def page(browser, server):
    """The page, opened; its faults and what it asks of other machines fail the test."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    faults, strangers = [], []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda line: faults.append(line.text) if line.type == "error" else None)
    page.on("request", lambda asked: asked.url.startswith((server.address, "blob:"))
            or strangers.append(asked.url))  # fmt: skip
    page.goto(server.address)
    page.wait_for_selector("body[data-ready]")
    yield page
    page.close()
    assert faults == []
    assert strangers == []


def until(page, condition, seconds=20):
    """Wait for a condition. The page forbids that text be run, as playwright's own waiting does."""
    for _ in range(seconds * 20):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"never: {condition}")


def place_of(page, row, side=0):
    """Where in the window a row is drawn."""
    return page.evaluate(
        """([row, side]) => {
            const map = state.maps[side], edge = map.box.getBoundingClientRect();
            const [x, y] = map.place(row);
            return [edge.left + x / map.dense, edge.top + y / map.dense];
        }""",
        [row, side],
    )


def shown_row(page, row):
    """The row that lies on top where `row` is drawn: points may share a pixel."""
    x, y = place_of(page, row)
    return page.evaluate("([x, y]) => state.maps[0].rowAt(x, y)", [x, y])


def test_pointing_shows_the_frame(page):
    row = shown_row(page, 50)
    page.mouse.move(*place_of(page, 50))
    page.wait_for_selector("#tip:not([hidden]) img")
    about = page.evaluate("row => known(row)", row)
    assert about["video"] in page.inner_text("#tip")
    until(page, "document.querySelector('#tip img').naturalWidth > 100")


def test_a_click_plays_the_moment_and_lists_others(page, home):
    page.mouse.click(*place_of(page, 50))
    page.wait_for_selector("#player video")
    until(page, "document.querySelector('#player video').currentTime > 0.3")
    assert page.evaluate("document.querySelector('#player video').paused") is False
    rows = load_embeddings(home / "pixels")
    row = page.evaluate("state.row")
    assert str(rows.video_id[row]) in page.inner_text("#name")
    found = page.locator("#found .found").nth(0).locator("button")
    assert found.count() == 5
    until(
        page,
        "[...document.querySelectorAll('#found img')].slice(0, 3).every(i => i.naturalWidth > 100)",
    )
    other = found.nth(0).inner_text().split(" ")[1].rstrip(",")
    assert other != rows.video_id[row]
    found.nth(0).click()
    until(page, f"document.querySelector('#name').textContent.includes('{other}')")


def test_a_video_and_a_time_pick_the_nearest_frame(page):
    page.select_option("#video", label="e1_v1.mp4")
    page.fill("#time", "1.26")
    page.click("#pick")
    until(page, "document.querySelector('#name').textContent.includes('1.25 s')")
    page.locator("#maps").click(position={"x": 3, "y": 3})
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("ArrowRight")
    until(page, "document.querySelector('#name').textContent.includes('1.33 s')")


def test_an_image_finds_its_frame(page, home, tmp_path):
    frame = read(str(home / "videos" / "e2_v1.mp4"), [10.5 / FPS], 64)[0]
    cv2.imwrite(str(tmp_path / "mine.png"), frame[..., ::-1])
    page.set_input_files("#image", str(tmp_path / "mine.png"))
    page.wait_for_selector("#found button")
    time_s = float(page.locator("#found button").nth(0).inner_text().split(", ")[1].split(" ")[0])
    assert abs(time_s - 10 / FPS) < 1.5 / FPS
    assert page.inner_text("#name") == "mine.png"


def test_colours_follow_the_chosen_column_and_one_class_alone(page):
    before = page.evaluate("Array.from(state.maps[0].colours.slice(0, 40))")
    assert len(set(before)) > 20, "time runs through the colours"
    page.select_option("#colour", label="event")
    page.wait_for_selector("#legend button")
    assert page.locator("#legend button").count() == 3
    colours = page.evaluate("Array.from(state.maps[1].colours)")
    assert len(set(colours)) == 3
    page.locator("#legend button").nth(1).click()
    dim = page.evaluate("Array.from(state.maps[0].dim)")
    assert sum(dim) == 4 * FRAMES
    page.locator("#legend button").nth(1).click()
    assert page.evaluate("state.maps[0].dim") is None


def test_the_cursor_shows_both_views_at_one_moment(page):
    assert page.locator("#matrices canvas").count() == 2
    page.locator("#cursor").fill("20")
    assert page.inner_text("#now") == "1.67 s"
    texts = page.locator("#pair figcaption").all_inner_texts()
    assert texts[0] == "view 0, 1.67 s"
    assert texts[1] == "same moment, view 1, 1.67 s"
    assert texts[2].split(" most alike, ")[1].startswith("trained: ")
    page.locator("#matrices canvas").nth(0).hover(position={"x": 46 + 165, "y": 8 + 82})
    assert "pointed at" in page.inner_text("#pair")


def test_a_phone_scrolls_in_one_direction_only(browser, server):
    page = browser.new_page(viewport={"width": 420, "height": 800}, color_scheme="dark")
    page.goto(server.address)
    page.wait_for_selector("body[data-ready]")
    page.mouse.click(*place_of(page, 50))
    page.wait_for_selector("#found button")
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
    page.close()


@pytest.mark.slow
def test_two_hundred_thousand_points_stay_smooth(browser, home):
    """Frames per second while the map is dragged. Without a GPU, on a shared core: 15 at least."""
    count = 200_000
    rng = np.random.default_rng(0)
    rows = load_embeddings(home / "pixels")
    rows = rows.take(np.sort(rng.integers(0, len(rows), count)))
    points = rng.normal(size=(count, 2)) * rng.choice([0.2, 1.0], (count, 1))
    column = Column("number", rng.random(count).astype(np.float32))
    session = Session([side_of("these", rows, points, "made up")], [column], None)
    with Server(session) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.goto(server.address)
        page.wait_for_selector("body[data-ready]", timeout=120_000)
        took = page.evaluate(
            """async () => {
                const map = state.maps[0], begun = performance.now();
                for (let n = 0; n < 60; n++) {
                    map.x += 0.002;
                    map.draw();
                    await new Promise(requestAnimationFrame);
                    await new Promise(requestAnimationFrame);
                }
                return [(performance.now() - begun) / 60, map.drawMs, map.drawn];
            }"""
        )
        page.close()
        server.shutdown()
    print(f"{took[0]:.1f} ms a frame, of which drawing {took[1]:.1f} ms")
    assert took[1] < 1000 / 15
