import errno
import os
import pickle
from pathlib import Path

import pytest

from imagesprint.errors import DataError, FileError, ImagesprintError
from imagesprint.storage.naming import Naming
from imagesprint.storage.url import Url

COPY, URL = "/cache/prepared/1/0", "s3://bucket/root"


def raised(error: ImagesprintError, cause: OSError | None = None) -> ImagesprintError:
    names = Naming()
    names.add(Path(COPY), Url(URL))
    with pytest.raises(type(error)) as caught, names.errors():
        raise error from cause
    return caught.value


@pytest.mark.parametrize("cause", [None, OSError(errno.ENOENT, "No such file or directory")])
def test_errors_name_the_url(cause: OSError | None) -> None:
    error = raised(DataError(f"{COPY}/full is damaged", f"delete {COPY}/full"), cause)
    assert (str(error), error.what, error.hint) == (*[f"{URL}/full is damaged"] * 2, f"delete {URL}/full")


@pytest.mark.parametrize("is_from_worker", [False, True])
def test_errors_of_the_disk_name_the_copy(is_from_worker: bool) -> None:
    full = FileError.of("write", f"{COPY}/full/x", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    error = DataError(full.what, "make room")
    error.__cause__ = full
    told = raised(pickle.loads(pickle.dumps(error)) if is_from_worker else error, None if is_from_worker else full)
    assert told.what == f"cannot write {COPY}/full/x: No space left on device"
    assert told.hint == "make room; --cache DIR keeps the copies elsewhere"


def test_other_errors_are_left_alone() -> None:
    error = raised(DataError("/data/x: No space left on device", "make room"))
    assert (error.what, error.hint) == ("/data/x: No space left on device", "make room")
