"""Judging checkpoints on all ranks together: a queue of whole checkpoints, and what is left over as shares of one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from imagesprint.console import Console
from imagesprint.errors import CheckpointError, UsageError
from imagesprint.evaluating.details import details
from imagesprint.evaluating.evaluation import accuracy, check_classes
from imagesprint.evaluating.evaluation_images import EvaluationImages
from imagesprint.evaluating.outcomes import COLUMNS, judge, read_table
from imagesprint.evaluating.results_kept import Result, ResultsKept
from imagesprint.evaluating.views import View
from imagesprint.model.weights import TrainedModel, load_model
from imagesprint.recipes.schedule import Schedule
from imagesprint.records.dataset import Dataset, Root
from imagesprint.runs.ranks import Ranks


@dataclass(frozen=True)
class Judged:
    """A checkpoint with the result of each view, the plain one first."""

    path: Path
    results: tuple[Result, ...]


class Judge:
    """Judges checkpoints by `views` on the validation split of `root`. All ranks call the same with the same."""

    def __init__(self, root: Root, views: tuple[View, ...], ranks: Ranks, console: Console) -> None:
        self._root, self._views, self._ranks, self._console = root, views, ranks, console
        self._kept = ResultsKept(root, ranks.device)
        self._images = EvaluationImages(ranks)
        self._sets: dict[tuple[str, str], Dataset] = {}
        self._labels = root.dataset(root.variants[0], "validation").labels  # the same in every variant

    @property
    def fallbacks(self) -> int:
        """Images that were left to Pillow, on all ranks."""
        return self._ranks.total(self._images.fallbacks)

    def judge(self, paths: Sequence[Path]) -> Iterator[Judged]:
        """Yield the checkpoints in order as they are judged; on rank 0 alone, the others only work.

        What was judged before comes from the run. A checkpoint whose file goes away meanwhile is left out.
        """
        if not paths:
            return
        found = [[self._find(path, view) for view in self._views] for path in paths]
        missing = torch.tensor([[result is None for result in results] for results in found], dtype=torch.int64)
        missing *= self._ranks.is_main  # it decides: the others' disks may show them something else
        missing = missing.to(self._ranks.device)
        self._ranks.sum(missing)
        wanted = self._ranks.read(missing)
        queue = [i for i in range(len(paths)) if any(wanted[i])]
        done = 0
        for size in _rounds(len(queue), self._ranks.world_size):
            places, queue = queue[:size], queue[size:]
            for i in places:
                self._console.live(f"evaluating  {i + 1}/{len(paths)}  {paths[i].name}", f"in {paths[i].parent}")
            for i, results in zip(places, self._round([(paths[i], wanted[i]) for i in places]), strict=True):
                found[i] = [old or new for old, new in zip(found[i], results, strict=True)]
            ready = queue[0] if queue else len(paths)
            yield from self._complete(paths[done:ready], found[done:ready])
            done = ready
        yield from self._complete(paths[done:], found[done:])

    def _find(self, path: Path, view: View) -> Result | None:
        return self._kept.find(path, view) if self._ranks.is_main and path.exists() else None

    def _complete(self, paths: Sequence[Path], found: list[list[Result | None]]) -> Iterator[Judged]:
        if not self._ranks.is_main:
            return
        for path, results in zip(paths, found, strict=True):
            whole = [result for result in results if result is not None]
            if len(whole) == len(results):
                yield Judged(path, tuple(whole))
            else:
                self._console.warn(f"{path} went away before it was judged")

    def _round(self, jobs: list[tuple[Path, list[bool]]]) -> list[list[Result | None]]:
        """Judge one checkpoint a rank or, where there are fewer, each by all ranks; the results, on rank 0 alone."""
        ranks = self._ranks
        tables = torch.zeros(
            len(jobs), len(self._views), len(self._labels) + 1, COLUMNS, dtype=torch.float64, device=ranks.device
        )
        facts = torch.zeros(len(jobs), 3, dtype=torch.float64, device=ranks.device)  # step, epoch, variant
        whole = len(jobs) == ranks.world_size
        share = (0, 1) if whole else (ranks.rank, ranks.world_size)
        for number, (path, wanted) in enumerate(jobs):
            if whole and number != ranks.rank:
                continue
            found = self._fill(path, wanted, tables[number], share)
            if found is not None and (whole or ranks.is_main):
                facts[number] = torch.tensor(found, dtype=torch.float64)
        ranks.sum(tables)
        ranks.sum(facts)
        said = ranks.read(facts)  # read first: it names a rank that does not answer
        if not ranks.is_main:
            return [[None] * len(self._views)] * len(jobs)
        return [
            [self._result(path, view, table, fact) for view, table in zip(self._views, of_views, strict=True)]
            for (path, _), of_views, fact in zip(jobs, tables, said, strict=True)
        ]

    def _fill(
        self, path: Path, wanted: list[bool], tables: Tensor, share: tuple[int, int]
    ) -> tuple[int, float, int] | None:
        """Judge this rank's share by the wanted views; the checkpoint's step, epoch and variant, None if it is gone."""
        try:
            model = load_model(path).to(self._ranks.device)
            check_classes(self._root, model)
            for view, table, is_wanted in zip(self._views, tables, wanted, strict=True):
                if is_wanted:
                    judged = view.model(path, model, lambda: self._dataset(model, "train"))
                    batches = self._images.batches(self._dataset(model, "validation"), model.recipe, view, share)
                    judge(view.logits(judged), batches, table)
        except (UsageError, CheckpointError):
            if path.exists():
                raise
            return None
        epoch = Schedule(model.recipe, model.num_train).epochs_done(model.step)
        return model.step, epoch, self._root.variants.index(self._variant(model))

    def _variant(self, model: TrainedModel) -> str:
        return self._root.nearest(model.recipe.eval_source)

    def _dataset(self, model: TrainedModel, split: str) -> Dataset:
        variant = self._variant(model)
        if (variant, split) not in self._sets:
            self._sets[variant, split] = self._root.dataset(variant, split)
        return self._sets[variant, split]

    def _result(self, path: Path, view: View, table: Tensor, facts: list[float]) -> Result | None:
        outcomes = read_table(table)
        if outcomes is None:
            return None
        data = self._kept.data(self._root.variants[int(facts[2])])
        assert data is not None  # it was read from
        judged = accuracy(outcomes)
        result: Result = {
            "view": view.name,
            "step": int(facts[0]),
            "epoch": facts[1],
            "num_images": judged.num_images,
            "top1": judged.top1,
            "top5": judged.top5,
            "loss": judged.loss,
            "details": details(outcomes, self._labels, self._root.classes),
            "data": data,
        }
        try:
            self._kept.keep(path, view, result)
        except OSError as error:
            self._console.warn(f"{path.parent.parent} cannot be written ({error.strerror}): the result is not kept")
        return result


def _rounds(count: int, world_size: int) -> Iterator[int]:
    """How many of `count` checkpoints are judged at a time: one a rank, then the rest together."""
    yield from [world_size] * (count // world_size)
    if count % world_size:
        yield count % world_size
