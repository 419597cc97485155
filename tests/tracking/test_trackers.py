"""Every tracker for real: its own package, its own server or files; killed twice, each row is there once."""

import json
import os
import signal
import sqlite3
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imagesprint.runs.directory import RunDirectory
from imagesprint.storage.store import open_store
from imagesprint.storage.url import Url
from imagesprint.tracking.points import NAMES, TRAIN_NAMES, Key, points
from s3_server import S3
from server_process import ListeningServer, free_ports

pytestmark = pytest.mark.remote

PROJECT = Path(__file__).parents[2]
PYTHON = PROJECT / ".remote" / "trackers" / "bin" / "python"  # `make remote-check` installs it, without torch
STEPS = 2000
SECONDS = 120.0


class Tracking:
    """`imagesprint track RUN --to KIND` in the packages' own environment."""

    def __init__(self, run: Path, kind: str, environment: dict[str, str]) -> None:
        self.words = [str(PYTHON), "-m", "imagesprint", "track", str(run), "--to", kind, "--json"]
        cache = str(run.parent / "cache")
        self.environment = os.environ | {"PYTHONPATH": str(PROJECT / "src"), "IMAGESPRINT_CACHE": cache} | environment

    def once(self) -> Any:
        """To its end; what it printed."""
        done = subprocess.run(self.words, capture_output=True, text=True, env=self.environment, timeout=SECONDS)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def kill_once(self, is_time: Callable[[], bool]) -> None:
        """Begun, and killed as soon as `is_time`."""
        process = subprocess.Popen([*self.words, "--follow"], env=self.environment, stdout=subprocess.DEVNULL)
        end = time.monotonic() + SECONDS
        while not is_time():
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()


class MlflowServer(ListeningServer):
    def start(self, seconds: float = 240.0) -> None:
        super().start(seconds)  # it imports half of PyPI


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ListeningServer]:
    """MLflow's own server, on a database of its own."""
    folder, (port,) = tmp_path_factory.mktemp("mlflow"), free_ports(1)
    # What `mlflow server` starts, but for its workers of jobs: it would leave all of them behind when it is killed.
    words = [str(PYTHON), "-m", "uvicorn", "--host", "127.0.0.1", "--port", str(port), "mlflow.server.fastapi_app:app"]
    environment = {
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder}/runs.db",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(folder / "files"),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
    }
    server = MlflowServer(words, folder, port, environment)
    yield server
    server.kill()
    server.release()


def url_of(server: ListeningServer) -> str:
    return f"http://127.0.0.1:{server.port}"


def wanted(run: Path) -> Counter[Key]:
    """Each figure of each row once."""
    return Counter((name, point.step) for point in points(RunDirectory(run)) for name in point.figures)


def test_mlflow_has_every_row_once_after_two_kills(
    mlflow_server: ListeningServer, logged_run: Callable[..., Any]
) -> None:
    run = logged_run(STEPS)
    tracking = Tracking(run.path, "mlflow", {"MLFLOW_TRACKING_URI": url_of(mlflow_server)})

    def ask(path: str, **values: Any) -> Any:
        request = urllib.request.Request(f"{url_of(mlflow_server)}/api/2.0/mlflow/{path}")
        if values:
            request = urllib.request.Request(
                request.full_url, json.dumps(values).encode(), {"Content-Type": "application/json"}
            )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def found() -> Any:
        return ask("runs/search", experiment_ids=["1"]).get("runs", [])

    def last_step() -> int:
        metrics = found()[0]["data"].get("metrics", []) if found() else []
        return max((int(metric["step"]) for metric in metrics), default=0)

    tracking.kill_once(lambda: last_step() > 0)
    first = last_step()
    assert first < STEPS
    run.train(STEPS - 20, STEPS)  # rows that were written twice
    tracking.kill_once(lambda: last_step() > first)
    done = tracking.once()
    (only,) = found()
    assert only["info"]["run_id"] in done["where"]
    assert only["info"]["status"] == "KILLED"  # by --stop-after
    assert {one["key"]: one["value"] for one in only["data"]["params"]}["phases.0.batch_size"] == "16"
    tags = {one["key"]: one["value"] for one in only["data"]["tags"]}
    assert tags["best_checkpoint"] == str(run.path / f"checkpoints/step-{STEPS:07d}.pt")
    number = only["info"]["run_id"]
    history = {
        name: ask(f"metrics/get-history?run_id={number}&metric_key={name}&max_results=25000")["metrics"]
        for name in NAMES
    }
    assert Counter((name, int(row["step"])) for name, rows in history.items() for row in rows) == wanted(run.path)
    times = {point.step: point.time for point in points(RunDirectory(run.path)) if "train/loss" in point.figures}
    for row in history["train/loss"][: STEPS - 20]:
        assert int(row["timestamp"]) == round(1000 * times[int(row["step"])])
        assert row["value"] == 2 / int(row["step"])
    files = ask(f"artifacts/list?run_id={number}")["files"]
    assert [file["path"] for file in files] == ["recipe.toml"]
    assert tracking.once()["rows"] == 0


