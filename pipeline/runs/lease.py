"""The lease of a run in its storage: one driver writes to a run, whatever machines its drivers are on.

The lock of RunFolder holds between processes that see one folder; two machines may share a bucket or a folder
without its locks. So a driver also writes a small file beside the runs, <storage>/leases/<run>.json, and changes it
every HEARTBEAT_S. Another one that finds it watches it by its own clock, since those of two machines differ: where it
changes within TTL_S the run is refused; where it does not, its owner is dead and the lease is taken over.

What remains: no store that we use writes on a condition (pyarrow's S3 has no If-None-Match; a local folder does, when
there is no lease yet). So a driver writes, waits SETTLE_S and reads back whose token is there. Two drivers that begin
within a second, one of whose writes takes longer than SETTLE_S, both believe to hold it until the next heartbeat of the
one that lost, which stops it; so does one whose machine slept while another took over. Until then, at most HEARTBEAT_S
and a slow answer, both may write. That costs no result: checkpoints have names of their own, each is whole or passed
over, and both train the same curve.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import fsspec

from pipeline.storage.stores import complaint, retry

TTL_S = 120.0
HEARTBEAT_S = 20.0
SETTLE_S = 1.0
SECONDS_BETWEEN_LOOKS = 2.0
LOST = signal.SIGUSR1  # this process sends it to its main thread


@dataclass(frozen=True)
class Owner:
    """Who holds a lease.

    Attributes:
        token: a new one for each driver.
        lock: the local lock that this process holds beside the lease: machine, start of the machine, file. Whoever
            holds the same lock later knows that this process has ended.
    """

    host: str
    pid: int
    since: str
    lock: str
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def here(cls, lock: Path) -> Owner:
        """This process, which holds that lock."""
        now = time.strftime("%Y-%m-%d %H:%M:%S %Z")
        return cls(socket.gethostname(), os.getpid(), now, identity_of(lock))

    @classmethod
    def of(cls, content: bytes) -> Owner:
        """The owner that a lease names; one without a name where it is not whole."""
        try:
            values = json.loads(content)
            return cls(**{key: values[key] for key in cls.__dataclass_fields__})
        except (ValueError, TypeError, KeyError):
            return cls("an unknown host", 0, "an unknown time", "", "")

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


def identity_of(lock: Path) -> str:
    """Machine, its start, and the file: equal for two processes only if the system keeps the lock between them."""
    with suppress(OSError):
        start = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        file = lock.stat()
        return f"{socket.gethostname()} {start} {file.st_dev} {file.st_ino}"
    return ""


class LeaseFile:
    """The file of a lease.

    Args:
        storage: folder or URL.
    """

    def __init__(self, storage: str, name: str) -> None:
        self.url = f"{storage.rstrip('/')}/leases/{name}.json"
        # Of its own: a transaction would take in what other threads write through the same file system.
        self.system, self.path = fsspec.url_to_fs(self.url, skip_instance_cache=True)

    def read(self) -> bytes | None:
        """Its content, None where there is none."""
        try:
            content: bytes = retry(lambda: self.system.cat_file(self.path))
        except FileNotFoundError:
            return None
        return content

    def create(self, content: bytes) -> bool:
        """Write it where the file system says that it was not there; False where it was, or the system cannot say."""
        self.system.makedirs(self.path.rpartition("/")[0], exist_ok=True)
        if "file" not in self.system.protocol:
            return False
        try:
            with self.system.open(self.path, "xb") as file:
                file.write(content)
        except FileExistsError:
            return False
        return True

    def write(self, content: bytes) -> None:
        """Write it whole."""

        def put() -> None:
            with self.system.transaction, self.system.open(self.path, "wb") as file:
                file.write(content)

        retry(put)

    def remove(self) -> None:
        """Remove it, if it is there."""
        with suppress(FileNotFoundError):
            self.system.rm_file(self.path)


@dataclass
class Lease:
    """A lease that this process wants, or holds.

    Args:
        now: a clock in seconds that never goes back.
        sleep: for so many seconds of that clock.
    """

    file: LeaseFile
    name: str
    me: Owner
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep
    beats: int = 0

    def content(self) -> bytes:
        """A content that the file has not had."""
        self.beats += 1
        return json.dumps({**asdict(self.me), "beats": self.beats}).encode()

    def acquire(self) -> None:
        """Take the lease, once nobody else can hold it.

        Raises:
            ValueError: naming its owner, when that one lives.
        """
        while not self.file.create(self.content()):
            found = self.file.read()
            if found is not None:
                self.watch(found)
            self.file.write(self.content())
            self.sleep(SETTLE_S)
            if self.is_mine():
                return

    def watch(self, found: bytes) -> None:
        """Wait until the owner of this content has ended; see acquire."""
        owner = Owner.of(found)
        if owner.lock and owner.lock == self.me.lock:
            return  # it held the lock that this process holds now
        print(
            f"run {self.name} was held by {owner} (its lease is {self.file.url}); waiting up to {TTL_S:.0f} s for a "
            "sign of life of it",
            flush=True,
        )
        deadline = self.now() + TTL_S
        while self.now() < deadline:
            self.sleep(SECONDS_BETWEEN_LOOKS)
            seen = self.file.read()
            if seen is None:
                return  # it has ended just now
            if seen != found:
                raise ValueError(
                    f"run {self.name} is held by {Owner.of(seen)}, which renews its lease {self.file.url}; stop it "
                    "there, or run again when it has ended"
                )
        print(f"no sign of life in {TTL_S:.0f} s: taking over the lease of {owner}", flush=True)

    def is_mine(self) -> bool:
        """Whether the file still names this process."""
        found = self.file.read()
        return found is not None and Owner.of(found).token == self.me.token

    def renew(self) -> bool:
        """One heartbeat; False when another driver has the lease. A store that does not answer is asked again later."""
        try:
            if not self.is_mine():
                return False
            self.file.write(self.content())
        except OSError:
            pass
        return True

    def release(self) -> None:
        """Give it back, if it is still there to give."""
        with suppress(OSError):
            if self.is_mine():
                self.file.remove()

    def sentence(self) -> str:
        """What is said when another driver has taken it."""
        return (
            f"run {self.name} is no longer held by this process: its lease {self.file.url} is another's, since it was "
            f"not renewed for {TTL_S:.0f} s; run again when that one has ended"
        )


@contextmanager
def hold_lease(storage: str, name: str, *, lock: Path) -> Iterator[None]:
    """Hold the lease of a run while the body runs; when another driver takes it over, the body ends by SystemExit.

    Args:
        storage: folder or URL.
        lock: the local lock that this process holds.

    Raises:
        ValueError: when another driver holds it and lives, or the storage does not answer.
    """
    lease = Lease(LeaseFile(storage, name), name, Owner.here(lock))
    try:
        lease.acquire()
    except OSError as error:
        raise ValueError(complaint(lease.file.url, error)) from error
    ended = threading.Event()
    with ending_when_lost(lease) as lose:
        thread = threading.Thread(target=beat, args=(lease, ended, lose), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(timeout=HEARTBEAT_S)
    lease.release()


def beat(lease: Lease, ended: threading.Event, lose: Callable[[], object]) -> None:
    """Renew a lease until its body has ended, or it is lost."""
    while not ended.wait(HEARTBEAT_S):
        if not lease.renew():
            lose()
            return


@contextmanager
def ending_when_lost(lease: Lease) -> Iterator[Callable[[], object]]:
    """A function for another thread that ends the body of this block, which runs in the main thread.

    By a signal, because the main thread waits for Ray; and by SystemExit, because nobody may take it for a failure that
    passes. What the body has started ends with it, so its workers write no more. Only the main thread can be ended so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(lease.sentence())

    before: Any = signal.signal(LOST, end)
    try:
        yield lambda: signal.pthread_kill(threading.main_thread().ident or 0, LOST)
    finally:
        signal.signal(LOST, before)
