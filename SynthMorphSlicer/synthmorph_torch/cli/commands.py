"""The commands and how their names are found on the command line."""
from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .parser import PROGRAM, Parser


@dataclass(frozen=True)
class Command:
    """A command lives in a module of this package with DESCRIPTION, EPILOG, add_arguments and run."""

    module: str
    summary: str

    def _loaded(self) -> Any:
        return importlib.import_module(f".{self.module}", __package__)

    @property
    def description(self) -> str:
        return self._loaded().DESCRIPTION

    @property
    def epilog(self) -> str:
        return getattr(self._loaded(), "EPILOG", "")

    def add_arguments(self, parser: Parser) -> None:
        """Tell the parser what the command takes."""
        self._loaded().add_arguments(parser)

    def run(self, options: argparse.Namespace) -> int:
        """Do it; returns the exit status."""
        return self._loaded().run(options)


COMMANDS = {
    "register": Command("register", "register a moving to a fixed image (the default)"),
    "apply": Command("apply", "apply a saved transform to further images or label maps"),
    "batch": Command("batch", "register many pairs listed in a table"),
    "review": Command("review", "measures, a verdict and a report of a saved result; accept or reject it"),
    "transfer": Command("transfer", "carry the labels of one or many atlases to a patient"),
    "weights": Command("weights", "list, fetch, verify, convert or clear network weights"),
    "demo": Command("demo", "register a made-up patient to a template and draw pictures"),
    "train": Command("train", "train a network on synthesized images"),
    "evaluate": Command("evaluate", "score a model on labelled pairs"),
    "info": Command("info", "show versions, devices and the weights found"),
}


def split_command(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The command's full name and its arguments; ``register`` if none is given.

    A command may be abbreviated; where that fits several, ``register`` comes first. A file of that very name takes
    precedence over an abbreviation.

    Raises:
        UsageError: the first word is neither a command nor an image.
    """
    word, rest = arguments[0], list(arguments[1:])
    if word in COMMANDS:
        return word, rest
    if word.startswith("-") or Path(word).exists() or any(c in word for c in "./\\"):
        return "register", list(arguments)
    matches = [name for name in COMMANDS if name.startswith(word)]
    if len(matches) == 1 or "register" in matches:
        return matches[0], rest  # register is the first of all commands
    raise UsageError(f"'{word}' is neither a command nor an image: the commands are {', '.join(COMMANDS)}; "
                     f"'{PROGRAM} -h' explains them.")

