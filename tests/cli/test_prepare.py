import inspect
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imagesprint.cli.main import _parse
from imagesprint.prepare.preparing import prepare


def test_prepare_tells_what_it_made_and_what_comes_next(
    imagesprint: Callable[..., Any], photos: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    done = imagesprint("prepare", photos, root, "--variants", "full,32", "--workers", 1)
    assert done.code == 0
    assert f"listing {photos} (class-folders)" in done.stderr
    assert "70 train, 18 validation images in 2 classes, 0 files rejected" in done.stdout
    *_, following, otherwise = done.stdout.splitlines()
    assert following == f"next: imagesprint train finetune --data {root} --output RUN"
    assert otherwise.startswith("      or small, which needs no pretrained weights; ")
    assert "images/s" in done.stdout
    again = imagesprint("prepare", photos, root, "--variants", "full,32", "--json")
    assert again.code == 0
    assert again.json["images"] == {"train": 70, "validation": 18}
    assert again.json["variants"]["32"]["written"] is False
    assert "nothing was left to do" in imagesprint("prepare", photos, root, "--variants", "full").stdout


def test_default_variants_and_val_fraction(imagesprint: Callable[..., Any], photos: Path, tmp_path: Path) -> None:
    done = imagesprint("prepare", photos / "train", tmp_path / "root", "--val-fraction", 0.2, "--workers", 1, "--json")
    assert done.code == 0
    assert list(done.json["variants"]) == ["full", "320", "160"]
    assert done.json["images"] == {"train": 56, "validation": 14}
    assert "hold the same bytes: no image is larger than 320 px" in done.stderr


def test_rejected_files(imagesprint: Callable[..., Any], photos: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(photos, tmp_path / "source"))
    (source / "train/china/page.jpg").write_text("<html>")
    flags = ("prepare", source, tmp_path / "root", "--variants", "full", "--workers", 1)
    failed = imagesprint(*flags)
    assert failed.code == 1
    assert "error: 1 of 89 files are rejected so far, the first of them train/china/page.jpg: no image" in failed.stderr
    assert "--max-rejected 0.012" in failed.stderr
    done = imagesprint(*flags, "--max-rejected", 0.012)
    assert done.code == 0
    assert f"the rejected files, with reasons: {tmp_path}/root/full/rejected.jsonl" in done.stdout


def test_no_speed_where_all_shards_were_finished(imagesprint: Callable[..., Any], photos: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(photos, tmp_path / "source"))
    (source / "val/china/page.jpg").write_text("<html>")  # in the last shard
    flags = ("prepare", source, tmp_path / "root", "--variants", "full", "--workers", 1)
    assert imagesprint(*flags).code == 1
    assert re.search(r"^\d+\.\d s$", imagesprint(*flags, "--max-rejected", 0.1).stdout, re.MULTILINE)


def test_what_each_variant_took(imagesprint: Callable[..., Any], photos: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    words = ("prepare", photos, root, "--variants", "full,32", "--workers", 2)
    done = imagesprint(*words, "--json").json
    for name, took in done["variants"].items():
        size = sum(path.stat().st_size for path in (root / name).glob("*-of-*"))
        assert (took["bytes"], took["bytes_per_image"]) == (size, size / 88)
        assert 0 < took["cpu_seconds"] < 60
    assert 0 < done["decode_cpu_seconds"] < 60
    again = imagesprint(*words).stdout
    assert "bytes an image" in again
    assert "CPU s for all variants" not in again


def test_raw_variant(imagesprint: Callable[..., Any], photos: Path, tmp_path: Path) -> None:
    words = ("prepare", photos, tmp_path / "root", "--workers", 1, "--format", "raw")
    refused = imagesprint(*words)
    assert refused.code == 2
    assert "--format raw cannot be had for the variant full" in refused.stderr
    assert imagesprint(*words, "--variants", "32").code == 0
    verified = imagesprint("verify", tmp_path / "root", "--decode")
    assert (verified.code, verified.stderr.count("error")) == (0, 0)


@pytest.mark.parametrize(("name", "value"), [("RANK", "first"), ("RANK", "3"), ("WORLD_SIZE", "-1")])
def test_broken_rank_environment(command: list[str], photos: Path, tmp_path: Path, name: str, value: str) -> None:
    words = [*command, "prepare", str(photos), str(tmp_path / "root"), "--variants", "32"]
    environment = {**os.environ, "RANK": "0", "WORLD_SIZE": "2", name: value}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["nowhere", "root"], "there is no source folder nowhere", "class folders: train/CLASS"),
        (["PHOTOS/train", "root"], "no validation split", "--val-fraction 0.1"),
        (["PHOTOS", "PHOTOS/out"], "lies in the source", "outside"),
        (["PHOTOS", "root", "--variants", "full,big"], "'big' is no variant", "full,320,160"),
        (["PHOTOS", "/proc/root"], "cannot write to /proc/root", "another ROOT"),
    ],
)
def test_bad_usage(imagesprint: Callable[..., Any], photos: Path, arguments: list[str], error: str, hint: str) -> None:
    done = imagesprint("prepare", *(word.replace("PHOTOS", str(photos)) for word in arguments), "--json")
    assert done.code == 2
    assert error in done.json["error"]
    assert hint in done.json["hint"]
    assert json.loads(done.stdout)["exit_code"] == 2
    assert "Traceback" not in done.stderr


def test_defaults_are_those_of_the_function() -> None:
    defaults = {name: parameter.default for name, parameter in inspect.signature(prepare).parameters.items()}
    args = _parse(["prepare", "SOURCE", "ROOT"])
    assert tuple(args.variants.split(",")) == defaults["variants"]
    assert args.format == defaults["image_format"]
    for name in ("shards", "part", "quality", "val_fraction", "source_kind", "workers", "max_rejected", "seed"):
        assert getattr(args, name) == defaults[name]
