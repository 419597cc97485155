"""docs/reference.md is what the code says, CITATION.cff what pyproject.toml says, and the package's example runs."""

import runpy
import tomllib
from pathlib import Path

import yaml

import imagesprint

PROJECT = Path(__file__).parents[1]


def test_the_reference_is_what_the_docstrings_say() -> None:
    page = runpy.run_path(str(PROJECT / "docs/reference.py"))["page"]()
    assert page == (PROJECT / "docs/reference.md").read_text(encoding="utf-8"), "give `make reference`"
    assert all(f"\n### {name}\n" in page for name in imagesprint.__all__)


def test_the_citation_says_what_the_package_says() -> None:
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation.pop("cff-version") == "1.2.0"
    assert citation.pop("type") == "software"
    assert citation.pop("message")
    assert citation == {
        "title": project["name"],
        "abstract": project["description"],
        "authors": project["authors"],
        "version": project["version"],
        "license": project["license"],
        "keywords": project["keywords"],
    }
