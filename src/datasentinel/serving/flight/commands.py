"""What a client asks of an exchange: the command that it begins with."""

from __future__ import annotations

import json
from typing import Any

from datasentinel.errors import InvalidInputError

_LISTS = ("features", "ignore", "keep")
_TEXTS = ("model", "version", "time", "id")
_NUMBERS = {"explain": int, "p_values": bool, "alarm_budget": float}


def read_command(descriptor: Any) -> dict[str, Any]:  # noqa: ANN401
    """Read a descriptor: a JSON object, or a path of the model's name and perhaps its version.

    Besides `model` and `version`, its keys are the arguments of `datasentinel.scoring.scoring_request`.

    Raises
    ------
    InvalidInputError
        It is neither, or has unknown keys or values.
    """
    if descriptor.path:
        names = [name.decode("utf-8", "replace") for name in descriptor.path]
        return dict(zip(("model", "version"), names, strict=False))
    try:
        asked = json.loads(descriptor.command or b"{}")
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"the command is not JSON: {error}") from error
    if not isinstance(asked, dict):
        raise InvalidInputError("the command is not a JSON object")
    known = {*_LISTS, *_TEXTS, *_NUMBERS}
    for key, value in asked.items():
        if key not in known:
            raise InvalidInputError(
                f"unknown key {key!r} in the command; known are {', '.join(sorted(known))}"
            )
        if key in _LISTS:
            is_right = isinstance(value, list) and all(isinstance(name, str) for name in value)
        elif key in _TEXTS:
            is_right = isinstance(value, str)
        else:
            kind = _NUMBERS[key]
            is_right = isinstance(value, kind if kind is not float else (int, float)) and (
                kind is bool or not isinstance(value, bool)
            )
        if not is_right:
            raise InvalidInputError(f"key {key!r} in the command: {value!r} is of the wrong type")
    return asked
