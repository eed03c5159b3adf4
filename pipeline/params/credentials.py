"""Find credentials in URLs, and refuse them without repeating them.

What params.yaml and conf/ hold is kept with every run (MLflow, prepared files, model.pt) and shown in messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

URL = re.compile(r"(?P<scheme>[A-Za-z0-9+.-]*)://(?P<authority>[^/?#\s]*)")
PARAMETER = re.compile(r"[?&;#](?P<name>[^=&;#]*)=[^&;#]")
WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")

SECRET_WORDS = {"pass", "passwd", "passphrase", "pwd", "sig", "sas", "jwt", "auth", "authorization", "key"}
KEYS = ("accesskey", "accountkey", "apikey", "authkey", "privatekey", "secretkey", "sharedkey")
SECRET_ENDS = ("password", "secret", "token", "signature", "credential", "credentials")
BUCKETS = ("s3", "s3a", "gs", "gcs")
# Schemes in which a name before the @, without a password, is itself a token or a key.
KEYED = (*BUCKETS, "http", "https")

WHERE = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, or ~/.aws/credentials, of every node",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS in the environment of every node, or `gcloud auth application-default login`",
}
ELSEWHERE = "fsspec's configuration, ~/.config/fsspec/conf.json, of every node"


def credentials_complaint(location: str, *, name: str) -> str | None:
    """Return one sentence if a text is a URL with credentials, else None.

    Args:
        location: any value of params.yaml or conf/.
        name: the parameter that holds it.
    """
    schemes = {scheme for text in decoded(location) for scheme in schemes_with_credentials(text)}
    if not schemes:
        return None
    scheme = min(schemes)
    where = WHERE.get({"s3a": "s3", "gcs": "gs"}.get(scheme, scheme), ELSEWHERE)
    return (
        f"{name} is a {scheme}:// URL with credentials in it, which every run would store and show; "
        f"remove them, and provide them by {where}"
    )


def decoded(location: str) -> Iterator[str]:
    """Yield the text, and its percent-decoded form: a URL may contain another one, encoded."""
    yield location
    for _ in range(2):
        location = unquote(location)
        yield location


def schemes_with_credentials(text: str) -> Iterator[str]:
    """Yield the scheme of each URL in a text with a password, key or token in its host part or query."""
    for url in URL.finditer(text):
        scheme = url["scheme"].lower()
        rest = text[url.end() :]
        if has_key(scheme, url["authority"]) or any(is_secret(found["name"]) for found in PARAMETER.finditer(rest)):
            yield scheme


def has_key(scheme: str, authority: str) -> bool:
    """Return whether the part between :// and the path contains more than user, host and port."""
    user, at, host = authority.rpartition("@")
    port = re.sub(r"\[[^\]]*\]", "", host).partition(":")[2]
    if port and (not port.isdigit() or scheme in BUCKETS):
        return True  # the start of a key that contains a slash
    if not at or (scheme in ("gs", "gcs") and user == "anonymous"):
        return False
    return ":" in user or scheme in KEYED


def is_secret(name: str) -> bool:
    """Return whether a query parameter is named like a password, key, token or signature, e.g. X-Amz-Signature, sig."""
    words = [word.lower() for word in WORD.findall(name)]
    return any(word in SECRET_WORDS or word.endswith(SECRET_ENDS) or any(key in word for key in KEYS) for word in words)


def credentials_in(content: Any, prefix: str = "") -> Iterator[str]:
    """Return the complaints about all texts of a mapping or list, with dotted paths."""
    if isinstance(content, str):
        complaint = credentials_complaint(content, name=prefix)
        yield from [complaint] if complaint else []
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from credentials_in(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(content, list):
        for value in content:
            yield from credentials_in(value, prefix)
