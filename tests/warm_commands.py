"""Carries out command lines for the tests, each in a process of its own that is forked from this one.

This one has imported what the verbs do, torch above all, which takes seconds. It reads a command a line, one JSON
object (`words`, `environment`, `folder`, and the files that are to be its `stdout` and `stderr`), and answers each with
its exit code, or minus the signal that ended it; where it is to run `beside` others, with its process id, and its exit
code when that is asked for as `ended`.
"""

import json
import os
import sys
from typing import Any


def main() -> None:
    """Answer until nothing comes any more."""
    import torch._dynamo  # noqa: F401 (what an optimizer imports, in more than a second)

    from imagesprint.cli.main import main as carry_out
    from imagesprint.evaluating import checkpoints  # noqa: F401 (for what it imports)
    from imagesprint.serving import server  # noqa: F401
    from imagesprint.training import training  # noqa: F401

    for line in sys.stdin:
        task = json.loads(line)
        child = task.get("ended") or os.fork()
        if child == 0:
            _become(task)
            sys.exit(carry_out())
        print(child if task.get("beside") else os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _become(command: dict[str, Any]) -> None:
    os.environ.clear()
    os.environ.update(command["environment"])
    os.chdir(command["folder"])
    sys.argv = ["imagesprint", *command["words"]]
    for number, path in enumerate((os.devnull, command["stdout"], command["stderr"])):
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)


if __name__ == "__main__":
    main()
