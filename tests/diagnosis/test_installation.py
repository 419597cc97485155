import socket
from pathlib import Path

import pytest

from imagesprint.diagnosis import installation
from imagesprint.diagnosis.check import FAILURE, OK, WARNING, Check
from imagesprint.diagnosis.installation import rank_checks
from imagesprint.images import native


def install(folder: Path, name: str, version: str, code: str) -> None:
    """What pip leaves of a package: its module, and the folder that says its version."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(code)
    about = folder / f"{name}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.fixture
def packages_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose packages come before those that are installed."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_this_installation() -> None:
    assert installation.python().status == OK
    assert installation.packages().status == OK
    assert installation.pytorch().detail.count("built ") == 1


def test_a_package_that_is_too_old(packages_first: Path) -> None:
    install(packages_first, "tensorboard", "1.0", "")
    found = installation.packages()
    assert (found.status, found.detail) == (FAILURE, "tensorboard 1.0")
    assert found.hint.startswith("pip install 'tensorboard>=")


def test_optional_packages_are_those_of_the_extras(packages_first: Path) -> None:
    install(packages_first, "timm", "1.0.99", "raise RuntimeError('operator torchvision::nms\\ndoes not exist')")
    install(packages_first, "pyarrow", "99.0", "")
    found = {check.name: check for check in installation.optional_packages()}
    assert found["extra parquet"].detail == "pyarrow 99.0"
    assert found["extra export"].detail.startswith("onnxruntime")
    assert "extra dev" not in found
    assert found["timm"].status == WARNING
    assert found["timm"].detail == "timm 1.0.99 cannot be imported: operator torchvision::nms does not exist"
    assert "version of timm" in found["timm"].hint


def test_a_package_that_is_imported_by_another_name(packages_first: Path) -> None:
    install(packages_first, "scikit_learn", "99.0", "raise ImportError('not by this name')")
    found = installation._optional("extra demo", ["scikit-learn"], "")
    assert (found.status, found.detail) == (OK, "scikit-learn 99.0")


def test_without_the_native_decoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(native, "LIBRARY", tmp_path / "libimagesprint.so")
    monkeypatch.delenv("IMAGESPRINT_DECODER", raising=False)
    native.library.cache_clear()
    found = installation.decoder()
    assert found.status == WARNING
    assert "slower: the native decoder is not installed: there is no" in found.detail
    assert "libjpeg-dev" in found.hint
    assert installation.libjpeg().detail.endswith(" in Pillow")
    monkeypatch.setenv("IMAGESPRINT_DECODER", "native")
    assert installation.decoder().status == FAILURE
    monkeypatch.setenv("IMAGESPRINT_DECODER", "opencv")
    assert installation.decoder().detail == "IMAGESPRINT_DECODER=opencv: there is no such decoder"


@pytest.mark.skipif(not native.is_available(), reason="the native decoder is not built")
def test_the_native_decoder_and_its_libjpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMAGESPRINT_DECODER", raising=False)
    assert (installation.decoder().status, installation.decoder().hint) == (OK, "")
    assert "in the native decoder, " in installation.libjpeg().detail
    assert "unknown" not in installation.libjpeg().detail
    monkeypatch.setenv("IMAGESPRINT_DECODER", "pillow")
    assert (installation.decoder().status, installation.decoder().hint) == (WARNING, "unset IMAGESPRINT_DECODER")


VARIABLES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS"),
    *(
        "SLURM_STEP_NUM_TASKS",
        "OMPI_COMM_WORLD_SIZE",
        "PET_NNODES",
        "TORCHELASTIC_RUN_ID",
        "TORCHELASTIC_USE_AGENT_STORE",
    ),
    *("IMAGESPRINT_LAUNCHER", "IMAGESPRINT_STORE", "SAGEMAKER_BASE_DIR"),
)


def look(monkeypatch: pytest.MonkeyPatch, **environment: object) -> dict[str, Check]:
    """The checks by name, in an environment that has these variables alone."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))
    return {check.name: check for check in rank_checks(4)}


