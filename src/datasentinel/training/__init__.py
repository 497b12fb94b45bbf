"""Training of detectors. Needs the `train` extra; nothing that serves imports this package.

What needs torch is imported at first use, so that settings can be made and checked without it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from datasentinel.errors import MissingDependencyError
from datasentinel.training.settings import TrainingSettings

if TYPE_CHECKING:
    from datasentinel.training.pipeline import TrainingResult, train
    from datasentinel.training.progress import Epoch

__all__ = ["Epoch", "TrainingResult", "TrainingSettings", "train"]

_MODULES = {"Epoch": "progress", "TrainingResult": "pipeline", "train": "pipeline"}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    try:
        module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingDependencyError('training needs torch: pip install "datasentinel[train]"') from error
    attribute: object = getattr(module, name)
    return attribute
