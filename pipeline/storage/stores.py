"""Object stores: s3:// and gs:// URLs in fsspec by way of pyarrow, the client that Ray uses.

With one client, a bucket that works for Ray's checkpoints also works for images and records, with the same standard
variables (AWS_ACCESS_KEY_ID, AWS_REGION, AWS_ENDPOINT_URL for stores other than Amazon's, ...), files and roles. s3fs,
fsspec's own for S3, is a second client with different rules, and pins one version of botocore. Importing this module
registers the protocols.
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
# Errors of a file system for a file that does not exist.
MISSING = (FileNotFoundError, IsADirectoryError, NotADirectoryError)

NO_FILE_ERRNOS = (errno.ENAMETOOLONG, errno.ELOOP)
"""Errors of a name that no file can have, and of a link to itself: such a file is missing, too."""

PAUSES_S = (1.0, 3.0, 9.0)
"""Pauses before retries of a read or write. By then, pyarrow's S3 client has repeated the request for 6 s."""

TRANSIENT_ERRNOS = (
    *(errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ESTALE),
    *(errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH),
)
"""Errors of network file systems; not a full disk, a missing permission or a missing folder."""

TRANSIENT_WORDS = re.compile(
    r"SLOW_DOWN|THROTTLING|UNAVAILABLE|INTERNAL_FAILURE|REQUEST_TIMEOUT|NETWORK_CONNECTION|DEADLINE_EXCEEDED"
    r"|HTTP status (5\d\d|429)"
)
"""Transient errors by the names of the AWS SDK and Google, in the message of a pyarrow error, which has no errno."""

Result = TypeVar("Result")


class ObjectStore(ArrowFSWrapper):  # type: ignore[misc]  # fsspec has no types
    """One bucket.

    Args:
        bucket: its URL, e.g. s3://mine.
    """

    def __init__(self, bucket: str, **options: Any) -> None:
        # Imported here, because most runs use no object store.
        from pyarrow.fs import FileSystem, FileType

        system, name = FileSystem.from_uri(bucket)
        found = None
        with suppress(OSError):  # permission to read files does not imply permission to query the bucket
            found = system.get_file_info(name).type
        if found == FileType.NotFound:
            raise OSError("there is no such bucket")
        super().__init__(system, **options)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        """Return bucket/key; a key may contain any character, also those with a meaning in a URL."""
        if isinstance(path, list):
            return [cls._strip_protocol(each) for each in path]
        return str(path).partition("://")[2].rstrip("/") if "://" in str(path) else str(path).strip("/")

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, str]:
        """Return the bucket of a URL as constructor argument."""
        protocol, _, rest = path.partition("://")
        return {"bucket": f"{protocol.replace('gcs', 'gs')}://{rest.partition('/')[0]}"}

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any) -> ArrowFile:
        """Open a file; written content appears atomically when it is closed."""
        file = super()._open(path, mode, block_size, **options)
        file.commit = lambda: None  # nothing to do at the end of an fsspec transaction
        file.discard = lambda: self.rm_file(path)
        return file


def retry(work: Callable[[], Result]) -> Result:
    """Return the result of `work`; call it up to 4 times on transient errors, with pauses of 13 s in total.

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
    """Return whether the same request may succeed later: a slow or unreachable store, not a full disk."""
    if isinstance(error, ConnectionError | TimeoutError) or error.errno in TRANSIENT_ERRNOS:
        return True
    return error.errno is None and bool(TRANSIENT_WORDS.search(str(error)))


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Convert errors of a store in the body to a ValueError that names it; FileNotFoundError passes unchanged.

    Raises:
        ValueError: when the store does not answer, or when the package for its protocol is not installed.
    """
    try:
        yield
    except MISSING:
        raise
    except (OSError, ImportError) as error:
        if isinstance(error, OSError) and error.errno in NO_FILE_ERRNOS:
            raise FileNotFoundError(errno.ENOENT, str(error), url) from error
        raise ValueError(complaint(url, error)) from error


def complaint(url: str, error: OSError | ImportError) -> str:
    """Return the error message for a folder or a store that cannot be used."""
    reason = (getattr(error, "strerror", None) or str(error).strip() or type(error).__name__).partition("\n")[0]
    hint = "check the address, and whether its server answers"
    if "://" not in url:
        hint = "it must be a folder with free space that this user may write to"
    elif url.startswith(tuple(f"{protocol}://" for protocol in PROTOCOLS)):
        where = "in the environment of every node"
        hint = f"check the name of the bucket, and the credentials and AWS_ENDPOINT_URL {where}"
    elif isinstance(error, ImportError):
        hint = "install the package on every node"
    return f"{url} cannot be used ({reason}); {hint}"


for _protocol in PROTOCOLS:
    fsspec.register_implementation(_protocol, ObjectStore, clobber=True)
