"""The page as the server hands it out, and that its parts fit together. `test_page_in_chromium.py` uses it."""

import re
import tomllib
from fnmatch import fnmatch
from html.parser import HTMLParser
from pathlib import Path

import pytest

from imagesprint.serving import page
from tiny_server import Server

FOLDER = Path(page.__file__).with_name("page")
SCRIPT = (FOLDER / "page.js").read_text()


class Elements(HTMLParser):
    """The elements of a page: each its name and its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


ELEMENTS = Elements((FOLDER / "index.html").read_text()).found


@pytest.mark.parametrize(
    ("path", "file", "kind"),
    [
        ("/", "index.html", "text/html; charset=utf-8"),
        ("/page.css", "page.css", "text/css; charset=utf-8"),
        ("/page.js", "page.js", "text/javascript; charset=utf-8"),
        ("/icon.svg", "icon.svg", "image/svg+xml"),
    ],
)
def test_a_file_comes_with_its_type_and_may_load_and_run_nothing_else(
    server: Server, path: str, file: str, kind: str
) -> None:
    answer = server.ask(path)
    assert (answer.status, answer.content) == (200, (FOLDER / file).read_bytes())
    assert answer.headers["Content-Type"] == kind
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    policy = dict(rule.split(" ", 1) for rule in answer.headers["Content-Security-Policy"].split("; "))
    sources = {"script-src": "'self'", "style-src": "'self'", "connect-src": "'self'", "img-src": "'self' blob:"}
    none = dict.fromkeys(("default-src", "form-action", "frame-ancestors", "base-uri", "trusted-types"), "'none'")
    assert policy == sources | none | {"require-trusted-types-for": "'script'"}


def test_all_that_the_page_loads_comes_from_the_server(server: Server) -> None:
    loaded = [link for _, attributes in ELEMENTS for key in ("src", "href") if (link := attributes.get(key))]
    assert set(loaded) == {"icon.svg", "page.css", "page.js"}  # relative: it works below another path, too
    assert {server.ask(f"/{link}").status for link in loaded} == {200}
    for _, attributes in ELEMENTS:  # which the policy would forbid
        assert not [name for name in attributes if name == "style" or name.startswith("on")]
    assert not re.search(r"https?:|@import|url\(", (FOLDER / "page.css").read_text() + SCRIPT)


def test_the_script_finds_what_it_looks_for(server: Server) -> None:
    ids = [attributes["id"] for _, attributes in ELEMENTS if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = set(re.findall(r'(?:find|copy)\("(\w+)"\)', SCRIPT))
    listed = re.search(r"for \(const name of \[(.*)\]\)", SCRIPT)
    assert listed is not None
    facts = set(re.findall(r"\w+", listed[1]))
    assert wanted | facts <= set(ids)
    assert len(wanted) > 8
    classes = {name for _, attributes in ELEMENTS for name in (attributes.get("class") or "").split()}
    assert set(re.findall(r'(?:part|querySelector)\("\.(\w+)"\)', SCRIPT)) <= classes
    health = server.ask("/health").json
    assert {*facts, "status", "max_body_bytes"} <= health.keys()
    assert "text" in server.ask("/model").json["classes"][0]


def test_what_asks_for_something_has_a_name_and_what_changes_is_said() -> None:
    labelled = {attributes["for"] for tag, attributes in ELEMENTS if tag == "label"}
    for tag, attributes in ELEMENTS:
        assert tag != "input" or attributes["id"] in labelled
        assert tag != "img" or "alt" in attributes
    spoken = {attributes["id"] for _, attributes in ELEMENTS if attributes.get("role") == "status"}
    assert spoken == {"server", "said"}


def test_the_files_of_the_page_are_in_the_wheel() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["imagesprint.serving"]
    for file in FOLDER.iterdir():
        assert any(fnmatch(f"page/{file.name}", pattern) for pattern in patterns), file.name
