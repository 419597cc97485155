"""`imagesprint train` alone in the container of an Amazon SageMaker training job: what it means, and what it leaves.

The job's hyperparameters are the command line: `recipe` is RECIPE, `set.KEY` is `--set KEY=…`, any other is a flag of
`train` (`keep`, `checkpoint-every`, …). AWS's script mode takes no name with a dot: there `set` has a list,
`["seed=3", …]`. ROOT is the channel `data`, or `training`; RUN is /opt/ml/checkpoints, which SageMaker brings back
after an interruption.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Final

from imagesprint.console import Console
from imagesprint.errors import ImagesprintError, StoppedError, UsageError
from imagesprint.files import naming, write_atomically
from imagesprint.runs import sagemaker
from imagesprint.storage.url import Place

MODEL: Final = "model.pt"  # the one file of /opt/ml/model: `imagesprint serve` finds it there
RECIPE: Final = "recipe"
_SET: Final = "set."
_CHECKPOINTS: Final = "checkpoints"
# Of the run directory, what tells of the run, for /opt/ml/output/data; the rest is checkpoints.
_TELLING: Final = ("recipe.toml", "metrics.jsonl", "evaluations.jsonl", "commands.jsonl", "result.json", "log.txt")
_PAGES: Final = ("report.html", "model-card.md")


def words_of_job(words: Sequence[str]) -> list[str]:
    """The words behind `train` that the job stands for, with the command line's own `words` behind, which win.

    Raises UsageError where the job does not say what to train, or on what.
    """
    parameters = sagemaker.hyperparameters()
    recipe, given = parameters.pop(RECIPE, None), [word.partition("=")[0] for word in words]
    if recipe is None:
        raise UsageError(
            f"the job has no hyperparameter {RECIPE!r}",
            "give it one: a built-in's name, as small, or the URL of a .toml file",
        )
    if "data" not in parameters and "--data" not in given:
        parameters["data"] = str(sagemaker.data_channel())
    parameters.setdefault("output", str(sagemaker.folder() / _CHECKPOINTS))
    parameters.setdefault("processes", str(max(1, sagemaker.count_gpus())))
    return [recipe, *chain.from_iterable(_flags(key, value) for key, value in parameters.items()), *words]


def _flags(key: str, value: str) -> list[str]:
    """The words for one hyperparameter; a JSON list of texts gives a flag each."""
    if key.startswith(_SET):
        return [f"--set={key.removeprefix(_SET)}={value}"]
    found: object = value
    with suppress(ValueError):
        found = json.loads(value)
    values = found if isinstance(found, list) else [value]
    return [f"--{key.replace('_', '-')}={each}" for each in values]


@contextmanager
def delivering(run: Place, console: Console) -> Iterator[None]:
    """Where this is the first rank of a job: have its folders hold what `run` came to when the block ends.

    They do as well where it is stopped: SageMaker keeps the model of a job that was stopped.
    """
    if isinstance(run, Path) and run == sagemaker.folder() / _CHECKPOINTS and not run.is_dir():
        console.warn(f"{run} is not there: without a CheckpointConfig what an interruption leaves is lost")
    try:
        yield
    except StoppedError:
        _deliver(run, console)
        raise
    _deliver(run, console)


def _deliver(run: Place, console: Console) -> None:
    from imagesprint.checkpoints.naming import last_checkpoint
    from imagesprint.report.report import write_report
    from imagesprint.runs.local_run import local_run

    model, output = sagemaker.folder() / "model", sagemaker.folder() / "output" / "data"
    with local_run(run, console, newest=True) as path:
        _copy(last_checkpoint(path), model / MODEL)
        try:
            write_report(path, console)
        except ImagesprintError as error:  # the model is what counts
            console.warn(f"no report was written: {error.what}")
        for name in (*_TELLING, *_PAGES):
            if (path / name).exists():
                _copy(path / name, output / name)
    console.line(f"delivered   {model / MODEL}, and what tells of the run in {output}")


def _copy(source: Path, to: Path) -> None:
    with naming("write", to.parent):
        to.parent.mkdir(parents=True, exist_ok=True)
    with naming("read", source), source.open("rb") as file:
        write_atomically(to, partial(shutil.copyfileobj, file))
