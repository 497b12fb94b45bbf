"""Export of trained detectors to artifacts. Needs the `train` extra."""

from datasentinel.errors import MissingDependencyError

try:
    import onnx as _onnx  # noqa: F401
    import torch as _torch  # noqa: F401, TID251
except ModuleNotFoundError as error:
    raise MissingDependencyError(f'export needs {error.name}: pip install "datasentinel[train]"') from error

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
