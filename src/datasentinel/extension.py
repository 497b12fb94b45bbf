"""The C++ extension, or an explanation of why it does not load.

Only this module imports `datasentinel._native`; only `datasentinel.backend` and the CSV reader of
`datasentinel.tables` use it.
"""

from __future__ import annotations

from pathlib import Path

try:
    from datasentinel import _native as native  # noqa: TID251
except ImportError as error:
    import platform
    import sys

    _found = sorted(str(path) for path in Path(__file__).parent.glob("_native*"))
    raise ImportError(
        f"datasentinel's compiled extension does not load in Python {platform.python_version()} "
        f"({sys.executable}, {platform.machine()}): {error}. Files found beside this module: "
        f"{', '.join(_found) or 'none'}. Install it again with `pip install .` in the source folder."
    ) from error

__all__ = ["native"]
