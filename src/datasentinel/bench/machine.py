"""What a result depends on: the machine and the versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

import datasentinel
from datasentinel import backend
from datasentinel.plan_cache import cpu_identity

_PACKAGES = (
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "torch",
    "grpcio",
    "uvloop",
)


def describe_machine() -> dict[str, Any]:
    """Name the CPU, the cores this process may use, the load before the run, the system and the versions."""
    versions = {"datasentinel": datasentinel.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "cpu": cpu_identity(),
        "cpu_features": backend.cpu_features(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "platform": platform.platform(),
        "build": backend.build_info(),
        "isa_forced": os.environ.get("DATASENTINEL_ISA", ""),
        "versions": versions,
    }
