"""What `config.json` says: its keys, how they are checked, and how they are written."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, TypeAlias, cast, get_args

from datasentinel.artifact.folders import CONFIG_FILE, printable
from datasentinel.errors import ArtifactError
from datasentinel.time_text import DateOrder

if TYPE_CHECKING:
    from pathlib import Path

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

FORMAT_VERSION = 3
# The first that has `state`, and the first in which half-lives may count time (`row_s`); files say no more
# than they need, so that older readers take them.
_FIRST_WITH_STATE, FIRST_WITH_TIME = 2, 3

# More columns than any detector has; what is allocated for each of them stays within a few MiB a row.
MAX_DIMENSION = 1 << 20
# Names are in every reply and label.
_MAX_NAME_CHARACTERS = 256


@dataclass(frozen=True, kw_only=True)
class Config:
    """What `config.json` says.

    Attributes
    ----------
    input_dim, output_dim, latent_dim : int
        Widths of the network. `output_dim` equals `input_dim`: the model reconstructs its input.
    threshold : float
        A row is an anomaly iff its score is greater than this.
    format_version : int
        Version of this file's layout; 0 for a file that does not say, as the prototype wrote.
    name, version : str
        The model's name and version; empty where the file does not say.
    feature_names : tuple of str
        One name a column, or empty.
    offsets : tuple of float
        What the graph subtracts from each column before anything else, or empty: float32 numbers, so that the
        difference is exact for values between half and twice the offset.
    columns : mapping
        The other columns of the table that it was trained on, by name: `time`, `id`, `label` and `ignored`, a
        list of all that are neither these nor features. Empty where there are none.
    score : str
        The definition of the score in words.
    calibration : mapping
        How the threshold was found.
    training : mapping
        What the model was trained on and with.
    state : mapping
        For a model with memory: the `size` of a stream's state, its `layout`, `warm_up_rows`, and how values
        that are `missing` are carried, where they are. Empty for any other.
    calendar : mapping
        For a model with a season: the `time_zone` in which its last column, the second of the week, counts.
        Empty for any other.
    text_format : mapping
        How text in the tables that it was trained on is written, as far as that was found: the `decimal`
        mark, what is between `thousands`, and `date_order`, what dates begin with that do not begin with the
        year.
    model_sha256 : str
        Digest of `model.onnx` in hexadecimal; empty where the file does not say.
    extra : mapping
        Keys that this version does not know; they are written back unchanged.
    """

    input_dim: int
    output_dim: int
    latent_dim: int
    threshold: float
    format_version: int = 1
    name: str = ""
    version: str = ""
    feature_names: tuple[str, ...] = ()
    offsets: tuple[float, ...] = ()
    columns: Mapping[str, Json] = field(default_factory=dict)
    score: str = ""
    calibration: Mapping[str, Json] = field(default_factory=dict)
    training: Mapping[str, Json] = field(default_factory=dict)
    state: Mapping[str, Json] = field(default_factory=dict)
    calendar: Mapping[str, Json] = field(default_factory=dict)
    text_format: Mapping[str, Json] = field(default_factory=dict)
    model_sha256: str = ""
    extra: Mapping[str, Json] = field(default_factory=dict)

    @property
    def carried_columns(self) -> tuple[str, ...]:
        """Names of the time and the id column, where there are such."""
        return tuple(name for key in ("time", "id") if isinstance(name := self.columns.get(key), str))

    @property
    def other_columns(self) -> frozenset[str]:
        """Names of all columns that the model knows to be no features."""
        ignored = self.columns.get("ignored", [])
        names = [*(ignored if isinstance(ignored, list) else []), self.columns.get("label")]
        return frozenset(name for name in (*names, *self.carried_columns) if isinstance(name, str))

    @property
    def time_zone(self) -> str | None:
        """IANA name of the time zone of a model with a season."""
        return str(self.calendar["time_zone"]) if self.calendar else None

    @property
    def date_order(self) -> DateOrder | None:
        """What dates begin with that do not begin with the year, where training found that."""
        return cast("DateOrder | None", self.text_format.get("date_order"))

    @property
    def table_features(self) -> tuple[str, ...]:
        """Names of the features that tables have: all but the second of the week."""
        return self.feature_names[:-1] if self.calendar else self.feature_names

    @property
    def state_size(self) -> int:
        """Number of values in a stream's state, S; 0 for a model without memory."""
        return _integer(self.state["size"], 1) if self.state else 0

    @property
    def gap_s(self) -> float | None:
        """Seconds without a row after which a stream starts over; None where that is not known."""
        return _finite(self.state["gap_s"]) if "gap_s" in self.state else None

    @property
    def first_values(self) -> tuple[float, ...]:
        """By column, what stands for a missing value that no row before has one for.

        NaN for a column that must have its own; empty for a model that takes whole rows only.
        """
        return _first_values(self.state.get("missing", {}))

    @property
    def stale_rows(self) -> int:
        """Number of rows beyond which a column whose values are carried is stale."""
        missing = self.state.get("missing")
        return _integer(missing["stale_rows"], 1) if isinstance(missing, Mapping) else 0

    @property
    def row_s(self) -> float | None:
        """Seconds of the usual step from row to row, where what is remembered fades with time."""
        return _finite(self.state["row_s"]) if "row_s" in self.state else None

    @property
    def warm_up_rows(self) -> int:
        """Number of rows after which a stream's beginning has faded; its rows until then are never alarms."""
        return _integer(self.state["warm_up_rows"], 0) if self.state else 0


