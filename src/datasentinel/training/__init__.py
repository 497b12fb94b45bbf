"""Training of detectors. Needs the `train` extra; nothing that serves imports this package.

What needs torch is imported at first use, so that settings can be made and checked without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from datasentinel.lazy import needing_torch
from datasentinel.training.settings import TrainingSettings

if TYPE_CHECKING:
    from datasentinel.training.pipeline import TrainingResult, train
    from datasentinel.training.progress import Epoch

__all__ = ["Epoch", "TrainingResult", "TrainingSettings", "train"]

__getattr__ = needing_torch(
    __name__, {"Epoch": "progress", "TrainingResult": "pipeline", "train": "pipeline"}, "training"
)
