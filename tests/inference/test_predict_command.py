"""`imagesprint predict`: every form of input and output, and what is no image."""

import csv
import io
import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from imagesprint.cli.main import main


def test_json_text_and_csv_say_the_same(
    digit_images: Path, digit_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = sorted((digit_images / "one").iterdir())[:2]
    words = ["predict", str(digit_run), str(one), str(two), "--top", "2"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["image"] for entry in found] == [str(one), str(two)]
    assert all(set(entry) == {"image", "top"} and len(entry["top"]) == 2 for entry in found)
    first = found[0]["top"][0]
    assert set(first) == {"class", "name", "probability"}
    assert ["one", "two", "zero"][first["class"]] == first["name"]

    assert main([*words, "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["image"], row["rank"], row["error"]) for row in rows[:3]] == [
        (str(one), "1", ""),
        (str(one), "2", ""),
        (str(two), "1", ""),
    ]
    assert (int(rows[0]["class"]), rows[0]["name"]) == (first["class"], first["name"])
    assert float(rows[0]["probability"]) == pytest.approx(first["probability"], abs=1e-6)

    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(one)
    assert lines[1] == f"  {first['probability']:6.1%}  {first['name']}"
    assert len(lines) == 6


def test_what_is_no_image_is_named_and_the_rest_goes_on(
    command: list[str], digit_images: Path, digit_checkpoint: Path, tmp_path: Path
) -> None:
    good = sorted((digit_images / "two").iterdir())[0]
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "cut.jpg").write_bytes(good.read_bytes()[:-100])
    done = subprocess.run(
        [*command, "predict", str(digit_checkpoint), str(tmp_path), "-", "--json"],
        input=f"{good}\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert [(entry["image"], "error" in entry) for entry in found] == [
        (str(tmp_path / "cut.jpg"), True),
        (str(tmp_path / "text.jpg"), True),
        (str(good), False),
    ]
    for name in ("cut.jpg", "text.jpg"):
        assert f"warning: {tmp_path / name}: " in done.stderr
    assert done.stderr.endswith("2 of 3 images could not be read\n")
    assert "Traceback" not in done.stderr


def test_names_that_end_with_nul(
    digit_images: Path,
    digit_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good = sorted((digit_images / "two").iterdir())[0].read_bytes()
    names = [b"plain.jpg", b"two\nlines [1].jpg", b"latin\xe9.jpg", b"-dash.jpg"]
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes(good)
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> int:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\0".join(names) + b"\0")))
        return main(["predict", str(digit_checkpoint), "-", *words])

    assert run("-0", "--json") == 0
    assert [os.fsencode(entry["image"]) for entry in json.loads(capsys.readouterr().out)] == names
    assert run() == 2
    said = capsys.readouterr().err
    assert said == "error: standard input has a NUL behind 'plain.jpg'\nhint: give -0 where NUL ends each name\n"


def test_wrong_usage(
    digit_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(*words: object) -> str:
        assert main(["predict", *map(str, words)]) == 2
        return capsys.readouterr().err

    assert said(digit_run, tmp_path).startswith(f"error: there are no images in {tmp_path}\nhint: ")
    assert said(tmp_path, "a.jpg").startswith(f"error: {tmp_path} holds no checkpoints/step-*.pt\nhint: ")
    assert said(digit_run, "a.jpg", "--csv", "--json") == ""  # the error is on standard output then
    assert said(digit_run, "a.jpg", "-0").startswith("error: -0 is about names on standard input")
    assert "not a whole number of at least 1" in said(digit_run, "a.jpg", "--top", "0")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-top.jpg").touch()
    dashed = "hint: put -- before names that begin with a dash, as -top.jpg\n"
    assert said(digit_run, "-top.jpg").endswith(dashed)
    assert said(digit_run, "a.jpg", "-top.jpg") == f"error: unknown flag '-top.jpg'\n{dashed}"
    monkeypatch.setattr("sys.stdin", None)  # as `<&-` has it
    assert said(digit_run, "-").startswith("error: standard input names no images\n")


@pytest.mark.parametrize("verb", [["predict", "a.jpg"], ["export", "model.onnx"]])
def test_a_checkpoint_of_another_class_count_is_refused(
    verb: list[str],
    digit_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    content = torch.load(digit_checkpoint, weights_only=True)
    content["classes"] = content["class_texts"] = [*content["classes"], "three"]
    torch.save(content, "wrong.pt")
    assert main([verb[0], "wrong.pt", verb[1]]) == 1
    assert "has the shape [3, 64], not [4, 64]\nhint: " in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["wrong.pt"]


def test_a_file_s_name_is_text_in_every_form(
    digit_images: Path, digit_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "=\x1b[2J\n" + os.fsdecode(b"\xff.png")
    (tmp_path / name).symlink_to(sorted((digit_images / "two").iterdir())[0])
    shown = r"=\x1b[2J\n\udcff.png"
    words = ["predict", str(digit_checkpoint), str(tmp_path / name), "--top", "1"]
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"{tmp_path}/{shown}"
    assert main([*words, "--csv"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith(f"{tmp_path}/{shown},1,")
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["image"] == str(tmp_path / name)
