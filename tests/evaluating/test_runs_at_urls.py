"""A run at a URL, judged, watched, reported, predicted from and exported as one on a disk, to the same figures."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imagesprint.storage.store import Store, open_store
from s3_server import S3

Run = Callable[..., Any]


@pytest.fixture
def trained(write_run: Callable[..., Path], write_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    """A run on a disk of 32 steps and two checkpoints, none of which was judged."""
    run = write_run(tmp_path / "trained", 32)
    (run / "evaluations.jsonl").unlink()
    for step in (16, 32):
        write_checkpoint(run, step)
    return run


@pytest.fixture
def store(s3: S3, trained: Path) -> Store:
    """That run at a URL, as any tool copies it there."""
    store = open_store(s3.url)
    for file in trained.rglob("*"):
        if file.is_file():
            store.upload(file, str(file.relative_to(trained)))
    return store


def copies(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache" / "runs").iterdir())


def test_evaluate_comes_to_the_figures_of_a_disk_and_keeps_them_at_the_url(
    imagesprint: Run, photo_root: Path, trained: Path, store: Store, s3: S3, tmp_path: Path
) -> None:
    words = ("--data", photo_root, "--json", "--device", "cpu")
    expected = imagesprint("evaluate", trained, *words).json
    found = imagesprint("evaluate", s3.url, *words)
    assert found.code == 0, found.stderr
    assert [one["path"] for one in found.json["checkpoints"]] == [
        f"{s3.url}/checkpoints/step-{step:07d}.pt" for step in (16, 32)
    ]
    figures = [{**one, "path": ""} for one in found.json["checkpoints"]]
    assert figures == [{**one, "path": ""} for one in expected["checkpoints"]]
    rows = [json.loads(line) for line in store.read("evaluations.jsonl").splitlines()]
    assert sorted(row["step"] for row in rows) == [16, 32]
    assert len(list(store.list("evaluated"))) == 2
    assert list(store.list("tensorboard/evaluate"))
    assert not copies(tmp_path)

    again = imagesprint("evaluate", f"{s3.url}/checkpoints/step-0000016.pt", *words)
    assert again.json["checkpoints"] == found.json["checkpoints"][:1]
    assert len(store.read("evaluations.jsonl").splitlines()) == 2
    assert len(list(store.list("evaluated"))) == 2


@pytest.mark.usefixtures("store")
def test_who_may_not_write_gets_the_figures_and_a_warning(
    imagesprint: Run, photo_root: Path, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.server.reader.items():
        monkeypatch.setenv(name, value)
    found = imagesprint("evaluate", s3.url, "--data", photo_root, "--json", "--sizes", 20)
    assert found.code == 0
    assert found.stderr.count("the figures are not recorded there") == 1
    assert len(found.json["checkpoints"]) == 2
    refused = imagesprint("report", s3.url)
    assert refused.code == 1
    assert f"{s3.url}/" in refused.stderr


@pytest.mark.remote  # 13 s
def test_report_predict_export_inspect_doctor_and_recipes_take_its_url(
    imagesprint: Run, photo_root: Path, photos: Path, trained: Path, store: Store, s3: S3, tmp_path: Path
) -> None:
    reported = imagesprint("report", s3.url, "--json")
    assert reported.json == {"report": f"{s3.url}/report.html"}
    page = store.read("report.html").decode()
    assert s3.url.name in page
    assert str(tmp_path) not in page + reported.stderr
    assert b"step-0000032.pt" in store.read("model-card.md")

    image = next((photos / "val").glob("*/*.jpg"))
    ours, theirs = (imagesprint("predict", run, image, "--json", "--device", "cpu") for run in (s3.url, trained))
    assert (ours.code, ours.json) == (0, theirs.json)
    exported = imagesprint("export", s3.url / "checkpoints/step-0000016.pt", tmp_path / "model.safetensors", "--json")
    assert exported.code == 0, exported.stderr

    shown = imagesprint("inspect", photo_root, "--run", s3.url, "--step", 3, "--output", tmp_path / "x.png", "--json")
    assert len(shown.json["ids"]) == 16
    checks = imagesprint("doctor", s3.url, "--json")
    assert str(s3.url) in checks.stdout
    assert str(tmp_path) not in checks.stdout + checks.stderr
    toml = imagesprint("recipes", "show", s3.url / "recipe.toml", "--toml")
    assert toml.stdout == (trained / "recipe.toml").read_text()
    assert not copies(tmp_path)


@pytest.mark.usefixtures("store")
def test_init_takes_weights_from_a_url_and_the_recipe_keeps_it(
    imagesprint: Run, photo_root: Path, trained: Path, s3: S3, tmp_path: Path
) -> None:
    weights = s3.url / "checkpoints" / "step-0000016.pt"
    words = ("train", trained / "recipe.toml", "--data", photo_root, "--output", tmp_path / "run", "--stop-after", 1)
    done = imagesprint(*words, "--set", f"init={weights}", "--device", "cpu")
    assert done.code == 0, done.stderr
    assert f"start       from {weights}: " in done.stderr
    assert f'init = "{weights}"' in (tmp_path / "run" / "recipe.toml").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("report", "{}/none"), "{}/none holds no run"),
        (("evaluate", "{}/none", "--data", "ROOT"), "{}/none holds no checkpoints/step-*.pt"),
        (("evaluate", "{}/none", "--data", "ROOT", "--watch"), "--watch: {}/none holds no run"),
        (
            ("recipes", "show", "{}/none/recipe.toml"),
            "cannot read the recipe {}/none/recipe.toml: there is no such file",
        ),
        (("export", "{}/checkpoints/step-0000099.pt", "x.pt2"), "{}/checkpoints/step-0000099.pt holds no"),
    ],
)
def test_what_is_not_there_is_one_error_with_the_url(
    imagesprint: Run, photo_root: Path, s3: S3, words: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    (tmp_path / "x.jpg").write_bytes(b"")
    names = {"x.jpg": str(tmp_path / "x.jpg"), "ROOT": str(photo_root), "x.pt2": str(tmp_path / "x.pt2")}
    done = imagesprint(*(names.get(word, word.format(s3.url)) for word in words))
    assert done.code == 2
    assert said.format(s3.url) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.remote
def test_a_training_by_url_is_watched_to_its_end_by_two_ranks(
    imagesprint: Run, command: list[str], photo_root: Path, trained: Path, s3: S3
) -> None:
    words = ("train", trained / "recipe.toml", "--data", photo_root, "--output", s3.url, "--checkpoint-every", 8)
    training = subprocess.Popen(
        [*command, *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    store = open_store(s3.url)
    while store.stat("recipe.toml") is None:
        assert training.poll() is None
    watched = imagesprint("evaluate", s3.url, "--data", photo_root, "--watch", "--json", "--processes", 2)
    _, said = training.communicate(timeout=60)
    assert training.returncode == 0, said
    assert watched.code == 0, watched.stderr
    assert [one["step"] for one in watched.json["checkpoints"]] == [8, 16, 24, 32]
    rows = [json.loads(line)["step"] for line in store.read("evaluations.jsonl").splitlines()]
    assert sorted(set(rows)) == [8, 16, 24, 32]
