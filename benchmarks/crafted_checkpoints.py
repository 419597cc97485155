"""Checkpoints with one key made wrong, each with every bad value in turn: what is said of them, and what is loaded.

    python benchmarks/crafted_checkpoints.py [--number N] [--seed 0] [--json]

A checkpoint of a small real training (fp16 with a dynamic loss scale, a moving average) has one key at a time left out
or put to each of the bad values, at every depth: the top, the recipe and its phases, the optimizer, the loss scale, a
weight, a statistic. Each is loaded (`load_model`), resumed from (`TrainingState.restore`) and, where it is loaded and
says how to judge it, evaluated. Right is an error of ours, or exactly the weights and the momentum that were saved:
some values are right for some keys, such as 0 bad records. Exits 3 where anything else comes out. `--number` draws so
many of all.
"""

import argparse
import copy
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from photos import make_root
from torch import Tensor

from imagesprint.checkpoints.format import read_training_checkpoint
from imagesprint.checkpoints.weights import load_model
from imagesprint.console import Console
from imagesprint.errors import ImagesprintError
from imagesprint.evaluating.checkpoints import evaluate_checkpoints
from imagesprint.evaluating.views import PLAIN
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.training.state import TrainingState
from imagesprint.training.training import TrainingOptions, train

RECIPE = Recipe(
    name="crafted",
    model="resnet20",
    precision="fp16",
    ema_decay=0.9,
    eval_resize=16,
    eval_image_size=16,
    eval_batch_size=10,
    eval_every=0,
    phases=(Phase((0, 2), (0.01, 0.01), "constant", 10, 10, 16),),
)
REMOVED = object()
SAME, REFUSED = "as saved", "refused"


def bad_values() -> dict[str, Any]:
    """Return values that few keys may have, by their names; the tensors are some weight's size."""
    tensor = torch.ones(16)
    return {
        "left out": REMOVED,
        "None": None, "True": True, "False": False,
        "0": 0, "-1": -1, "7": 7, "2**40": 2**40, "10**30": 10**30,
        "0.5": 0.5, "-0.5": -0.5, "1e300": 1e300, "NaN": float("nan"), "inf": float("inf"), "-inf": float("-inf"),
        "text": "text", "empty text": "", "control characters": "\x1b[2J\n", "surrogate": "\ud800", "bytes": b"bytes",
        "[]": [], "[1]": [1], "[text]": ["text"], "[[[[1]]]]": [[[[1]]]], "[NaN, inf]": [float("nan"), float("inf")],
        "{}": {}, "{a: 1}": {"a": 1}, "{1: {}}": {1: {}}, "set": {1}, "tuple": (1, 2),
        "scalar tensor": torch.tensor(3), "NaN tensor": tensor * float("nan"), "short tensor": torch.ones(3),
        "empty tensor": torch.empty(0), "int tensor": tensor.long(), "bool tensor": tensor.bool(),
        "complex tensor": tensor.to(torch.complex64), "meta tensor": tensor.to("meta"),
        "quantised tensor": torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
        "sparse tensor": tensor.to_sparse(), "expanded tensor": torch.ones(1).expand(1 << 40),
        "tensors in a dict": {"conv1.weight": tensor}, "dtype": torch.float16, "size": torch.Size([2]),
    }  # fmt: skip


