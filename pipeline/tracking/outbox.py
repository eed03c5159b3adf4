"""What goes to the store, and waits here while the store is away."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pipeline.tracking.store import without_password

if TYPE_CHECKING:
    from mlflow import MlflowClient

Send = Callable[["MlflowClient", str], object]
"""Sends one record with a client to the run of the given id."""

PATIENCE = 9.0
"""Pause after a failed try, in durations of that try: a store that is away costs at most a tenth of the time."""

LAST_PAUSES_S = (0.0, 1.0, 4.0)
"""Before each of the tries at the end of a run, when no later verb will come."""

TRY_AGAIN = (408, 429)
"""HTTP statuses below 500 that mean "later" and not "never": time-out and too many requests."""

UNKNOWN_USER = 401
"""HTTP status of a server with users that does not know this one."""


class Outbox:
    """Records in the order in which they came, each under a name; a newer record of the same name replaces it."""

    def __init__(self, dial: Callable[[], tuple[MlflowClient, str]], *, address: str) -> None:
        """An empty box.

        Args:
            dial: asks the store for a sign of life; returns the client and the run's id, or raises.
            address: of the store, for warnings.
        """
        self._dial = dial
        self._address = address
        self._records: dict[str, Send] = {}
        self._pause_until = 0.0  # time.monotonic()
        self._warned: set[str] = set()

    def put(self, name: str, send: Send) -> None:
        """Add a record and send all that waits, unless the store has just been found away.

        Args:
            name: what it is, as a warning calls it; the first word is its kind.
            send: must be safe to repeat, since an answer may be lost on its way back.
        """
        self._records[name] = send
        if time.monotonic() >= self._pause_until:
            self._deliver()

    def put_last(self, name: str, send: Send) -> list[str]:
        """Add the last record and try harder than `put`; returns the names of what could not be sent."""
        self._records[name] = send
        for pause_s in LAST_PAUSES_S:
            time.sleep(pause_s)
            self._deliver()
            if not self._records:
                break
        return list(self._records)

    def pause(self, error: Exception, *, cost_s: float) -> None:
        """Leave the store alone for a while after a try that took so many seconds, and say once per absence why."""
        self._pause_until = time.monotonic() + PATIENCE * cost_s
        sentence = f"MLflow does not answer at {self._address} (MLFLOW_TRACKING_URI); the work goes on and tries again"
        self.warn("absence", f"{sentence}: {in_short(error)}")

    def _deliver(self) -> None:
        """Send all that waits."""
        start = time.monotonic()
        try:
            client, run_id = self._dial()
            for name in list(self._records):
                self._deliver_one(name, client, run_id)
        except Exception as error:  # noqa: BLE001 - object stores and databases bring their own; none stops a training
            self.pause(error, cost_s=time.monotonic() - start)
        else:
            self._warned.discard("absence")

    def _deliver_one(self, name: str, client: MlflowClient, run_id: str) -> None:
        """Send one record; it stays here if it fails, and leaves with a warning if the store refuses it."""
        try:
            self._records[name](client, run_id)
        except Exception as error:  # noqa: BLE001 - as above
            if not is_refusal(error):
                self._dial()  # raises if the store is away; else the record alone is to blame (an object store is down)
                self.warn(f"failing {kind_of(name)}", f"MLflow cannot take {name} now, it waits: {in_short(error)}")
                return
            self.warn(f"refused {kind_of(name)}", f"MLflow does not accept {name}, it is left out: {in_short(error)}")
        del self._records[name]

    def warn(self, kind: str, sentence: str) -> None:
        """One plain line, once per kind."""
        if kind not in self._warned:
            print(f"warning: {sentence}", file=sys.stderr, flush=True)
        self._warned.add(kind)


def kind_of(name: str) -> str:
    """The first word of a record's name: hundreds of pictures that fail are one kind of trouble."""
    return name.split(" ")[0]


def is_refusal(error: Exception) -> bool:
    """True where trying again cannot help: the store has read the request and says no, or the record itself is bad."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
        return status < 500 and status not in TRY_AGAIN
    if isinstance(error, OSError):  # the errors of connections, some of which are ValueErrors besides
        return isinstance(error, FileNotFoundError)
    return isinstance(error, TypeError | ValueError)


def reason(error: Exception) -> str:
    """Why the store refuses, without passwords; MLflow's own words, but where they do not say what to do."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException) and error.get_http_status_code() == UNKNOWN_USER:
        user = os.environ.get("MLFLOW_TRACKING_USERNAME")
        came = f"user {user} with this password" if user else "users without a name"
        return f"it does not know {came}; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD as its admin says"
    return without_password(str(error))


def in_short(error: Exception) -> str:
    """The error's message on one line, without passwords."""
    return textwrap.shorten(reason(error), 200, placeholder=" ...") or type(error).__name__
