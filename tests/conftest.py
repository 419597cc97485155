"""What all tests share: real images from scikit-learn, datasets prepared from them, and the command line."""

import json
import os
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from fault_proxy import FaultProxy
from hdfs_server import Hdfs, HdfsServer, is_hdfs_there
from imagesprint.console import Console
from imagesprint.files import append_row, write_text
from imagesprint.prepare.preparing import prepare
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.recipes.serialization import to_toml
from imagesprint.records.image_record import Pieces, bytes_feature, encode_example, float_feature, int64_feature
from imagesprint.records.remote.meeting import fetcher_pid, meeting_place
from imagesprint.records.tfrecord import frame
from imagesprint.storage.store import open_store
from imagesprint.storage.url import Url
from s3_server import S3, S3Server
from server_process import shared

LONGEST = ("demo", "chaos", "elastic", "bad_input", "ranks", "resuming", "stopping", "remote_runs", "transforms")


def pytest_configure() -> None:
    """Give each of xdist's workers, and all processes it starts, a core of its own.

    Otherwise every torch process takes all cores, and their threads wait for one another. Where the tests were started
    with `&`, they and all processes they start would be deaf to Ctrl-C, which some tests press.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker.removeprefix("gw").isdigit():
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files: begun last, they would keep the other workers waiting."""
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in LONGEST)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked `gpu` or `hdfs` where there is none, and what is marked `remote` if that is not asked for."""
    if item.get_closest_marker("gpu") is not None:
        import torch  # slow, and most tests of the lower floors do without

        if not torch.cuda.is_available():
            pytest.skip("needs a GPU")
    is_asked_for = "remote" in item.config.option.markexpr
    if item.get_closest_marker("remote") is not None and not is_asked_for:
        pytest.skip("`make remote-check` runs it")
    if item.get_closest_marker("hdfs") is not None and not is_asked_for and not is_hdfs_there():
        pytest.skip("needs Java and `make .hadoop/whole`")


@dataclass(frozen=True)
class Finished:
    """A command that ended: its exit code and what it printed."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


@pytest.fixture(scope="session")
def command() -> list[str]:
    """The words that start the command line, in a process of its own."""
    return [sys.executable, "-m", "imagesprint"]


class WarmCommands:
    """Runs command lines as real processes that need not import torch first (`warm_commands.py`)."""

    SECONDS = 240  # for one

    def __init__(self, folder: Path) -> None:
        self._files = {name: str(folder / name) for name in ("stdout", "stderr")}
        self._server: subprocess.Popen[str] | None = None

    def run(self, *arguments: object) -> Finished:
        """`imagesprint ARGUMENTS` in this folder and environment."""
        task = {"words": list(map(str, arguments)), "environment": dict(os.environ), "folder": os.getcwd()}
        code = self._answer(json.dumps(task | self._files))
        return Finished(code, *(Path(file).read_text() for file in self._files.values()))

    def start(self, folder: Path, *arguments: object) -> "StartedCommand":
        """`imagesprint ARGUMENTS` beside all others; what it prints goes into files of `folder`."""
        files = {name: folder / name for name in ("stdout", "stderr")}
        for file in files.values():
            file.touch()
        task = {"words": list(map(str, arguments)), "environment": dict(os.environ), "folder": os.getcwd()}
        pid = self._answer(json.dumps(task | {"beside": True} | {name: str(file) for name, file in files.items()}))
        return StartedCommand(pid, files["stdout"], files["stderr"], self)

    def join(self, pid: int) -> int:
        """Wait for a command that was started; its exit code."""
        return self._answer(json.dumps({"ended": pid}))

    def _answer(self, task: str) -> int:
        if self._server is None:
            words = [sys.executable, "-P", str(Path(__file__).with_name("warm_commands.py"))]
            self._server = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
            )
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        answer = ""
        try:
            print(task, file=self._server.stdin, flush=True)
            if select.select([self._server.stdout], [], [], self.SECONDS)[0]:
                answer = self._server.stdout.readline()
        finally:
            if not answer:  # it hangs, or the test was given up
                self.close()
        return int(answer)

    def close(self) -> None:
        """End the process that the commands come from, and one that hangs."""
        if self._server is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._server.pid, signal.SIGKILL)
            self._server.communicate()
            self._server = None


@dataclass(frozen=True)
class StartedCommand:
    """A command that runs, and the files with what it printed so far."""

    pid: int
    stdout: Path
    stderr: Path
    commands: WarmCommands

    def end(self, number: int = signal.SIGTERM) -> Finished:
        """Send it a signal, and wait until it has ended."""
        os.kill(self.pid, number)
        return self.wait()

    def wait(self) -> Finished:
        """Wait until it has ended."""
        code = self.commands.join(self.pid)
        return Finished(code, self.stdout.read_text(), self.stderr.read_text())


