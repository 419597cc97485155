"""Parts of a dataset, prepared apart and joined."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imagesprint.console import Console
from imagesprint.errors import RankError, UsageError
from imagesprint.prepare.parts import coder
from imagesprint.prepare.preparing import Summary, prepare
from imagesprint.records.dataset import open_root

ReadTree = Callable[[Path], dict[str, bytes]]
VARIANTS = ("full", "32")
SHARDS = 8  # and two of validation: the first belongs to part 0:1, the second to 4:5


def make(source: Path, root: Path, **options: Any) -> Summary:
    options = {"variants": VARIANTS, "shards": SHARDS, "workers": 1, "console": Console(quiet=True), **options}
    return prepare(source, root, **options)


@pytest.fixture(scope="module")
def expected(photos: Path, tmp_path_factory: pytest.TempPathFactory, read_tree: ReadTree) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("expected") / "root"
    make(photos, root)
    return read_tree(root)


def test_the_last_part_in_a_root_joins_all(
    photos: Path, tmp_path: Path, read_tree: ReadTree, expected: dict[str, bytes]
) -> None:
    root = tmp_path / "root"
    done = make(photos, root, part="3:5")
    assert done.missing == {"train": ((0, 3), (5, 8)), "validation": ((0, 1),)}
    assert (done.written, done.shards) == ((), {"train": 8, "validation": 2})
    assert done.images["validation"] == 9
    assert make(photos, root, part="0:3").missing == {"train": ((5, 8),), "validation": ()}
    with pytest.raises(UsageError, match="is not finished"):
        open_root(root)
    done = make(photos, root, part="4:8")
    assert (done.missing, done.written) == ({}, VARIANTS)
    assert done.images == {"train": 70, "validation": 18}
    assert read_tree(root) == expected


def test_parts_of_several_machines_are_copied_into_one(
    photos: Path, tmp_path: Path, read_tree: ReadTree, expected: dict[str, bytes]
) -> None:
    for number, part in enumerate(("0:2", "2:5", "5:7")):
        make(photos, tmp_path / str(number), part=part)
    for number in (1, 2):
        shutil.copytree(tmp_path / str(number), tmp_path / "0", dirs_exist_ok=True)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("0/[!.]*/train-*-of-*")}
    make(photos, tmp_path / "0")  # shard 7, which nobody has made
    assert read_tree(tmp_path / "0") == expected
    after = {path: path.stat().st_mtime_ns for path in before}
    assert after == before
    assert len(before) == 14


def test_copied_parts_of_another_plan_are_made_again(
    photos: Path, tmp_path: Path, read_tree: ReadTree, expected: dict[str, bytes]
) -> None:
    make(photos, tmp_path / "root", part="0:4")
    plan = (tmp_path / "root/.parts/plan.json").read_bytes()
    make(photos, tmp_path / "other", part="4:8", seed=1)  # as many images a shard, but others
    shutil.copytree(tmp_path / "other", tmp_path / "root", dirs_exist_ok=True)
    (tmp_path / "root/.parts/plan.json").write_bytes(plan)
    make(photos, tmp_path / "root")
    assert read_tree(tmp_path / "root") == expected


def test_part_of_another_plan_is_refused(photos: Path, tmp_path: Path, read_tree: ReadTree) -> None:
    make(photos, tmp_path / "root", part="0:1")
    before = read_tree(tmp_path / "root")
    for options, named in (({"seed": 1}, "seed: 0 then, 1 now"), ({"shards": 9}, "train_shards: 8 then, 9 now")):
        with pytest.raises(UsageError, match=named):
            make(photos, tmp_path / "root", part="1:2", **options)
    assert read_tree(tmp_path / "root") == before


def test_part_of_a_finished_root_has_nothing_to_do(
    photos: Path, tmp_path: Path, read_tree: ReadTree, expected: dict[str, bytes]
) -> None:
    make(photos, tmp_path / "root")
    done = make(photos, tmp_path / "root", part="1:2")
    assert (done.missing, done.written, done.images["train"]) == ({}, (), 70)
    assert read_tree(tmp_path / "root") == expected


def test_lost_shard_of_a_part_is_named_and_made_again(
    photos: Path, tmp_path: Path, read_tree: ReadTree, expected: dict[str, bytes]
) -> None:
    root = tmp_path / "root"
    make(photos, root, part="0:4")
    (root / "32/train-00002-of-00008").unlink()
    assert make(photos, root, part="4:8").missing == {"train": ((2, 3),), "validation": ()}
    make(photos, root)
    assert read_tree(root) == expected


def test_ranks_share_the_shards(photos: Path, tmp_path: Path, read_tree: ReadTree, expected: dict[str, bytes]) -> None:
    for rank in (2, 0):
        assert make(photos, tmp_path / "root", rank=rank, world_size=3).missing
    assert make(photos, tmp_path / "root", rank=1, world_size=3).written == VARIANTS
    assert read_tree(tmp_path / "root") == expected
    with pytest.raises(RankError, match="no rank 3 among 3"):
        make(photos, tmp_path / "root", rank=3, world_size=3)


def test_more_ranks_than_shards(photos: Path, tmp_path: Path) -> None:
    for rank in range(5):
        done = make(photos, tmp_path / "root", shards=2, variants=("32",), rank=rank, world_size=5)
    assert done.images == {"train": 70, "validation": 18}


def start(command: list[str], source: Path, root: Path, *flags: str, **environment: str) -> subprocess.Popen[str]:
    words = ["prepare", str(source), str(root), "--variants", ",".join(VARIANTS), "--shards", str(SHARDS), *flags]
    return subprocess.Popen(
        [*command, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )


def test_all_ranks_at_the_same_time(
    command: list[str], photos: Path, tmp_path: Path, read_tree: ReadTree, expected: dict[str, bytes]
) -> None:
    """As torchrun starts them; twice, for the second time there is nothing to do for any."""
    for _ in range(2):
        ranks = [
            start(command, photos, tmp_path / "root", RANK=str(rank), WORLD_SIZE="4", LOCAL_WORLD_SIZE="4")
            for rank in range(4)
        ]
        outputs = [process.communicate(timeout=120) for process in ranks]
        assert [process.returncode for process in ranks] == [0] * 4, outputs
        assert any("70 train, 18 validation images" in out for out, _ in outputs)
        assert read_tree(tmp_path / "root") == expected


def test_same_part_twice_is_refused(command: list[str], large_photos: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    first = start(command, large_photos, root, "--part", "2:6", "--workers", "1")
    while not list(root.glob(".parts/*-of-*.json")):
        assert first.poll() is None
    for part, refused in (("0:3", True), (None, True), ("6:7", False)):
        if refused:
            with pytest.raises(UsageError, match="another `imagesprint prepare` is at work in"):
                make(large_photos, root, part=part)
        else:
            assert make(large_photos, root, part=part).missing
    assert first.wait(timeout=60) == 0
    assert make(large_photos, root).written == VARIANTS


def test_missing_parts_are_named(imagesprint: Callable[..., Any], photos: Path, tmp_path: Path) -> None:
    words = ("prepare", photos, tmp_path / "root", "--variants", "32", "--shards", 8, "--workers", 1)
    done = imagesprint(*words, "--part", "1:3")
    assert done.code == 0
    assert "missing: train shard 0 of 8, train shards 3–7 of 8, validation shards 0–1 of 2" in done.stdout
    assert "are copied into it, shards and .parts" in done.stdout.splitlines()[-1]
    done = imagesprint(*words, "--part", "0:1", "--json")
    assert done.code == 0
    assert done.json["missing"] == {"train": [[3, 8]], "validation": [[1, 2]]}
    done = imagesprint(*words, "--part", "7:9", "--json")
    assert (done.code, done.json["error"]) == (2, "--part 7:9 is no part of the 8 train shards")
    assert "0:8" in done.json["hint"]


@pytest.mark.skipif(coder() != "native", reason="the native decoder is not built")
def test_another_coder_does_not_go_on(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(photos, tmp_path / "root", part="0:1")
    monkeypatch.setenv("IMAGESPRINT_DECODER", "pillow")
    with pytest.raises(UsageError, match="coder: native then, pillow now"):
        make(photos, tmp_path / "root", part="1:2")
