"""Download a file from a URL once, with its size and progress, and check the hash that its name carries."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

import fsspec
from fsspec.callbacks import TqdmCallback

from pipeline.runs.identity import digest_file

HASH = re.compile(r"-(?!(?:19|20)\d{6}\.)([0-9a-f]{8,64})\.\w+$")
"""torch.hub's convention: the name of a file ends with the first digits of its SHA-256. A date is no hash."""

CONNECT_S, SILENCE_S = 30, 60
"""Seconds to wait for a server, and for its next bytes; the whole download may take any time."""


def file_for(url: str, folder: Path) -> Path:
    """Return the file in a folder for a URL: other addresses with the same name have other files."""
    return folder / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{name_of(url)}"


def name_of(url: str) -> str:
    """Return the name of the file in a URL."""
    return url.partition("?")[0].rstrip("/").rpartition("/")[2]


def download_once(url: str, path: Path, *, name: str) -> Path:
    """Download weights to a file unless it is there.

    A server that fails is not asked again: the error names the file, so that it can be put there by hand.

    Args:
        name: of the weights, for messages.

    Raises:
        ValueError: when the URL cannot be downloaded, or the file is not the one that its name promises.
    """
    if path.is_file():
        check_hash(path, path.name, f"model.weights is {name}: {path}", "remove it, and it is downloaded again")
        return path
    advice = f"download it on another machine and put it here as {path}, or set model.weights to the file"
    download(url, path, title=f"model.weights {name}", what=f"model.weights is {name}", advice=advice)
    return path


def download(url: str, path: Path, *, title: str, what: str, advice: str) -> None:
    """Download a URL to a file, which appears under its name only when it is complete; the server is asked once.

    Args:
        title: what is downloaded, for the line that says so.
        what: the same, at the beginning of an error.
        advice: what to do where the URL cannot be downloaded.

    Raises:
        ValueError: when it cannot, or the file is not the one that its name promises.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            copy(url, temporary, f"{title}: downloading {url}", path)
        except Exception as error:  # the clients of web servers and stores have errors of their own
            raise ValueError(f"{what}: {url} cannot be downloaded ({reason_of(error)}); {advice}") from error
        check_hash(temporary, path.name, f"{what}: what {url} gave", "check the address")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def copy(url: str, temporary: Path, title: str, path: Path) -> None:
    """Copy what a URL gives, with a bar in a terminal."""
    system, source = fsspec.url_to_fs(url, **options_of(url))
    size = system.info(source).get("size")
    print(f"{title}{f' ({size / 1e6:,.1f} MB)' if size else ''} to {path}", flush=True)
    bar = {"desc": path.name, "unit": "B", "unit_scale": True, "disable": None}
    system.get_file(source, str(temporary), callback=TqdmCallback(tqdm_kwargs=bar))


def reason_of(error: Exception) -> str:
    """Return the first line of an error; fsspec calls all that a web server does not give a missing file."""
    cause = error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ else error
    if hasattr(cause, "status"):
        return f"HTTP status {cause.status}"
    if isinstance(cause, FileNotFoundError):
        return "there is no such file"
    return (getattr(cause, "strerror", None) or str(cause).strip() or type(cause).__name__).partition("\n")[0]


def options_of(url: str) -> dict[str, Any]:
    """Return fsspec's options: a web server is reached by the proxy of the environment, and may be slow, not silent."""
    if not url.startswith(("http://", "https://")):
        return {}
    from aiohttp import ClientTimeout

    timeout = ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
    return {"client_kwargs": {"timeout": timeout, "trust_env": True}}


def check_hash(path: Path, name: str, what: str, advice: str) -> None:
    """Compare a file with the hash in a name, if there is one.

    Raises:
        ValueError: when they differ.
    """
    expected = HASH.search(name)
    if expected and not (digest := digest_file(path)).startswith(expected[1]):
        raise ValueError(f"{what} has the SHA-256 {digest[:16]}.., but {name} promises {expected[1]}; {advice}")
