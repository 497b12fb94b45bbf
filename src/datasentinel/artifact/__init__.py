"""The model artifact: `model.onnx` and `config.json` in one directory.

The artifact is the only thing that training and serving share. This package reads, checks and writes it;
it never opens the ONNX graph.
"""

from datasentinel.artifact.config import (
    FORMAT_VERSION,
    MAX_DIMENSION,
    Config,
    Json,
    format_config,
    parse_config,
)
from datasentinel.artifact.files import Artifact, load_artifact, save_artifact, save_config
from datasentinel.artifact.folders import (
    CONFIG_FILE,
    MODEL_FILE,
    find_artifacts,
    is_version,
    newest_version,
    printable,
    resolve_artifact,
)

__all__ = [
    "CONFIG_FILE",
    "FORMAT_VERSION",
    "MAX_DIMENSION",
    "MODEL_FILE",
    "Artifact",
    "Config",
    "Json",
    "find_artifacts",
    "format_config",
    "is_version",
    "load_artifact",
    "newest_version",
    "parse_config",
    "printable",
    "resolve_artifact",
    "save_artifact",
    "save_config",
]
