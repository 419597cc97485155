"""`launch`: what it prints and saves, and what it refuses before anything is submitted."""

import json
import os
from pathlib import Path

import pytest

from imagesprint.cli.main import main
from imagesprint.console import size
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.serialization import to_toml
from imagesprint.records.dataset import open_root
from imagesprint.storage.url import Url


@pytest.fixture
def tiny(tiny_recipe: Recipe, tmp_path: Path) -> str:
    path = tmp_path / "tiny.toml"
    path.write_text(to_toml(tiny_recipe))
    return str(path)


def put_program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_time_cost_and_limit_stand_in_the_header(
    tiny: str, photo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["launch", "slurm", "minutes104", "--data", str(tmp_path / "away"), "--output", "/runs/a", "--gpus", "8"]
    assert main([*words, "--gpu", "V100", "--price", "36", "--json"]) == 0
    said = capsys.readouterr()
    result = json.loads(said.out)
    assert result["outputs"] == ["/runs/a"]
    assert result["submitted"] is None
    text = result["text"]
    assert "# time: at best 2:13:" in text  # as `plan` has it
    assert "1,281,167 images" in text
    assert "# cost: 79." in text
    assert " at 36.00 an hour of all nodes, in the currency that --price is in\n" in text
    assert "# disk: " not in text  # ROOT is read where it lies
    limit = int(text.partition("#SBATCH --time=")[2].split()[0])
    assert 200 < limit < 240  # minutes: half as much again, and half an hour
    assert f"# time limit: {limit} minutes" in text
    assert "warning: --data cannot be read from here: there is no folder" in said.err

    assert main(["launch", "slurm", tiny, "--data", str(photo_root), "--output", "/runs/a", "--processes", "2"]) == 0
    text = capsys.readouterr().out
    assert "# time: not known, as speeds of CPUs are not published" in text
    assert "--time=" not in text.partition("#SBATCH")[2]
    assert f"imagesprint train {tiny} \\\n    --data {photo_root} \\\n" in text


def test_saved_and_submitted(
    tiny: str,
    photo_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put_program(tmp_path / "programs", "sbatch", f"cat > {tmp_path}/taken; echo 77")
    monkeypatch.setenv("PATH", f"{tmp_path / 'programs'}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    words = ["launch", "slurm", tiny, "--data", str(photo_root), "--output", "run", "--processes", "2", "--submit"]
    assert main([*words, "--seeds", "0,4", "--save", "job.sh"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["jobs        77", "follow      squeue --job 77"]
    assert [line.split()[0] for line in said[-2:]] == ["stop", "resume"]
    text = Path("job.sh").read_text()
    assert Path("taken").read_text() == text
    assert f'--output {tmp_path}/run-seed"$SLURM_ARRAY_TASK_ID"' in text  # from the root: jobs begin anywhere


def test_an_s3_root_is_looked_at(root_url: Url, tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["launch", "sagemaker", "small", "--data", str(root_url), "--output", str(root_url.parent / "run")]
    assert main([*words, "--json"]) == 0
    said = capsys.readouterr()
    assert "cannot be read" not in said.err
    opened = open_root(root_url)
    splits = [opened.manifest(opened.nearest("160")).splits[split] for split in ("train", "validation")]
    kept = size(sum(shard.bytes for split in splits for shard in split.shards))
    assert f"# disk: {kept} of each node, for ROOT" in json.loads(said.out)["text"]
    (request,) = json.loads(said.out)["requests"]
    assert request["HyperParameters"]["data"] == str(root_url)
    assert main(["launch", "sagemaker", tiny, *words[3:]]) == 2
    assert "SageMaker's containers do not see" in capsys.readouterr().err


SLURM = ["launch", "slurm", "small", "--output", "/runs/a"]
KUBERNETES = ["launch", "kubernetes", "small", "--data", "/data/in", "--output", "/data/run", "--claim", "data"]


@pytest.mark.parametrize(
    ("words", "code", "error", "hint"),
    [
        (["launch"], 2, "no command given", "imagesprint launch --help"),
        ([*SLURM, "--data", "/away", "--nodes", "7"], 2, "7 ranks cannot share", "run 1, 2"),
        ([*SLURM, "--data", "/away", "--processes", "2", "--gpus", "2"], 2, "exclude each other", ""),
        (["launch", "slurm", "small", "--data", "/a", "--output", "https://h/run"], 2, "nothing is written", "s3://"),
        ([*SLURM, "--data", "/away", "--seeds", "0,x"], 2, "'0,x' is no list of seeds", "--seeds 0,1,2"),
        ([*SLURM, "--data", "/away", "--seeds", "1,1"], 2, "a seed stands there twice", ""),
        ([*SLURM, "--data", "/away", "--seeds", "1", "--set", "seed=3"], 2, "exclude each other", "one of them"),
        ([*SLURM, "--data", "/away", "--price", "3"], 2, "the time is not known", "--gpu h200"),
        ([*SLURM, "--data", "/away", "--gpu", "k80"], 2, "--gpu k80: no speeds of it are known", "a100"),
        ([*SLURM, "--data", "/away", "--submit"], 2, "no command 'sbatch' here", "login node"),
        ([*SLURM, "--data", "/tmp/x", "--nodes", "2"], 2, "each of the 2 nodes has a /tmp of its own", "see"),
        ([*KUBERNETES, "--submit"], 2, "REGISTRY/imagesprint:TAG is still to be filled in", "--image URI"),
        ([*KUBERNETES, "--image", "i", "--submit"], 2, "no command 'kubectl' here", "kubectl create"),
        ([*SLURM, "--data", "/away", "--save", "/away/job.sh"], 1, "cannot write /away/job.sh", ""),
    ],
)
def test_refused(
    words: list[str],
    code: int,
    error: str,
    hint: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # where no scheduler's command is
    if "k80" in words:  # what is known of a GPU counts only where the images are
        words = [*words, "--set", "name=minutes104"]
    assert main(words) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert error in said.err
    assert hint in said.err.partition("hint: ")[2]


def test_data_that_is_not_there_is_not_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put_program(tmp_path / "programs", "sbatch", f"touch {tmp_path}/submitted")
    monkeypatch.setenv("PATH", f"{tmp_path / 'programs'}:{os.environ['PATH']}")
    assert main([*SLURM, "--data", str(tmp_path / "away"), "--submit"]) == 2
    assert "error: there is no folder" in capsys.readouterr().err
    assert not (tmp_path / "submitted").exists()