@pytest.fixture(scope="session")
def warm_commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmCommands]:
    """Where command lines come from that need not import torch first."""
    commands = WarmCommands(tmp_path_factory.mktemp("commands"))
    yield commands
    commands.close()


@pytest.fixture(scope="session")
def imagesprint(warm_commands: WarmCommands) -> Callable[..., Finished]:
    """Runs `imagesprint ARGUMENTS` as a real process and returns how it ended."""
    return warm_commands.run


def write_photos(folder: Path, train: int, validation: int) -> None:
    """Write crops of scikit-learn's two photos as JPEGs of many sizes: FOLDER/{train,val}/{china,flower}/NN.jpg."""
    generator = np.random.default_rng(0)
    for name, photo in zip(("china", "flower"), load_sample_images().images, strict=True):
        for split, count in (("train", train), ("val", validation)):
            target = folder / split / name
            target.mkdir(parents=True)
            for index in range(count):
                height, width = generator.integers(40, 90, 2)
                top = generator.integers(0, photo.shape[0] - height)
                left = generator.integers(0, photo.shape[1] - width)
                crop = photo[top : top + height, left : left + width]
                Image.fromarray(crop).save(target / f"{index:02d}.jpg", quality=90)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class-folder tree of 2 × 35 training and 2 × 9 validation photos of 40..90 pixels."""
    folder = tmp_path_factory.mktemp("photos")
    write_photos(folder, train=35, validation=9)
    return folder


@pytest.fixture(scope="session")
def photo_root(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`photos` prepared as full and 32, in three training shards."""
    root = tmp_path_factory.mktemp("photo-root") / "root"
    prepare(photos, root, variants=("full", "32"), shards=3, workers=1, console=Console(quiet=True))
    return root


_LITTLE_MEMORY = """
import resource
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20), resource.RLIM_INFINITY))
"""


@pytest.fixture(scope="session")
def with_little_memory() -> Callable[[str, str], str]:
    """Runs Python code in a process of its own that, after some code before, can take no more than 32 MB more.

    Returns the last line on stderr: of an exception, its name and message.
    """

    def run(before: str, code: str) -> str:
        words = [sys.executable, "-c", before + _LITTLE_MEMORY + code]
        done = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False)
        return done.stderr.strip().rpartition("\n")[2]

    return run


@pytest.fixture(scope="session")
def tiny_recipe() -> Recipe:
    """Thirty-two steps of two sizes on `photo_root`, four micro-batches each, in float64."""
    return Recipe(
        name="tiny",
        model="resnet20",
        precision="fp64",
        momentum=0.9,
        nesterov=True,
        decay_norm_and_bias=False,
        label_smoothing=0.1,
        eval_source="32",
        eval_resize=28,
        eval_image_size=24,
        eval_batch_size=8,
        eval_every=4,
        phases=(
            Phase((0, 4), (0.02, 0.1), "linear", 16, 4, 16, "32", 0.3),
            Phase((4, 8), (0.1, 0.01), "cosine", 16, 4, 20, "full", 0.3),
        ),
    )


@pytest.fixture(scope="session")
def write_foreign(photos: Path) -> Callable[..., Path]:
    """Writes TFRecords of 40 and 6 of `photos` into a folder as other programs do: tf.Examples of the Inception guide.

    `train` and `validation` are the shards' names; `change` may alter the encoded features of each record.
    """

    def write(
        folder: Path,
        train: Sequence[str] = ("train-00000-of-00002", "train-00001-of-00002"),
        validation: Sequence[str] = ("validation-00000-of-00001",),
        first_label: int = 1,
        change: Callable[[dict[str, Pieces]], dict[str, Pieces]] = dict,
    ) -> Path:
        for names, files in ((train, photos.glob("train/*/[01]*.jpg")), (validation, photos.glob("val/*/0[0-2].jpg"))):
            records = [
                change(inception_features(file, first_label, number)) for number, file in enumerate(sorted(files))
            ]
            for number, name in enumerate(names):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                framed = [frame(encode_example(record)) for record in records[number :: len(names)]]
                (folder / name).write_bytes(b"".join(framed))
        return folder

    return write


def inception_features(file: Path, first_label: int, number: int) -> dict[str, Pieces]:
    """Return the encoded features of a photo; every third one has two boxes."""
    image = Image.open(file)
    label = ("china", "flower").index(file.parent.name) + first_label
    boxes = [[0.125, 0.25, 0.5, 0.75], [0.0, 0.0, 1.0, 1.0]] if number % 3 == 0 else []
    sides = {
        f"image/object/bbox/{side}": float_feature([box[i] for box in boxes])
        for i, side in enumerate(("ymin", "xmin", "ymax", "xmax"))
    }
    return {
        "image/height": int64_feature([image.height]),
        "image/width": int64_feature([image.width]),
        "image/colorspace": bytes_feature([b"RGB"]),
        "image/channels": int64_feature([3]),
        "image/class/label": int64_feature([label]),
        "image/class/synset": bytes_feature([f"n{label:08}".encode()]),
        "image/class/text": bytes_feature([file.parent.name.encode()]),
        "image/object/bbox/label": int64_feature([label] * len(boxes)),
        "image/format": bytes_feature([b"JPEG"]),
        "image/filename": bytes_feature([file.name.encode()]),
        "image/encoded": bytes_feature([file.read_bytes()]),
        **sides,
    }


