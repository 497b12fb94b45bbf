"""Ray on a bucket of a real S3 server (moto's), by the command as it is typed."""

from __future__ import annotations

import os
import select
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.engines.kit import assert_same, score_in_one_process

pytest.importorskip("ray", reason="Ray is not installed: make test-engines")
pytest.importorskip("s3fs", reason="s3fs is not installed: make test-engines")
boto3 = pytest.importorskip("boto3", reason="boto3 is not installed: make test-engines")
pytest.importorskip("moto.server", reason="moto is not installed: make test-engines")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SERVER = """
import time
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
time.sleep(900)
"""


@pytest.fixture
def environment():
    """What clients have to know of a server that runs."""
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert select.select([server.stdout], [], [], 120)[0], "moto did not start"
            yield keys | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{int(server.stdout.readline())}"}
        finally:
            server.kill()


def test_a_bucket_is_scored_into_a_bucket(tables, model, environment):
    expected = score_in_one_process(tables, model)
    bucket = boto3.resource(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        region_name="us-east-1",
    ).create_bucket(Bucket="lake")
    for file in tables.iterdir():
        bucket.upload_file(str(file), f"telemetry/{file.name}")

    def score(out: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "datasentinel", "score", "s3://lake/telemetry/*.parquet"]
        command += ["--model", str(model), "--backend", "fused", "--keep", "key"]
        command += ["--engine", "ray", "--workers", "2", "--out", out]
        return subprocess.run(
            command, env=os.environ | environment, capture_output=True, text=True, timeout=600, check=False
        )

    done = score("s3://lake/scores")
    assert done.returncode == 0, done.stderr
    found = [pa.BufferReader(entry.get()["Body"].read()) for entry in bucket.objects.filter(Prefix="scores/")]
    assert_same(pa.concat_tables(pq.read_table(file) for file in found if file.size()), expected)
    again = score("s3://lake/scores")
    assert again.returncode == 1
    assert "s3://lake/scores: is there already" in again.stderr
