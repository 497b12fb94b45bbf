"""Export of detectors to artifacts.

Changing the precision of an artifact needs only `onnx` and ONNX Runtime. Exporting what was trained needs the
`train` extra, which is imported at first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from datasentinel.errors import MissingDependencyError
from datasentinel.lazy import needing_torch

try:
    import onnx as _onnx  # noqa: F401
except ModuleNotFoundError as error:
    raise MissingDependencyError('export needs onnx: pip install "datasentinel[train]"') from error

if TYPE_CHECKING:
    from datasentinel.export.artifact import Built, Exported, build_artifact, export_artifact
    from datasentinel.export.graph import build_graph
    from datasentinel.export.verify import Verification, verify_graph

__all__ = [
    "Built",
    "Exported",
    "Verification",
    "build_artifact",
    "build_graph",
    "export_artifact",
    "verify_graph",
]

_MODULES = {
    **dict.fromkeys(("Built", "Exported", "build_artifact", "export_artifact"), "artifact"),
    **dict.fromkeys(("Verification", "verify_graph"), "verify"),
    "build_graph": "graph",
}

__getattr__ = needing_torch(__name__, _MODULES, "export")
