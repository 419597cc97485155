"""What the package does without what only its extras install, and what it says where one of them is needed."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.serialization import to_toml

PROJECT = Path(__file__).parents[1]

# Each line of standard input is a command's arguments as JSON; prints its exit code.
BARE = """
import json, sys
from importlib.machinery import PathFinder

class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in sys.argv[1:] else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Bare
from imagesprint.cli.main import main
for line in sys.stdin:
    print(main(json.loads(line)))
"""


def optional_modules() -> list[str]:
    """What the extras that users install bring, as it is imported."""
    extras = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = [
        need.partition(">=")[0] for extra, needs in extras.items() if extra not in ("dev", "interop") for need in needs
    ]
    modules = {"scikit-learn": "sklearn", "mlflow-skinny": "mlflow"}
    return [modules.get(name, name.replace("-", "_")) for name in names]


def run_bare(*commands: tuple[object, ...]) -> tuple[list[str], str]:
    """The lines on standard output and all of standard error of `commands`, in one process that lacks the extras."""
    done = subprocess.run(
        [sys.executable, "-c", BARE, *optional_modules()],
        input="".join(json.dumps(list(map(str, words))) + "\n" for words in commands),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout.splitlines(), done.stderr


def test_extras_are_those_of_users() -> None:
    named = {"sklearn", "scipy", "matplotlib", "pyarrow", "onnxruntime", "opendal", "hdfs_native", "prometheus_client"}
    assert named <= set(optional_modules())


def test_training_evaluating_reporting_and_predicting_need_no_extra(
    photo_root: Path, photos: Path, tmp_path: Path, tiny_recipe: Recipe
) -> None:
    recipe, run = tmp_path / "tiny.toml", tmp_path / "run"
    recipe.write_text(to_toml(tiny_recipe))
    photo = next((photos / "val").rglob("*.jpg"))
    out, err = run_bare(
        ("train", recipe, "--data", photo_root, "--output", run, "--stop-after", 4, "--quiet"),
        ("evaluate", run, "--data", photo_root, "--quiet"),
        ("report", run, "--data", photo_root),
        ("predict", run, photo, "--quiet"),
    )
    assert [line for line in out if line.isdecimal()] == ["0"] * 4, err
    assert "<polyline" in (run / "report.html").read_text()
    assert not (run / "plots").exists()
    assert "plots       not drawn: " in err
    assert "pip install 'imagesprint[plots]'" in err


def test_what_needs_an_extra_says_which(photo_root: Path, tmp_path: Path) -> None:
    out, err = run_bare(
        ("demo", "--output", tmp_path / "demo"),
        ("plan", "small", "--data", photo_root, "--plot", tmp_path / "plan.png"),
        ("serve", tmp_path / "run", "--port", 0),
    )
    assert out == ["2", "2", "2"]
    for module, extra in (("sklearn", "demo"), ("matplotlib", "plots"), ("starlette", "serve")):
        assert f"error: a package that this needs cannot be imported: No module named '{module}" in err
        assert f"hint: pip install 'imagesprint[{extra}]'" in err
    assert list(tmp_path.iterdir()) == []


def test_the_development_kit_needs_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    from imagesprint.errors import UsageError
    from imagesprint.prepare.sources.ilsvrc import _read_meta

    monkeypatch.setitem(sys.modules, "scipy.io", None)  # as if it were not installed
    with pytest.raises(UsageError) as caught:
        _read_meta("meta.mat", b"")
    assert caught.value.hint == "pip install 'imagesprint[ilsvrc]'"
