"""ROOT/.parts: what an unfinished `prepare` knows of itself, so that the same command goes on where it stopped.

plan.json                       what is being made; another plan is refused
VARIANT-SHARD.index.npz         a finished shard's rows of the index
SHARD.json                      written last: the shard is finished in all variants; its checksums, its rejects, and
                                of which plan it is: parts are copied together by hand
lock                            see `locking`
*.tmp                           shards being written
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from imagesprint.errors import RecordError, UsageError
from imagesprint.files import TEMPORARY_PATTERN, naming, remove, write_text
from imagesprint.prepare.locking import LOCK
from imagesprint.prepare.plan import Shard, differences
from imagesprint.prepare.storing import coder
from imagesprint.records.dataset import PARTS, is_variant_name
from imagesprint.records.index import Index
from imagesprint.records.manifest import FILE_NAME, ShardInfo, from_plain

CONTENT_BYTES = 16  # of a source image's hash
NO_IMAGE = bytes(CONTENT_BYTES)  # instead of the hash of a file that is none

_PLAN = "plan.json"
_SHARD_NAME = re.compile(r"(train|validation)-\d+-of-\d+")


@dataclass(frozen=True)
class ShardResult:
    """A finished shard: what it is in each variant, and what was found out about its source images.

    `rejected` has split, file and reason of each rejected one. `converted` has the positions in the shard of those that
    are no JPEG in RGB or grey, by what they are. `contents` is a hash of CONTENT_BYTES of each one's file, in
    hexadecimal digits, zeros where it is no image. `cpu_seconds` is what was spent on "decode" and on each variant.
    """

    split: str
    name: str
    variants: dict[str, ShardInfo]
    rejected: tuple[dict[str, str], ...]
    converted: dict[str, list[int]]
    contents: str
    cpu_seconds: dict[str, float]

    def iter_contents(self) -> Iterator[bytes]:
        """Yield the hash of each source image, in order."""
        contents = bytes.fromhex(self.contents)
        for start in range(0, len(contents), CONTENT_BYTES):
            yield contents[start : start + CONTENT_BYTES]


def unfinished_variants(root: Path) -> tuple[str, ...]:
    """Return the variants that a `prepare` into `root` has begun and not finished. Raises RecordError, FileError."""
    begun = _read_plan(root).get("variants", [])
    return tuple(variant for variant in begun if not _is_finished(root / variant))


def _is_finished(folder: Path) -> bool:
    with naming("read", folder / FILE_NAME):
        return (folder / FILE_NAME).exists()


def _read_plan(root: Path) -> dict[str, Any]:
    """Return the plan that was begun in `root`, empty if none was. Raises RecordError if it is damaged, FileError."""
    path = root / PARTS / _PLAN
    with naming("read", path):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return {}
    try:
        plan: dict[str, Any] = json.loads(content)
        if not all(is_variant_name(name) for name in plan["variants"]):
            raise ValueError(f"it has the variants {plan['variants']}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        folders = [entry for entry in _entries(root) if is_variant_name(entry.name)]
        unfinished = [str(folder) for folder in sorted(folders) if not _is_finished(folder)]
        raise RecordError(
            f"{path} is damaged: {error!r}",
            f"delete {' and '.join([str(root / PARTS), *unfinished])}, together, then give the same command again",
        ) from error
    return plan


@dataclass(frozen=True)
class Parts:
    """The state of an unfinished `prepare` of `variants` into `root`, of images stored as `image_format`."""

    root: Path
    variants: tuple[str, ...]
    image_format: str

    @property
    def folder(self) -> Path:
        return self.root / PARTS

    @property
    def _plan_path(self) -> Path:
        return self.folder / _PLAN

    def begin(self, made_by: dict[str, Any], own: Collection[str]) -> None:
        """Begin with this plan, or go on with it; `own` names the shards that nobody else works at.

        Raises UsageError if another plan is unfinished, FileError.
        """
        now = {
            "variants": list(self.variants),
            "image_format": self.image_format,
            "coder": coder(),  # bytes of two coders must not be mixed
            **made_by,
        }
        unfinished = unfinished_variants(self.root)
        if unfinished:
            found = differences({**_read_plan(self.root), "variants": list(unfinished)}, now)
            if found:
                raise UsageError(
                    f"{self.root} has an unfinished prepare of another plan ({'; '.join(found)})",
                    f"give the command it was begun with, or delete {self.folder} and the unfinished folders beside it",
                )
            self._sweep(own)
        else:
            self._begin_anew(now)
        for variant in self.variants:
            with naming("write", self.root / variant):
                (self.root / variant).mkdir(exist_ok=True)

    def _sweep(self, own: Collection[str]) -> None:
        """Remove what a killed run was writing of the shards `own`."""
        for path in _entries(self.folder):
            shard = _SHARD_NAME.search(path.name)
            if path.suffix == ".tmp" and shard and shard[0] in own:
                remove(path)

    def sweep_variants(self) -> None:
        """Remove what a killed run was writing in the end."""
        for variant in self.variants:
            for path in _entries(self.root / variant):
                if path.match(TEMPORARY_PATTERN):
                    remove(path)

    def _begin_anew(self, plan: dict[str, Any]) -> None:
        for variant in self.variants:
            if _entries(self.root / variant):
                raise UsageError(
                    f"{self.root / variant} is not empty, and prepare has not made what is in it",
                    "choose another ROOT, or move that folder away",
                )
        self.clear()
        write_text(self._plan_path, json.dumps(plan, indent=1) + "\n")

    def index_path(self, variant: str, name: str) -> Path:
        """Return where the rows of a shard's index lie."""
        return self.folder / f"{variant}-{name}.index.npz"

    def finish_shard(self, result: ShardResult) -> None:
        """Note that a shard is finished in all variants. Raises FileError."""
        content = {"plan": self._plan_digest(), **asdict(result)}
        write_text(self._result_path(result.name), json.dumps(content) + "\n")

    def reopen_shard(self, name: str) -> None:
        """Forget that a shard is finished: it is about to be written again. Raises FileError."""
        remove(self._result_path(name))

    def find_result(self, shard: Shard) -> ShardResult | None:
        """Return the result of a shard if it is finished by this plan and its files are there, as long as they were."""
        try:
            content = json.loads(self._result_path(shard.name).read_text(encoding="utf-8"))
            infos = {variant: from_plain(ShardInfo, content["variants"][variant]) for variant in self.variants}
            result = ShardResult(
                shard.split,
                shard.name,
                infos,
                rejected=tuple(
                    {key: str(row[key]) for key in ("split", "file", "reason")} for row in content["rejected"]
                ),
                converted={kind: [int(i) for i in positions] for kind, positions in content["converted"].items()},
                contents=content["contents"],
                cpu_seconds={name: float(seconds) for name, seconds in content["cpu_seconds"].items()},
            )
            whole = content["plan"] == self._plan_digest()
            whole = whole and len(bytes.fromhex(result.contents)) == CONTENT_BYTES * len(shard.samples)
            whole = whole and all(self._is_whole(variant, shard, result) for variant in self.variants)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, RecordError):
            return None  # whatever is the matter: the shard is made anew
        return result if whole else None

    def _is_whole(self, variant: str, shard: Shard, result: ShardResult) -> bool:
        index, info = Index.read(self.index_path(variant, shard.name)), result.variants[variant]
        size = (self.root / variant / shard.name).stat().st_size
        expected = ShardInfo(shard.name, size, len(shard.samples) - len(result.rejected), info.crc32c)
        return info == expected and (index.shard_names, len(index)) == ((info.name,), info.num_records)

    def _plan_digest(self) -> str:
        """Return 64 hex digits that stand for what the plan says of any shard. Raises RecordError, FileError."""
        plan = {key: value for key, value in _read_plan(self.root).items() if key != "variants"}
        return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()

    def clear(self) -> None:
        """Forget everything: all is finished. Raises FileError."""
        for path in _entries(self.folder):
            if path.name != LOCK:
                remove(path)

    def _result_path(self, name: str) -> Path:
        return self.folder / f"{name}.json"


def _entries(folder: Path) -> list[Path]:
    """Return what lies in a folder; nothing where there is none. Raises FileError."""
    with naming("read", folder):
        return list(folder.iterdir()) if folder.is_dir() else []