def paths_of(content: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Return the keys to make wrong: all but of the weights and of the momentum, where a few stand for the rest."""
    few = ("conv1.weight", "bn1.running_var", "bn1.num_batches_tracked", "fc.bias")
    paths: list[tuple[Any, ...]] = [(key,) for key in (*content, "epoch")]
    paths += [(part, key) for part in ("model", "ema") for key in few]
    paths += [("recipe", key) for key in (*content["recipe"], "unknown")]
    paths += [("recipe", "phases", 0), *(("recipe", "phases", 0, key) for key in content["recipe"]["phases"][0])]
    paths += [(part, key) for part in ("optimizer", "scaler") for key in content[part]]
    paths += [("optimizer", "state", 0), ("optimizer", "state", 0, "momentum_buffer"), ("optimizer", "state", 999)]
    group = content["optimizer"]["param_groups"][0]
    paths += [("optimizer", "param_groups", 0), *(("optimizer", "param_groups", 0, key) for key in group)]
    return [*paths, ("classes", 0), ("class_texts", 0), ("optimizer", "param_groups", 0, "params", 0)]


def crafted(content: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the name of each key, that of the bad value in it, and `content` with that."""
    for path in paths_of(content):
        for name, value in bad_values().items():
            wrong = copy.copy(content)
            at: Any = wrong
            for key in path[:-1]:
                at[key] = copy.copy(at[key])
                at = at[key]
            if value is not REMOVED:
                at[path[-1]] = value
            elif isinstance(at, list):
                at.pop(path[-1])
            else:
                at.pop(path[-1], None)
            yield ".".join(map(str, path)), name, wrong


@dataclass(frozen=True)
class Verdict:
    """What became of one: `load`, `resume` and `evaluate` are SAME, REFUSED or what is wrong; `said` is the error."""

    key: str
    value: str
    load: str
    resume: str
    evaluate: str
    said: str

    @property
    def is_right(self) -> bool:
        return {self.load, self.resume, self.evaluate} <= {SAME, REFUSED, ""}


class Trial:
    """Holds crafted checkpoints against the one that `train` wrote on the root `data`, in `folder`."""

    def __init__(self, data: Path, folder: Path) -> None:
        self._data, self._folder = data, folder
        run = folder / "run"
        train(RECIPE, data, run, TrainingOptions(device="cpu", stop_after=2), Console.silent())
        self.content = torch.load(run / "checkpoints" / "step-0000002.pt", weights_only=True)
        self._recipe = read_training_checkpoint(run / "checkpoints" / "step-0000002.pt").recipe
        self._fresh = TrainingState(self._recipe, tuple(self.content["classes"]), torch.device("cpu"))
        self._path = folder / "step-0000002.pt"
        torch.save(self.content, self._path)
        self._weights, self._state = self._loaded(), self._resumed()

    def judge(self, key: str, value: str, content: dict[str, Any]) -> Verdict:
        torch.save(content, self._path)
        said: list[str] = []
        read = self._try(lambda: bool(read_training_checkpoint(self._path)), said)
        if read != SAME:  # both begin with that
            return Verdict(key, value, read, read, "", said[0])
        load = self._try(lambda: _same(self._loaded(), self._weights), said)
        resume = self._try(lambda: _same(self._resumed(), self._state), said)
        judged = load == SAME and key.partition(".")[0] in ("recipe", "classes", "num_train", "step")
        evaluate = self._try(self._evaluated, said) if judged else ""
        return Verdict(key, value, load, resume, evaluate, said[0] if said else "")

    def _try(self, work: Callable[[], bool], said: list[str]) -> str:
        try:
            return SAME if work() else "OTHER WEIGHTS"
        except ImagesprintError as error:
            said.append(error.what.replace(str(self._path), "FILE"))
            return REFUSED
        except Exception as error:  # what the trial is there to find
            said.append(str(error).partition("\n")[0])
            return f"PYTHON ERROR {type(error).__name__}"

    def _loaded(self) -> dict[str, Tensor]:
        return load_model(self._path).network.state_dict()

    def _resumed(self) -> dict[str, Tensor]:
        for tensor in self._fresh.checkpoint_like():  # so that nothing of the one before is taken for this one's
            tensor.detach().zero_()
        held = read_training_checkpoint(self._path)
        self._fresh.restore(held, self.content["data"], self.content["decoder"], force_decoder=False)
        state = self._fresh.optimizer.state_dict()["state"]
        buffers = {f"momentum {key}": row["momentum_buffer"] for key, row in state.items()}
        average = {f"average {key}": value for key, value in self._fresh.average.items()}
        found = {**self._fresh.network.state_dict(), **average, **buffers}
        return {key: value.clone() for key, value in found.items()}

    def _evaluated(self) -> bool:
        (one,) = evaluate_checkpoints([self._path], self._data, PLAIN, "cpu", Console.silent())
        return one.num_images > 0


def _same(found: dict[str, Tensor], saved: dict[str, Tensor]) -> bool:
    return found.keys() == saved.keys() and all(torch.equal(value, saved[key]) for key, value in found.items())


def to_text(verdicts: list[Verdict]) -> str:
    """Return the table for people, in Markdown."""
    groups = sorted({_group(verdict) for verdict in verdicts})
    columns = [f"{kind} {what}" for kind in ("load", "resume", "evaluate") for what in (REFUSED, SAME)] + ["wrong"]
    lines = [f"| keys | checkpoints | {' | '.join(columns)} |", "|---" * (len(columns) + 2) + "|"]
    for group in [*groups, "all"]:
        rows = [one for one in verdicts if group in ("all", _group(one))]
        counts = Counter(f"{kind} {getattr(one, kind)}" for one in rows for kind in ("load", "resume", "evaluate"))
        counts["wrong"] = sum(not one.is_right for one in rows)
        lines.append(f"| {group} | {len(rows)} | {' | '.join(str(counts[column]) for column in columns)} |")
    lines += ["", "Wrong:" if counts["wrong"] else "Wrong: none"]
    lines += [f"- {one}" for one in verdicts if not one.is_right]
    accepted = Counter(one.key for one in verdicts if one.resume == SAME)
    listed = ", ".join(f"{key} {count}" for key, count in accepted.items())
    return "\n".join([*lines, "", f"Resumed from, by key: {listed or 'none'}"])


def _group(verdict: Verdict) -> str:
    first, dot, _ = verdict.key.partition(".")
    return f"{first}.*" if dot else "the top"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        make_root(Path(folder) / "root", 20, 20, ("full",))
        trial = Trial(Path(folder) / "root", Path(folder))
        cases = list(crafted(trial.content))
        chosen = random.Random(args.seed).sample(range(len(cases)), args.number or len(cases))
        verdicts = [trial.judge(*cases[number]) for number in sorted(chosen)]
    print(json.dumps([vars(one) for one in verdicts]) if args.json else to_text(verdicts))
    return 0 if all(one.is_right for one in verdicts) else 3


if __name__ == "__main__":
    sys.exit(main())