def parse_config(raw: bytes, *, where: Path) -> Config:
    """Parse and check the bytes of a `config.json`.

    Parameters
    ----------
    raw : bytes
        The file's content.
    where : Path
        The file's name, for error messages.

    Raises
    ------
    ArtifactError
        The text is not JSON, a required key is missing or a value is wrong.
    """
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise ArtifactError(f"{where}: expected a JSON object, got {_kind(document)}")
    for key in ("input_dim", "output_dim", "latent_dim", "threshold"):
        if key not in document:
            raise ArtifactError(f"{where}: required key '{key}' is missing")
    known = {f.name for f in fields(Config)} - {"extra"}
    values: dict[str, object] = {"format_version": 0}
    for key in known & document.keys():
        try:
            values[key] = _CHECKS[key](document[key])
        except (TypeError, ValueError, OverflowError) as error:
            raise ArtifactError(f"{where}: key '{key}': {error}") from None
    values["extra"] = {key: value for key, value in document.items() if key not in known}
    config = Config(**values)  # type: ignore[arg-type]  # every value was checked by _CHECKS
    if config.format_version > FORMAT_VERSION:
        raise ArtifactError(
            f"{where}: key 'format_version': {config.format_version} is newer than {FORMAT_VERSION}, the "
            "newest that this version of datasentinel reads"
        )
    if config.output_dim != config.input_dim:
        raise ArtifactError(
            f"{where}: key 'output_dim': {config.output_dim} differs from input_dim {config.input_dim}, but "
            "the model must reconstruct its input"
        )
    _check_state(config, where)
    names = config.feature_names
    if names and len(names) != config.input_dim:
        raise ArtifactError(
            f"{where}: key 'feature_names': got {len(names)} names for input_dim {config.input_dim}"
        )
    if config.offsets and len(config.offsets) != config.input_dim:
        raise ArtifactError(
            f"{where}: key 'offsets': got {len(config.offsets)} numbers for input_dim {config.input_dim}"
        )
    return config


def _check_state(config: Config, where: Path) -> None:
    if config.state and config.format_version < _FIRST_WITH_STATE:
        raise ArtifactError(f"{where}: key 'state' needs format_version {_FIRST_WITH_STATE}")
    if (carried := len(config.first_values)) not in (0, config.input_dim):
        raise ArtifactError(
            f"{where}: key 'state': 'missing': got {carried} first values for input_dim {config.input_dim}"
        )
    if config.row_s is not None and config.format_version < FIRST_WITH_TIME:
        raise ArtifactError(f"{where}: key 'state': 'row_s' needs format_version {FIRST_WITH_TIME}")


def format_config(config: Config) -> bytes:
    """Return the bytes of a `config.json`; `parse_config` returns an equal `Config`."""
    document: dict[str, object] = {f.name: getattr(config, f.name) for f in fields(Config)}
    document.pop("extra")
    for key in ("state", "calendar", "text_format"):
        if not document[key]:
            document.pop(key)
    document.update(config.extra)
    try:
        return (_readable(document) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"{CONFIG_FILE}: cannot be written as JSON: {error}") from error


