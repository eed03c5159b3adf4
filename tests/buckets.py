"""A bucket of a real S3 server on this machine, with the pictures of a project in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import boto3
import yaml

KEYS = {"AWS_ACCESS_KEY_ID": "of-the-bucket", "AWS_SECRET_ACCESS_KEY": "known-to-all", "AWS_REGION": "us-east-1"}
BUCKET = "experiment"


def variables_of(address: str) -> dict[str, str]:
    """The standard variables of whoever uses this store."""
    return {**KEYS, "AWS_ENDPOINT_URL": address}


def make_bucket(address: str) -> Any:
    """BUCKET, and a client of it."""
    names = {"aws_access_key_id": "AWS_ACCESS_KEY_ID", "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY"}
    options = {option: KEYS[name] for option, name in names.items()}
    client = boto3.client("s3", endpoint_url=address, region_name=KEYS["AWS_REGION"], **options)
    client.create_bucket(Bucket=BUCKET)
    return client


def move_to_bucket(project: Path, client: Any, **runtime: Any) -> None:
    """Pictures and storage of a project lie in the bucket from now on; the pictures nowhere else.

    Args:
        runtime: other values of conf/local.yaml.
    """
    folder = project / "data/prepared/images"
    for picture in sorted(path for path in folder.rglob("*") if path.is_file()):
        client.upload_file(str(picture), BUCKET, f"pictures/{picture.relative_to(folder)}")
        picture.unlink()
    conf = project / "conf/local.yaml"
    content = yaml.safe_load(conf.read_text())
    content |= {"data_root": f"s3://{BUCKET}/pictures", "storage": f"s3://{BUCKET}/runs", **runtime}
    conf.write_text(yaml.safe_dump(content))


def keys_in(client: Any, prefix: str) -> list[str]:
    """The keys of the bucket that begin so."""
    found = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return [entry["Key"] for page in found for entry in page.get("Contents", [])]
