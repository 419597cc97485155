"""All shards of a plan on their way into a ROOT: written where missing, then joined; dataset.json comes last."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from imagesprint.console import Console, Progress
from imagesprint.errors import DataError
from imagesprint.files import read_rows, write_rows
from imagesprint.prepare.parts import CONVERTED, NO_IMAGE, REJECTED, Parts, Rejection, ShardResult
from imagesprint.prepare.places import RootPlace
from imagesprint.prepare.plan import Shard, ShardPlan, without_validation
from imagesprint.prepare.shard_writing import ShardJob, write_shard, writing
from imagesprint.prepare.sources.source import Source
from imagesprint.prepare.workers import run_jobs
from imagesprint.records.index import Index
from imagesprint.records.manifest import FIRST_LABEL, SPLITS, Manifest, write_split

_MOST_ADVISED = 0.05  # of the files to be rejected: a twentieth of them is no accident


class Assembly:
    """The shards of `plan`, made from `source` for `place` in `workers` processes.

    Where more than `max_rejected` of all files are rejected, every method that finds out raises DataError.
    """

    def __init__(
        self,
        plan: ShardPlan,
        source: Source,
        place: RootPlace,
        quality: int,
        workers: int,
        max_rejected: float,
        console: Console,
    ) -> None:
        self.plan, self._source, self._place, self._quality = plan, source, place, quality
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

    @property
    def cpu_seconds(self) -> dict[str, float]:
        """What was spent on the finished shards, by what it was spent on."""
        spent: dict[str, float] = {}
        for name, seconds in (item for result in self.results for item in result.cpu_seconds.items()):
            spent[name] = spent.get(name, 0.0) + seconds
        return spent

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
        for note in check_rejected(parts.root, self.plan, self._rejected, finished):
            self._console.warn(note)
        with writing():
            parts.sweep_variants()
            for variant in parts.variants:
                self.finish_variant(parts, variant)
        self._place.finish(parts.variants)

    def _reject_duplicates(self, parts: Parts) -> None:
        """Write the train shards again that hold images of validation, unless they have been already."""
        duplicates = _find_duplicates(self.plan, self._results)
        jobs = [
            self._job(parts, shard, duplicates[shard.name]) for shard in self.plan.shards if shard.name in duplicates
        ]
        left = [job for job in jobs if not job.has_rejected_duplicates(self._results[job.shard.name])]
        if left:
            count = sum(len(job.duplicates) for job in left)
            self._check_max_rejected([job.duplicate(position) for job in left for position in job.duplicates])
            self._console.line(f"{count:,} training images are in validation too: writing {len(left):,} shards again")
            self._run(left, Progress(Console.silent(), ""))

    def finish_variant(self, parts: Parts, variant: str) -> None:
        """Write the indexes, rejected.jsonl, converted.jsonl and, last, dataset.json of a variant. Raises FileError."""
        folder = parts.root / variant
        splits = {}
        for split in SPLITS:
            shards = tuple(result.variants[variant] for result in self.results if result.split == split)
            index = Index.concatenate([Index.read(parts.index_path(variant, shard.name)) for shard in shards])
            splits[split] = write_split(folder, split, index, shards)
        write_rows(folder / REJECTED, [dict(row) for row in self._rejected])
        write_rows(folder / CONVERTED, self._converted)
        plan = self.plan
        Manifest(variant, parts.image_format, FIRST_LABEL, plan.classes, splits, dict(plan.made_by)).write(folder)

    @property
    def _rejected(self) -> list[Rejection]:
        return [row for result in self.results for row in result.rejected]

    @property
    def _converted(self) -> list[dict[str, str]]:
        return [
            {"split": shard.split, "file": shard.samples[position].location, "was": kind}
            for shard, result in zip(self.plan.shards, self.results, strict=True)
            for position, kind in sorted((i, kind) for kind, found in result.converted.items() for i in found)
        ]

    def _job(self, parts: Parts, shard: Shard, duplicates: dict[int, str] | None = None) -> ShardJob:
        return ShardJob(self._source, shard, self.plan.classes, parts, self._quality, duplicates or {})

    def _run(self, jobs: Sequence[ShardJob], progress: Progress) -> None:
        def finish(result: ShardResult) -> None:
            self._results[result.name] = result
            self._place.publish(result)
            self._check_max_rejected()

        if jobs:
            run_jobs(write_shard, jobs, self._workers, progress.add, finish)
            self._place.drain()

    def _check_max_rejected(self, duplicates: Sequence[Rejection] = ()) -> None:
        """Raise DataError as soon as too many are rejected: an hour before the end is better than then.

        `duplicates` are to be rejected yet.
        """
        rejected = [*self._rejected, *duplicates]
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


def _find_duplicates(plan: ShardPlan, results: Mapping[str, ShardResult]) -> dict[str, dict[int, str]]:
    """Return, for each train shard with images whose file is that of a validation image too, their positions in it.

    Each comes with the place of the validation file. `results` has every shard of the plan.
    """
    validation: dict[bytes, str] = {}
    for shard in plan.shards:
        if shard.split == "validation":
            for sample, content in zip(shard.samples, results[shard.name].iter_contents(), strict=True):
                validation.setdefault(content, sample.location)
    validation.pop(NO_IMAGE, None)
    found = {
        shard.name: {
            position: validation[content]
            for position, content in enumerate(results[shard.name].iter_contents())
            if content in validation
        }
        for shard in plan.shards
        if shard.split == "train"
    }
    return {name: duplicates for name, duplicates in found.items() if duplicates}


def check_rejected(
    root: Path, plan: ShardPlan, rejected: list[Rejection], finished: tuple[str, ...]
) -> tuple[str, ...]:
    """Check that every split and class still has images and that variants finished earlier rejected the same files.

    Returns warnings: of classes that have lost all images of validation. Raises DataError where a split, or a class its
    training images, or where sample ids would not mean the same image in all variants.
    """
    for split in SPLITS:
        files = sum(len(shard.samples) for shard in plan.shards if shard.split == split)
        if files == sum(row["split"] == split for row in rejected):
            raise DataError(f"all {files} files of {split} are rejected", f"the first: {rejected[0]['reason']}")
    lost = _lost_classes(plan, "train", rejected)
    if lost:
        raise DataError(
            f"every training image of class {lost[0]!r} is rejected"
            + (f", and of {len(lost) - 1} classes more" if len(lost) > 1 else ""),
            "give it images that can be decoded, or remove its folder; then prepare into another ROOT",
        )
    for variant in finished:
        before = {row["file"] for row in read_rows(root / variant / REJECTED)}
        changed = sorted(before ^ {row["file"] for row in rejected})
        if changed:
            raise DataError(
                f"{changed[0]} was {'rejected' if changed[0] in before else 'accepted'} when {root / variant} was "
                "prepared, and now is not",
                "the file has changed, or Pillow has: prepare all variants anew into another ROOT",
            )
    return without_validation(_lost_classes(plan, "validation", rejected), len(plan.classes))


def _lost_classes(plan: ShardPlan, split: str, rejected: list[Rejection]) -> list[str]:
    """Return the names of the classes that have files in `split`, all of them rejected."""
    files = {row["file"] for row in rejected if row["split"] == split}
    samples = [sample for shard in plan.shards if shard.split == split for sample in shard.samples]
    left = Counter(sample.label for sample in samples if sample.location not in files)
    return [plan.classes[label].name for label in sorted({sample.label for sample in samples}) if not left[label]]


def rejection_kind(reason: str) -> str:
    """Return what kind of reason it is: the words before its colon."""
    return reason.partition(":")[0]


def count_rejected(folder: Path) -> dict[str, int]:
    """Return how many files were rejected in a variant, by the kind of reason, the most frequent first."""
    return dict(Counter(rejection_kind(row["reason"]) for row in read_rows(folder / REJECTED)).most_common())


def count_converted(folder: Path) -> dict[str, int]:
    """Return how many files were no JPEG in RGB or grey, by what they were, the most frequent first."""
    return dict(Counter(row["was"] for row in read_rows(folder / CONVERTED)).most_common())
