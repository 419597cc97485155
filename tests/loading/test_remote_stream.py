"""The stream of batches is the same from a store as from the disk, whatever the cache has room for."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hdfs_server import Hdfs
from imagesprint.errors import RecordError
from imagesprint.images.decoding import READ
from imagesprint.loading.loader import EvaluationLoader, Loader
from imagesprint.recipes.recipe import Recipe
from imagesprint.records.dataset import open_dataset, open_root
from imagesprint.storage.store import open_store
from imagesprint.storage.url import Place, Url


def stream(source: Place, recipe: Recipe, world_size: int = 1) -> str:
    """A hash of all micro-batches, of the ranks by turns."""
    hashed = hashlib.sha256()
    loaders = [Loader(source, recipe, rank, world_size, threads=1) for rank in range(world_size)]
    for together in zip(*loaders, strict=True):
        for batch in together:
            for tensor in (batch.sample_ids, batch.labels, batch.images):
                hashed.update(tensor.numpy().tobytes())
    return hashed.hexdigest()


@pytest.fixture
def recipe(tiny_recipe: Recipe) -> Recipe:
    return replace(tiny_recipe, precision="auto")


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_an_empty_a_warm_and_a_too_small_cache_give_the_stream_of_the_disk(
    root_url: Url, photo_root: Path, recipe: Recipe, world_size: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = stream(photo_root, recipe, world_size)
    assert stream(root_url, recipe, world_size) == expected
    assert stream(root_url, recipe, world_size) == expected
    monkeypatch.setenv("IMAGESPRINT_CACHE", str(tmp_path / "small"))
    monkeypatch.setenv("IMAGESPRINT_CACHE_LIMIT", "100KB")
    assert stream(root_url, recipe, world_size) == expected


def test_a_fetcher_that_is_killed_changes_nothing(
    root_url: Url, photo_root: Path, recipe: Recipe, kill_fetcher: Callable[[], bool]
) -> None:
    expected = [batch.images.clone() for batch in Loader(photo_root, recipe, threads=1)]
    with Loader(root_url, recipe, threads=1) as loader:
        for number, (batch, images) in enumerate(zip(loader, expected, strict=True)):
            assert batch.images.equal(images)
            if number in (2, 9):
                kill_fetcher()
        assert loader.stages[READ] > 0


def test_an_evaluation_sees_each_image(root_url: Url, photo_root: Path) -> None:
    seen = {}
    for source in (root_url, photo_root):
        dataset = open_dataset(source, "full", "validation")
        batches = list(EvaluationLoader(dataset, 24, 28, 8, threads=1))
        seen[source] = np.concatenate([batch.sample_ids.numpy() for batch in batches])
    assert (seen[root_url] == seen[photo_root]).all()


@pytest.mark.parametrize("limit", ["1GB", "1KB"])  # records come by way of the cache, or are streamed
def test_a_bad_record_in_the_store_is_treated_as_one_on_the_disk(
    root_url: Url, photo_root: Path, recipe: Recipe, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGESPRINT_CACHE_LIMIT", limit)
    name = "32/train-00001-of-00003"
    content = bytearray((photo_root / name).read_bytes())
    content[len(content) // 2] ^= 1
    open_store(root_url).write(name, bytes(content))
    with pytest.raises(RecordError, match=re.escape(f"{root_url}/{name}, record ")) as caught:
        stream(root_url, recipe)
    assert "does not match its CRC-32C" in caught.value.what
    assert "bad_records=substitute" in caught.value.hint
    with Loader(open_root(root_url), replace(recipe, bad_records="substitute"), threads=1) as loader:
        for _ in loader:
            pass
        assert loader.bad_records > 0
        assert f"{root_url}/{name}" in loader.first_bad_record


@pytest.mark.hdfs
def test_from_hdfs_it_is_the_stream_of_the_disk(
    hdfs: Hdfs,
    photo_root: Path,
    recipe: Recipe,
    upload: Callable[[Path, Url], Url],
    kill_fetcher: Callable[[], bool],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    url, expected = upload(photo_root, hdfs.url), stream(photo_root, recipe, 2)
    assert stream(url, recipe, 2) == expected
    assert stream(url, recipe, 2) == expected
    kill_fetcher()
    monkeypatch.setenv("IMAGESPRINT_CACHE", str(tmp_path / "small"))
    monkeypatch.setenv("IMAGESPRINT_CACHE_LIMIT", "100KB")
    assert stream(url, recipe, 2) == expected
