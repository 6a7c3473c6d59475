"""An argument parser that reports a wrong argument as one sentence, and the types of our arguments."""
from __future__ import annotations

import argparse
import math
import shutil
from collections.abc import Callable
from typing import NoReturn

from ..errors import UsageError

PROGRAM = "synthmorph"


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Help that fills the terminal up to a readable width."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=22, width=min(shutil.get_terminal_size().columns, 100) - 2)


class Parser(argparse.ArgumentParser):
    """argparse without the dump of the usage on every mistake: :meth:`error` raises one sentence instead."""

    def __init__(self, prog: str, description: str = "", epilog: str = "") -> None:
        super().__init__(prog=prog, description=description, epilog=epilog, formatter_class=Formatter,
                         allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        problem = message.replace("argument ", "", 1) if message.startswith("argument ") else message
        if message.startswith("the following arguments are required: "):
            names = message.split(": ", 1)[1].replace(", ", " and ")
            problem = f"{names} {'are' if ' and ' in names else 'is'} missing"
        elif message.startswith("unrecognized arguments: "):
            extra = message.split(": ", 1)[1].split()[0]
            kind = "there is no such option" if extra.startswith("-") else "one argument too many"
            problem = f"'{extra}': {kind}"
        ending = "" if problem.endswith(".") else f"; '{self.prog} -h' explains the arguments."
        raise UsageError(f"{problem}{ending}")


def one_of(*choices: str) -> Callable[[str], str]:
    """Type of an argument that takes one of a few words."""

    def check(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"'{text}' is not possible: choose {either(choices)}.")
        return text

    return check


def either(words: tuple[str, ...]) -> str:
    """'a, b or c'."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def whole_number(low: int, example: int, why: str = "") -> Callable[[str], int]:
    """Type of an argument that takes a whole number of at least ``low``."""

    def check(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low:
            raise argparse.ArgumentTypeError(f"'{text}' is not possible{why}: give a whole number of at least {low}, "
                                             f"for example {example}.")
        return value

    return check


def positive_number(text: str) -> float:
    """Type of an argument that takes a number above 0."""
    value = number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not possible: give a number above 0.")
    return value


def number(text: str) -> float:
    """Type of an argument that takes any finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number: give one such as 0 or -1.5.")
    return value


def open_interval(text: str) -> float:
    """Type of lambda: strictly between 0 and 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not possible: give a number above 0 and below 1, "
                                         "for example 0.5 (higher is smoother).")
    return value


def extent(text: str) -> int:
    """Type of the extent of network space."""
    if text not in ("192", "256"):
        raise argparse.ArgumentTypeError(f"'{text}' is not possible: choose 192 or 256.")
    return int(text)


def device(text: str) -> str:
    """Type of a computing device's name; whether it exists is asked later."""
    kind, _, index = text.partition(":")
    if text not in ("auto", "cpu", "cuda") and not (kind == "cuda" and index.isdigit()):
        raise argparse.ArgumentTypeError(f"'{text}' is not a device: choose auto, cpu, cuda or cuda:N.")
    return text


def add_threads(parser: argparse._ActionsContainer) -> None:
    """-j, for everything that computes."""
    parser.add_argument("-j", "--threads", dest="threads", metavar="THREADS", type=whole_number(1, 4),
                        help="CPU threads (default: one per core)")


def add_verbose(parser: argparse._ActionsContainer) -> None:
    """-v, for everything that may fail."""
    parser.add_argument("-v", dest="verbose", action="store_true",
                        help="say more, and show where the program was when something failed")
