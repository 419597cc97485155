"""ROOT/.parts: what an unfinished `prepare` knows of itself, so that the same command goes on where it stopped.

plan.json                       what is being made; another plan is refused
VARIANT-SHARD.index.npz         a finished shard's rows of the index
SHARD.json                      written last: the shard is finished in all variants; its checksums, its rejects
*.tmp                           shards being written
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from imagesprint.errors import UsageError
from imagesprint.files import write_text
from imagesprint.prepare.plan import Shard, differences
from imagesprint.records.dataset import PARTS
from imagesprint.records.manifest import FILE_NAME, ShardInfo

_PLAN = "plan.json"


@dataclass(frozen=True)
class ShardResult:
    """A finished shard: what it is in each variant, and which of its images were rejected, with the reason."""

    split: str
    name: str
    variants: dict[str, ShardInfo]
    rejected: tuple[dict[str, str], ...]


def unfinished_variants(root: Path) -> tuple[str, ...]:
    """Return the variants that a `prepare` into `root` has begun and not finished."""
    path = root / PARTS / _PLAN
    if not path.exists():
        return ()
    begun: list[str] = json.loads(path.read_text(encoding="utf-8"))["variants"]
    return tuple(variant for variant in begun if not (root / variant / FILE_NAME).exists())


@dataclass(frozen=True)
class Parts:
    """The state of an unfinished `prepare` of `variants` into `root`."""

    root: Path
    variants: tuple[str, ...]

    @property
    def folder(self) -> Path:
        return self.root / PARTS

    @property
    def _plan_path(self) -> Path:
        return self.folder / _PLAN

    def begin(self, made_by: dict[str, Any]) -> None:
        """Begin with this plan, or go on with it. Raises UsageError if another one is unfinished, OSError."""
        now = {"variants": list(self.variants), **made_by}
        unfinished = unfinished_variants(self.root)
        if unfinished:
            then = {**json.loads(self._plan_path.read_text(encoding="utf-8")), "variants": list(unfinished)}
            found = differences(then, now)
            if found:
                raise UsageError(
                    f"{self.root} has an unfinished prepare of another plan ({'; '.join(found)})",
                    f"give the command it was begun with, or delete {self.folder} and the unfinished folders beside it",
                )
            for left_over in self.folder.glob("*.tmp"):
                left_over.unlink(missing_ok=True)
            return
        for variant in self.variants:
            if (self.root / variant).exists() and any((self.root / variant).iterdir()):
                raise UsageError(
                    f"{self.root / variant} is not empty, and prepare has not made what is in it",
                    "choose another ROOT, or move that folder away",
                )
        self.remove()
        self.folder.mkdir()
        write_text(self._plan_path, json.dumps(now, indent=1) + "\n")
        for variant in self.variants:
            (self.root / variant).mkdir(exist_ok=True)

    def index_path(self, variant: str, name: str) -> Path:
        """Return where the rows of a shard's index lie."""
        return self.folder / f"{variant}-{name}.index.npz"

    def finish_shard(self, result: ShardResult) -> None:
        """Note that a shard is finished in all variants. Raises OSError."""
        write_text(self._result_path(result.name), json.dumps(asdict(result)) + "\n")

    def find_result(self, shard: Shard) -> ShardResult | None:
        """Return the result of a shard if it is finished and its files are still there, as long as they were."""
        try:
            content = json.loads(self._result_path(shard.name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        infos = {variant: ShardInfo(**content["variants"][variant]) for variant in self.variants}
        for variant, info in infos.items():
            path = self.root / variant / info.name
            if (
                not path.exists()
                or path.stat().st_size != info.bytes
                or not self.index_path(variant, info.name).exists()
            ):
                return None
        return ShardResult(shard.split, shard.name, infos, tuple(content["rejected"]))

    def remove(self) -> None:
        """Remove the folder: all is finished. Raises OSError."""
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def _result_path(self, name: str) -> Path:
        return self.folder / f"{name}.json"
