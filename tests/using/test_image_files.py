"""Which files a command line means."""

from pathlib import Path

import pytest

from imagesprint.errors import UsageError
from imagesprint.using.image_files import find_images


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b.JPG", "a.png", "notes.txt", ".hidden.jpg", "deep/er/c.webp", ".cache/d.jpg", "deep/x[1].jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["."], ["a.png", "b.JPG", "deep/x[1].jpg", "deep/er/c.webp"]),
        (["notes.txt", "gone.jpg", "a.png", "a.png"], ["notes.txt", "gone.jpg", "a.png", "a.png"]),
        (["*.[Jp]*"], ["a.png", "b.JPG"]),
        (["**/*.webp"], ["deep/er/c.webp"]),
        (["de*"], ["deep/x[1].jpg", "deep/er/c.webp"]),
        (["deep/x[1].jpg"], ["deep/x[1].jpg"]),
        (["-", "a.png"], ["b.JPG", "deep/er/c.webp", "gone*.jpg", "a.png"]),
    ],
)
def test_words_stand_for_files_in_order(words: list[str], found: list[str]) -> None:
    assert list(map(str, find_images(words, ["b.JPG", "", "deep/er", "gone*.jpg"]))) == found


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize(
    ("word", "error"),
    [
        ("*.gif", r"nothing matches \*\.gif"),
        ("empty", "there are no images in empty"),
        ("-", "standard input names no images"),
    ],
)
def test_words_without_images_are_wrong_usage(word: str, error: str) -> None:
    Path("empty").mkdir()
    with pytest.raises(UsageError, match=error):
        find_images([word], [])


def test_folders_are_walked_as_by_prepare(tree: Path) -> None:
    for name in ("@eaDir/b.JPG/THUMB.jpg", "Thumbs.db", "deep/chrome.JFIF", "elsewhere/z.png"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).touch()
    (tree / "deep/er/up").symlink_to(tree)
    (tree / "deep/er/gone.png").symlink_to("nowhere")  # named, so that its reason is
    (tree / "linked").symlink_to("elsewhere")
    found = list(map(str, find_images(["deep", "linked"], [])))
    assert found == ["deep/chrome.JFIF", "deep/x[1].jpg", "deep/er/c.webp", "deep/er/gone.png", "linked/z.png"]
