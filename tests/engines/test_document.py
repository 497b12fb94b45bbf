"""The code of docs/scaling.md runs as written."""

from __future__ import annotations

import shutil
import sys

import pytest

from tests.docs import markdown
from tests.docs.test_documents import DOCS, free

pytest.importorskip("ray", reason="Ray is not installed: make test-engines")
pytest.importorskip("pyspark", reason="Spark is not installed: make test-engines")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")  # Ray and Spark warn of what they bring along.
def test_code_runs_as_written(tmp_path, monkeypatch):
    if shutil.which("java") is None:
        pytest.skip("java is not installed (Debian: openjdk-17-jre-headless)")
    for port in (9000, 9001, 9002, 9010):
        if not free(port):
            pytest.skip(f"somebody uses port {port}, which the document uses")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    markdown.run(DOCS / "scaling.md", tmp_path)
