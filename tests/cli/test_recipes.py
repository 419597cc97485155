"""`imagesprint recipes list | show | diff`."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from imagesprint.cli.main import main
from imagesprint.recipes.library import builtin_names, load_recipe
from imagesprint.recipes.serialization import from_dict, from_toml, to_toml

Capture = pytest.CaptureFixture[str]
IMAGENET = "1281167"


def test_list_names_every_builtin(capsys: Capture) -> None:
    assert main(["recipes", "list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == list(builtin_names())
    assert main(["recipes", "list", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == list(builtin_names())


@pytest.mark.parametrize("name", builtin_names())
def test_show_prints_phases_and_settings(name: str, capsys: Capture) -> None:
    assert main(["recipes", "show", name]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{name}: ")
    assert "weight_decay" in out
    assert max(len(line) for line in out.splitlines()) <= 120


def test_show_with_the_number_of_images_has_the_steps(capsys: Capture) -> None:
    assert main(["recipes", "show", "minutes104", "--num-train", IMAGENET]) == 0
    out = capsys.readouterr().out
    assert "19,683 steps, 40 epochs" in out
    assert "11,411–14,679" in out


def test_show_as_json(capsys: Capture) -> None:
    assert main(["recipes", "show", "minutes104", "--num-train", IMAGENET, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert from_dict(value["recipe"]) == load_recipe("minutes104")
    assert value["schedule"]["total_steps"] == 19_683
    assert value["schedule"]["boundaries"] == [0, 1296, 4536, 11411, 14679, 19683]


def test_show_as_toml_can_be_shown_again(tmp_path: Path, capsys: Capture) -> None:
    assert main(["recipes", "show", "classic", "--toml"]) == 0
    text = capsys.readouterr().out
    assert from_toml(text, "x") == load_recipe("classic")
    file = tmp_path / "mine.toml"
    file.write_text(text.replace("seed = 0", "seed = 7"), encoding="utf-8")
    assert main(["recipes", "show", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"]["seed"] == 7


def test_the_schedule_has_one_row_a_step(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "s.csv"
    assert main(["recipes", "show", "minutes104", "--num-train", IMAGENET, "--schedule", str(file)]) == 0
    assert "19,683 steps written" in capsys.readouterr().err
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert list(rows[0]) == ["step", "epoch", "phase", "lr", "batch_size", "image_size"]
    assert [int(row["step"]) for row in rows] == list(range(19_683))
    assert [f"{float(rows[step]['lr']):.5f}" for step in (625, 1875, 5000, 15000)] == [
        "1.48225",
        "1.72301",
        "0.36471",
        "0.00383",
    ]
    starts = [step for step in range(1, 19_683) if rows[step]["phase"] != rows[step - 1]["phase"]]
    assert starts == [1296, 4536, 11411, 14679]
    assert [rows[step]["epoch"] for step in starts] == ["6", "21", "32", "36"]


def test_diff(capsys: Capture) -> None:
    assert main(["recipes", "diff", "classic", "baseline90"]) == 0
    out = capsys.readouterr().out
    for words in ("strides", "v1.5", "zero_init", "decay_norm_and_bias", "antialias", "phases.0.lr"):
        assert words in out
    assert main(["recipes", "diff", "small", "demo", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert {"key": "model", "a": "resnet18", "b": "resnet20"} in value["differences"]


def test_diff_of_other_row_counts_and_of_a_recipe_with_itself(capsys: Capture) -> None:
    assert main(["recipes", "diff", "classic", "small"]) == 0
    assert "phases.4" in capsys.readouterr().out
    assert main(["recipes", "diff", "small", "small"]) == 0
    assert "do not differ" in capsys.readouterr().out
    assert main(["recipes", "diff", "small", "small", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["differences"] == []


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        (["show", "nothing"], "unknown recipe 'nothing'"),
        (["show", "small", "--schedule", "s.csv"], "--num-train|number of training images"),
        (["show", "small", "--num-train", "5"], "phases.0: batch_size 128"),
        (["show", "small", "--num-train", "-5"], "'-5' is not a whole number of at least 1"),
        (["show", "small", "--num-train", "0"], "'0' is not a whole number of at least 1"),
        (["show", "small", "--num-train", "500", "--schedule", "/nowhere/s.csv"], "cannot write /nowhere/s.csv"),
        (["show", "small", "--toml", "--json"], "--toml and --json"),
        (["diff", "small"], "B"),
    ],
)
def test_wrong_usage(argv: list[str], what: str, capsys: Capture) -> None:
    assert main(["recipes", *argv]) == 2
    out, err = capsys.readouterr()
    assert any(word in out + err for word in what.split("|"))
    assert "Traceback" not in err


def test_diff_is_exact(tmp_path: Path, capsys: Capture) -> None:
    assert main(["recipes", "show", "small", "--toml"]) == 0
    text = capsys.readouterr().out
    for name, value in (("a", "0.25"), ("b", "0.2500000001")):
        changed = text.replace("weight_decay = ", f"weight_decay = {value} # ").replace(
            'name = "small"', f'name = "{name}"'
        )
        (tmp_path / f"{name}.toml").write_text(changed, encoding="utf-8")
    assert main(["recipes", "diff", str(tmp_path / "a.toml"), str(tmp_path / "b.toml")]) == 0
    row = capsys.readouterr().out.splitlines()[-1].split()
    assert row == ["weight_decay", "0.25", "0.2500000001"]


def test_a_recipe_s_name_is_one_line_of_text(tmp_path: Path, capsys: Capture) -> None:
    named = replace(load_recipe("small"), name="a\x1b[2J\nerror: $x$ \u202e猫")
    (tmp_path / "named.toml").write_text(to_toml(named), encoding="utf-8")
    for words in (("show",), ("diff", "small")):
        assert main(["recipes", *words, str(tmp_path / "named.toml")]) == 0
        said = capsys.readouterr()
        assert r"a\x1b[2J\nerror: $x$ \u202e猫" in said.out
        assert not any(line.startswith("error") for line in said.out.splitlines())
