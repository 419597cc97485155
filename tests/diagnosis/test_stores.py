"""What `plan`, `train`, `doctor` and `bench data` say of a ROOT and a run in S3, held against what comes from there."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fault_proxy import FaultProxy
from imagesprint.cli.main import main
from imagesprint.console import Console
from imagesprint.diagnosis import excerpt, stage_costs, store_speed, stores
from imagesprint.diagnosis.disturbance import Disturbance
from imagesprint.diagnosis.excerpt import local_part
from imagesprint.diagnosis.store_speed import ReadSpeed, measure_reading
from imagesprint.files import read_rows
from imagesprint.loading.loader import Loader
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.serialization import to_toml
from imagesprint.records.dataset import open_root
from imagesprint.storage.cache import LIMIT_VARIABLE
from imagesprint.storage.store import open_store
from imagesprint.storage.url import Url
from s3_server import S3

Said = Callable[..., Any]


@pytest.fixture
def tiny(tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe; what is measured for it is quick, and kept in the test's own folder, which is also the present one."""
    for name in ("STEP_SECONDS", "LOADING_SECONDS", "EVALUATION_SECONDS"):
        monkeypatch.setattr(stage_costs, name, 0.1)
    monkeypatch.setattr(store_speed, "SECONDS", 0.1)
    monkeypatch.setattr(Disturbance, "share", lambda _: 0.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "measured"))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.toml"
    path.write_text(to_toml(tiny_recipe))
    return path


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """What a command prints as JSON, with the exit code that is wanted of it."""

    def call(*words: object, code: int = 0) -> Any:
        assert main([*map(str, words), "--json"]) == code
        return json.loads(capsys.readouterr().out)

    return call


def shard_bytes(root: Path, variant: str, split: str) -> int:
    return sum(file.stat().st_size for file in (root / variant).glob(f"{split}-0*"))


