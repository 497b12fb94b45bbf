"""Training of detectors. Needs the `train` extra; nothing that serves imports this package."""

from datasentinel.errors import MissingDependencyError

try:
    import torch as _torch  # noqa: F401, TID251
except ImportError as error:
    raise MissingDependencyError('training needs torch: pip install "datasentinel[train]"') from error

from datasentinel.training.pipeline import TrainingResult, train
from datasentinel.training.settings import TrainingSettings
from datasentinel.training.trainer import Epoch

__all__ = ["Epoch", "TrainingResult", "TrainingSettings", "train"]
