"""Packages whose names are imported at first use, so that dependencies load only when needed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from datasentinel.errors import MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def needing_torch(package: str, modules: Mapping[str, str], what: str) -> Callable[[str], object]:
    """Make the `__getattr__` of a package whose names need torch.

    Parameters
    ----------
    package : str
        Its `__name__`.
    modules : mapping of str to str
        The module of the package that has each name.
    what : str
        What needs torch, for the message.

    Returns
    -------
    callable
        Raises MissingDependencyError where torch is not installed.
    """

    def get(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        try:
            module = importlib.import_module(f"{package}.{modules[name]}")
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise MissingDependencyError(f'{what} needs torch: pip install "datasentinel[train]"') from error
        attribute: object = getattr(module, name)
        return attribute

    return get
