"""What of a run's folder gets to its URL, in which order, and what comes from there."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from imagesprint.errors import RunError, StorageError, UsageError
from imagesprint.files import append_lines, append_row
from imagesprint.runs.sending import KEPT_FILE, Sender, checkpoint_keys, merge_lines, pull
from imagesprint.storage.store import Store, open_store
from s3_server import S3


@pytest.fixture
def store(s3: S3) -> Store:
    return open_store(s3.url)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of two checkpoints, each with its row."""
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "recipe.toml").write_text("name = 'x'\n")
    append_row(run / "commands.jsonl", {"began": "now", "step": 0})
    for step in (4, 8):
        add_checkpoint(run, step)
    return run


def add_checkpoint(run: Path, step: int) -> None:
    (run / "checkpoints" / f"step-{step:07d}.pt").write_bytes(os.urandom(20_000))
    append_row(run / "evaluations.jsonl", row(step))


def row(step: int, top1: float = 50.0) -> dict[str, object]:
    return {"step": step, "top1": top1, "checkpoint": f"checkpoints/step-{step:07d}.pt"}


def _added(line: bytes, there: list[bytes]) -> list[bytes]:
    return [*there, line]


def send_all(sender: Sender) -> None:
    while sender.pending():
        sender.send(sender.pending()[0])
    sender.delete_surplus()


def rows(store: Store) -> list[dict[str, object]]:
    return [json.loads(line) for line in store.read("evaluations.jsonl").splitlines()]


def test_the_newest_checkpoint_goes_first_and_rows_follow_theirs(store: Store, folder: Path) -> None:
    (folder / "result.json").write_text("{}")
    (folder / "checkpoints" / ".step-12.pt.77.tmp").write_bytes(b"half")
    sender = Sender(store, folder)
    assert sender.pending() == [
        "recipe.toml", "commands.jsonl", "checkpoints/step-0000008.pt", "checkpoints/step-0000004.pt",
        "evaluations.jsonl", "result.json",
    ]  # fmt: skip
    sender.send("evaluations.jsonl")
    assert store.stat("evaluations.jsonl") is None  # each row waits for its checkpoint
    assert "evaluations.jsonl" in sender.pending()
    sender.send("checkpoints/step-0000008.pt")
    assert rows(store) == [row(4)]  # nobody goes on from there any more: it does not wait
    send_all(sender)
    assert rows(store) == [row(4), row(8)]
    assert checkpoint_keys(store) == ["checkpoints/step-0000004.pt", "checkpoints/step-0000008.pt"]


def test_rows_of_the_steps_before_a_checkpoint_are_there_before_it(store: Store, folder: Path) -> None:
    append_row(folder / "metrics.jsonl", {"step": 8})
    append_row(folder / "evaluations.jsonl", row(7) | {"checkpoint": None})  # judged, but not saved
    sender = Sender(store, folder)
    newest = "checkpoints/step-0000008.pt"
    while newest not in sender.checkpoints:  # with which all else is lost here
        sender.send(sender.pending()[0])
    assert [found["step"] for found in rows(store)] == [4, 7]
    assert store.read("metrics.jsonl") == b'{"step": 8}\n'
    send_all(sender)
    assert [found["step"] for found in rows(store)] == [4, 7, 8]


def test_what_keep_removes_goes_once_a_newer_one_is_there(store: Store, folder: Path) -> None:
    sender = Sender(store, folder)
    send_all(sender)
    sender.forget(["checkpoints/step-0000004.pt", "checkpoints/step-0000008.pt"])
    for step in (4, 8):
        (folder / "checkpoints" / f"step-{step:07d}.pt").unlink()
    sender.delete_surplus()
    assert checkpoint_keys(store) == ["checkpoints/step-0000008.pt"]  # there is no newer one yet
    add_checkpoint(folder, 12)
    send_all(sender)
    assert checkpoint_keys(store) == ["checkpoints/step-0000012.pt"]


def test_what_is_forgotten_before_it_is_removed_here_goes_all_the_same(store: Store, folder: Path) -> None:
    sender = Sender(store, folder)
    send_all(sender)
    sender.forget(["checkpoints/step-0000004.pt"])
    sender.delete_surplus()
    (folder / "checkpoints" / "step-0000004.pt").unlink()
    store.write("checkpoints/step-0000002.pt", b"came, but the answer did not")
    sender.forget(["checkpoints/step-0000002.pt"])
    sender.delete_surplus()
    assert checkpoint_keys(store) == ["checkpoints/step-0000008.pt"]


def test_one_that_is_damaged_is_set_aside_there_too(store: Store, folder: Path) -> None:
    send_all(Sender(store, folder))
    newest = folder / "checkpoints" / "step-0000008.pt"
    newest.rename(f"{newest}.damaged")
    sender = Sender(store, folder)
    sender.look()
    send_all(sender)
    assert checkpoint_keys(store) == ["checkpoints/step-0000004.pt"]
    assert store.stat("checkpoints/step-0000008.pt.damaged") is not None


def test_what_is_there_already_is_not_sent_again(store: Store, folder: Path) -> None:
    send_all(Sender(store, folder))
    again = Sender(store, folder)
    again.look()
    assert not [key for key in again.pending() if key.startswith("checkpoints/")]
    other = folder / "checkpoints" / "step-0000008.pt"
    other.write_bytes(os.urandom(20_000))  # of the same size
    again = Sender(store, folder)
    again.look()
    assert [key for key in again.pending() if key.startswith("checkpoints/")] == ["checkpoints/step-0000008.pt"]


