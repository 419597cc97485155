"""What is to be trained where: what the command line asks for, checked before anything is written."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imagesprint.errors import UsageError
from imagesprint.recipes.library import builtin_names
from imagesprint.recipes.recipe import INIT_KINDS, Recipe
from imagesprint.storage.url import Place, Url, parse_place

_LOCAL: Final = ("/tmp", "/var/tmp", "/dev/shm", "/run")  # of one machine, wherever it is
_NAME_LENGTH: Final = 36  # of a job; SageMaker and Kubernetes allow 63, with what is put behind it


@dataclass(frozen=True)
class Forecast:
    """`lines` for a header; the limit of a job in whole minutes, None where nothing is known of its time; and the bytes
    of ROOT that each node keeps on its disk, None where that is not known.
    """

    lines: tuple[str, ...]
    limit_minutes: int | None
    kept_bytes: int | None = None

    @property
    def limit_seconds(self) -> int | None:
        return None if self.limit_minutes is None else 60 * self.limit_minutes


def unknown(reason: str) -> Forecast:
    """Return the forecast of a job of which nothing is known, for that `reason`."""
    return Forecast((f"time: not known, {reason}.", "time limit: none of ours; the scheduler's own holds."), None)


@dataclass(frozen=True)
class Run:
    """One training of a job: into `output`, with `seed`, or the variable that holds it, where that is not None."""

    name: str
    output: Place
    seed: int | str | None


@dataclass(frozen=True)
class Job:
    """A recipe, what names it for `train` (`source`) and the `--set`s that made it; ROOT and RUN; and on how many
    `nodes` with how many `ranks` each, one a GPU, or on CPUs. With `seeds` one training for each.
    """

    recipe: Recipe
    source: str
    sets: tuple[str, ...]
    data: Place
    output: Place
    nodes: int
    ranks: int
    on_gpus: bool
    seeds: tuple[int, ...]
    forecast: Forecast

    @property
    def name(self) -> str:
        """The recipe's name and the run's, of small letters, digits and dashes, as every scheduler takes it."""
        return _slug(f"{self.recipe.name}-{self.output.name}")

    @property
    def runs(self) -> tuple[Run, ...]:
        """One for each seed, else the one."""
        if not self.seeds:
            return (Run(self.name, self.output, None),)
        return tuple(Run(f"{self.name}-seed{seed}", seeded(self.output, seed), seed) for seed in self.seeds)

    @property
    def device(self) -> str:
        """For `train`; not auto: a node without its GPUs is an error, not a slow run."""
        return "cuda" if self.on_gpus else "cpu"

    def sets_of(self, run: Run) -> tuple[str, ...]:
        """The `--set`s of one run."""
        return self.sets if run.seed is None else (*self.sets, f"seed={run.seed}")

    def words(self, run: Run) -> tuple[tuple[str, ...], ...]:
        """The command line of `train` for one run, each flag with its value."""
        return (
            ("train", self.source),
            ("--data", str(absolute(self.data))),
            ("--output", str(absolute(run.output))),
            ("--device", self.device),
            *(("--set", text) for text in self.sets_of(run)),
        )


def seeded(output: Place, seed: int | str) -> Place:
    """Return where the run of one of several seeds lies: RUN-seed3."""
    return output.parent / f"{output.name}-seed{seed}"


def _slug(text: str) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return (name if name[:1].isalpha() else f"train-{name}")[:_NAME_LENGTH].rstrip("-")


def absolute(place: Place) -> Place:
    """Return a path of this machine from its root, so that a job may begin in any folder."""
    return place.absolute() if isinstance(place, Path) else place


def check_shared(job: Job) -> list[str]:
    """Return warnings of paths that are one machine's own. Raises UsageError where several nodes would need them."""
    warnings = []
    for flag, place in (("--data", absolute(job.data)), ("--output", absolute(job.output))):
        local = next(
            (folder for folder in map(Path, _LOCAL) if isinstance(place, Path) and place.is_relative_to(folder)), None
        )
        if local is None:
            continue
        if job.nodes > 1:
            raise UsageError(
                f"{flag} {place}: each of the {job.nodes} nodes has a {local} of its own",
                "name a folder that all nodes see under this path, or a URL such as s3://bucket/folder",
            )
        warnings.append(f"{flag} {place}: another node, and this job after it was queued again, has another {local}")
    return warnings


def check_in_reach(job: Job, where: str) -> None:
    """Raise UsageError where the recipe, or the weights that it begins with, is a file of this machine.

    `where` says what does not see those, such as SageMaker's containers.
    """
    if job.source not in builtin_names() and not isinstance(parse_place(job.source), Url):
        raise UsageError(
            f"{where} do not see {job.source}, a file of this machine",
            f"copy it into a store, and name it by its URL: s3://bucket/{Path(job.source).name}",
        )
    init = job.recipe.init
    if init and not init.startswith(INIT_KINDS) and not isinstance(parse_place(init), Url):
        raise UsageError(
            f"{where} do not see init={init}, a file of this machine",
            f"copy it into a store, and --set init=s3://bucket/{Path(init).name}",
        )


def seeds_of(text: str) -> tuple[int, ...]:
    """Return the seeds in `0,1,2`. Raises UsageError."""
    parts = text.split(",")
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise UsageError(f"--seeds {text!r} is no list of seeds", "write --seeds 0,1,2")
    seeds = tuple(map(int, parts))
    if len(set(seeds)) < len(seeds):
        raise UsageError(f"--seeds {text}: a seed stands there twice", "give each seed once")
    return seeds
