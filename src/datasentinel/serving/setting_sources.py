"""Where the server's settings come from: flags, environment and file, each checked alike."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from dataclasses import Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasentinel.errors import SettingsError
from datasentinel.serving.settings import (
    ENVIRONMENT_PREFIX,
    KIND_NAMES,
    Settings,
    check_value,
    flag_name,
    variable_name,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

CONFIG_VARIABLE = ENVIRONMENT_PREFIX + "CONFIG"

# Variables with our prefix that are read elsewhere.
_OTHER_VARIABLES = frozenset(
    {
        CONFIG_VARIABLE,
        "DATASENTINEL_CACHE_DIR",
        "DATASENTINEL_ISA",
        "DATASENTINEL_NGHTTP2_LIBRARY",
        "DATASENTINEL_NVRTC_LIBRARY",
        "DATASENTINEL_ONNXRUNTIME_HEADER",
        "DATASENTINEL_ONNXRUNTIME_LIBRARY",
        "DATASENTINEL_PROTOCOL",
        "DATASENTINEL_SHARED_DATA",
        "DATASENTINEL_STREAM_DEAD_LETTERS",
        "DATASENTINEL_STREAM_FROM",
        "DATASENTINEL_STREAM_TO",
        "DATASENTINEL_TENSORRT_LIBRARY",
        "DATASENTINEL_TENSORRT_HEADERS",
    }
)
# Kubernetes and Docker links set these in every container beside a service named "datasentinel", or with that
# and a hyphen at its beginning.
_LINK_VARIABLE = re.compile(
    r"DATASENTINEL_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP)(_(PROTO|PORT|ADDR))?)"
)
# These could be a setting's name, or one misspelt; their values could not be a setting's.
_LINK_PORT_VARIABLE = re.compile(r"DATASENTINEL_(\w+_)?PORT")
_LINK_NAME_VARIABLE = re.compile(r"DATASENTINEL_(\w+_)?NAME")

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


def load_settings(
    flags: Mapping[str, object] | None = None,
    *,
    config_file: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Read the settings: a flag wins over an environment variable, that over the file, that over the default.

    Parameters
    ----------
    flags : mapping of str to object, optional
        Values by field name; None stands for a flag that was not given.
    config_file : path-like, optional
        A TOML file of `name = value` lines; without it, the one that ``DATASENTINEL_CONFIG`` names.
    environ : mapping of str to str, optional
        The environment; the process's own if not given.

    Returns
    -------
    Settings

    Raises
    ------
    SettingsError
        A source holds an unknown key or a value of the wrong type or range (source and key are named), the
        file cannot be read, or the settings contradict each other.
    """
    environ = os.environ if environ is None else environ
    config_file = config_file or environ.get(CONFIG_VARIABLE) or None
    settings = {setting.name: setting for setting in fields(Settings)}
    values: dict[str, object] = {}

    if config_file is not None:
        for key, value in _read_file(Path(config_file)).items():
            where = f"{Path(config_file)}: key '{key}'"
            if key not in settings:
                raise SettingsError(f"{where} is unknown; known: {', '.join(settings)}")
            values[key] = check_value(settings[key], value, where)

    by_variable = {variable_name(setting): setting for setting in settings.values()}
    for variable, text in environ.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable in _OTHER_VARIABLES:
            continue
        if _is_service_link(variable, text):
            continue
        where = f"environment variable {variable}"
        if variable in by_variable:
            setting = by_variable[variable]
            values[setting.name] = check_value(setting, _parse(setting, text, where), where)
        else:
            names = {name.removeprefix(ENVIRONMENT_PREFIX): name for name in by_variable}
            near = difflib.get_close_matches(
                variable.removeprefix(ENVIRONMENT_PREFIX), names, n=1, cutoff=0.7
            )
            hint = f"did you mean {names[near[0]]}?" if near else f"known: {', '.join(by_variable)}"
            raise SettingsError(f"{where} is unknown; {hint}")

    for name, value in (flags or {}).items():
        if value is None:
            continue
        if name not in settings:
            raise SettingsError(f"command line: '{name}' is unknown; known: {', '.join(settings)}")
        values[name] = check_value(settings[name], value, f"command line: {flag_name(settings[name])}")

    return Settings(**values)  # type: ignore[arg-type]  # _check made each value its field's type


def service_links(environ: Mapping[str, str]) -> list[str]:
    """List the variables with our prefix that describe a service nearby and are not settings."""
    return [variable for variable, text in sorted(environ.items()) if _is_service_link(variable, text)]


def _is_service_link(variable: str, text: str) -> bool:
    if _LINK_VARIABLE.fullmatch(variable):
        return True
    if _LINK_PORT_VARIABLE.fullmatch(variable):
        return "://" in text
    return bool(_LINK_NAME_VARIABLE.fullmatch(variable)) and text.startswith("/")


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from error


def _parse(setting: Field[Any], text: str, where: str) -> object:
    """Turn text into a value of the setting's type."""
    kind: type = type(setting.default)
    if kind is bool:
        word = text.strip().lower()
        if word not in _TRUE | _FALSE:
            raise SettingsError(f"{where}: expected true or false, got '{text}'")
        return word in _TRUE
    if kind is str:
        return text
    try:
        return kind(text)
    except ValueError:
        raise SettingsError(f"{where}: expected {KIND_NAMES[kind]}, got '{text}'") from None
