"""A run at Weights & Biases, or in the files of its offline mode, as WANDB_MODE and `wandb login` say.

What is there already is asked of W&B's interface, or offline read from the files of the folders that earlier commands
left, which `wandb sync` joins to one run: each command adds a folder with what is missing. The axis is a figure of its
own, as Lightning and Transformers have it, for W&B's own step may never go back, and a late evaluation's does.
"""

import os
import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

from imagesprint.errors import UsageError, needing
from imagesprint.files import naming
from imagesprint.tracking.points import FAILED, NAMES, Key, Point, RunIdentity, Setting
from imagesprint.tracking.tracker import PROJECT, asking

_STEP: Final = "train/global_step"
_HINT: Final = (
    "see to WANDB_BASE_URL and the network, or write files for wandb sync with WANDB_MODE=offline; "
    "the same command goes on where this one stopped"
)
# W&B's files: LevelDB's log format (https://github.com/google/leveldb/blob/main/doc/log_format.md) behind a header of
# 7 bytes, in which the first block begins. Numbers are little-endian.
_HEADER: Final = struct.Struct("<4sHB")
_MAGIC: Final = (b":W&B", 0xBEE1, 0)
_CHUNK: Final = struct.Struct("<IHB")  # CRC-32, bytes, and which part of a record follows
_BLOCK: Final = 32 << 10
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


class WandbRun:
    """The run of project WANDB_PROJECT, by default `imagesprint`, and entity WANDB_ENTITY."""

    def __init__(self, run: RunIdentity, settings: Mapping[str, Setting]) -> None:
        with needing("wandb"):
            import wandb
        self._wandb = wandb
        own = wandb.Settings(
            console="off", silent=True, disable_git=True, save_code=False, x_disable_stats=True, x_disable_meta=True
        )
        with self._asking():
            try:
                self._run = wandb.init(
                    project=os.environ.get("WANDB_PROJECT") or PROJECT,
                    id=run.id, name=run.name, resume="allow",
                    config={**settings, "run.place": run.place}, settings=own,
                )  # fmt: skip
            except wandb.errors.UsageError as error:
                raise UsageError(
                    f"W&B: {' '.join(str(error).split())}", "wandb login, or WANDB_MODE=offline to write files"
                ) from error
            if self._run.disabled:
                raise UsageError("WANDB_MODE=disabled sends nothing", "unset WANDB_MODE, or set it to offline")
            self._run.define_metric(_STEP)
            for name in NAMES:
                self._run.define_metric(name, step_metric=_STEP)
        self._folder = Path(self._run.dir).parent
        self._next = 0  # W&B's own step, where no server counts it

    @property
    def where(self) -> str:
        return str(self._folder) if self._run.offline else str(self._run.url)

    def sent(self) -> set[Key]:
        rows: Iterator[Mapping[str, Any]] = self._kept() if self._run.offline else self._answered()
        with self._asking():
            return {(name, int(row[_STEP])) for row in rows if _STEP in row for name in NAMES if name in row}

    def send(self, points: Sequence[Point]) -> None:
        with self._asking():
            for point in points:
                row = {**point.figures, _STEP: point.step, "_timestamp": point.time}
                self._run.log(row, step=self._next if self._run.offline else None)
                self._next += 1

    def finish(self, outcome: str, facts: Mapping[str, Setting], files: Sequence[Path]) -> None:
        with self._asking():
            self._run.summary.update({**facts, "outcome": outcome})
            for file in files:
                # W&B would link what lies elsewhere, and the copy of a run at a URL goes with this command.
                copy = shutil.copy(file, self._run.dir)
                self._run.save(copy, base_path=self._run.dir, policy="now")
            self._run.finish(exit_code=int(outcome == FAILED))

    def _answered(self) -> Iterator[Mapping[str, Any]]:
        if self._run.resumed:
            yield from self._wandb.Api().run(self._run.path).scan_history()

    def _kept(self) -> Iterator[Mapping[str, Any]]:
        from wandb.proto.wandb_internal_pb2 import Record

        for folder in sorted(self._folder.parent.glob(f"offline-run-*-{self._run.id}")):
            for payload in _records(folder / f"run-{self._run.id}.wandb"):
                row = _row(Record.FromString(payload))
                self._next = max(self._next, int(row.get("_step", -1)) + 1)
                yield row

    def _asking(self) -> AbstractContextManager[None]:
        return asking("W&B", _HINT)


def _row(record: Any) -> dict[str, float]:
    """The numbers of a record of history; nothing for another."""
    if record.WhichOneof("record_type") != "history":
        return {}
    found = {}
    for item in record.history.item:
        name = item.key or "/".join(item.nested_key)
        if name in (*NAMES, _STEP, "_step"):
            found[name] = float(item.value_json)
    return found


def _records(path: Path) -> Iterator[bytes]:
    """The records of a .wandb file up to where it was cut short, by a kill or while it is written."""
    with naming("read", path):
        content = path.read_bytes() if path.exists() else b""
    at, whole = _HEADER.size, b""
    if len(content) < at or _HEADER.unpack_from(content) != _MAGIC:
        return
    while at + _CHUNK.size <= len(content):
        if _BLOCK - at % _BLOCK < _CHUNK.size:  # what is left of a block is padding
            at += _BLOCK - at % _BLOCK
            continue
        _, length, part = _CHUNK.unpack_from(content, at)
        at += _CHUNK.size
        if part not in (_WHOLE, _FIRST, _MIDDLE, _LAST) or at + length > len(content):
            return
        whole = content[at : at + length] if part in (_WHOLE, _FIRST) else whole + content[at : at + length]
        at += length
        if part in (_WHOLE, _LAST):
            yield whole
