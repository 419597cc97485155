"""Which files a command line means."""

import io
import os
from pathlib import Path

import pytest

from imagesprint.console import Console
from imagesprint.errors import UsageError
from imagesprint.inference.image_files import find_images


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    names = ("b.JPG", "a.png", "notes.txt", ".hidden.jpg", "deep/er/c.webp", ".cache/d.jpg", "deep/x[1].jpg", "z.JFIF")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["."], ["a.png", "b.JPG", "z.JFIF", "deep/x[1].jpg", "deep/er/c.webp"]),
        (["notes.txt", "gone.jpg", "a.png", "a.png"], ["notes.txt", "gone.jpg", "a.png", "a.png"]),
        (["*.[Jp]*"], ["a.png", "b.JPG", "z.JFIF"]),
        (["**/*.webp"], ["deep/er/c.webp"]),
        (["de*"], ["deep/x[1].jpg", "deep/er/c.webp"]),
        (["deep/x[1].jpg"], ["deep/x[1].jpg"]),
        (["-", "a.png"], ["b.JPG", "deep/er/c.webp", "gone*.jpg", "a.png"]),
    ],
)
def test_words_stand_for_files_in_order(words: list[str], found: list[str]) -> None:
    names = ["b.JPG", "", "deep/er", "gone*.jpg"]
    assert list(map(str, find_images(words, names, Console(quiet=True)))) == found


@pytest.mark.usefixtures("tree")
def test_what_a_folder_has_beside_images_is_noted() -> None:
    Path("deep/x.avif").touch()
    stream = io.StringIO()
    assert len(find_images([".", "deep/er"], [], Console(stream))) == 6
    assert stream.getvalue().endswith(
        "files of . that are no images by name or kind are left out: 2, the first of them ./notes.txt\n"
    )


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
        find_images([word], [], Console(quiet=True))


@pytest.mark.parametrize(("words", "error"), [(["a.png", ""], "name is empty"), (["-", "a.png", "-"], "given twice")])
def test_words_that_cannot_be_meant(words: list[str], error: str) -> None:
    with pytest.raises(UsageError, match=error):
        find_images(words, ["b.JPG"], Console(quiet=True))


@pytest.mark.usefixtures("tree")
def test_no_name_keeps_the_others_from_being_read() -> None:
    os.mkfifo("wait.jpg")
    stream = io.StringIO()
    long = "a" * 300 + ".jpg"
    assert find_images([".", "*.[Jp]*", long], [], Console(stream))[5:] == [
        *map(Path, ("a.png", "b.JPG", "z.JFIF")),
        Path(long),
    ]
    assert "no images by name or kind are left out: 2" in stream.getvalue()
    assert find_images(["wait.jpg"], [], Console(quiet=True)) == [Path("wait.jpg")]


def test_folders_are_walked_as_by_prepare(tree: Path) -> None:
    for name in ("@eaDir/b.JPG/THUMB.jpg", "Thumbs.db", "deep/chrome.JFIF", "elsewhere/z.png"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).touch()
    (tree / "deep/er/up").symlink_to(tree)
    (tree / "deep/er/gone.png").symlink_to("nowhere")  # named, so that its reason is
    (tree / "linked").symlink_to("elsewhere")
    found = list(map(str, find_images(["deep", "linked"], [], Console(quiet=True))))
    assert found == ["deep/chrome.JFIF", "deep/x[1].jpg", "deep/er/c.webp", "deep/er/gone.png", "linked/z.png"]
