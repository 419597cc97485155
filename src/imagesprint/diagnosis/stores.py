"""The stores that a training's data and run lie in: looking at them, and what the plan of its time becomes by them."""

from dataclasses import dataclass, replace
from typing import Final, TypeVar

from imagesprint.console import Console
from imagesprint.diagnosis.storage_plan import (
    CacheRoom,
    DataStorage,
    RunStorage,
    SplitBytes,
    Steps,
    Storage,
    find_splits,
    plan_data,
    plan_run,
)
from imagesprint.diagnosis.store_speed import (
    ReadSpeed,
    WriteSpeed,
    keep_speed,
    kept_speed,
    measure_reading,
    measure_writing,
    shards_of,
)
from imagesprint.diagnosis.verdict import NOTABLE
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.records.dataset import Root
from imagesprint.storage.store import open_store
from imagesprint.storage.url import Place, Url
from imagesprint.training.time_plan import Portion, TimePlan

STORAGE: Final = "storage"  # among the limits of a plan's phases
AnyPlan = TypeVar("AnyPlan", TimePlan, TimePlan | None)


@dataclass(frozen=True)
class DataStore:
    """Where the data lie, the variant that each phase reads, what of it is here, and how fast it comes, if known."""

    url: Url
    variants: tuple[str, ...]
    splits: list[SplitBytes]
    cache: CacheRoom | None
    speed: ReadSpeed | None


@dataclass(frozen=True)
class RunStore:
    """Where the run is to lie, and how fast it gets there, if known."""

    url: Url
    speed: WriteSpeed | None


@dataclass(frozen=True)
class Stores:
    """None for what lies on this machine."""

    data: DataStore | None
    run: RunStore | None


NO_STORES: Final = Stores(None, None)


def look_at_stores(root: Root, recipe: Recipe, output: Place | None, console: Console) -> Stores:
    """Return the stores of a training on `root` into `output`, and measure and keep how fast they are: for a moment a
    file lies at `output`. Raises StorageError.
    """
    data = _data_store(root, recipe)
    if data is not None:
        console.live(f"measuring   {data.url}")
        reading = measure_reading(open_store(data.url), shards_of(root))
        keep_speed(data.url, reading)
        data = replace(data, speed=reading)
    run = RunStore(output, None) if isinstance(output, Url) else None
    if run is not None:
        console.live(f"measuring   {run.url}")
        writing = measure_writing(open_store(run.url))
        keep_speed(run.url, writing)
        run = replace(run, speed=writing)
    return Stores(data, run)


def known_stores(root: Root, recipe: Recipe, output: Place | None) -> Stores:
    """As `look_at_stores`, with the speeds that were measured last."""
    data = _data_store(root, recipe)
    if data is not None:
        data = replace(data, speed=kept_speed(data.url, ReadSpeed))
    return Stores(data, RunStore(output, kept_speed(output, WriteSpeed)) if isinstance(output, Url) else None)


def stores_elsewhere(root: Root | None, recipe: Recipe, output: Place | None) -> Stores:
    """As `look_at_stores`, for another machine: whose cache is empty, and from which nothing is measured."""
    data = None if root is None else _data_store(root, recipe, is_here=False)
    return Stores(data, RunStore(output, None) if isinstance(output, Url) else None)


def _data_store(root: Root, recipe: Recipe, is_here: bool = True) -> DataStore | None:
    if not isinstance(root.path, Url):
        return None
    variants = tuple(root.nearest(phase.source) for phase in recipe.phases)
    return DataStore(root.path, variants, *find_splits(root, recipe, is_here), None)


def plan_stores(
    stores: Stores, recipe: Recipe, schedule: Schedule, plan: AnyPlan, work: Portion, checkpoint_bytes: int
) -> tuple[AnyPlan, Storage | None]:
    """Return `plan` of a training with what waits for stores, and what is asked of these; None where there are none.

    Where the steps' time is not known, how long is waited is not either. Raises UsageError where the environment lacks
    what names a store.
    """
    if stores == NO_STORES:
        return plan, None
    data = None
    if stores.data is not None:
        plan, data = _plan_data(stores.data, recipe, schedule, plan, work)
    return plan, Storage(data, _plan_run(stores.run, plan, work, checkpoint_bytes))


def _plan_data(
    store: DataStore, recipe: Recipe, schedule: Schedule, plan: AnyPlan, work: Portion
) -> tuple[AnyPlan, DataStorage]:
    if recipe.features_once:
        return _plan_features(store, schedule, plan)
    each = [0.0] * len(work.steps) if plan is None else plan.steps
    phases = [
        Steps(variant, steps, steps * seconds, steps * phase.batch_size, steps * phase.batch_size / schedule.num_train)
        for variant, steps, seconds, phase in zip(store.variants, work.steps, each, recipe.phases, strict=True)
    ]
    speed = None if plan is None else store.speed
    found, seconds = plan_data(store.url, store.splits, store.cache, speed, phases)
    if plan is None or speed is None:
        return plan, found
    waits = [whole > (1 + NOTABLE) * phase.seconds for whole, phase in zip(seconds, phases, strict=True)]
    limits = tuple(STORAGE if waiting else limit for waiting, limit in zip(waits, plan.limits, strict=True))
    slower = tuple(whole / max(1, phase.steps) for whole, phase in zip(seconds, phases, strict=True))
    return replace(plan, start_up=plan.start_up + (found.first_step_seconds or 0.0), steps=slower, limits=limits), found


def _plan_features(store: DataStore, schedule: Schedule, plan: AnyPlan) -> tuple[AnyPlan, DataStorage]:
    """As `_plan_data`, where each image is read once, before the first step."""
    speed, seconds = (None, 0.0) if plan is None else (store.speed, plan.features)
    once = Steps(store.variants[0], 1, seconds, schedule.num_train, 1.0)
    found, (longer,) = plan_data(store.url, store.splits, store.cache, speed, [once])
    if plan is None or speed is None:
        return plan, found
    waited = longer - seconds
    return replace(plan, start_up=plan.start_up + waited, features=plan.features + waited), found


def _plan_run(store: RunStore | None, plan: TimePlan | None, work: Portion, checkpoint_bytes: int) -> RunStorage | None:
    if store is None:
        return None
    seconds = 0.0 if plan is None else plan.seconds(work)
    step = seconds / max(1, sum(work.steps))
    speed = None if plan is None else store.speed
    return plan_run(store.url, speed, work.checkpoints, checkpoint_bytes, seconds, step)