def test_what_is_lost_there_is_sent_again(store: Store, folder: Path) -> None:
    sender = Sender(store, folder)
    send_all(sender)
    store.delete("checkpoints/step-0000004.pt")
    store.write("recipe.toml", b"")
    sender.verify()
    assert sender.pending() == ["recipe.toml", "checkpoints/step-0000004.pt"]


def test_no_row_is_lost_where_training_and_evaluators_write_at_once(s3: S3, store: Store, folder: Path) -> None:
    send_all(Sender(store, folder))

    def evaluate(number: int) -> None:
        own = open_store(s3.url)
        for step in range(100 * number, 100 * number + 5):
            line = json.dumps(row(step)).encode()
            merge_lines(own, "evaluations.jsonl", partial(_added, line))

    def train() -> None:
        sender = Sender(store, folder)
        for step in range(12, 32, 4):
            add_checkpoint(folder, step)
            send_all(sender)

    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(train), *(pool.submit(evaluate, number) for number in (1, 2))]:
            done.result()
    expected = [4, 8, *range(12, 32, 4), *range(100, 105), *range(200, 205)]
    assert sorted(int(str(found["step"])) for found in rows(store)) == expected
    send_all(Sender(store, folder))
    here = [json.loads(line)["step"] for line in (folder / "evaluations.jsonl").open()]
    assert sorted(here) == expected


def test_rows_behind_the_step_that_a_run_goes_on_from_are_dropped_there(store: Store, folder: Path) -> None:
    send_all(Sender(store, folder))
    (folder / "evaluations.jsonl").write_text(json.dumps(row(4)) + "\n")  # as `rewind` does
    sender = Sender(store, folder)
    sender.look()
    sender.begin(4)
    (folder / "tensorboard").mkdir()
    (folder / "tensorboard" / "new").write_bytes(b"x")
    store.write("tensorboard/old", b"y")
    store.write("tensorboard/evaluate/theirs", b"z")
    send_all(sender)
    assert rows(store) == [row(4)]
    assert {stored.key for stored in store.list("tensorboard")} == {"new", "evaluate/theirs"}
    append_lines(folder / "evaluations.jsonl", [json.dumps(row(8, 60.0)).encode()])
    send_all(sender)
    assert rows(store) == [row(4), row(8, 60.0)]


def test_what_an_evaluator_says_before_trainings_first_row_stays(store: Store, folder: Path) -> None:
    send_all(Sender(store, folder))
    sender = Sender(store, folder)
    sender.begin(4)  # drops the row of step 8
    merge_lines(store, "evaluations.jsonl", partial(_added, json.dumps(row(8, 75.0)).encode()))
    add_checkpoint(folder, 12)
    send_all(sender)
    assert [found["top1"] for found in rows(store) if found["step"] == 8][:1] == [75.0]


def test_a_copy_is_used_unless_the_run_went_on_elsewhere(store: Store, folder: Path, tmp_path: Path) -> None:
    send_all(Sender(store, folder))
    (folder / "log.txt").write_text("not sent yet")
    append_row(folder / "commands.jsonl", {"ended": "now"})
    store.write("evaluations.jsonl", store.read("evaluations.jsonl") + json.dumps(row(4, 51.0)).encode() + b"\n")
    pull(store, folder)
    assert (folder / "log.txt").exists()
    assert json.loads((folder / "evaluations.jsonl").read_text().splitlines()[-1]) == row(4, 51.0)  # of an evaluator
    other = tmp_path / "other"
    other.mkdir()
    pull(store, other)
    assert {file.name for file in other.iterdir()} == {"recipe.toml", "commands.jsonl", "evaluations.jsonl"}
    append_row(other / "commands.jsonl", {"began": "later", "step": 8})
    send_all(Sender(store, other))
    pull(store, folder)
    assert not (folder / "log.txt").exists()
    assert not list((folder / "checkpoints").iterdir())
    assert (folder / "commands.jsonl").read_bytes() == (other / "commands.jsonl").read_bytes()


def test_a_url_that_holds_something_else_or_nothing_any_more(store: Store, folder: Path) -> None:
    store.write("photo.jpg", b"x")
    with pytest.raises(UsageError, match="is not empty and holds no run"):
        pull(store, folder)
    store.delete("photo.jpg")
    (folder / KEPT_FILE).touch()
    with pytest.raises(RunError, match="holds no run any more") as gone:
        pull(store, folder)
    assert str(folder) in gone.value.hint
    assert (folder / "recipe.toml").exists()


def test_rows_that_always_change_are_given_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagesprint.runs.sending.time.sleep", lambda _: None)
    monkeypatch.setattr("imagesprint.runs.sending._TRIES", 3)
    turns = iter(range(100))

    def change(there: list[bytes]) -> list[bytes]:
        store.write("evaluations.jsonl", b"%d\n" % next(turns))  # another, in between
        return [*there, b"mine"]

    store.write("evaluations.jsonl", b"")
    with pytest.raises(StorageError, match="others change it all the time"):
        merge_lines(store, "evaluations.jsonl", change)
