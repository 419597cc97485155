"""The examples run as they are shown."""

import os
import re
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[1]
EXAMPLES = PROJECT / "examples"


def run(name: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_plain_training_is_what_the_document_shows_and_runs(photo_root: Path) -> None:
    program = (EXAMPLES / "plain_training.py").read_text(encoding="utf-8")
    assert f"```python\n{program}```" in (PROJECT / "docs/loader.md").read_text(encoding="utf-8")
    lines = run("plain_training.py", photo_root).splitlines()
    assert len(lines) == 4  # two epochs of 70 images in batches of 32
    assert all(re.fullmatch(r"step \d: loss \d+\.\d{3}", line) for line in lines)


def test_throughput_of_both_loaders_is_printed(photos: Path, photo_root: Path) -> None:
    lines = run("loader_throughput.py", photos / "train", photo_root, "--image-size", 32, "--threads", 1).splitlines()
    assert [re.sub(r" +[\d,]+ images/s$", "", line) for line in lines] == ["DataLoader, Pillow", "imagesprint.Loader"]
