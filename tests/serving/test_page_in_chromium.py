"""The page in a real browser: choosing, dropping and pasting photos, at 400 and at 1280 pixels, and what goes wrong."""

import base64
import io
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chromium import BrowserPage, Chromium, chromium_command
from tiny_server import CLASSES, Server, Started, make_image, wait_for

pytestmark = [pytest.mark.remote, pytest.mark.skipif(chromium_command() is None, reason="needs Chromium")]

# What the page shows of each photo, the newest first: its name, its classes, their percentages, and what is said of it.
SHOWN = """Array.from(document.querySelectorAll("article"), (card) => ({
  name: card.querySelector("h2").textContent,
  classes: Array.from(card.querySelectorAll(".class"), (one) => one.textContent),
  percents: Array.from(card.querySelectorAll(".percent"), (one) => parseFloat(one.textContent)),
  bars: Array.from(card.querySelectorAll(".bar"), (one) => 100 * one.offsetWidth / one.parentElement.offsetWidth),
  state: card.querySelector(".state").textContent,
  detail: card.querySelector(".detail").textContent,
  may_pass: !card.querySelector(".again").hidden,
}))"""
SPOKEN = 'document.getElementById("said").textContent'
TROUBLE = 'document.getElementById("server").textContent'
ORIENTATION, LYING = 0x0112, 6  # EXIF's tag, and its value of a camera that was turned to the left
# Keeps the body of the next request in `sent`, in base64.
KEEP_SENT = """{
  const theirs = fetch;
  window.fetch = async (url, options) => {
    window.fetch = theirs;
    window.sent = btoa(String.fromCharCode(...new Uint8Array(await new Response(options.body).arrayBuffer())));
    return theirs(url, options);
  };
}"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.fixture
def page(browser: Chromium, server: Server) -> Iterator[BrowserPage]:
    """The page, 400 pixels wide, once it knows its model. It asked nobody else for anything, and had no complaints."""
    opened = open_page(browser, server, 400)
    yield opened
    assert {url.split("/")[2] for url in opened.requests if not url.startswith("blob:")} == {
        f"{server.host}:{server.port}"
    }
    assert opened.complaints == []


def open_page(browser: Chromium, server: Server, width: int) -> BrowserPage:
    page = browser.open_page(f"http://{server.host}:{server.port}/", width, 900)
    page.wait_for('!document.getElementById("facts").hidden')
    return page


def wait_until_said(page: BrowserPage, before: str = "") -> str:
    """What a screen reader is told of answers, once that is another text than `before`."""
    said: str = page.wait_for(f"{SPOKEN} !== {json.dumps(before)} && {SPOKEN}")
    return said


@pytest.fixture
def photo(tmp_path: Path) -> Callable[..., Path]:
    """Writes an image file of a name."""

    def write(name: str, seed: int = 0, kind: str = "JPEG") -> Path:
        file = tmp_path / name
        file.write_bytes(make_image(seed, kind))
        return file

    return write


def check_answer(server: Server, shown: dict[str, Any], content: bytes) -> None:
    """That the page shows what the server answers to this photo."""
    top = server.ask("/predict?top=5", content).json["top"]
    assert shown["classes"] == [one["name"] for one in top]
    assert shown["percents"] == pytest.approx([100 * one["probability"] for one in top], abs=0.06)
    assert shown["bars"] == pytest.approx(shown["percents"], abs=1)
    assert " in all, " in shown["state"]
    assert shown["state"].endswith("s in the server")


def test_the_page_says_what_model_this_is(page: BrowserPage, server: Server) -> None:
    health = server.ask("/health").json
    shown = page.evaluate('Array.from(document.querySelectorAll("dd"), (one) => one.textContent)')
    assert shown == [health["model"], "3", "2", health["runtime"], health["precision"]]
    page.evaluate('document.querySelector("summary").click()')
    assert page.wait_for('document.getElementById("names").textContent') == " · ".join(CLASSES)


@pytest.mark.parametrize("width", [400, 1280])
def test_photos_that_are_dropped_are_answered(
    browser: Chromium, server: Server, photo: Callable[..., Path], width: int
) -> None:
    page = open_page(browser, server, width)
    files = [photo("one.jpg", 1), photo("two.png", 2, "PNG"), photo("three <b>.webp", 3, "WEBP")]
    page.drop(files, 200, 400, held=True)
    assert page.evaluate("document.body.className") == "dragging"
    page.drop(files, 200, 400)
    assert wait_until_said(page) == "3 photos answered"
    assert page.evaluate("document.body.className") == ""
    shown = page.evaluate(SHOWN)
    assert [one["name"] for one in shown] == [file.name for file in files]
    for one, file in zip(shown, files, strict=True):
        check_answer(server, one, file.read_bytes())
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("Array.from(document.images).every((one) => one.complete && one.naturalWidth)")
    assert page.complaints == []


def test_the_keyboard_alone_chooses_photos(page: BrowserPage, server: Server, photo: Callable[..., Path]) -> None:
    for _ in range(2):  # past the list of classes
        page.press("Tab")
    assert page.evaluate("document.activeElement.id") == "files"
    assert page.evaluate('getComputedStyle(document.querySelector("label")).outlineStyle') == "solid"
    said = ""
    for seed in (1, 2):  # the same file again, with another photo in it
        page.press("Enter")
        page.choose([file := photo("chosen.jpg", seed)])
        said = wait_until_said(page, said)
        top = page.evaluate(SHOWN)[0]
        words = re.fullmatch(r"chosen\.jpg: (\w+), (\d+) percent", said)
        assert words is not None
        assert words[1] == top["classes"][0]
        assert float(words[2]) == pytest.approx(top["percents"][0], abs=0.6)
        check_answer(server, top, file.read_bytes())


def test_a_pasted_photo_is_answered(page: BrowserPage, server: Server) -> None:
    page.paste_image(make_image(4, "PNG"))
    wait_until_said(page)
    (shown,) = page.evaluate(SHOWN)
    check_answer(server, shown, make_image(4, "PNG"))


@pytest.mark.parametrize(("noted", "byte_order"), [(LYING, "<"), (LYING, ">"), (0, "<")])
def test_a_photo_of_a_camera_on_its_side_is_turned(
    page: BrowserPage, tmp_path: Path, noted: int, byte_order: str
) -> None:
    upright = Image.open(io.BytesIO(make_image(5, "PNG", (640, 480))))
    exif = Image.Exif()
    exif.endian = byte_order
    exif[ORIENTATION] = noted
    file = tmp_path / "lying.jpg"
    upright.transpose(Image.Transpose.ROTATE_90).save(file, exif=exif, quality=95)
    page.evaluate(KEEP_SENT)
    page.drop([file], 200, 400)
    wait_until_said(page)
    (shown,) = page.evaluate(SHOWN)
    sent = base64.b64decode(page.evaluate("sent"))
    if noted != LYING:  # 0 says nothing
        assert (shown["detail"], sent) == ("", file.read_bytes())
        return
    assert shown["detail"] == "Its camera was not held upright: it was turned before it was sent."
    turned = Image.open(io.BytesIO(sent))
    assert (turned.format, turned.size, turned.getexif().get(ORIENTATION, 1)) == ("JPEG", upright.size, 1)
    assert np.abs(np.asarray(turned, np.int16) - np.asarray(upright, np.int16)).mean() < 2


def test_what_goes_wrong_stands_beside_the_photo(
    browser: Chromium, server: Server, photo: Callable[..., Path], tmp_path: Path
) -> None:
    page = open_page(browser, server, 400)
    text, cut, huge, folder = (tmp_path / name for name in ("text.jpg", "cut.jpg", "huge.jpg", "folder"))
    text.write_text("words")
    cut.write_bytes(make_image()[:-100])
    with huge.open("wb") as file:
        file.truncate(server.ask("/health").json["max_body_bytes"] + 1)
    folder.mkdir()
    page.drop([text, cut, huge, folder, photo("good.jpg")], 200, 400)
    assert wait_until_said(page) == "1 photo answered, 4 not"
    shown = {one["name"]: one for one in page.evaluate(SHOWN)}
    assert shown["text.jpg"]["state"] == "The server takes photos, and this is none that it knows."
    assert "no image" in shown["text.jpg"]["detail"]
    assert shown["cut.jpg"]["state"] == "This photo is damaged."
    assert shown["huge.jpg"]["state"] == "This photo has 32 MB; the server takes 32 MB at most."
    assert shown["folder"]["state"] == "This cannot be read. Is it a folder, or gone?"
    assert not any(one["may_pass"] for one in shown.values())
    check_answer(server, shown["good.jpg"], make_image())


@pytest.fixture
def store(served_run: Path) -> Iterator[ThreadingHTTPServer]:
    """A store with the run's checkpoint, which answers nobody until `serve_forever` is called."""
    handler = partial(SimpleHTTPRequestHandler, directory=served_run / "checkpoints")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        yield server
        server.shutdown()


