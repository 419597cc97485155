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

from imagesprint.errors import RecordError, UsageError
from imagesprint.files import TEMPORARY_PATTERN, write_text
from imagesprint.prepare.plan import Shard, differences
from imagesprint.records.dataset import PARTS, is_variant_name
from imagesprint.records.index import Index
from imagesprint.records.manifest import FILE_NAME, ShardInfo, from_plain

_PLAN = "plan.json"


@dataclass(frozen=True)
class ShardResult:
    """A finished shard: what it is in each variant, and which of its images were rejected, with the reason."""

    split: str
    name: str
    variants: dict[str, ShardInfo]
    rejected: tuple[dict[str, str], ...]


def unfinished_variants(root: Path) -> tuple[str, ...]:
    """Return the variants that a `prepare` into `root` has begun and not finished. Raises RecordError."""
    begun = _read_plan(root).get("variants", [])
    return tuple(variant for variant in begun if not (root / variant / FILE_NAME).exists())


def _read_plan(root: Path) -> dict[str, Any]:
    """Return the plan that was begun in `root`, empty if none was. Raises RecordError if it is damaged, OSError."""
    path = root / PARTS / _PLAN
    try:
        plan: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not all(is_variant_name(name) for name in plan["variants"]):
            raise ValueError(f"it has the variants {plan['variants']}")
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        folders = [entry for entry in root.iterdir() if is_variant_name(entry.name)]
        unfinished = [str(folder) for folder in sorted(folders) if not (folder / FILE_NAME).exists()]
        raise RecordError(
            f"{path} is damaged: {error!r}",
            f"delete {' and '.join([str(root / PARTS), *unfinished])}, together, then give the same command again",
        ) from error
    return plan


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
            found = differences({**_read_plan(self.root), "variants": list(unfinished)}, now)
            if found:
                raise UsageError(
                    f"{self.root} has an unfinished prepare of another plan ({'; '.join(found)})",
                    f"give the command it was begun with, or delete {self.folder} and the unfinished folders beside it",
                )
            self._sweep()
        else:
            self._begin_anew(now)
        for variant in self.variants:
            (self.root / variant).mkdir(exist_ok=True)

    def _sweep(self) -> None:
        """Remove what a killed run was writing."""
        left_over = [*self.folder.glob("*.tmp")]
        for variant in self.variants:
            left_over += (self.root / variant).glob(TEMPORARY_PATTERN)
        for path in left_over:
            path.unlink(missing_ok=True)

    def _begin_anew(self, plan: dict[str, Any]) -> None:
        for variant in self.variants:
            if (self.root / variant).exists() and any((self.root / variant).iterdir()):
                raise UsageError(
                    f"{self.root / variant} is not empty, and prepare has not made what is in it",
                    "choose another ROOT, or move that folder away",
                )
        self.remove()
        self.folder.mkdir()
        write_text(self._plan_path, json.dumps(plan, indent=1) + "\n")

    def index_path(self, variant: str, name: str) -> Path:
        """Return where the rows of a shard's index lie."""
        return self.folder / f"{variant}-{name}.index.npz"

    def finish_shard(self, result: ShardResult) -> None:
        """Note that a shard is finished in all variants. Raises OSError."""
        write_text(self._result_path(result.name), json.dumps(asdict(result)) + "\n")

    def find_result(self, shard: Shard) -> ShardResult | None:
        """Return the result of a shard if it is finished and its files are there, sound and as long as they were."""
        try:
            content = json.loads(self._result_path(shard.name).read_text(encoding="utf-8"))
            infos = {variant: from_plain(ShardInfo, content["variants"][variant]) for variant in self.variants}
            rejected = tuple({key: str(row[key]) for key in ("split", "file", "reason")} for row in content["rejected"])
            whole = all(self._is_whole(variant, shard, info, len(rejected)) for variant, info in infos.items())
        except (OSError, ValueError, KeyError, TypeError, RecursionError, RecordError):
            return None  # whatever is the matter: the shard is made anew
        return ShardResult(shard.split, shard.name, infos, rejected) if whole else None

    def _is_whole(self, variant: str, shard: Shard, info: ShardInfo, rejected: int) -> bool:
        index = Index.read(self.index_path(variant, shard.name))
        size = (self.root / variant / shard.name).stat().st_size
        expected = ShardInfo(shard.name, size, len(shard.samples) - rejected, info.crc32c)
        return info == expected and (index.shard_names, len(index)) == ((info.name,), info.num_records)

    def remove(self) -> None:
        """Remove the folder: all is finished. Raises OSError."""
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def _result_path(self, name: str) -> Path:
        return self.folder / f"{name}.json"
