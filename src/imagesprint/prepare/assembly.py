"""All shards of a plan on their way into a ROOT: which are finished, writing the others, joining them in the end."""

import math
from collections.abc import Iterable, Sequence

from imagesprint.console import Console
from imagesprint.errors import DataError
from imagesprint.prepare.duplicates import find_duplicates
from imagesprint.prepare.finishing import check_rejected, finish_variant
from imagesprint.prepare.parts import Parts, ShardResult
from imagesprint.prepare.plan import Plan, Shard
from imagesprint.prepare.shard_writing import ShardJob, write_shard, writing
from imagesprint.prepare.sources.source import Source
from imagesprint.prepare.workers import run_jobs
from imagesprint.progress import Progress

_MOST_ADVISED = 0.05  # of the files to be rejected: a twentieth of them is no accident


class Assembly:
    """The shards of `plan`, made from `source` in `workers` processes.

    Where more than `max_rejected` of all files are rejected, every method that finds out raises DataError.
    """

    def __init__(
        self, plan: Plan, source: Source, quality: int, workers: int, max_rejected: float, console: Console
    ) -> None:
        self.plan, self._source, self._quality = plan, source, quality
        self._workers, self._max_rejected, self._console = workers, max_rejected, console
        self._results: dict[str, ShardResult] = {}
        self.images_per_second = 0.0  # of this process's own writing

    def look(self, parts: Parts) -> None:
        """Find out which shards are finished, whoever has written them."""
        found = ((shard.name, parts.find_result(shard)) for shard in self.plan.shards)
        self._results = {name: result for name, result in found if result is not None}
        self._check_max_rejected()

    @property
    def results(self) -> list[ShardResult]:
        """The results of the finished shards, in the order of the plan."""
        return [self._results[shard.name] for shard in self.plan.shards if shard.name in self._results]

    @property
    def unfinished(self) -> list[Shard]:
        """The shards that are not finished, in order."""
        return [shard for shard in self.plan.shards if shard.name not in self._results]

    def write(self, parts: Parts, shards: Sequence[Shard]) -> None:
        """Write those of `shards` that are not finished. Raises DataError."""
        jobs = [self._job(parts, shard) for shard in shards if shard.name not in self._results]
        total = _count_images(shards)
        progress = Progress(self._console, "preparing")
        progress.begin(total, done=total - _count_images(job.shard for job in jobs))
        self._run(jobs, progress)
        progress.end()
        self.images_per_second = progress.images_per_second

    def join(self, parts: Parts, finished: tuple[str, ...]) -> None:
        """Make whole variants of the shards, which are all finished; variants `finished` earlier must agree with them.

        Raises DataError.
        """
        self._reject_duplicates(parts)
        for note in check_rejected(parts.root, self.plan, self.results, finished):
            self._console.warn(note)
        with writing():
            parts.sweep_variants()
            for variant in parts.variants:
                finish_variant(parts, variant, self.plan, self.results)

    def _reject_duplicates(self, parts: Parts) -> None:
        """Write the train shards again that hold images of validation, unless they have been already."""
        duplicates = find_duplicates(self.plan, self._results)
        jobs = [
            self._job(parts, shard, duplicates[shard.name]) for shard in self.plan.shards if shard.name in duplicates
        ]
        left = [job for job in jobs if not job.has_rejected_duplicates(self._results[job.shard.name])]
        if left:
            count = sum(len(job.duplicates) for job in left)
            self._check_max_rejected([job.duplicate(position) for job in left for position in job.duplicates])
            self._console.line(f"{count:,} training images are in validation too: writing {len(left):,} shards again")
            self._run(left, Progress(Console.silent(), ""))

    def _job(self, parts: Parts, shard: Shard, duplicates: dict[int, str] | None = None) -> ShardJob:
        return ShardJob(self._source, shard, self.plan.classes, parts, self._quality, duplicates or {})

    def _run(self, jobs: Sequence[ShardJob], progress: Progress) -> None:
        if jobs:
            run_jobs(write_shard, jobs, self._workers, progress.add, self._finish)

    def _finish(self, result: ShardResult) -> None:
        self._results[result.name] = result
        self._check_max_rejected()

    def _check_max_rejected(self, duplicates: Sequence[dict[str, str]] = ()) -> None:
        """Raise DataError as soon as too many are rejected: an hour before the end is better than then.

        `duplicates` are to be rejected yet.
        """
        rejected = [*(row for result in self.results for row in result.rejected), *duplicates]
        total = _count_images(self.plan.shards)
        if len(rejected) <= self._max_rejected * total:
            return
        so_far = " so far" if self.unfinished else ""
        share = math.ceil(len(rejected) / total * 1000) / 1000
        raise DataError(
            f"{len(rejected)} of {total} files are rejected{so_far}, the first of them {rejected[0]['file']}: "
            f"{rejected[0]['reason']}",
            "remove or repair them, "
            + (
                f"or allow them with --max-rejected {share:g}"
                if share <= _MOST_ADVISED
                else "and see whether this is the right folder: so many are no accident"
            ),
        )


def _count_images(shards: Iterable[Shard]) -> int:
    return sum(len(shard.samples) for shard in shards)