def test_a_server_that_loads_or_is_gone_is_told_of(
    browser: Chromium,
    store: ThreadingHTTPServer,
    start_server: Callable[..., Started],
    photo: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("IMAGESPRINT_CACHE", str(tmp_path / "cache"))
    command = start_server(f"http://127.0.0.1:{store.server_port}/step-0000002.pt")
    address = wait_for(lambda: re.search(r"; (http://\S+)", command.stderr.read_text()))[1]
    page = browser.open_page(f"{address}/", 400, 900)
    assert page.wait_for(TROUBLE) == "The model is being loaded."
    page.drop([photo("early.jpg")], 200, 400)
    told = "early.jpg: The model is still being loaded."
    assert wait_until_said(page) == told
    Thread(target=store.serve_forever).start()
    page.wait_for(f'{TROUBLE} === ""')
    page.evaluate('document.querySelector(".again").focus()')
    page.press("Enter")
    assert wait_until_said(page, told).endswith(" percent")
    assert page.evaluate("document.activeElement.tagName") == "ARTICLE"  # not lost with the button
    assert command.end().code == 0
    page.drop([photo("late.jpg")], 200, 400)
    gone = "The server cannot be reached. Is it still running?"
    page.wait_for(f"{TROUBLE} === {json.dumps(gone)}")
    late, early = page.evaluate(SHOWN)
    assert (late["state"], late["may_pass"]) == (gone, True)
    assert early["classes"]
