import os

import pytest
import torch

from imagesprint.errors import RankError, UsageError
from imagesprint.runs.environment import STORE_VARIABLE
from imagesprint.runs.ranks import Ranks, choose_device, open_ranks


@pytest.fixture(autouse=True)
def _no_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def test_alone() -> None:
    with open_ranks("cpu") as ranks:
        assert (ranks.rank, ranks.world_size, ranks.is_main) == (0, 1, True)
        assert ranks.device == torch.device("cpu")
        assert 1 <= ranks.threads <= (os.cpu_count() or 1)
        tensor = torch.ones(2)
        ranks.sum(tensor)
        assert tensor.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("environment", "part"),
    [
        ({"RANK": "0"}, "WORLD_SIZE"),
        ({"WORLD_SIZE": "2"}, "RANK is not set"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "1"}, "LOCAL_RANK is 1"),
        ({"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "RANK is 2"),
        ({"RANK": "one", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "'one'"),
    ],
)
def test_a_broken_environment(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], part: str) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RankError, match=part), open_ranks("cpu"):
        pass


def test_a_store_that_fails_at_the_first_sum_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise torch.distributed.DistStoreError("No space left on device\nException raised from File")

    monkeypatch.setenv(STORE_VARIABLE, "/somewhere/store")
    monkeypatch.setattr(torch.distributed, "all_reduce", fail)
    ranks = Ranks(1, 2, 1, 2, torch.device("cpu"))
    message = "^rank 1 of 2 cannot join the others over /somewhere/store: No space left on device$"
    with pytest.raises(RankError, match=message):
        ranks.sum(torch.ones(1))


def test_cuda_where_there_is_none() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UsageError, match="cuda"):
        choose_device("cuda")
    assert choose_device("auto") == torch.device("cpu")
