"""DataSentinel: anomaly detection on live numeric data.

>>> from datasentinel import Detector
>>> detector = Detector.load("models/")        # doctest: +SKIP
>>> detector.predict([[0.1, 0.2, 0.3]])        # doctest: +SKIP
array([False])
"""

import os
from typing import TYPE_CHECKING

# From version 1.29 on, ONNX Runtime reports to its makers, unless it is told not to before it starts.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from datasentinel.backend import backends
from datasentinel.backend import build_info as _build_info
from datasentinel.detector import Detector
from datasentinel.gpu import pinned_empty
from datasentinel.reasons import Reason

if TYPE_CHECKING:
    from datasentinel.estimator import AutoencoderDetector

__version__: str = _build_info()["version"]

__all__ = ["AutoencoderDetector", "Detector", "Reason", "__version__", "backends", "pinned_empty"]


def __getattr__(name: str) -> object:
    # The estimator needs scikit-learn, which nothing that serves should load.
    if name == "AutoencoderDetector":
        from datasentinel.estimator import AutoencoderDetector

        return AutoencoderDetector
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
