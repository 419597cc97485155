"""Bad input of `train` and `evaluate`: one clear error with a hint, the right exit code, existing data untouched."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check_error(done: Any, code: int, *parts: object) -> None:
    lines = [line for line in done.stderr.splitlines() if line.startswith(("error:", "hint:"))]
    assert done.code == code, done.stderr
    assert [line.split(":")[0] for line in lines] == ["error", "hint"], done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert str(part) in lines[0], lines[0]


@pytest.fixture(scope="module")
def run_directory(
    imagesprint: Run, photo_root: Path, tiny_recipe: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A run that was stopped after 8 of its 32 steps, with checkpoints after 4 and 8; and its recipe."""
    from imagesprint.recipes.serialization import to_toml

    folder = tmp_path_factory.mktemp("bad")
    (folder / "tiny.toml").write_text(to_toml(tiny_recipe))
    done = imagesprint(
        "train", folder / "tiny.toml", "--data", photo_root, "--output", folder / "run", "--stop-after", 8
    )
    assert done.code == 0, done.stderr
    return folder / "run", folder / "tiny.toml"


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (["no_such_recipe"], "no_such_recipe"),
        (["small", "--set", "weigth_decay=1"], "weigth_decay"),
        (["small", "--set", "phases.0.method=quadratic"], "quadratic"),
        (["small", "--set", "model=resnet19"], "resnet19"),
        (["small", "--processes", "0"], "0"),
        (["small", "--checkpoint-every", "week"], "week"),
        (["small", "--device", "cuda"], "cuda"),
    ],
)
def test_wrong_words(imagesprint: Run, photo_root: Path, tmp_path: Path, change: list[str], part: str) -> None:
    changes = ["--set", "phases.*.batch_size=32", "--set", "phases.*.micro_batch=8"] if change[0] == "small" else []
    done = imagesprint("train", *change, *changes, "--data", photo_root, "--output", tmp_path / "run")
    check_error(done, 2, part)
    assert not (tmp_path / "run").exists()


def test_data_that_is_missing_empty_or_unprepared(imagesprint: Run, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for data in (tmp_path / "missing", tmp_path / "empty", photos):
        done = imagesprint("train", "small", "--data", data, "--output", tmp_path / "run")
        check_error(done, 2, data)
        assert "imagesprint prepare" in done.stderr


def test_output_that_is_something_else_or_not_writable(
    imagesprint: Run, photo_root: Path, tmp_path: Path, run_directory: tuple[Path, Path]
) -> None:
    _, recipe = run_directory
    (tmp_path / "file").write_text("keep me")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("keep me")
    for output in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / "folder", Path("/proc/run")):
        check_error(imagesprint("train", recipe, "--data", photo_root, "--output", output), 2, output)
    assert contents(tmp_path) == {"file": b"keep me", "folder/thesis.txt": b"keep me"}


def test_a_changed_recipe_is_refused_with_the_difference(
    imagesprint: Run, photo_root: Path, run_directory: tuple[Path, Path]
) -> None:
    run, recipe = run_directory
    before = contents(run)
    words = ("train", recipe, "--data", photo_root, "--output", run)
    done = imagesprint(*words, "--set", "momentum=0.8", "--set", "phases.1.micro_batch=8")
    check_error(done, 2, "momentum was 0.9, is 0.8", "phases.1.micro_batch was 4, is 8")
    check_error(imagesprint(*words, "--resume", "never"), 2, run)
    assert contents(run) == before


def test_a_run_without_a_checkpoint_may_get_another_recipe(
    imagesprint: Run, photo_root: Path, tmp_path: Path, run_directory: tuple[Path, Path]
) -> None:
    run = tmp_path / "run"
    words = ("train", run_directory[1], "--data", photo_root, "--output", run, "--stop-after", 2)
    check_error(imagesprint(*words, "--set", "init=missing.pt"), 2, "missing.pt")
    (run / ".recipe.toml.1.tmp").touch()
    check_error(imagesprint(*words, "--resume", "require"), 2, "holds no checkpoint")
    done = imagesprint(*words, "--set", "seed=5")
    assert done.code == 0, done.stderr
    assert "seed = 5" in (run / "recipe.toml").read_text()
    assert not (run / ".recipe.toml.1.tmp").exists()