def test_a_server_that_is_not_there_is_an_error_and_while_following_waited_for(
    mlflow_server: ListeningServer, logged_run: Callable[..., Any]
) -> None:
    run = logged_run(8, "followed")
    tracking = Tracking(run.path, "mlflow", {"MLFLOW_TRACKING_URI": url_of(mlflow_server)})
    mlflow_server.kill()
    refused = subprocess.run(tracking.words, capture_output=True, text=True, env=tracking.environment, check=False)
    assert refused.returncode == 1
    assert json.loads(refused.stdout)["error"] == f"MLflow at {url_of(mlflow_server)}: Connection refused"
    mlflow_server.start()
    words = [*tracking.words, "--follow"]
    with subprocess.Popen(words, stdout=-1, stderr=-1, text=True, env=tracking.environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while "tracker " not in process.stderr.readline():
            pass
        mlflow_server.kill()
        run.train(8, 12)
        while "Connection refused: it is asked again" not in process.stderr.readline():
            pass
        mlflow_server.start()
        run.finish()
        done, said = process.communicate()
        assert process.returncode == 0, said
        assert json.loads(done)["rows"] == 12 + 3, said


def test_wandbs_files_have_every_row_once_after_two_kills(logged_run: Callable[..., Any], tmp_path: Path) -> None:
    run, folder = logged_run(STEPS), tmp_path / "files"
    folder.mkdir()
    tracking = Tracking(run.path, "wandb", {"WANDB_MODE": "offline", "WANDB_DIR": str(folder)})

    def files() -> list[Path]:
        return sorted(folder.glob("wandb/offline-run-*/*.wandb"))

    tracking.kill_once(lambda: len(files()) == 1 and files()[0].stat().st_size > 100_000)
    run.train(STEPS - 20, STEPS)
    tracking.kill_once(lambda: len(files()) == 2 and files()[1].stat().st_size > 50_000)
    assert tracking.once()["rows"] > 0
    assert len(files()) == 3
    script = "import sys, json\nfrom pathlib import Path\nfrom imagesprint.tracking import wandb_runs as w\n"
    script += "from wandb.proto.wandb_internal_pb2 import Record\n"
    script += "print(json.dumps([w._row(Record.FromString(one)) for f in sys.argv[1:] for one in w._records(Path(f))]))"
    read = subprocess.run(
        [str(PYTHON), "-c", script, *map(str, files())], capture_output=True, text=True, env=tracking.environment
    )
    assert read.returncode == 0, read.stderr
    rows = [row for row in json.loads(read.stdout) if row]
    seen = Counter((name, int(row["train/global_step"])) for row in rows for name in row if name in NAMES)
    assert seen == wanted(run.path)
    own = [row["_step"] for row in rows]
    assert own == sorted(set(own))  # W&B's own step goes on from folder to folder
    assert tracking.once()["rows"] == 0


def test_trackios_database_has_every_row_once_after_two_kills(logged_run: Callable[..., Any], tmp_path: Path) -> None:
    run, folder = logged_run(STEPS), tmp_path / "trackio"
    tracking = Tracking(run.path, "trackio", {"TRACKIO_DIR": str(folder)})
    database = folder / "imagesprint.db"

    def rows() -> list[tuple[int, str, dict[str, float]]]:
        if not database.exists():
            return []
        try:
            with sqlite3.connect(database) as connection:
                found = connection.execute("SELECT step, timestamp, metrics FROM metrics").fetchall()
        except sqlite3.OperationalError:  # it is being made
            return []
        return [(step, at, json.loads(metrics)) for step, at, metrics in found]

    tracking.kill_once(lambda: len(rows()) > 0)
    first = len(rows())
    run.train(STEPS - 20, STEPS)
    if first < STEPS * 5 // 4:
        tracking.kill_once(lambda: len(rows()) > first)
    done = tracking.once()
    assert Counter((name, step) for step, _, row in rows() for name in row) == wanted(run.path)
    assert done["where"].startswith(str(database))
    with sqlite3.connect(database) as connection:
        ((config,),) = connection.execute("SELECT config FROM configs").fetchall()
    assert json.loads(config)["best_step"] == STEPS
    assert len(TRAIN_NAMES) == len(next(row for _, _, row in rows() if "train/loss" in row))
    assert tracking.once()["rows"] == 0


def test_a_run_at_a_url_is_read_and_nothing_written_there(
    s3: S3, upload: Callable[[Path, Url], Url], logged_run: Callable[..., Any], tmp_path: Path
) -> None:
    run = logged_run(8)
    run.finish()
    (run.path / "report.html").write_text("<p>")
    url = upload(run.path, s3.url)
    before = sorted(open_store(url).list(), key=lambda stored: stored.key)
    tracking = Tracking(run.path, "wandb", {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path)})
    tracking.words[4] = str(url)
    done = tracking.once()
    assert (done["run"], done["rows"], done["run_is"]) == (str(url), 8 + 2, "finished")
    (files,) = tmp_path.glob("wandb/offline-run-*/files")
    assert {"recipe.toml", "result.json", "report.html"} <= {file.name for file in files.iterdir() if file.is_file()}
    assert not any(file.is_symlink() for file in files.iterdir())
    assert sorted(open_store(url).list(), key=lambda stored: stored.key) == before
