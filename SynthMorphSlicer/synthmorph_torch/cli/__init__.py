"""The command line ``synthmorph``: mri_synthmorph's letters and meanings, and a few commands more.

Exit status: 0 done, 1 failed, 2 wrong usage; one line on standard error says what is wrong and what to do. Modules
that need PyTorch are imported when a command runs, so that help and usage errors come at once.
"""
from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence

from .. import __version__, process
from ..errors import SynthMorphError
from .commands import COMMANDS, split_command
from .parser import PROGRAM, Parser

USAGE = f"""\
usage: {PROGRAM} [register] [options] MOVING FIXED
       {PROGRAM} COMMAND [options] ...

Register 3-D brain images of any contrast, resolution and orientation, without preprocessing.

commands (the first letters are enough):
{{commands}}

Without a command, the images are registered. '{PROGRAM} COMMAND -h' explains a command.
Not for clinical use."""


def usage() -> str:
    """What the program prints when called without arguments."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return USAGE.format(commands="\n".join(lines))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status.
    """
    if argv is None:  # the process is ours
        process.prepare()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if arguments[0] in ("--version", "-V"):
        print(f"{PROGRAM} {__version__}")
        return 0
    verbose = False
    try:
        name, rest = split_command(arguments)
        command = COMMANDS[name]
        parser = Parser(prog=f"{PROGRAM} {name}", description=command.description, epilog=command.epilog)
        command.add_arguments(parser)
        options = parser.parse_args(rest)
        verbose = bool(getattr(options, "verbose", False))
        logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format=f"{PROGRAM}: %(message)s")
        return command.run(options)
    except SystemExit as stop:  # help
        return int(stop.code or 0)
    except SynthMorphError as error:
        return _fail(str(error), error.exit_status, verbose and error.exit_status == 1)
    except KeyboardInterrupt:
        return _fail("interrupted; nothing half-written was left behind", 128 + signal.SIGINT, False)
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001  (whatever it is, a user gets one line)
        return _fail(f"{_describe(error)}{'' if verbose else ' (-v shows where)'}", 1, verbose)


def _describe(error: Exception) -> str:
    """One line on an error that nobody foresaw."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or "out of memory" in text.lower() or "allocate memory" in text:
        return "The computer ran out of memory: try -e 192, close other programs, or use a larger machine."
    if isinstance(error, OSError) and error.strerror:
        where = f"'{error.filename}': " if error.filename else ""
        return f"{where}{error.strerror}; check the path, its permissions and the free space."
    if isinstance(error, ModuleNotFoundError):
        return f"The Python package '{error.name}' is missing: install it with pip."
    return f"An unexpected error, please report it: {type(error).__name__}: {text[:300]}"


def _fail(message: str, status: int, verbose: bool) -> int:
    if verbose:
        import traceback

        traceback.print_exc()
    print(f"{PROGRAM}: {message}", file=sys.stderr)
    return status
