"""Object stores for everything that opens a URL through fsspec: s3:// and gs:// by pyarrow, the client that Ray uses.

One client, so a bucket that takes Ray's checkpoints also gives pictures and takes the records beside them, with the
same standard variables (AWS_ACCESS_KEY_ID, AWS_REGION, AWS_ENDPOINT_URL for another store than Amazon's, ...), files
and roles. fsspec's own for S3, s3fs, has a second client with rules of its own, and ties botocore to one version.
Importing this room registers it.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.arrow import ArrowFile, ArrowFSWrapper

PROTOCOLS = ("s3", "gs", "gcs")
# What a file system answers where there is no file of that name.
MISSING = (FileNotFoundError, IsADirectoryError, NotADirectoryError)

PAUSES_S = (1.0, 3.0, 9.0)
"""Before the second and later tries of a read or write. pyarrow's client of S3 has repeated each request for 6 s."""

TRANSIENT_ERRNOS = (
    *(errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ESTALE),
    *(errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH),
)
"""Of file systems on the network; not a full disk, a missing right or a missing folder."""

TRANSIENT_WORDS = re.compile(
    r"SLOW_DOWN|THROTTLING|UNAVAILABLE|INTERNAL_FAILURE|REQUEST_TIMEOUT|NETWORK_CONNECTION|DEADLINE_EXCEEDED"
    r"|HTTP status (5\d\d|429)"
)
"""In the message of a pyarrow error, which has no errno: the AWS SDK's and Google's names of what passes."""

Result = TypeVar("Result")


class ObjectStore(ArrowFSWrapper):  # type: ignore[misc]  # fsspec has no types
    """One bucket.

    Args:
        bucket: its URL, e.g. s3://mine.
    """

    def __init__(self, bucket: str, **options: Any) -> None:
        # Here, because most runs use no object store.
        from pyarrow.fs import FileSystem, FileType

        system, name = FileSystem.from_uri(bucket)
        found = None
        with suppress(OSError):  # who may read the files of a bucket may not always ask for the bucket
            found = system.get_file_info(name).type
        if found == FileType.NotFound:
            raise OSError("there is no such bucket")
        super().__init__(system, **options)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        """Bucket and key; a key may hold any character, also those that have a meaning in a URL."""
        if isinstance(path, list):
            return [cls._strip_protocol(each) for each in path]
        return str(path).partition("://")[2].rstrip("/") if "://" in str(path) else str(path).strip("/")

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, str]:
        """The bucket of a URL."""
        protocol, _, rest = path.partition("://")
        return {"bucket": f"{protocol.replace('gcs', 'gs')}://{rest.partition('/')[0]}"}

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any) -> ArrowFile:
        """A file; what is written appears under its name, whole, when it is closed."""
        file = super()._open(path, mode, block_size, **options)
        file.commit = lambda: None  # nothing is left to do for a transaction of fsspec
        file.discard = lambda: self.rm_file(path)
        return file


def retry(work: Callable[[], Result]) -> Result:
    """The result of `work`, which is called again after a transient error: 4 times in all, with pauses of 13 s in all.

    Args:
        work: a read or a write; must be safe to repeat.
    """
    for pause_s in PAUSES_S:
        try:
            return work()
        except OSError as error:
            if not is_transient(error):
                raise
        time.sleep(pause_s)
    return work()


def is_transient(error: OSError) -> bool:
    """True where the same request may succeed a moment later: a slow or unreachable store, not a full disk."""
    if isinstance(error, ConnectionError | TimeoutError) or error.errno in TRANSIENT_ERRNOS:
        return True
    return error.errno is None and bool(TRANSIENT_WORDS.search(str(error)))


@contextmanager
def explained(url: str) -> Iterator[None]:
    """What the body asks of a store fails with one sentence that names it; a missing file stays what it is.

    Raises:
        ValueError: when the store does not answer, or when the package for its protocol is not installed.
    """
    try:
        yield
    except MISSING:
        raise
    except (OSError, ImportError) as error:
        raise ValueError(complaint(url, error)) from error


def complaint(url: str, error: OSError | ImportError) -> str:
    """One sentence for a folder or a store that does not answer, or not as it should."""
    reason = (getattr(error, "strerror", None) or str(error).strip() or type(error).__name__).partition("\n")[0]
    hint = "look at the address, and whether its server answers"
    if "://" not in url:
        hint = "it must be a folder with room left that this user may write"
    elif url.startswith(tuple(f"{protocol}://" for protocol in PROTOCOLS)):
        where = "in the environment of every node"
        hint = f"look at the name of the bucket, and at the credentials and AWS_ENDPOINT_URL {where}"
    elif isinstance(error, ImportError):
        hint = "install the package on every node"
    return f"{url} cannot be used ({reason}); {hint}"


for _protocol in PROTOCOLS:
    fsspec.register_implementation(_protocol, ObjectStore, clobber=True)