@pytest.fixture(scope="session")
def write_run(tiny_recipe: Recipe) -> Callable[..., Path]:
    """Writes the files that a training of `steps` steps leaves, four an epoch, evaluated after each epoch."""

    def write(run: Path, steps: int, recipe: Recipe = tiny_recipe) -> Path:
        run.mkdir()
        write_text(run / "recipe.toml", to_toml(recipe))
        for step in range(1, steps + 1):
            shared: dict[str, Any] = {
                "step": step,
                "epoch": step / 4,
                "loss": 2 / step,
                "top1": 50 + step,
                "top5": 90.5,
            }
            phase = int(step > steps / 2)
            extra = {"phase": phase, "image_size": 16 + 4 * phase, "batch_size": 16, "lr": 0.1 / step, "seconds": 7.5}
            losses = {"cross_entropy": 1.5 / step, "l2": 0.5 / step, "images_per_second": 90.0 + step}
            append_row(run / "metrics.jsonl", {**shared, **extra, **losses, "data_wait": 0.02 * (step % 3)})
            if step % 4 == 0:
                append_row(run / "evaluations.jsonl", {**shared, "num_images": 18, "checkpoint": None})
        return run

    return write


@pytest.fixture(scope="session")
def servers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where servers lie that all of xdist's workers share (`server_process.shared`)."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def s3_server(servers_folder: Path) -> Iterator[S3Server]:
    """The S3 server of all tests. Those that end, pause or fill it start one of their own."""
    server = shared(servers_folder / "s3", S3Server)
    server.make_bucket("tests")
    yield server
    server.release()


@pytest.fixture
def s3(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> S3:
    """A fresh place in S3; what it takes to reach it and an empty cache are in the environment."""
    use_s3(s3_server, tmp_path, monkeypatch)
    return S3(Url(f"s3://tests/{request.node.name}-{secrets.token_hex(4)}"), s3_server)


@pytest.fixture(scope="session")
def hdfs_server(servers_folder: Path) -> Iterator[HdfsServer]:
    """The NameNode and DataNode of all tests; those that use it are marked `hdfs`."""
    server = shared(servers_folder / "hdfs", HdfsServer)
    yield server
    server.release()


@pytest.fixture
def hdfs(
    hdfs_server: HdfsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Hdfs:
    """A fresh place in HDFS; what it takes to reach it and an empty cache are in the environment."""
    for name, value in {**hdfs_server.environment, "IMAGESPRINT_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    return Hdfs(Url(f"{hdfs_server.url}/{request.node.name}-{secrets.token_hex(4)}"), hdfs_server)


@pytest.fixture
def own_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """As `s3`, with a server of this test's own, to `kill`, `start`, `pause` and `resume` (`server_process.py`)."""
    folder = tmp_path / "s3"
    folder.mkdir()
    server = S3Server(folder)
    use_s3(server, tmp_path, monkeypatch)
    yield S3(Url(f"s3://{server.make_bucket('own')}/place"), server)
    server.kill()


def use_s3(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the environment for a test that uses `server`."""
    for name, value in {**server.environment, "IMAGESPRINT_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def fault_proxy(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """What stands between this test and its `s3`; `fault_proxy.faults` says what goes wrong (`fault_proxy.py`)."""
    with FaultProxy(s3.server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


@pytest.fixture
def upload() -> Callable[[Path, Url], Url]:
    """Puts all files of a folder where a URL is, and returns that."""

    def put(folder: Path, url: Url) -> Url:
        store = open_store(url)
        for file in folder.rglob("*"):
            if file.is_file():
                store.upload(file, str(file.relative_to(folder)))
        return url

    return put


@pytest.fixture
def kill_fetcher() -> Iterator[Callable[[], bool]]:
    """Kills the fetcher of this environment; whether there was one. The last one ends with the test."""

    def kill() -> bool:
        place = meeting_place()
        pid = fetcher_pid(place)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            while fetcher_pid(place) is not None:
                time.sleep(0.01)
        return pid is not None

    yield kill
    kill()


@pytest.fixture
def root_url(
    s3: S3,
    photo_root: Path,
    upload: Callable[[Path, Url], Url],
    kill_fetcher: Callable[[], bool],  # noqa: ARG001 (which ends the last one before the server and the cache are gone)
) -> Url:
    """`photo_root`, in S3."""
    return upload(photo_root, s3.url)
