"""The command line. Each command parses, calls, prints; heavy libraries load inside the command that needs them."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Annotated

import typer

from knowngood.cli.console import fail, note, say
from knowngood.cli.lazy import LazyGroup
from knowngood.config.dependencies import without_package
from knowngood.config.installed import naming_plugins
from knowngood.config.version import __version__
from knowngood.config.words import as_command
from knowngood.data.progress import reporting
from knowngood.errors import Interrupted, KnowngoodError

UNBOUNDED = {"serve", "watch"}  # commands that have no end to count towards


def _show_version(wanted: bool) -> None:
    if wanted:
        say(f"knowngood {__version__}")
        raise typer.Exit


def _knowngood(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="print the version and stop")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="show the traceback of an error; may stand anywhere")] = False,
) -> None:
    """Train on known-good images; find what is anomalous, show where and why, and say how sure.

    Exit status: 0 fine, 2 usage, 3 data refused, 4 run failed, 5 drift (`monitor` only),
    130 Ctrl-C, 143 SIGTERM.
    """


def _as_declared(token: str) -> str:
    """An option as one is declared: hyphens for underscores, and --output is --out in every command."""
    option = token.replace("_", "-")
    return {"output": "out"}.get(option, option)


def build_app() -> typer.Typer:
    """All commands, see `lazy`. Off a terminal the help is plain text too."""
    app = typer.Typer(
        rich_markup_mode="rich" if sys.stdout.isatty() else None,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        context_settings={
            "help_option_names": ["-h", "--help"],
            "token_normalize_func": _as_declared,
        },
    )
    app.callback(cls=LazyGroup)(_knowngood)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Run one command line and leave with its exit status.

    Args:
        arguments: what stands after `knowngood`; by default this process's own.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name that the terminal cannot show must not end the run
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in arguments
    if not debug:
        shown: set[str] = set()

        def show(message: Warning | str, *_: object, **__: object) -> None:
            if str(message) not in shown:  # commands may look at the same items twice
                shown.add(str(message))
                note(f"warning: {message}")

        warnings.showwarning = show
    try:
        with _interruptible(), as_command(), naming_plugins(), reporting(not {*arguments} & UNBOUNDED):
            try:
                build_app()(args=[argument for argument in arguments if argument != "--debug"], prog_name="knowngood")
            finally:
                sys.stdout.flush()  # what cannot be written is an error of the run, not of its end
    except Interrupted as end:
        note("interrupted")
        sys.exit(end.exit_code)
    except BrokenPipeError:  # nobody reads any more, as behind `| head`
        _leave_stdout()
        sys.exit(1)  # as Click does
    except Exception as error:
        if debug:
            raise
        if isinstance(error, OSError) and error.filename is None:
            _leave_stdout()
        fail(_readable(error))
        sys.exit(getattr(error, "exit_code", 4))


def _leave_stdout() -> None:
    """Write to nowhere from now on: what is left for stdout cannot be written, and must not be tried at the end."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _interruptible() -> Iterator[None]:
    """Within, SIGTERM and Ctrl-C raise `Interrupted`, so that what is half-written is removed and locks are freed."""

    def end(number: int, _: FrameType | None) -> None:
        raise Interrupted(number)

    mine = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} if mine else {}
    before = {number: old for number, old in before.items() if old not in (None, signal.SIG_IGN)}
    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _readable(error: Exception) -> str:
    if isinstance(error, KnowngoodError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and (line := without_package(error)) is not None:
        return line
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the output cannot be written: {error.strerror}; free some space, or write elsewhere"
    return f"{type(error).__name__}: {error}\nThis was not expected. Run again with --debug to see where it happened."
