"""Laws of secrets: no URL with one in it is taken, wherever it stands, and no message repeats it."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline import prepare
from pipeline.anchor_stats.__main__ import main as anchor_stats
from pipeline.compare.run import root_of
from pipeline.evaluate.__main__ import main as evaluate
from pipeline.export.run import MODEL, model_of_file
from pipeline.params.credentials import credentials_complaint
from pipeline.params.paths import picture_root
from pipeline.replay.run import load_step
from pipeline.sweep.__main__ import main as sweep
from pipeline.train.__main__ import main as train

SECRET = "hush0"  # in every URL below
WITH_SECRET = [
    f"s3://KEY:{SECRET}@bucket/runs",
    f"s3://KEY:se/{SECRET}@bucket/runs",
    f"s3://{SECRET}@bucket/runs",
    f"s3://KEY%3A{SECRET}@bucket",
    f"S3://KEY:{SECRET}@bucket",
    f"s3://bucket/runs?region=eu&secret_key={SECRET}",
    f"s3://bucket/runs?access_key={SECRET}",
    f"s3://bucket?endpoint_override=http%3A%2F%2Fme%3A{SECRET}%40host",
    f"gs://me:{SECRET}@bucket",
    f"https://me:{SECRET}@host/pictures",
    f"https://me:pa/{SECRET}@host/pictures",
    f"https://{SECRET}@host/pictures",
    f"https://bucket.host/a?X-Amz-Algorithm=AWS4&X-Amz-Signature={SECRET}",
    f"https://bucket.host/a?X-Amz-Security-Token={SECRET}",
    f"https://bucket.host/a?AWSAccessKeyId={SECRET}",
    f"https://bucket.host/a?awsaccesskeyid={SECRET}",
    f"https://account.host/container?sv=2024&sig={SECRET}",
    f"https://host/a?api_key={SECRET}",
    f"https://host/a#access_token={SECRET}",
    f"sftp://me:{SECRET}@host/a",
    f"simplecache::s3://KEY:{SECRET}@bucket/a",
    f"zip://a.zip::https://me:{SECRET}@host/a.zip",
]
WITHOUT = [
    *("data/raw", "~/mine", "/data/a@b", "a:b@c/d", "runs?key=1", "memory://cells", "file:///data/me:you@here"),
    *("s3://bucket/runs", "s3://bucket/a@b:c", "s3://bucket?region=eu-west-1&endpoint_override=localhost:9000"),
    *("gs://anonymous@bucket/a", "https://host:8080/a", "http://[::1]:8000/a", "hdfs://namenode:8020/a"),
    *("abfs://container@account.dfs.core.windows.net/a", "sftp://me@host/a", "https://host/a?version=2&page=key"),
]


@pytest.mark.parametrize("location", WITH_SECRET)
def test_secret_in_a_url_is_found_and_not_repeated(location: str) -> None:
    complaint = credentials_complaint(location, name="storage")
    assert complaint is not None
    assert complaint.startswith("storage is a ") and SECRET not in complaint and "\n" not in complaint
    where = {"s3": "AWS_ACCESS_KEY_ID", "gs": "GOOGLE_APPLICATION_CREDENTIALS"}
    scheme = complaint.removeprefix("storage is a ").partition("://")[0]
    if "endpoint_override" not in location:
        assert where.get(scheme, "~/.config/fsspec/conf.json") in complaint


@pytest.mark.parametrize("location", WITHOUT)
def test_location_without_a_secret_is_taken(location: str) -> None:
    assert credentials_complaint(location, name="storage") is None


@given(
    scheme=st.sampled_from(["s3", "gs", "https", "http", "ftp", "sftp", "abfs"]),
    user=st.text("abcXYZ019+=_-", min_size=1),
    password=st.text("abcXYZ+/=_-%@:", min_size=1).filter(lambda text: not text.startswith("/")),
)
def test_user_and_password_before_a_host_are_always_found(scheme: str, user: str, password: str) -> None:
    assert credentials_complaint(f"{scheme}://{user}:{password}@host/a", name="storage") is not None


# ---- every command ---------------------------------------------------------------------------------------------------


def put(file: str, dotted: str, value: object) -> None:
    content = yaml.safe_load(Path(file).read_text())
    *sections, key = dotted.split("__")
    holder = content
    for section in sections:
        holder = holder[section]
    holder[key] = value
    Path(file).write_text(yaml.safe_dump(content))


COMMANDS: dict[str, Callable[[list[str]], object]] = {
    "prepare": prepare.main,
    "anchor_stats": anchor_stats,
    "train": train,
    "evaluate": evaluate,
    "sweep": sweep,
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("dotted", "name"),
    [
        ("data__root", "data.root"),
        ("model__weights", "model.weights"),
        ("data__train__images", "data.train.images"),
        ("sweep__points", "sweep.points.model.weights"),
        ("unknown", "unknown"),
        ("seed", "seed"),
    ],
)
@pytest.mark.usefixtures("project")
def test_secret_in_params_is_refused_by_every_command(command: str, dotted: str, name: str) -> None:
    secret = WITH_SECRET[0]
    put("params.yaml", dotted, [{"model.weights": secret}] if dotted.endswith("points") else secret)
    Path("conf/sweep.yaml").write_text(Path("conf/local.yaml").read_text())
    with pytest.raises(ValueError, match=rf"^params\.yaml: {name} is a s3:// URL with credentials in it") as caught:
        COMMANDS[command]([])
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("command", ["train", "evaluate", "sweep", "export"])
@pytest.mark.parametrize("key", ["storage", "data_root", "address"])
@pytest.mark.usefixtures("project")
def test_secret_in_conf_is_refused_by_every_command(command: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.export.run.load_detector", lambda path: (None, {"run": {"digest": "d1"}}))
    put("conf/local.yaml", key, WITH_SECRET[0])
    Path("conf/sweep.yaml").write_text(Path("conf/local.yaml").read_text())
    commands = {**COMMANDS, "export": lambda arguments: model_of_file(MODEL)}
    with pytest.raises(ValueError, match=rf"^conf/\w+\.yaml: {key} is a s3:// URL with credentials in it") as caught:
        commands[command]([])
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("location", WITH_SECRET)
def test_secret_on_a_command_line_and_in_an_old_prepared_file_is_refused(location: str) -> None:
    for read in (lambda: root_of({}, location), lambda: load_step(location), lambda: picture_root(location)):
        with pytest.raises(ValueError, match="URL with credentials in it") as caught:
            read()
        assert SECRET not in str(caught.value)


# ---- where they belong -----------------------------------------------------------------------------------------------


@pytest.fixture
def guarded_server() -> Iterator[str]:
    """A server that shows its one file to whoever gives user and password."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            right = "Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode()
            self.send_response(200 if self.headers["Authorization"] == right else 401)
            self.end_headers()
            self.wfile.write(b"content")

        def log_message(self, *arguments: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_configuration_of_fsspec_gives_the_credentials(guarded_server: str, tmp_path: Path) -> None:
    """What the refusal of an http:// URL advises works; without it the server answers 401."""
    header = "Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode()
    (tmp_path / "conf.json").write_text(json.dumps({"http": {"headers": {"Authorization": header}}}))
    code = (
        "import sys; from pipeline.formats.root import Root; print(Root(sys.argv[1]).read('a', named_by='data.train'))"
    )
    command = [sys.executable, "-c", code, f"{guarded_server}/pictures"]
    variables = os.environ | {"FSSPEC_CONFIG_DIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    assert done.stdout == "b'content'\n"
