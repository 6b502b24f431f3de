"""The command line. Exit status 0: done; 1: a check found something wrong; 2: bad usage or unreadable input."""

from __future__ import annotations

import os
import shlex
import sys

import polars as pl
import typer
from typer.exceptions import Abort, TyperException

from logitbox.commands import audit, calibration, doctor, explain, metrics, report, start, tokens, upkeep
from logitbox.errors import LogitboxError
from logitbox.terminal import print_error, print_json

app = typer.Typer(
    help="The flight recorder for a model's logits: what your metrics really say.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    epilog="Start with: logitbox demo --out demo-out",
)
for _group in (start, metrics, calibration, explain, doctor, audit, tokens, report, upkeep):
    app.add_typer(_group.app)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `logitbox` command."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit status; no traceback reaches a user for bad input."""
    try:
        status: object = typer.main.get_command(app).main(
            args=arguments, prog_name="logitbox", standalone_mode=False
        )
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit) as left:
        # Typer exits with status 1 when the reader of our output leaves, as `head` does; that is no error.
        if isinstance(left, SystemExit) and not isinstance(left.__context__, BrokenPipeError):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (KeyboardInterrupt, Abort):
        print_error("interrupted")
        return 130
    except (TyperException, LogitboxError, OSError, pl.exceptions.PolarsError) as error:
        return _fail(arguments, _told(error, arguments))
    return status if isinstance(status, int) else 0


def _told(error: Exception, arguments: list[str]) -> str:
    """What went wrong, in one line with the next step."""
    if isinstance(error, TyperException):
        typed = shlex.join(["logitbox", *arguments])
        return f"{error.format_message()} (you typed: {typed}). See `logitbox --help`."
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}; give a place that can be read and written"
    if isinstance(error, pl.exceptions.PolarsError):
        first = str(error).splitlines()[0]
        return f"a shard cannot be read ({first}); `logitbox verify DUMP` names damaged ones"
    return str(error)


def _fail(arguments: list[str], message: str) -> int:
    if "--json" in arguments:
        print_json({"error": message})
    else:
        print_error(message)
    return 2


if __name__ == "__main__":
    main()
