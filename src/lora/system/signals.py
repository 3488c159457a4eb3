"""SIGINT and SIGTERM: they always end a command, and never in the middle of a step that must be whole."""

import signal
import sys
import threading
import weakref
from contextlib import ExitStack
from types import FrameType
from typing import Any, Final, NoReturn

# 128 + the signal's number, as shells report it.
EXIT_INTERRUPTED: Final = 130
EXIT_TERMINATED: Final = 143

RAISE_AGAIN_S: Final = 0.05
"""Seconds between two checks whether the exception that a signal raised is still propagating."""


class TerminatedError(BaseException):
    """SIGTERM arrived. Not an `Exception`, so that no handler on the way out mistakes it for a failure."""


class InterruptedCommandError(KeyboardInterrupt):
    """SIGINT arrived, as Ctrl-C sends it."""


class Ending:
    """Within the block, SIGINT and SIGTERM raise in the main thread, repeatedly until the exception takes effect.

    An exception gets lost where Python cannot pass it on (in a destructor, which libraries have many of, or in a callback from C) and where
    a library catches everything. One that is lost is nowhere any more, while one that is on its way, or that somebody has kept to raise it
    later, exists: so nobody who cleans up is disturbed. `leave_interrupt` leaves SIGINT to asyncio.
    """

    def __init__(self, *, leave_interrupt: bool = False) -> None:
        self.received: int | None = None
        self._kinds = (signal.SIGTERM,) if leave_interrupt else (signal.SIGINT, signal.SIGTERM)
        self._raised: weakref.ref[BaseException] | None = None
        self._undo = ExitStack()

    def __enter__(self) -> "Ending":
        if threading.current_thread() is not threading.main_thread():  # handlers can be set only there
            return self
        for kind in self._kinds:
            if signal.getsignal(kind) != signal.SIG_IGN:  # a background job's SIGINT stays ignored
                self._undo.callback(signal.signal, kind, signal.signal(kind, self._receive))
        self._undo.callback(signal.signal, signal.SIGALRM, signal.signal(signal.SIGALRM, self._look))
        self._undo.callback(setattr, sys, "unraisablehook", sys.unraisablehook)
        self._undo.callback(signal.setitimer, signal.ITIMER_REAL, 0)
        sys.unraisablehook = self._lost
        return self

    def __exit__(self, *_error: object) -> None:
        self._undo.close()

    def exit_code(self) -> int:
        """Exit code of a command that the received signal ended."""
        return EXIT_TERMINATED if self.received == signal.SIGTERM else EXIT_INTERRUPTED

    def _receive(self, number: int, _frame: FrameType | None) -> NoReturn:
        self.received = number
        self._raise()

    def _raise(self) -> NoReturn:
        signal.setitimer(signal.ITIMER_REAL, RAISE_AGAIN_S)
        raise self._made()  # without a name here: its traceback would keep it

    def _made(self) -> BaseException:
        error = TerminatedError() if self.received == signal.SIGTERM else InterruptedCommandError()
        self._raised = weakref.ref(error)
        return error

    def _look(self, _number: int, _frame: FrameType | None) -> None:
        if self._raised is not None and self._raised() is None:
            self._raise()
        signal.setitimer(signal.ITIMER_REAL, RAISE_AGAIN_S)

    def _lost(self, unraisable: Any) -> None:
        """Says nothing about what is about to be raised again."""
        if not isinstance(unraisable.exc_value, TerminatedError | InterruptedCommandError):
            sys.__unraisablehook__(unraisable)


class HeldSignals:
    """For the block, the first SIGINT or SIGTERM is kept until the work is at a place where it can stop; a second one ends it at once.

    `patient` lets further signals be: a launcher passes on what the terminal has already sent to every process.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self._patient = patient
        self._received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "HeldSignals":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def received(self) -> bool:
        return self._received is not None

    def end(self) -> NoReturn:
        """Ends as the signal would have; as SIGTERM does where it was another process that got one."""
        if self._received == signal.SIGINT:
            raise KeyboardInterrupt
        raise TerminatedError

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self._received is not None and not self._patient:
            self._received = number
            self.end()
        self._received = self._received or number
