"""The arithmetic of what a training asks of stores: time, bytes, disk, requests and price."""

from dataclasses import replace
from pathlib import Path

import pytest

from imagesprint.diagnosis.storage_plan import SplitBytes, Steps, Storage, _kept, plan_data, plan_run
from imagesprint.diagnosis.storage_prices import Requests, price_list
from imagesprint.diagnosis.storage_text import storage_lines
from imagesprint.diagnosis.store_speed import ReadSpeed, WriteSpeed
from imagesprint.storage.store import PIECE
from imagesprint.storage.url import Url

URL = Url("s3://bucket/root")
SPEED = ReadSpeed("2026-11-29", 0.01, 0.05, 50e6, 100e6, 1000.0)  # 100 MB/s and 1,000 requests a second
SMALL = SplitBytes("160", "train", 10_000, 100_000_000, 0, 100_000_000)  # of 10 KB a record: 1 s to fetch
LARGE = SplitBytes("320", "train", 10_000, 400_000_000, 0, 400_000_000)
VALIDATION = SplitBytes("320", "validation", 1000, 50_000_000, 0, 50_000_000)
EPOCH = Steps("160", 100, 50.0, 10_000, 1.0)


@pytest.fixture(autouse=True)
def _aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Amazon's own store, in a region that is not asked for."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "STORAGE_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))


def test_what_a_warm_cache_has_takes_no_time() -> None:
    warm = [replace(split, cached_bytes=split.num_bytes) for split in (VALIDATION, SMALL)]
    data, seconds = plan_data(URL, warm, None, SPEED, [EPOCH])
    assert seconds == [50.0]
    assert (data.download_bytes, data.first_step_seconds, data.waiting_seconds, data.hidden_seconds) == (0, 0, 0, 0)
    assert data.egress_bytes == 0


def test_training_waits_for_its_first_records_and_hides_the_rest() -> None:
    data, seconds = plan_data(URL, [VALIDATION, SMALL], None, SPEED, [EPOCH])
    assert seconds == [50.0]
    assert data.download_seconds == pytest.approx(1.5)
    assert data.first_step_seconds == pytest.approx(0.01 + 100 / 1000)
    assert data.waiting_seconds == 0
    assert data.hidden_seconds == pytest.approx(1.5 - 0.11)
    assert data.requests.get == 2 * 3 + (12 + 24) + 11_000  # pieces of 4 MiB, and each record by itself at the most


def test_a_phase_takes_as_long_as_what_it_reads_takes_to_come() -> None:
    slow = replace(SPEED, bytes_per_second=1e6)
    phases = [EPOCH, replace(EPOCH, variant="320", seconds=1000.0)]
    data, (first, second) = plan_data(URL, [VALIDATION, SMALL, LARGE], None, slow, phases)
    assert data.first_step_seconds == pytest.approx(0.01 + 100 / 100)
    assert first == pytest.approx(50 + 100 - 1.01)  # the validation split, too; counted from the first step on
    assert second == 1000.0  # the 400 s of the large one pass while it trains
    assert data.waiting_seconds == pytest.approx(first - 50)
    longer = replace(phases[0], seconds=10_000.0)
    assert plan_data(URL, [VALIDATION, SMALL, LARGE], None, slow, [longer, phases[1]])[1] == [10_000.0, 1000.0]
    half = replace(EPOCH, epochs=0.5)  # of a phase that sees half of the images only these are waited for
    assert plan_data(URL, [SMALL], None, slow, [half])[1] == [pytest.approx(50.0)]


def test_what_has_no_room_comes_in_every_epoch_and_may_be_the_narrowest() -> None:
    part = replace(SMALL, cached_bytes=60_000_000, kept_bytes=60_000_000)  # 4,000 records do not fit: 4 s an epoch
    phases = [replace(EPOCH, epochs=5.0, images=50_000, seconds=250.0)]
    data, seconds = plan_data(URL, [part], None, SPEED, phases)
    assert data.streamed_bytes_per_epoch == [40_000_000]
    assert data.egress_bytes == 200_000_000
    assert seconds == [250.0]
    assert data.hidden_seconds == pytest.approx(20 - (data.first_step_seconds or 0))
    assert data.requests.get == pytest.approx(20_000, abs=10)
    _, seconds = plan_data(URL, [part], None, replace(SPEED, requests_per_second=10.0), phases)
    assert seconds == [pytest.approx(2000.0)]
    text = "\n".join(storage_lines(Storage(data, None)))
    assert "streamed    the cache has no room for 40.0 MB of phase 0: they come from the store in every epoch" in text


def test_shards_stay_in_order_as_far_as_there_is_room() -> None:
    assert _kept([10, 10, 10], [-1, -1, -1], 25) == (20, 5)
    assert _kept([10, 10, 10], [-1, -1, 4], 9) == (10, 9)  # what has a file keeps it
    assert _kept([30, 10], [-1, -1], 25) == (0, 25)  # behind one that has none there is none
    assert _kept([10, 10], [10, 0], -5) == (20, -5)


def test_requests_have_their_list_price_where_it_is_known_whose_store_that_is(monkeypatch: pytest.MonkeyPatch) -> None:
    prices = price_list(URL)
    assert prices is not None
    assert prices.of(Requests(get=1_000_000, put=2000, list=1000)) == pytest.approx(0.4 + 0.010 + 0.005)
    data, _ = plan_data(URL, [SMALL], None, SPEED, [EPOCH])
    assert data.price is not None
    assert data.price.egress == pytest.approx(0.1 * 0.09)
    assert all(word in data.price.source for word in ("aws.amazon.com/s3/pricing", "10 TB a month"))
    google = price_list(Url("gs://bucket/root"))
    assert google is not None
    assert google.egress == 0.12
    assert price_list(Url("hdfs://host:8020/root")) is None
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")
    assert price_list(URL) is None
    assert plan_data(URL, [SMALL], None, SPEED, [EPOCH])[0].price is None


def test_a_run_is_sent_beside_the_training_and_its_end_after_it() -> None:
    run = plan_run(Url("s3://bucket/run"), WriteSpeed("2026-11-29", 10e6), 12, 200_000_000, 3600.0, 0.1)
    assert (run.upload_bytes, run.seconds_each, run.seconds) == (2_400_000_000, 20.0, 240.0)
    assert run.seconds_at_the_end == 20.0
    pieces = -(-200_000_000 // PIECE)
    assert run.requests == Requests(get=180, put=12 * (pieces + 2) + 3 * 1800 + 180, list=182)
    slow = plan_run(Url("s3://bucket/run"), WriteSpeed("2026-11-29", 0.5e6), 12, 200_000_000, 3600.0, 0.1)
    assert slow.seconds_at_the_end == 1200.0  # they queue up
    text = "\n".join(storage_lines(Storage(None, run)))
    assert "2.40 GB of checkpoints to send, each in 20.0 s beside the training" in text
    assert max(map(len, text.splitlines())) <= 100
