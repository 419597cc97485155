import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imagesprint.errors import UsageError
from imagesprint.prepare.defaults import SOURCES
from imagesprint.prepare.sources.opening import open_source


@pytest.mark.parametrize("kind", SOURCES)
def test_chosen_by_what_is_there(miniature: Path, kind: str) -> None:
    assert open_source(miniature / kind).kind == kind
    assert open_source(miniature / kind, kind).kind == kind


def test_tars_left_over_beside_class_folders_and_the_other_way_round(miniature: Path, tmp_path: Path) -> None:
    shutil.copytree(miniature / "class-folders", tmp_path / "photos")
    for name in ("train.tar", "val.tar", "test.tar", "train/bad.tar"):
        (tmp_path / "photos" / name).touch()
    assert open_source(tmp_path / "photos").kind == "class-folders"
    assert open_source(tmp_path / "photos/val").kind == "class-folders"
    shutil.copytree(miniature / "synset-tars", tmp_path / "tars")
    (tmp_path / "tars/meta").mkdir()
    assert open_source(tmp_path / "tars").kind == "synset-tars"


def test_forced_kind_that_does_not_fit(imagesprint: Callable[..., Any], miniature: Path, tmp_path: Path) -> None:
    done = imagesprint("prepare", miniature / "kaggle", tmp_path / "root", "--source", "ilsvrc")
    assert done.code == 2
    assert f"error: {miniature / 'kaggle'} does not look like a source of the kind ilsvrc" in done.stderr
    assert "ILSVRC2012_img_train.tar" in done.stderr
    for kind in set(SOURCES) - {"class-folders"}:
        with pytest.raises(UsageError, match=f"of the kind {kind}"):
            open_source(miniature / "class-folders", kind)


def test_forced_kind_that_fits_too(miniature: Path, tmp_path: Path) -> None:
    shutil.copytree(miniature / "class-folders", tmp_path, dirs_exist_ok=True)
    shutil.copytree(miniature / "ilsvrc", tmp_path, dirs_exist_ok=True)
    assert open_source(tmp_path).kind == "ilsvrc"
    assert len(open_source(tmp_path, "class-folders").scan().splits["validation"]) == 6


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not look like a source") as caught:
        open_source(tmp_path)
    for words in ("ILSVRC2012_img_train.tar", "LOC_synset_mapping.txt", "parquet", "one tar a class", "class folders"):
        assert words in caught.value.hint
    with pytest.raises(UsageError, match="no kind of source 'zip'"):
        open_source(tmp_path, "zip")