def _readable(value: object, indent: str = "") -> str:
    """Write objects with a key a line, and everything else, long lists of numbers above all, on one line."""
    if not isinstance(value, Mapping) or not value:
        return json.dumps(value, allow_nan=False, default=_plain)
    inner = indent + "  "
    members = (f"{inner}{json.dumps(str(key))}: {_readable(item, inner)}" for key, item in value.items())
    return "{\n" + ",\n".join(members) + f"\n{indent}}}"


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not a JSON type")


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), f"the number {value!r}")


def _integer(value: object, minimum: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"expected an integer, got {_kind(value)}")
    if value < minimum:
        raise ValueError(f"expected an integer of at least {minimum}, got {value}")
    return value


def _dimension(value: object) -> int:
    dimension = _integer(value, 1)
    if dimension > MAX_DIMENSION:
        raise ValueError(f"expected at most {MAX_DIMENSION}, got {dimension}")
    return dimension


def _finite(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"expected a number, got {_kind(value)}")
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {value}")
    return float(value)


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a string, got {_kind(value)}")
    if value != printable(value):
        raise ValueError(f"holds half of a character (a lone surrogate): {printable(value)[:80]!r}")
    return value


def _name(value: object) -> str:
    name = _string(value)
    if len(name) > _MAX_NAME_CHARACTERS:
        raise ValueError(f"{len(name)} characters, more than {_MAX_NAME_CHARACTERS}")
    return name


def _strings(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TypeError("expected a list of strings")
    return tuple(map(_string, value))


def _numbers(value: object) -> tuple[float, ...]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list of numbers, got {_kind(value)}")
    return tuple(map(_finite, value))


def _mapping(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, got {_kind(value)}")
    return value


def _columns(value: object) -> dict[str, object]:
    columns = _mapping(value)
    for key in ("time", "id", "label"):
        if key in columns:
            _string(columns[key])
    _strings(columns.get("ignored", []))
    return columns


def _state(value: object) -> dict[str, object]:
    facts = _mapping(value)
    if facts:
        for key, least in (("size", 1), ("warm_up_rows", 0)):
            if key not in facts:
                raise ValueError(f"'{key}' is missing")
            try:
                _integer(facts[key], least)
            except (TypeError, ValueError) as error:
                raise ValueError(f"'{key}': {error}") from None
        _finite(facts.get("gap_s", 0))
        if _finite(facts.get("row_s", 1)) <= 0:
            raise ValueError("'row_s' must be greater than 0")
        if "missing" in facts:
            missing = _mapping(facts["missing"])
            _integer(missing.get("stale_rows"), 1)
            _first_values(missing)
    return facts


def _first_values(missing: object) -> tuple[float, ...]:
    values = _mapping(missing).get("first_values", [])
    if not isinstance(values, list | tuple):
        raise TypeError(f"expected a list of numbers, got {_kind(values)}")
    return tuple(math.nan if value is None else _finite(value) for value in values)


def _calendar(value: object) -> dict[str, object]:
    facts = _mapping(value)
    if facts:
        _string(facts.get("time_zone"))
    return facts


def _text_format(value: object) -> dict[str, object]:
    facts = _mapping(value)
    for key, possible in (("decimal", (".", ",")), ("date_order", get_args(DateOrder))):
        if key in facts and facts[key] not in possible:
            raise ValueError(f"'{key}': expected one of {', '.join(map(repr, possible))}, got {facts[key]!r}")
    thousands = _string(facts.get("thousands", ""))
    if len(thousands) > 1 or thousands == facts.get("decimal"):
        raise ValueError(f"'thousands': expected a mark other than the decimal one, got {thousands!r}")
    return facts


_CHECKS: dict[str, Callable[[object], object]] = {
    "input_dim": _dimension,
    "output_dim": _dimension,
    "latent_dim": _dimension,
    "threshold": _finite,
    "format_version": lambda value: _integer(value, 0),
    "name": _name,
    "version": _name,
    "feature_names": _strings,
    "offsets": _numbers,
    "columns": _columns,
    "score": _string,
    "calibration": _mapping,
    "training": _mapping,
    "state": _state,
    "calendar": _calendar,
    "text_format": _text_format,
    "model_sha256": _string,
}
