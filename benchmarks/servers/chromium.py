"""Headless Chromium for tests and benchmarks, driven by its DevTools protocol through two pipes: without a port."""

import base64
import json
import os
import select
import shutil
import signal
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

SECONDS: Final = 60.0  # until what is waited for must be there
_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
_FROM_US, _TO_US = 3, 4  # the file descriptors of --remote-debugging-pipe
_KEYS: Final = {"Tab": (9, ""), "Enter": (13, "\r"), "v": (86, "v")}  # virtual key codes, and what they type


def chromium_command() -> str | None:
    """Return where Chromium is installed; None where it is not."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


class Chromium:
    """A browser of its own, with a fresh profile in `folder`. Raises RuntimeError where there is none."""

    def __init__(self, folder: Path) -> None:
        command = chromium_command()
        if command is None:
            raise RuntimeError("Chromium is not installed: apt-get install chromium")
        self._calls = 0
        self._messages: deque[bytes] = deque()
        self._parts: list[bytes] = []  # of the next message
        self._events: list[dict[str, Any]] = []
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        words = [
            command, "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={folder / 'profile'}",
            "--no-sandbox",  # which root cannot have
            "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--no-default-browser-check", "--hide-scrollbars",
        ]  # fmt: skip
        log = os.open(folder / "chromium.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        places = ((theirs_in, _FROM_US), (theirs_out, _TO_US), (log, 1), (log, 2))
        self._pid = os.posix_spawn(
            command, words, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, *place) for place in places], setsid=True
        )
        for end in (theirs_in, theirs_out, log):
            os.close(end)

    def open_page(self, url: str, width: int, height: int, *, dark: bool = False) -> "BrowserPage":
        """Open `url` in a window of `width` × `height` CSS pixels, and wait until it is loaded."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        return BrowserPage(self, session, url, (width, height), dark)

    def call(self, method: str, parameters: dict[str, Any] | None = None, session: str = "") -> dict[str, Any]:
        """Call a method of the DevTools protocol and return its result. Raises RuntimeError where it fails."""
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": parameters or {}}
        os.write(self._to, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        while (answer := self._receive(SECONDS)) is None or answer.get("id") != self._calls:
            if answer is None:
                raise RuntimeError(f"{method}: Chromium gives no answer")
            self._events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    def events(self, session: str) -> list[dict[str, Any]]:
        """What has happened in a session since its last call."""
        while (event := self._receive(0)) is not None:
            self._events.append(event)
        found = [event for event in self._events if event.get("sessionId") == session]
        self._events = [event for event in self._events if event.get("sessionId") != session]
        return found

    def _receive(self, seconds: float) -> dict[str, Any] | None:
        """The next message; None where none comes within `seconds`."""
        while not self._messages:
            if not select.select([self._from], [], [], seconds)[0]:
                return None
            received = os.read(self._from, 1 << 20)
            if not received:
                raise RuntimeError("Chromium has ended")
            *ends, rest = received.split(b"\0")
            for end in ends:
                self._messages.append(b"".join([*self._parts, end]))
                self._parts.clear()
            self._parts.append(rest)
        found: dict[str, Any] = json.loads(self._messages.popleft())
        return found

    def close(self) -> None:
        """End the browser and all its processes."""
        os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._to)
        os.close(self._from)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class BrowserPage:
    """One page: `requests` are the URLs that it asked for, `complaints` what its console said of errors."""

    def __init__(self, browser: Chromium, session: str, url: str, size: tuple[int, int], dark: bool) -> None:
        self._browser = browser
        self._session = session
        self._size = size
        self._requests: list[str] = []
        self._complaints: list[str] = []
        self._choosers: list[int] = []  # nodes whose dialog is open
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self._call(f"{domain}.enable")
        self._call("Network.enable", maxPostDataSize=1)  # no photos in the events
        self._call("Page.setInterceptFileChooserDialog", enabled=True)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._resize(size[1])
        trouble = self._call("Page.navigate", url=url).get("errorText")
        if trouble:
            raise RuntimeError(f"{url}: {trouble}")
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    @property
    def requests(self) -> list[str]:
        self._note_events()
        return self._requests

    @property
    def complaints(self) -> list[str]:
        self._note_events()
        return self._complaints

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited. Raises RuntimeError where it throws."""
        done = self._call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in done:
            raise RuntimeError(f"{expression}: {done['exceptionDetails']}")
        return done["result"].get("value")

    def wait_for(self, expression: str, seconds: float = SECONDS) -> Any:
        """Return the value of `expression` once it is true. Raises RuntimeError where it is not within `seconds`."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            if time.monotonic() > end:
                raise RuntimeError(f"not within {seconds:g} s: {expression}; {self.complaints}")
            time.sleep(0.05)
        return value

    def press(self, key: str, *commands: str, modifiers: int = 0) -> None:
        """Press a key, with `modifiers` (2: Ctrl, 8: Shift) and the editing `commands` that the system makes of it."""
        code, text = _KEYS[key]
        stroke = {"key": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        typed = {} if modifiers & 2 else {"text": text}
        self._call("Input.dispatchKeyEvent", type="keyDown", commands=commands, **stroke, **typed)
        self._call("Input.dispatchKeyEvent", type="keyUp", **stroke)

    def choose(self, files: Sequence[Path]) -> None:
        """Answer the dialog for files that the page has opened. Raises RuntimeError where it opens none."""
        end = time.monotonic() + SECONDS
        while not self._choosers:
            if time.monotonic() > end:
                raise RuntimeError("no dialog for files is open")
            self._note_events()
            time.sleep(0.05)
        self._call("DOM.setFileInputFiles", files=[str(file) for file in files], backendNodeId=self._choosers.pop(0))

    def drop(self, files: Sequence[Path], x: int, y: int, *, held: bool = False) -> None:
        """Drag `files` over the window to x, y and drop them there, or keep hold of them with `held`."""
        data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver") if held else ("dragEnter", "dragOver", "drop"):
            self._call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def paste_image(self, png: bytes) -> None:
        """Put a picture on the clipboard and press Ctrl+V."""
        self._browser.call(
            "Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
        )
        self._call("Page.bringToFront")
        self.evaluate(
            "navigator.clipboard.write([new ClipboardItem({'image/png': new Blob([Uint8Array.from("
            f"atob('{base64.b64encode(png).decode()}'), (letter) => letter.charCodeAt(0))], {{type: 'image/png'}})}})])"
        )
        self.press("v", "paste", modifiers=2)

    def screenshot(self, path: Path) -> None:
        """Write a PNG of the whole page, however long it is."""
        self._resize(max(self._size[1], self.evaluate("document.documentElement.scrollHeight")))
        picture = self._call("Page.captureScreenshot", format="png")["data"]
        self._resize(self._size[1])
        path.write_bytes(base64.b64decode(picture))

    def _resize(self, height: int) -> None:
        self._call(
            "Emulation.setDeviceMetricsOverride", width=self._size[0], height=height, deviceScaleFactor=1, mobile=False
        )

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.call(method, parameters, self._session)

    def _note_events(self) -> None:
        for event in self._browser.events(self._session):
            method, what = event["method"], event["params"]
            if method == "Network.requestWillBeSent":
                self._requests.append(what["request"]["url"])
            elif method == "Page.fileChooserOpened":
                self._choosers.append(what["backendNodeId"])
            elif method == "Log.entryAdded" and what["entry"]["level"] in ("error", "warning"):
                self._complaints.append(f"{what['entry']['text']} {what['entry'].get('url', '')}")
            elif method == "Runtime.exceptionThrown":
                self._complaints.append(what["exceptionDetails"]["exception"]["description"])
            elif method == "Runtime.consoleAPICalled":
                self._complaints.append(str(what["args"]))
