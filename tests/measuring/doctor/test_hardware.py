import os

import pytest

from imagesprint.measuring.doctor.check import OK, WARNING
from imagesprint.measuring.doctor.hardware import GIB, cores, memory, processor_check, threads


def test_a_quota_below_the_cores_is_told_with_the_number_of_threads_that_fits() -> None:
    allowed = len(os.sched_getaffinity(0))
    assert cores(None).status == cores(float(allowed)).status == OK
    found = cores(0.5)
    assert (found.status, "the time of 0.5" in found.detail) == (WARNING, True)
    assert "OMP_NUM_THREADS=1 " in found.hint


@pytest.mark.parametrize(
    ("value", "status", "detail"),
    [
        ("", OK, "4 a rank; OMP_NUM_THREADS is not set"),
        ("4", OK, "OMP_NUM_THREADS is 4"),
        ("9", OK, "4 a rank"),
        ("1", WARNING, "OMP_NUM_THREADS=1 leaves 3 of 4 cores idle"),
        ("many", WARNING, "'many'"),
        ("0", WARNING, "'0'"),
    ],
)
def test_omp_num_threads(value: str, status: str, detail: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    found = threads(8, 2)
    assert found.status == status
    assert detail in found.detail
    assert ("set it to 4" in found.hint) == (status == WARNING)


def test_what_a_group_leaves_of_the_memory_counts() -> None:
    little = memory((3 * GIB, GIB // 2))
    assert little.status == WARNING
    assert little.detail.startswith("the cgroup allows 3.0 GiB, of which 0.5 are left; ")
    assert "micro_batch" in little.hint
    assert "cgroup" not in memory((1 << 50, 1 << 50)).detail


def test_the_processor_is_named() -> None:
    assert "core" not in processor_check().detail.rpartition(", ")[2]
    assert len(processor_check().detail) > 3
