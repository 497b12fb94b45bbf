"""DataSentinel: anomaly detection on live numeric data.

>>> from datasentinel import Detector
>>> detector = Detector.load("models/")        # doctest: +SKIP
>>> detector.predict([[0.1, 0.2, 0.3]])        # doctest: +SKIP
array([False])
"""

import importlib
import os
from typing import TYPE_CHECKING

# From version 1.29 on, ONNX Runtime sends telemetry unless that is switched off before it starts.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from datasentinel.backend import backends
    from datasentinel.detector import Detector
    from datasentinel.estimator import AutoencoderDetector
    from datasentinel.gpu import pinned_empty
    from datasentinel.reasons import Reason

    __version__: str

__all__ = ["AutoencoderDetector", "Detector", "Reason", "__version__", "backends", "pinned_empty"]

# Names are imported at first use: the command line starts without numpy and the engine, what serves without
# scikit-learn, which the estimator needs.
_MODULES = {
    "AutoencoderDetector": "estimator",
    "Detector": "detector",
    "Reason": "reasons",
    "backends": "backend",
    "pinned_empty": "gpu",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from datasentinel.backend import build_info

        value: object = build_info()["version"]
    elif name in _MODULES:
        value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    else:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
