"""What messages call the copies, on this disk, of what the user named by a URL."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from imagesprint.errors import ImagesprintError
from imagesprint.files import system_error
from imagesprint.storage.url import Url

_OF_THE_DISK: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.EMFILE)


class Naming:
    """Says the URLs of folders that are copies; says nothing else than before where there are none."""

    def __init__(self) -> None:
        self._urls: dict[str, str] = {}

    def add(self, folder: Path, url: Url) -> None:
        """From now on, call `folder` by its URL."""
        self._urls[str(folder)] = str(url)

    def said(self, text: object) -> str:
        """Return a text with the URLs in place of the folders."""
        found = str(text)
        for folder, url in self._urls.items():
            found = found.replace(folder, url)
        return found

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Have the errors of the block name URLs; not those of the disk, which are of the copies."""
        try:
            yield
        except ImagesprintError as error:
            if not _is_of_the_disk(error):
                error.what, error.hint = self.said(error.what), self.said(error.hint)
                error.args = (error.what,)
            elif any(folder in error.what for folder in self._urls):
                error.hint += "; --cache DIR keeps the copies elsewhere"
            raise


def _is_of_the_disk(error: ImagesprintError) -> bool:
    cause = system_error(error)
    if cause is not None:
        return cause.errno in _OF_THE_DISK
    return any(error.what.endswith(os.strerror(number)) for number in _OF_THE_DISK)  # from a worker, without its cause
