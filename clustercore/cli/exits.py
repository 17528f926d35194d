"""How a command ends: its exit code, and the one line that says why.

``docs/how-to/operate.md`` tells operators the codes; scripts rely on them.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import NoReturn, TypeVar, TypeVarTuple

import attrs
import trio

from clustercore.interfaces import ClusterError, ConfigError, InvalidCommand, OutcomeUnknown, PluginError
from clustercore.interfaces.groups import leaves_of

__all__ = ["Exit", "Failure", "Interrupted", "attempt", "code_of", "leave", "run"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Exit(IntEnum):
    """The exit codes."""

    DONE = 0
    # Something failed: what is known not to be done, or no answer, or for ``serve`` the disk or the listener.
    FAILED = 1
    # Usage, configuration, or a plugin that is not there. Nothing was started.
    MISUSED = 2
    # The answer is no: the key is absent, or not as ``cas`` expects.
    NO = 3
    # A write may or may not be carried out.
    UNKNOWN = 4


class Interrupted(Exception):
    """A signal ended the command before it was done."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"stopped by {number.name}")
        self.number = number


@attrs.frozen
class Failure:
    """A foreseen error, as the outcome of a command."""

    error: ClusterError | Interrupted


def run(function: Callable[[*Ts], Awaitable[T]], *arguments: *Ts) -> T:
    """Run a command's async function; an error that is foreseen ends the process with one line and its exit code."""
    outcome = attempt(function, *arguments)
    if isinstance(outcome, Failure):
        leave(outcome.error)
    return outcome


def attempt(function: Callable[[*Ts], Awaitable[T]], *arguments: *Ts) -> T | Failure:
    """Run a command's async function, and return its result or the error that is foreseen; others are raised."""
    try:
        return trio.run(function, *arguments)
    except (ClusterError, Interrupted) as error:
        return Failure(error)
    except KeyboardInterrupt:
        return Failure(Interrupted(signal.SIGINT))
    except BrokenPipeError:
        return Failure(_reader_left())
    except BaseExceptionGroup as group:
        # Trio wraps whatever leaves a nursery.
        return Failure(_foreseen(group))


def leave(error: ClusterError | Interrupted) -> NoReturn:
    """Tell an error in one line on standard error, and end the process."""
    sys.stderr.write(f"clustercore: {_one_line(error)}\n")
    sys.exit(code_of(error))


def code_of(error: ClusterError | Interrupted) -> int:
    """Return the exit code that an error stands for; a signal's is the one shells use."""
    match error:
        case Interrupted():
            return 128 + error.number
        case OutcomeUnknown():
            return Exit.UNKNOWN
        case ConfigError() | PluginError() | InvalidCommand():
            return Exit.MISUSED
        case _:
            return Exit.FAILED


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _foreseen(group: BaseExceptionGroup[BaseException]) -> ClusterError | Interrupted:
    """Return the error that is meant for the user, or raise the group: what is not foreseen keeps its traceback."""
    leaves = leaves_of(group)
    if any(isinstance(error, KeyboardInterrupt) for error in leaves):
        return Interrupted(signal.SIGINT)
    if any(isinstance(error, BrokenPipeError) for error in leaves):
        return _reader_left()
    foreseen = [error for error in leaves if isinstance(error, ClusterError | Interrupted)]
    if len(foreseen) < len(leaves):
        raise group
    return foreseen[0]


def _reader_left() -> Interrupted:
    """Whoever read standard output has gone, as in `... | head`. What is still buffered must not fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return Interrupted(signal.SIGPIPE)
