"""An S3 that fails now and then, as large ones do."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class Flaky:
    """moto's S3, of whose requests every so manyth is answered with 503; 0: none is.

    Attributes:
        every: may be changed at any time
        refused: number of requests answered with 503
    """

    def __init__(self, every: int) -> None:
        self.every, self.refused = every, 0
        self.application = DomainDispatcherApplication(create_backend_app)
        self.requests = count(1)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """One request, as WSGI has it."""
        if self.every and next(self.requests) % self.every == 0:
            self.refused += 1
            start_response("503 Slow Down", [("Content-Type", "application/xml"), ("Content-Length", str(len(BUSY)))])
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [BUSY]
        answer: Iterable[bytes] = self.application(environ, start_response)
        return answer


@contextmanager
def running_flaky_s3(every: int = 0) -> Iterator[tuple[str, Flaky]]:
    """The address of an S3 in a thread of this process, and the S3."""
    logging.getLogger("werkzeug").setLevel("ERROR")  # a line for each request
    flaky = Flaky(every)
    server = make_server("127.0.0.1", 0, flaky, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", flaky
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
