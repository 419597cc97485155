from collections.abc import Callable
from pathlib import Path
from typing import Any

WriteForeign = Callable[..., Path]


def test_indexed_shards_are_verified_and_trained_on(
    imagesprint: Callable[..., Any], write_foreign: WriteForeign, tmp_path: Path
) -> None:
    data, root = write_foreign(tmp_path / "data"), tmp_path / "root"
    done = imagesprint("index", data, "--index-dir", root, "--workers", 2)
    assert done.code == 0
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{root}/full indexed: 40 train, 6 validation images in 2 classes; it holds links")
    assert lines[1] == "labels count from 1: 1 is n00000001 china; 2 is n00000002 flower"
    assert lines[-2] == f"next: imagesprint train finetune --data {root} --output RUN"
    assert "46/46 images  100%" in done.stderr
    assert imagesprint("verify", root, "--decode").code == 0
    settings = ("--set", "phases.*.batch_size=8", "--set", "phases.*.micro_batch=4")
    flags = ("--data", root, "--output", tmp_path / "run", "--device", "cpu", "--stop-after", 1, "--json")
    trained = imagesprint("train", "demo", *flags, *settings)
    assert trained.code == 0
    assert trained.json["steps"] == 1


def test_json_and_again(imagesprint: Callable[..., Any], write_foreign: WriteForeign, tmp_path: Path) -> None:
    data = write_foreign(tmp_path / "data", first_label=0)
    for is_new in (True, False):
        value = imagesprint("index", data, "--workers", 1, "--json").json
        assert value["variants"] == [
            {
                "name": "full",
                "is_linked": True,
                "is_new": is_new,
                "images": {"train": 40, "validation": 6},
                "num_classes": 2,
                "first_label": 0,
                "first_classes": {"0": "n00000000 china", "1": "n00000001 flower"},
            }
        ]
    assert "was indexed already" in imagesprint("index", data).stdout


def test_errors(imagesprint: Callable[..., Any], write_foreign: WriteForeign, tmp_path: Path) -> None:
    none = imagesprint("index", tmp_path)
    assert none.code == 2
    assert none.stderr.startswith(f"error: there are no TFRecords of train and validation in {tmp_path}\nhint: ")
    path = write_foreign(tmp_path / "data") / "train-00001-of-00002"
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)
    damaged = imagesprint("index", tmp_path / "data", "--json")
    assert damaged.code == 1
    assert damaged.json["error"] == f"shard {path}: the record at byte 0 has a damaged header"
    assert "Traceback" not in damaged.stderr


def test_url_is_refused(imagesprint: Callable[..., Any]) -> None:
    for words in (["s3://bucket/imagenet"], ["imagenet", "--index-dir", "s3://bucket/root"]):
        done = imagesprint("index", *words)
        assert done.code == 2
        assert done.stderr.startswith(f"error: {words[-1]} is no folder of this machine")
        assert "hint: copy them to a disk" in done.stderr
