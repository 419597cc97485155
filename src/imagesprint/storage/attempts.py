"""How long a store is given, and when it is asked again."""

import random
import time
from collections.abc import Callable
from typing import Final, TypeVar

from imagesprint.storage.failures import Failure

ATTEMPT: Final = 10.0  # seconds for one request until it answers, and then for each piece of its answer to come
PATIENCE: Final = 30.0  # seconds after which what failed is not tried again
LIMIT: Final = PATIENCE + ATTEMPT  # within which a call ends
LONG_ATTEMPT: Final = 20.0  # seconds for one piece of a large file to be sent: 4 at once need a line of 9 Mbit/s
LONG_RETRIES: Final = 5  # times such a piece is tried again
LONG_LIMIT: Final = (1 + LONG_RETRIES) * LONG_ATTEMPT + 15.0  # with the waits between them
FIRST_WAIT: Final = 0.2  # seconds before the second attempt; each wait is twice the one before, give or take a half
LONGEST_WAIT: Final = 5.0

Answer = TypeVar("Answer")


def try_again(
    call: Callable[[], Answer], caught: tuple[type[Exception], ...], explain: Callable[[Exception], Failure], what: str
) -> Answer:
    """Return what `call` does, which is tried again where the Failure that `explain` makes of its error may pass.

    Errors of the kinds `caught` are the store's.

    Raises StorageError: `what` cannot be done, and why. It says nothing of the error's own text, nor has it that error
    behind it: the stores' clients put requests into theirs, and these may hold signatures.
    """
    end = time.monotonic() + PATIENCE
    wait = FIRST_WAIT
    while True:
        try:
            return call()
        except caught as error:
            failure = explain(error)
        pause = wait * random.uniform(0.5, 1.5)  # or all that were told to slow down would be back at once
        if not failure.may_pass or time.monotonic() + pause > end:
            raise failure.error(what)
        time.sleep(pause)
        wait = min(2 * wait, LONGEST_WAIT)
