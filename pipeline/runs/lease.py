"""Lease of a run in its storage: only one driver writes to a run, even from several machines.

`lock_run` excludes processes that share a file system; two machines may share a bucket, or a folder without locks. So
a driver also writes <storage>/leases/<run>.json and changes it every HEARTBEAT_S. Another driver that finds the file
watches it by its own clock, because the clocks of two machines differ: if it changes within TTL_S, the run is refused;
otherwise its owner is considered dead and the lease is taken over.

Limit: none of the stores supports conditional writes (pyarrow's S3 has no If-None-Match; a local folder can create a
new file exclusively). So a driver writes, waits SETTLE_S and reads the token back. If two drivers start within a second
and one write takes longer than SETTLE_S, both hold the lease until the next heartbeat of the loser, which stops it; the
same applies to a machine that slept while another took over. Until then, at most HEARTBEAT_S and a slow answer, both
may write. No result is lost: checkpoints have unique names, incomplete ones are skipped, and both drivers compute the
same curve.
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
SECONDS_BETWEEN_CHECKS = 2.0
LOST = signal.SIGUSR1  # this process sends it to its main thread


@dataclass(frozen=True)
class Owner:
    """The holder of a lease.

    Attributes:
        token: a new one for each driver.
        lock: the local lock that this process holds beside the lease: machine, boot id, file. A process that holds the
            same lock later knows that this process has ended.
    """

    host: str
    pid: int
    since: str
    lock: str
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def here(cls, lock: Path) -> Owner:
        """Return this process as owner, which holds that lock."""
        now = time.strftime("%Y-%m-%d %H:%M:%S %Z")
        return cls(socket.gethostname(), os.getpid(), now, identity_of(lock))

    @classmethod
    def of(cls, content: bytes) -> Owner:
        """Parse the owner of a lease; an incomplete lease has an unknown owner."""
        try:
            values = json.loads(content)
            return cls(**{key: values[key] for key in cls.__dataclass_fields__})
        except (ValueError, TypeError, KeyError):
            return cls("an unknown host", 0, "an unknown time", "", "")

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


def identity_of(lock: Path) -> str:
    """Return host, boot id and inode: equal for two processes only if the lock works between them."""
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
        # An instance of its own: a transaction would include writes of other threads through a shared one.
        self.system, self.path = fsspec.url_to_fs(self.url, skip_instance_cache=True)

    def read(self) -> bytes | None:
        """Return its content, None if there is no file."""
        try:
            content: bytes = retry(lambda: self.system.cat_file(self.path))
        except FileNotFoundError:
            return None
        return content

    def create(self, content: bytes) -> bool:
        """Create the file exclusively; return False if it exists, or if the file system cannot do that."""
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
        """Write it atomically."""

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
    """A lease that this process acquires and holds.

    Args:
        now: monotonic clock, in seconds.
        sleep: waits for a number of seconds of that clock.
    """

    file: LeaseFile
    name: str
    me: Owner
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep
    beats: int = 0

    def content(self) -> bytes:
        """Return a new content, different from all before."""
        self.beats += 1
        return json.dumps({**asdict(self.me), "beats": self.beats}).encode()

    def acquire(self) -> None:
        """Acquire the lease; wait for the end of a dead owner's.

        Raises:
            ValueError: naming its owner, when that process is alive.
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
        """Wait until the owner of this content has ended or counts as dead; see acquire."""
        owner = Owner.of(found)
        if owner.lock and owner.lock == self.me.lock:
            return  # it held the lock that this process holds now
        print(
            f"run {self.name} was held by {owner} (its lease is {self.file.url}); waiting up to {TTL_S:.0f} s to "
            "see whether the lease is renewed",
            flush=True,
        )
        deadline = self.now() + TTL_S
        while self.now() < deadline:
            self.sleep(SECONDS_BETWEEN_CHECKS)
            seen = self.file.read()
            if seen is None:
                return  # it has ended just now
            if seen != found:
                raise ValueError(
                    f"run {self.name} is held by {Owner.of(seen)}, which renews its lease {self.file.url}; stop it "
                    "there, or run again when it has ended"
                )
        print(f"not renewed in {TTL_S:.0f} s: taking over the lease of {owner}", flush=True)

    def is_mine(self) -> bool:
        """Return whether the file names this process."""
        found = self.file.read()
        return found is not None and Owner.of(found).token == self.me.token

    def renew(self) -> bool:
        """Renew the lease; return False when another driver has it. A store that does not answer is retried later."""
        try:
            if not self.is_mine():
                return False
            self.file.write(self.content())
        except OSError:
            pass
        return True

    def release(self) -> None:
        """Remove the lease, if this process still holds it."""
        with suppress(OSError):
            if self.is_mine():
                self.file.remove()

    def sentence(self) -> str:
        """Return the error message for a lost lease."""
        return (
            f"run {self.name} is no longer held by this process: another one took over its lease {self.file.url}, "
            f"which was not renewed for {TTL_S:.0f} s; run again when that process has ended"
        )


@contextmanager
def hold_lease(storage: str, name: str, *, lock: Path) -> Iterator[None]:
    """Hold the lease of a run while the body runs; raise SystemExit in the body when another driver takes it over.

    Args:
        storage: folder or URL.
        lock: the local lock that this process holds.

    Raises:
        ValueError: when a living driver holds it, or the storage does not answer.
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
    """Renew a lease until `ended` is set or the lease is lost."""
    while not ended.wait(HEARTBEAT_S):
        if not lease.renew():
            lose()
            return


@contextmanager
def ending_when_lost(lease: Lease) -> Iterator[Callable[[], object]]:
    """Yield a function by which another thread ends the body, which runs in the main thread.

    It sends a signal, because the main thread waits for Ray; the handler raises SystemExit, which no retry catches.
    Workers that the body has started end with it. Does nothing outside of the main thread.
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
