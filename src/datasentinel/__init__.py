"""DataSentinel: anomaly detection on live numeric data.

>>> from datasentinel import Detector
>>> detector = Detector.load("models/")        # doctest: +SKIP
>>> detector.predict([[0.1, 0.2, 0.3]])        # doctest: +SKIP
array([False])
"""

from datasentinel.backend import backends
from datasentinel.backend import build_info as _build_info
from datasentinel.detector import Detector
from datasentinel.reasons import Reason

__version__: str = _build_info()["version"]

__all__ = ["Detector", "Reason", "__version__", "backends"]
