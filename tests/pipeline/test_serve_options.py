"""Laws of the command serve before it serves: options, where it runs, its port; and of its page."""

from __future__ import annotations

import re
import socket
from argparse import Namespace
from pathlib import Path

import pytest

from pipeline.serve.__main__ import main
from pipeline.serve.app import FILES
from pipeline.serve.place import place_of, this_machine


def test_page_loads_nothing_from_elsewhere() -> None:
    folder = Path(__file__).parents[2] / "pipeline/serve"
    for name in FILES:
        assert not re.search(r"https?:|//[a-z]|@import|innerHTML", (folder / name).read_text()), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--replicas", "0"], "--replicas is 0; expected 1 or more"),
        (["--batch-size", "0"], "--batch-size is 0; expected 1 or more"),
        (["--max-upload-mb", "0"], "--max-upload-mb is 0.0; expected more than 0"),
        (["--port", "70000"], "--port is 70000; expected 1 to 65535"),
        (["--score-threshold", "2"], "--score-threshold is 2.0; expected 0 to 1"),
    ],
)
def test_wrong_option_is_named(options: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        main(options)


def test_place_is_that_of_conf_or_this_machine(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    options = Namespace(replicas=3, host="127.0.0.1", port=8000)
    place = place_of(options)
    assert (place.address, place.storage, place.resources.workers, place.resources.cpus_per_worker) == (
        "local",
        None,
        3,
        1,
    )
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert place_of(options).storage == str(project / "runs")
    Path("conf/local.yaml").unlink()
    with pytest.raises(ValueError, match=r"RAY_ADDRESS is head:6379, a cluster, whose nodes find the model in storage"):
        place_of(options)
    monkeypatch.delenv("RAY_ADDRESS")
    assert place_of(options).resources == this_machine(3)


def test_port_that_is_taken_is_named_before_any_work(project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(
            ValueError, match=rf"the service cannot listen on 127\.0\.0\.1:{port} \(Address already in use\)"
        ):
            main(["--port", str(port)])
