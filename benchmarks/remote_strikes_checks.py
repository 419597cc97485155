"""What must hold of a finished run at a URL, whatever happened to it, beside one on a disk that nothing happened to."""

import shutil
from pathlib import Path

from chaos_invariants import broken_promises, rows

from imagesprint.checkpoints.format import read_training_checkpoint
from imagesprint.checkpoints.naming import list_checkpoints, step_of
from imagesprint.errors import CheckpointError
from imagesprint.runs.sending import is_hidden
from imagesprint.storage.store import open_store
from imagesprint.storage.url import Url

EVERY = 5  # --checkpoint-every
KEPT = 3  # --keep last:3,best


def broken_at(url: Url, reference: Path, folder: Path) -> list[str]:
    """Return what does not hold, in words; then nothing is left at `url`. `folder` is for what is fetched."""
    store = open_store(url)
    keys = [stored.key for stored in store.list()]
    for key in keys:
        if not is_hidden(key):
            (folder / key).parent.mkdir(parents=True, exist_ok=True)
            store.download(key, folder / key)
    broken = _broken_in(folder, reference) if (folder / "result.json").exists() else ["no result.json"]
    shutil.rmtree(folder)
    for key in keys:
        store.delete(key)
    return broken


def _broken_in(run: Path, reference: Path) -> list[str]:
    broken = broken_promises(run, reference)
    expected = {row["step"]: row["loss"] for row in _windows(reference)}
    ours = {row["step"]: row["loss"] for row in _windows(run)}
    broken += [f"another loss at step {step}" for step in expected.keys() & ours.keys() if ours[step] != expected[step]]
    checkpoints = list_checkpoints(run)
    for file in checkpoints:
        try:
            read_training_checkpoint(file)
        except CheckpointError as error:
            broken.append(error.what)
    best = max(rows(run / "evaluations.jsonl"), key=lambda row: (row["top1"], row["step"]))
    if best["checkpoint"] and not (run / best["checkpoint"]).exists():
        broken.append(f"the best checkpoint is missing: {best['checkpoint']}")
    if not KEPT <= len(checkpoints) <= KEPT + 1:
        broken.append(f"checkpoints of steps {[step_of(file) for file in checkpoints]}")
    return broken


def _windows(run: Path) -> list[dict[str, float]]:
    """The rows of metrics.jsonl that cover EVERY steps: others begin or end at a strike."""
    found = rows(run / "metrics.jsonl")
    before = [0, *(row["step"] for row in found)]
    return [
        row for row, start in zip(found, before, strict=False) if start % EVERY == 0 and row["step"] - start == EVERY
    ]
