"""Queue of records for the store, which holds them while the store is away."""

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
"""Pause after a failed attempt, as a multiple of its duration: an absent store costs at most a tenth of the time."""

LAST_PAUSES_S = (0.0, 1.0, 4.0)
"""Pauses before the attempts at the end of a run, when no later call follows."""

TRY_AGAIN = (408, 429)
"""HTTP statuses below 500 that are transient: time-out and too many requests."""

UNKNOWN_USER = 401
"""HTTP status of a server with authentication that rejects this user."""


class Outbox:
    """Named records in order of arrival; a newer record replaces one of the same name."""

    def __init__(self, connect: Callable[[], tuple[MlflowClient, str]], *, address: str) -> None:
        """Create an empty outbox.

        Args:
            connect: checks that the store answers; returns the client and the run's id, or raises.
            address: of the store, for warnings.
        """
        self._connect = connect
        self._address = address
        self._records: dict[str, Send] = {}
        self._pause_until = 0.0  # time.monotonic()
        self._warned: set[str] = set()

    def put(self, name: str, send: Send) -> None:
        """Add a record and send all records, unless the store has just failed to answer.

        Args:
            name: its name in warnings; the first word is its kind.
            send: must be safe to repeat, since an answer may be lost.
        """
        self._records[name] = send
        if time.monotonic() >= self._pause_until:
            self._deliver()

    def put_last(self, name: str, send: Send) -> list[str]:
        """Add the last record and send all with retries; return the names of records that could not be sent."""
        self._records[name] = send
        for pause_s in LAST_PAUSES_S:
            time.sleep(pause_s)
            self._deliver()
            if not self._records:
                break
        return list(self._records)

    def pause(self, error: Exception, *, cost_s: float) -> None:
        """Send nothing for a while after a failed attempt of that duration; warn once per absence."""
        self._pause_until = time.monotonic() + PATIENCE * cost_s
        sentence = f"MLflow does not answer at {self._address} (MLFLOW_TRACKING_URI); the work continues and retries"
        self.warn("absence", f"{sentence}: {in_short(error)}")

    def _deliver(self) -> None:
        """Send all records."""
        start = time.monotonic()
        try:
            client, run_id = self._connect()
            for name in list(self._records):
                self._deliver_one(name, client, run_id)
        except Exception as error:  # noqa: BLE001 - object stores and databases bring their own; none stops a training
            self.pause(error, cost_s=time.monotonic() - start)
        else:
            self._warned.discard("absence")

    def _deliver_one(self, name: str, client: MlflowClient, run_id: str) -> None:
        """Send one record; keep it on failure, drop it with a warning if the store refuses it."""
        try:
            self._records[name](client, run_id)
        except Exception as error:  # noqa: BLE001 - as above
            if not is_refusal(error):
                self._connect()  # raises if the store is away; else only this record fails (object store down)
                self.warn(f"failing {kind_of(name)}", f"MLflow cannot store {name} now, will retry: {in_short(error)}")
                return
            self.warn(f"refused {kind_of(name)}", f"MLflow rejects {name}, it is left out: {in_short(error)}")
        del self._records[name]

    def warn(self, kind: str, sentence: str) -> None:
        """Print a warning, once per kind."""
        if kind not in self._warned:
            print(f"warning: {sentence}", file=sys.stderr, flush=True)
        self._warned.add(kind)


def kind_of(name: str) -> str:
    """Return the first word of a record's name, so that hundreds of failing images give one warning."""
    return name.split(" ")[0]


def is_refusal(error: Exception) -> bool:
    """Return whether a retry is pointless: the store has refused the request, or the record is invalid."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
        return status < 500 and status not in TRY_AGAIN
    if isinstance(error, OSError):  # the errors of connections, some of which are ValueErrors besides
        return isinstance(error, FileNotFoundError)
    return isinstance(error, TypeError | ValueError)


def reason(error: Exception) -> str:
    """Return why the store refuses, without passwords: MLflow's message, or ours where it gives no advice."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException) and error.get_http_status_code() == UNKNOWN_USER:
        user = os.environ.get("MLFLOW_TRACKING_USERNAME")
        came = f"user {user} with this password" if user else "anonymous users"
        return f"it rejects {came}; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (ask its administrator)"
    return without_password(str(error))


def in_short(error: Exception) -> str:
    """Return the error's message on one line, without passwords."""
    return textwrap.shorten(reason(error), 200, placeholder=" ...") or type(error).__name__
