from pathlib import Path

import pytest

from imagesprint.runs.ranks import cores_near, divide_cores

NODES = frozenset({0, 1, 2, 3, 8, 9, 10, 11}), frozenset({4, 5, 6, 7, 12, 13, 14, 15})  # 8 cores, 16 hyperthreads
ALL = frozenset(range(16))


@pytest.mark.parametrize(
    ("text", "cores"), [("0-3,8-11\n", NODES[0]), ("5\n", {5}), ("0,2-3\n", {0, 2, 3}), ("\n", frozenset())]
)
def test_the_kernel_is_asked_which_cores_are_near(tmp_path: Path, text: str, cores: frozenset[int]) -> None:
    (tmp_path / "0000:1b:00.0").mkdir()
    (tmp_path / "0000:1b:00.0" / "local_cpulist").write_text(text)
    assert cores_near("0000:1b:00.0", tmp_path) == cores


def test_a_machine_that_does_not_say(tmp_path: Path) -> None:
    assert cores_near("0000:1b:00.0", tmp_path) == frozenset()
    assert cores_near("", tmp_path) == frozenset()


def test_ranks_share_the_cores_near_their_gpus() -> None:
    divided = divide_cores([NODES[0], NODES[0], NODES[1], NODES[1]], ALL)
    expected = [{0, 2, 8, 10}, {1, 3, 9, 11}, {4, 6, 12, 14}, {5, 7, 13, 15}]  # hyperthreads are 8 apart
    assert divided == [frozenset(cores) for cores in expected]


@pytest.mark.parametrize(
    ("near", "allowed"),
    [
        ([NODES[0], NODES[0]], ALL),  # both GPUs on one node: the other's cores would be idle
        ([NODES[0], frozenset()], ALL),  # not known
        ([NODES[0], NODES[1]], NODES[0]),  # a container that was given one node alone
        ([frozenset({0})] * 2, frozenset({0})),  # fewer cores than ranks
    ],
)
def test_no_core_is_left_idle_and_no_rank_without_one(near: list[frozenset[int]], allowed: frozenset[int]) -> None:
    assert divide_cores(near, allowed) is None
