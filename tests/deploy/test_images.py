"""Builds the images and runs them, where a container engine can be had. Takes some minutes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def works(*command: str) -> bool:
    return shutil.which(command[0]) is not None and (
        subprocess.run(command, capture_output=True, check=False, timeout=300).returncode == 0
    )


@pytest.fixture
def environment() -> dict[str, str]:
    """What docker/check.sh needs here, or a skip that says why it cannot run."""
    named = os.environ.get("CONTAINER_ENGINE")
    engine = next(
        (name for name in ([named] if named else ["docker", "podman"]) if works(name, "info")), None
    )
    if engine is None:
        pytest.skip("no container engine works here: neither docker nor podman")
    base = os.environ.get("BASE_IMAGE")
    if not base:
        default = (
            (REPOSITORY / "docker" / "Dockerfile").read_text().partition("ARG BASE_IMAGE=")[2].split()[0]
        )
        if not works(engine, "pull", "--quiet", default):
            if shutil.which("debootstrap") is None or os.geteuid() != 0:
                pytest.skip("the base image cannot be pulled, nor made here: that takes root and debootstrap")
            base = "debootstrap"
    chosen = {"CONTAINER_ENGINE": engine} | ({"BASE_IMAGE": base} if base else {})
    if bundle := os.environ.get("CA_BUNDLE") or os.environ.get("PIP_CERT"):
        chosen["CA_BUNDLE"] = bundle
    return dict(os.environ) | chosen


@pytest.mark.slow
@pytest.mark.containers
@pytest.mark.timeout(3600)
def test_the_three_images_work_together(environment):
    checked = subprocess.run(
        [REPOSITORY / "docker" / "check.sh"], env=environment, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout[-5000:] + checked.stderr[-5000:]
    assert checked.stdout.endswith("== all checks passed\n")
