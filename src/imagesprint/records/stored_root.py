"""A ROOT as a folder of this disk, wherever it lies: of a stored one the small files, and a shard while it is read."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from tempfile import NamedTemporaryFile

from imagesprint.console import Console
from imagesprint.storage.mirror import check_listed, mirrored
from imagesprint.storage.naming import Naming
from imagesprint.storage.store import open_store
from imagesprint.storage.url import Place

Bring = Callable[[Path], AbstractContextManager[Path]]  # gives, for a block, the file that has the bytes of a shard


@contextmanager
def on_this_disk(place: Place, names: Naming, console: Console) -> Iterator[tuple[Path, Bring]]:
    """Have what is small of a ROOT, or of a variant, in a folder, for the time of the block; `names` learns its URL.

    Yields it and what brings a shard of it, of which the folder has the name and the size. Raises StorageError,
    DataError where the disk is too small, FileError.
    """
    if isinstance(place, Path):
        yield place, nullcontext
        return
    store = open_store(place)
    entries = {stored.key: stored for stored in store.list()}
    with mirrored(store, list(entries.values()), place.name or place.host, _is_small, console) as folder:
        names.add(folder, place)

        @contextmanager
        def bring(path: Path) -> Iterator[Path]:
            stored = entries[str(path.relative_to(folder))]
            with NamedTemporaryFile(dir=folder.parent, prefix=".shard-") as file:
                store.download(stored.key, Path(file.name))
                check_listed(store, stored)
                yield Path(file.name)

        yield folder, bring


def _is_small(key: str) -> bool:
    return key.endswith((".json", ".jsonl", ".npz"))
