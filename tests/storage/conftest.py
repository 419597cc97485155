"""A place in each kind of store, for what all of them must do alike."""

import pytest

from imagesprint.storage.url import Url


@pytest.fixture(params=["s3", pytest.param("hdfs", marks=pytest.mark.hdfs)])
def place(request: pytest.FixtureRequest) -> Url:
    """A place in a store in which there is nothing yet."""
    url: Url = request.getfixturevalue(request.param).url
    return url