def test_a_loss_that_is_no_number_stops_before_the_checkpoint(
    imagesprint: Run, photo_root: Path, tmp_path: Path, run_directory: tuple[Path, Path]
) -> None:
    words = ("train", run_directory[1], "--data", photo_root, "--output", tmp_path / "run", "--checkpoint-every", 1)
    check_error(imagesprint(*words, "--set", "phases.0.lr=1e200,1e200", "--set", "phases.0.method=constant"), 1, "loss")
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_ranks_that_stand_at_different_steps_are_refused(
    photo_root: Path, tmp_path: Path, run_directory: tuple[Path, Path]
) -> None:
    import os
    import subprocess
    import sys

    shutil.copytree(run_directory[0], tmp_path / "run-0")
    ranks = []
    for rank in range(2):
        words = ["train", run_directory[1], "--data", photo_root, "--output", tmp_path / f"run-{rank}"]
        environment = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
        environment["IMAGESPRINT_STORE"] = str(tmp_path / "store")
        ranks.append(
            subprocess.Popen(
                [sys.executable, "-m", "imagesprint", *map(str, words)],
                env=os.environ | environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    for process in ranks:
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 2, errors
        assert "the ranks do not agree" in errors
        assert "Traceback" not in errors


def test_resume_require_wants_a_run(
    imagesprint: Run, photo_root: Path, tmp_path: Path, run_directory: tuple[Path, Path]
) -> None:
    words = ("train", run_directory[1], "--data", photo_root, "--output", tmp_path / "new", "--resume", "require")
    check_error(imagesprint(*words), 2, tmp_path / "new")


def test_a_checkpoint_cut_short(
    imagesprint: Run, photo_root: Path, tmp_path: Path, run_directory: tuple[Path, Path]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(run_directory[0], run)
    newest = run / "checkpoints" / "step-0000008.pt"
    newest.write_bytes(newest.read_bytes()[:-1000])
    check_error(imagesprint("evaluate", run, "--data", photo_root), 1, newest)
    words = ("train", run_directory[1], "--data", photo_root, "--output", run, "--stop-after", 9)
    done = imagesprint(*words, "--processes", 2)
    assert done.code == 0, done.stderr
    assert f"warning: {newest} " in done.stderr
    assert "the run goes on from step-0000004.pt" in done.stderr
    assert sorted(file.name for file in newest.parent.iterdir()) == [
        "step-0000004.pt", "step-0000008.pt", "step-0000008.pt.damaged", "step-0000009.pt",
    ]  # fmt: skip
    for file in newest.parent.glob("*.pt"):
        file.write_bytes(file.read_bytes()[:-1])
    check_error(imagesprint(*words), 1, "step-0000009.pt")


@pytest.mark.parametrize(("damage", "processes"), [("flip", 1), ("cut", 2)])
def test_a_damaged_shard_stops_the_run_and_names_the_record(
    imagesprint: Run, photo_root: Path, tmp_path: Path, run_directory: tuple[Path, Path], damage: str, processes: int
) -> None:
    root = tmp_path / "root"
    shutil.copytree(photo_root, root)
    shard = root / "32" / "train-00001-of-00003"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data if damage == "flip" else data[: len(data) // 2])
    where = ("--data", root, "--output", tmp_path / "run", "--processes", processes)
    done = imagesprint("train", run_directory[1], *where, "--json")
    assert done.code == 1, done.stderr
    assert "train-00001-of-00003" in done.json["error"], done.stdout
    assert done.json["hint"]


def test_evaluating_what_is_no_checkpoint(imagesprint: Run, photo_root: Path, tmp_path: Path) -> None:
    (tmp_path / "note.pt").write_text("not a checkpoint")
    check_error(imagesprint("evaluate", tmp_path / "no", "--data", photo_root), 2, tmp_path / "no")
    check_error(imagesprint("evaluate", tmp_path, "--data", photo_root), 2, tmp_path)
    check_error(imagesprint("evaluate", tmp_path / "note.pt", "--data", photo_root), 1, tmp_path / "note.pt")


def test_other_data_than_the_run_began_with(
    imagesprint: Run, photos: Path, tmp_path: Path, run_directory: tuple[Path, Path]
) -> None:
    from imagesprint.console import Console
    from imagesprint.prepare.preparing import prepare

    prepare(
        photos, tmp_path / "other", variants=("full", "32"), shards=3, seed=1, workers=1, console=Console(quiet=True)
    )
    run, recipe = run_directory
    before = contents(run / "checkpoints")
    done = imagesprint("train", recipe, "--data", tmp_path / "other", "--output", run)
    check_error(done, 1, "data")
    assert contents(run / "checkpoints") == before


def test_another_decoder_than_the_run_began_with_unless_it_is_forced(
    imagesprint: Run,
    photo_root: Path,
    tmp_path: Path,
    run_directory: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    run = tmp_path / "run"
    shutil.copytree(run_directory[0], run)
    newest = run / "checkpoints" / "step-0000008.pt"
    content = torch.load(newest, weights_only=True)
    torch.save(content | {"decoder": "another"}, newest)
    before = contents(run / "checkpoints")
    words = ("train", run_directory[1], "--data", photo_root, "--output", run, "--stop-after", 9)
    monkeypatch.delenv("IMAGESPRINT_DECODER", raising=False)
    done = imagesprint(*words)
    check_error(done, 1, f"decoder 'another', this is {content['decoder']!r}")
    assert "IMAGESPRINT_DECODER=another in the environment keeps to the former" in done.stderr
    assert contents(run / "checkpoints") == before
    monkeypatch.setenv("IMAGESPRINT_DECODER", "pillow")
    done = imagesprint(*words)
    assert done.code == 0, done.stderr
    assert "decoder     pillow, as IMAGESPRINT_DECODER says" in done.stderr
    assert f"warning: {newest} was made with decoder another" in done.stderr
    assert torch.load(run / "checkpoints" / "step-0000009.pt", weights_only=True)["decoder"] == "pillow"


def test_a_checkpoint_that_does_not_fit_on_the_disk(
    photo_root: Path, tmp_path: Path, run_directory: tuple[Path, Path]
) -> None:
    import resource
    import subprocess
    import sys

    def limit() -> None:  # a file may not grow over 200 kB: the first checkpoint does not fit
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    words = [sys.executable, "-m", "imagesprint", "train", run_directory[1], "--data", photo_root, "--output"]
    done = subprocess.run(
        [*map(str, words), str(tmp_path / "run")], capture_output=True, text=True, preexec_fn=limit, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "cannot write checkpoint" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
