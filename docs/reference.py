"""Writes docs/reference.md: all that `import imagesprint` offers, from signatures and docstrings (`make reference`).

Beside the public names stand the classes that their functions return, and of each class the members that have a
docstring of their own.
"""

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import FunctionType
from typing import Any

import imagesprint
from imagesprint import errors

HEADINGS = {  # package: the heading of what comes from it, in the order of a day's work
    "recipes": "Recipes",
    "records": "Prepared data",
    "images": "Crops",
    "loading": "Batches",
    "checkpoints": "Trained models",
}


def page() -> str:
    """The whole page, in Markdown."""
    offered = [getattr(imagesprint, name) for name in imagesprint.__all__ if name != "ImagesprintError"]
    returned = [kind for each in offered if isinstance(each, FunctionType) for kind in _returned(each)]
    entries: dict[str, list[Any]] = {package: [] for package in HEADINGS}
    for each in dict.fromkeys(offered + returned):
        entries[each.__module__.split(".")[1]].append(each)
    parts = ["# Reference", "<!-- `make reference` writes this page. -->", _doc(imagesprint)]
    for package, found in entries.items():
        if found:
            parts += [f"## {HEADINGS[package]}", *(part for each in found for part in _entry(each, each in offered))]
    head, tree = _doc(errors).split("\n\n", 1)
    parts += ["## Errors", head, f"```text\n{tree}\n```"]
    parts += [part for each in (errors.ImagesprintError, errors.FileError) for part in _entry(each)]
    return "\n\n".join(parts) + "\n"


def _returned(function: FunctionType) -> Iterator[Any]:
    """The class that a function returns, if it is one of this package."""
    kind = inspect.signature(function, eval_str=True).return_annotation
    if kind.__module__.startswith("imagesprint."):
        yield kind


def _entry(each: Any, made_by_users: bool = True) -> Iterator[str]:
    """Heading, signature and docstring; of a class also what it inherits from private ones of ours, and its members."""
    yield f"### {each.__name__}"
    if dataclasses.is_dataclass(each):
        yield f"```python\n{_fields(each)}\n```"
    elif made_by_users:
        yield f"```python\n{_call(each.__name__, each)}\n```"
    yield _doc(each)
    if isinstance(each, type):
        yield from (_doc(base) for base in each.__bases__ if base.__name__.startswith("_") and base.__doc__)
        if members := [f"- {line}" for line in _members(each)]:
            yield "\n".join(members)


def _fields(table: Any) -> str:
    """The fields of a dataclass as its source has them, with their comments."""
    source = inspect.getsource(table)
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    fields = [node for node in body.body if isinstance(node, ast.AnnAssign)]
    lines = source.splitlines()[fields[0].lineno - 1 : fields[-1].end_lineno]
    return f"class {table.__name__}:\n" + "\n".join(lines)


def _members(kind: type) -> Iterator[str]:
    """One line for each method and property, with its docstring; also of what it inherits from us."""
    bases = [base for base in kind.__mro__ if base.__module__.startswith("imagesprint.")]
    for name, member in {name: member for base in reversed(bases) for name, member in vars(base).items()}.items():
        if isinstance(member, classmethod):
            member = member.__func__
        private = name.startswith("_") and not name.startswith("__")
        if private or not isinstance(member, FunctionType | property | cached_property) or not member.__doc__:
            continue
        shown = _call(name, member) if isinstance(member, FunctionType) else name
        yield f"`{shown}`: {' '.join(_doc(member).split())}"


def _call(name: str, each: Any) -> str:
    """`name(parameters) -> type`, without modules and `self`."""
    signature = inspect.signature(each)
    if isinstance(each, type):
        signature = signature.replace(return_annotation=signature.empty)
    shown = [each for each in signature.parameters.values() if each.name not in ("self", "cls")]
    text = name + str(signature.replace(parameters=shown))
    text = re.sub(r"\b([a-z_]\w*\.)+(?=[A-Za-z])", "", text)  # modules
    text = re.sub(r"ndarray\[.*?dtype\[(\w+)\]\]", r"NDArray[\1]", text)
    text = re.sub(r"'([A-Z]\w+)'", r"\1", text)  # types in quotes
    return "\n".join(textwrap.wrap(text, 110, subsequent_indent="    "))


def _doc(each: Any) -> str:
    return inspect.cleandoc(each.__doc__)


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(page(), encoding="utf-8")
