"""What is litter, what is an image by its name, and walking through folders."""

import os
from pathlib import Path

import pytest
from PIL import Image

from imagesprint.images.coding import FORMATS
from imagesprint.images.finding import SUFFIXES, Walk, is_image, is_litter, is_no_image


def test_suffixes_are_those_of_the_formats_that_are_opened() -> None:
    Image.init()
    assert {suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS} == SUFFIXES


LITTER = """.DS_Store|._a.jpg|.ipynb_checkpoints|.git|.@__thumb|.Trash-1000|__MACOSX|Icon\r|Temporary Items|Thumbs.db|
thumbs.DB|ehthumbs_vista.db|Desktop.ini|$RECYCLE.BIN|$Recycle.Bin|RECYCLER|System Volume Information|FOUND.000|@eaDir|
1.jpg:Zone.Identifier|1.jpg:Zone.Identifier:$DATA|Thumbs.db:encryptable|1.jpg~|#1.jpg#|~$a.doc|@EADIR|1.jpg@SynoEAStream|#recycle|#snapshot|@Recently-Snapshot|@Recycle|lost+found|Picasa.ini|__pycache__"""


@pytest.mark.parametrize("name", LITTER.replace("\n", "").split("|"))
def test_litter(name: str) -> None:
    assert is_litter(name)


@pytest.mark.parametrize("name", ["cat", "n01440764", "thumbs", "recycle", "1.jpg", "macosx", "found", "@home", "icon"])
def test_no_litter(name: str) -> None:
    assert not is_litter(name)


def test_names_of_images_and_of_others() -> None:
    assert all(map(is_image, ["a.jpg", "a.JPEG", "a.b.jfif", "a.PNG"]))
    assert not any(map(is_image, ["a", "jpg", "a.jpg.txt", "a.heic", ".jpg"]))
    assert all(map(is_no_image, ["a.txt", "a.JSON", "a.tar.gz", "README", "a.jpg.xmp"]))
    assert not any(map(is_no_image, ["a", "a.jpg", "a.JPEG_1", "a.heic", "txt", "3f2a.part"]))
    assert not any(map(is_no_image, SUFFIXES))


def test_order_and_what_is_passed_over(tmp_path: Path) -> None:
    for name in ("b/2", "a/1", "z", "b/.x/3", "@eaDir/4", "b/@eaDir"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    walk = Walk([tmp_path])
    assert [os.path.relpath(entry.path, tmp_path) for entry in walk.files(tmp_path)] == ["z", "a/1", "b/2"]
    assert walk.look(tmp_path) == (["a", "b"], ["z"])
    assert walk.notes()[0].startswith("what systems and programs leave behind is passed over: 3, the first")


def test_folder_that_leads_to_itself_by_many_ways(tmp_path: Path) -> None:
    for name in "abcdefgh":
        (tmp_path / "cat" / name).mkdir(parents=True)
        (tmp_path / "cat" / name / "1.jpg").touch()
        for other in "abcdefgh":
            (tmp_path / "cat" / name / f"to-{other}").symlink_to(f"../{other}")
    walk = Walk([tmp_path / "cat"])
    assert len(walk.images(tmp_path / "cat")) == 8
    assert walk.astray.count == 64