def test_a_plan_counts_what_comes_and_train_says_it(
    tiny: Path, root_url: Url, photo_root: Path, said: Said, capsys: pytest.CaptureFixture[str]
) -> None:
    run = root_url.parent / f"{root_url.name}-run"
    places = (tiny, "--data", root_url, "--output", run)
    plan = said("plan", *places)
    assert {"steps", "images", "image_size", "seconds", "limited_by"} < set(plan["phases"][0])
    data, sent = plan["storage"]["data"], plan["storage"]["run"]
    assert (data["url"], sent["url"]) == (str(root_url), str(run))
    read = [("32", "validation"), ("32", "train"), ("full", "train")]
    assert [(split["variant"], split["split"]) for split in data["splits"]] == read
    sizes = [shard_bytes(photo_root, *names) for names in read]
    assert [split["num_bytes"] for split in data["splits"]] == sizes
    assert data["download_bytes"] == data["egress_bytes"] == data["cache"]["num_bytes"] == sum(sizes)
    assert data["streamed_bytes_per_epoch"] == [0, 0]
    assert min(data["speed"][name] for name in ("latency", "bytes_per_second", "requests_per_second")) > 0
    assert data["download_seconds"] == pytest.approx(sum(sizes) / data["speed"]["bytes_per_second"])
    assert 0 < data["first_step_seconds"] < 5
    assert sent["upload_bytes"] == plan["checkpoints"]["bytes_on_disk"]
    assert data["price"] is sent["price"] is None  # nobody knows what this server asks for them
    assert list(open_store(run).list()) == []  # the file that was written to measure is gone

    assert main(["train", *map(str, places), "--stop-after", "2"]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert f"data {root_url}: {sum(sizes) / 1e6:,.1f} MB, " in told
    assert f"run {run}: " in told
    assert "training waits " in told
    warm = said("plan", *places)["storage"]["data"]
    assert (warm["download_bytes"], warm["first_step_seconds"]) == (0, 0)


def test_what_the_cache_has_no_room_for_is_said_beforehand(
    tiny: Path,
    root_url: Url,
    photo_root: Path,
    said: Said,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    validation, small, large = (
        shard_bytes(photo_root, *names) for names in (("32", "validation"), ("32", "train"), ("full", "train"))
    )
    monkeypatch.setenv(LIMIT_VARIABLE, str(validation + small))
    words = ("plan", tiny, "--data", root_url)
    plan = said(*words)
    data = plan["storage"]["data"]
    assert data["cache"]["limit"] == validation + small
    assert data["streamed_bytes_per_epoch"] == [0, large]
    assert data["egress_bytes"] == pytest.approx(data["download_bytes"] + 4 * large, rel=0.2)  # four epochs, nearly

    def slowly(*args: Any) -> ReadSpeed:
        return replace(measure_reading(*args), requests_per_second=2.0)

    monkeypatch.setattr(stores, "measure_reading", slowly)
    slow = said(*words)
    first, second = slow["phases"]
    assert (first["seconds"], first["limited_by"]) == (plan["phases"][0]["seconds"], plan["phases"][0]["limited_by"])
    assert (second["seconds"], second["limited_by"]) == (pytest.approx(second["images"] / 2), "storage")
    assert slow["total_seconds"] > plan["total_seconds"] + 50
    assert main([str(word) for word in words]) == 0
    text = capsys.readouterr().out
    assert f"streamed    the cache has no room for {large / 1e6:.1f} MB of phase 1: they come from the store" in text


def test_an_excerpt_is_all_that_comes_to_measure_with(
    tiny_recipe: Recipe, root_url: Url, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(excerpt, "_LEAST", 1)
    root = open_root(root_url)
    part = local_part(root, tiny_recipe, Console.silent())
    assert len(part.dataset("full", "train")) == tiny_recipe.phases[0].batch_size < len(root.dataset("full", "train"))
    whole, there = root.dataset("full", "train"), part.dataset("full", "train")
    assert there.read(3) == whole.read(3)
    assert there.remote is not None
    assert whole.remote is not None
    sizes = [stored.num_bytes for stored in open_store(root_url / "full").list() if "train-0" in stored.key]
    assert 0 < whole.remote.cached_bytes() < sum(sizes)
    with Loader(part, tiny_recipe, threads=1, end_step=2) as loader:
        assert all(batch.sample_ids.max() < len(there) for batch in loader)


def test_doctor_looks_at_the_store_of_a_root(
    tiny: Path, root_url: Url, said: Said, fault_proxy: FaultProxy, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    def checks(data: Url, code: int = 0) -> dict[str, dict[str, str]]:
        return {check["name"]: check for check in said("doctor", "--data", data, code=code)["checks"]}

    assert tiny.exists()
    found = checks(root_url)
    assert found["credentials"]["detail"].startswith("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of the environment; ")
    assert "region us-east-1, with the bucket in the path" in found["credentials"]["detail"]
    assert found["clock"]["detail"] == "within a minute of the store's"
    assert found["store"]["detail"] == f"{root_url} holds the variants full, 32"
    names = ("credentials", "clock", "store", "read", "latency", "cache")
    assert [found[name]["status"] for name in names] == ["ok"] * 6
    assert found["open files"]["status"] == "ok"

    fault_proxy.faults.latency = 0.08
    monkeypatch.setenv(LIMIT_VARIABLE, "10kB")
    far = checks(root_url)
    assert (far["latency"]["status"], far["cache"]["status"]) == ("warning", "warning")
    assert "region" in far["latency"]["hint"]
    assert "--cache" in far["cache"]["hint"]

    fault_proxy.faults.latency = 0.0
    gone = checks(Url(f"s3://no-such-bucket-{root_url.name[-8:]}/root"), code=3)
    assert (gone["store"]["status"], "latency" in gone) == ("failure", False)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-secret-0123456789")
    wrong = checks(root_url, code=3)
    assert wrong["store"]["status"] == "failure"
    assert "a-wrong-secret" not in json.dumps(wrong)
    assert s3.server.environment["AWS_SECRET_ACCESS_KEY"] not in json.dumps([found, wrong])


def test_a_run_tells_how_long_it_waited_for_the_store_and_doctor_whether_it_can_be_written(
    tiny: Path, root_url: Url, said: Said, fault_proxy: FaultProxy, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, "10kB")  # so all is streamed all the time
    run = root_url.parent / f"{root_url.name}-run"
    empty = {check["name"]: check for check in said("doctor", run)["checks"]}
    assert empty["store"]["detail"] == f"{run} holds no run yet"
    assert empty["write"]["status"] == "ok"
    fault_proxy.faults.latency = 0.2
    words = (tiny, "--data", root_url, "--set", "phases.*.source=32", "--stop-after", 2, "--quiet")
    said("train", *words, "--output", "run")
    fault_proxy.faults.latency = 0.0
    (row,) = read_rows(Path("run/metrics.jsonl"))
    assert 0.2 <= row["stages"]["storage"] <= row["stages"]["load"]
    open_store(run).upload(Path("run/recipe.toml"), "recipe.toml")
    open_store(run).upload(Path("run/metrics.jsonl"), "metrics.jsonl")
    for name, value in s3.server.reader.items():
        monkeypatch.setenv(name, value)
    of_run = said("doctor", run, code=3)
    found = {check["name"]: check for check in of_run["checks"]}
    assert "for records that the store has yet to send" in found["phase 0: storage"]["detail"]
    assert (found["read"]["status"], found["write"]["status"]) == ("ok", "failure")
    assert "no permission" in found["write"]["detail"]