@pytest.mark.parametrize(
    ("environment", "detail"),
    [
        ({"RANK": 5, "WORLD_SIZE": 4, "LOCAL_RANK": 1}, "RANK is 5 and WORLD_SIZE 4"),
        ({"RANK": 0}, "RANK is set but WORLD_SIZE is not"),
        ({"WORLD_SIZE": 4}, "WORLD_SIZE is 4 but RANK is not set"),
        ({"RANK": 1, "WORLD_SIZE": 4}, "RANK is set but LOCAL_RANK is not"),
        ({"RANK": "one", "WORLD_SIZE": 4, "LOCAL_RANK": 1}, "the environment variable RANK is 'one', not a number"),
        (
            {"RANK": 1, "WORLD_SIZE": 4, "LOCAL_RANK": 2, "LOCAL_WORLD_SIZE": 2},
            "LOCAL_RANK is 2 and LOCAL_WORLD_SIZE 2",
        ),
    ],
)
def test_a_wrong_environment(environment: dict[str, object], detail: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = look(monkeypatch, **environment)["ranks"]
    assert (found.status, found.detail) == (FAILURE, detail)
    assert "unset" in found.hint or "torchrun" in found.hint


def test_which_rule_won(monkeypatch: pytest.MonkeyPatch) -> None:
    assert look(monkeypatch)["ranks"].detail == "a single process, as RANK is not set"
    two = {"RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1}
    assert look(monkeypatch, **two)["ranks"].detail == (
        "rank 1 of 2, number 1 of 2 on this machine: RANK and WORLD_SIZE, by whoever set them"
    )
    assert look(monkeypatch, **two, TORCHELASTIC_RUN_ID="x")["ranks"].detail.endswith("by torchrun")
    ours = look(monkeypatch, **two, IMAGESPRINT_LAUNCHER="7", IMAGESPRINT_STORE="/tmp/store")
    assert ours["ranks"].detail.endswith(": --processes")
    assert ours["ports"].status == OK


@pytest.mark.parametrize(
    ("environment", "detail"),
    [
        ({"OMPI_COMM_WORLD_RANK": 0, "OMPI_COMM_WORLD_SIZE": 2}, "Open MPI's OMPI_COMM_WORLD_RANK=0 of 2 is not read"),
        ({"PET_NODE_RANK": 3, "PET_NNODES": 8}, "Kubeflow's PET_NODE_RANK=3 of 8"),
    ],
)
def test_tasks_of_other_launchers_are_no_ranks(
    environment: dict[str, object], detail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = look(monkeypatch, **environment)["ranks"]
    assert found.status == WARNING
    assert detail in found.detail
    assert "torchrun" in found.hint
    alone = dict.fromkeys(environment, 1)
    assert look(monkeypatch, **alone)["ranks"].status == OK


def test_tasks_of_slurm_and_hosts_of_sagemaker_are_ranks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    step = {"SLURM_STEP_NUM_TASKS": 4, "SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_STEP_NODELIST": "node[1-2]"}
    task = {"SLURM_PROCID": 3, "SLURM_LOCALID": 1, "SLURM_NODEID": 1, "SLURM_JOB_ID": 7, "SLURM_STEP_ID": 0}
    found = look(monkeypatch, **step, **task, MASTER_ADDR="127.0.0.1")
    assert found["ranks"].status == OK
    assert "rank 3 of 4, number 1 of 2 on this machine" in found["ranks"].detail
    assert "SLURM's job 7 step 0" in found["ranks"].detail
    assert "nobody listens at 127.0.0.1:15427 yet" in found["ports"].detail
    (tmp_path / "input/config").mkdir(parents=True)
    hosts = '{"current_host": "algo-2", "hosts": ["algo-1", "algo-2"]}'
    (tmp_path / "input/config/resourceconfig.json").write_text(hosts)
    found = look(monkeypatch, SAGEMAKER_BASE_DIR=tmp_path, MASTER_ADDR="127.0.0.1")
    assert "rank 1 of 2" in found["ranks"].detail
    assert "SageMaker's job, host 2 of 2" in found["ranks"].detail


def test_ranks_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    two = {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "IMAGESPRINT_STORE": "/tmp/store"}
    assert look(monkeypatch, **two, OMP_NUM_THREADS=2)["threads"].status == OK
    assert look(monkeypatch, **two, OMP_NUM_THREADS=1)["threads"].status == WARNING


def test_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = [{"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1"} for rank in (0, 1)]
    with socket.socket() as listener:
        listener.bind(("", 0))
        listener.listen()
        port = listener.getsockname()[1]
        taken = look(monkeypatch, **ranks[0], MASTER_PORT=port)["ports"]
        assert (taken.status, taken.hint) == (FAILURE, "choose another MASTER_PORT on all ranks")
        assert look(monkeypatch, **ranks[1], MASTER_PORT=port)["ports"].detail == f"127.0.0.1:{port} answers"
        agent = look(monkeypatch, **ranks[0], MASTER_PORT=port, TORCHELASTIC_USE_AGENT_STORE="True")
        assert agent["ports"].status == OK
    assert look(monkeypatch, **ranks[0], MASTER_PORT=port)["ports"].status == OK
    nobody = look(monkeypatch, **ranks[1], MASTER_PORT=port)["ports"]
    assert (nobody.status, "start rank 0" in nobody.hint) == (WARNING, True)
    for wrong in ("", "port", "70000"):
        assert look(monkeypatch, **ranks[1], MASTER_PORT=wrong)["ports"].status == FAILURE
    del ranks[1]["MASTER_ADDR"]
    assert "MASTER_ADDR is ''" in look(monkeypatch, **ranks[1], MASTER_PORT=port)["ports"].detail


def test_an_address_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    found = look(monkeypatch, RANK=1, WORLD_SIZE=2, LOCAL_RANK=1, MASTER_ADDR="no.such.invalid", MASTER_PORT=29500)
    assert found["ports"].status == FAILURE
    assert "MASTER_ADDR" in found["ports"].hint
