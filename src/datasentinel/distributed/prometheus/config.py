"""The configuration of `datasentinel watch`: one TOML file, in which every key is known."""

from __future__ import annotations

import difflib
import re
import tomllib
import types
import typing
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path  # noqa: TC003  # the types of fields are looked up
from typing import TYPE_CHECKING, Any, NewType, TypeVar, cast

from datasentinel.calendar_time import time_zone
from datasentinel.distributed.prometheus.durations import format_duration, parse_duration
from datasentinel.distributed.prometheus.presets import PRESETS, queries_of
from datasentinel.errors import SettingsError
from datasentinel.serving.settings import KIND_NAMES
from datasentinel.training.settings import TrainingSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

_T = TypeVar("_T")
Seconds = NewType("Seconds", float)

# Names that a model adds to the labels of the series.
OWN_LABELS = ("model", "query", "reason")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_MODEL_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")
# A rate takes two scrapes, and one may be late.
_RATE_STEPS = 4


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A server, and how to be let in.

    Attributes
    ----------
    url : str
        For queries without `/api/v1/...`; of remote write the whole address.
    timeout : float
        Seconds that it may be silent.
    retries : int
        How often a request is repeated that failed for now.
    bearer_token_file, username, password_file, ca_file, certificate_file, key_file : str
        Files are read again for each connection or request, so that they may be renewed.
    headers : mapping of str to str
        Such as a tenant's.
    """

    url: str
    timeout: Seconds = Seconds(30.0)
    retries: int = 4
    bearer_token_file: str = ""
    username: str = ""
    password_file: str = ""
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check what can be checked without asking."""
        if not re.match(r"https?://[^/@]+(/|$)", self.url):
            # Credentials would end in the log.
            raise SettingsError("url: expected http://... or https://... without user and password")
        _positive("timeout", self.timeout)
        if self.retries < 0:
            raise SettingsError(f"retries: must not be negative, got {self.retries}")
        if bool(self.username) != bool(self.password_file):
            raise SettingsError("username and password_file go together")
        if self.username and self.bearer_token_file:
            raise SettingsError("username and bearer_token_file exclude each other")
        if self.key_file and not self.certificate_file:
            raise SettingsError("key_file is set, but certificate_file is not")


@dataclass(frozen=True, kw_only=True)
class Exposition:
    """Where scores are published for scraping."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: int = 9003
    certificate_file: str = ""
    key_file: str = ""

    def __post_init__(self) -> None:
        """Check the port and the files."""
        if not 0 <= self.port <= 65535:
            raise SettingsError(f"port: expected 0 to 65535, got {self.port}")
        if bool(self.certificate_file) != bool(self.key_file):
            raise SettingsError("certificate_file and key_file go together")


@dataclass(frozen=True, kw_only=True)
class Model:
    """One multivariate model: a group of queries, whose series are recordings of the same kind.

    Attributes
    ----------
    name : str
        Its name in the file, and in the label `model` of what is written.
    queries : mapping of str to str
        PromQL by the name of the column.
    preset : str
        Queries from `PRESETS`; those of `queries` come in addition or instead.
    selector : str
        For a preset: what the series have to be like, such as `job="node",env="live"`.
    by : tuple of str
        The labels that distinguish series; without them those that all of the queries have.
    step : float
        Seconds between two rows, in training as in scoring.
    infer_every : float
        Seconds between two looks at the server; `step` without it.
    offset : float
        How many seconds behind the clock rows are, for samples that are late.
    fit_window, fit_every : float
        Seconds of history to train on, and between two trainings; 0: one training for good.
    catch_up : float
        Seconds of downtime to catch up with.
    model, season, time_zone, half_lives, target_fpr, seed
        As for `datasentinel train`; half-lives are in rows.
    max_rows, max_series : int
        Most rows to train on (of more, series are drawn at random), most series that are remembered.
    reasons : int
        How many columns are named at most for an anomaly.
    alert_window : float
        Seconds that the generated alert looks back; five steps without it.
    alert_share : float
        The share of anomalies in that window that raises the alert.
    """

    name: str
    queries: Mapping[str, str] = field(default_factory=dict)
    preset: str = ""
    selector: str = ""
    by: tuple[str, ...] = ()
    step: Seconds = Seconds(60.0)
    infer_every: Seconds = Seconds(0.0)
    offset: Seconds = Seconds(0.0)
    fit_window: Seconds = Seconds(14 * 86_400.0)
    fit_every: Seconds = Seconds(86_400.0)
    catch_up: Seconds = Seconds(86_400.0)
    model: str = "context"
    season: str = ""
    time_zone: str = "UTC"
    half_lives: tuple[float, ...] = ()
    target_fpr: float = 0.01
    seed: int = 0
    max_rows: int = 200_000
    max_series: int = 100_000
    reasons: int = 3
    alert_window: Seconds = Seconds(0.0)
    alert_share: float = 0.6

    def __post_init__(self) -> None:
        """Check values, and fill in what follows from others."""
        self._fill("infer_every", self.infer_every or self.step)
        self._fill("alert_window", self.alert_window or 5 * self.step)
        if not _MODEL_NAME.fullmatch(self.name):
            raise SettingsError(
                f"'{self.name}' is not a valid name: a letter, then letters, digits, '.', '_' and '-'"
            )
        for name in ("step", "infer_every", "fit_window", "catch_up", "alert_window"):
            _positive(name, getattr(self, name))
        if self.fit_window < 10 * self.step:
            raise SettingsError("fit_window: must be ten steps at least")
        for name in ("max_rows", "max_series", "reasons"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if not 0 < self.alert_share <= 1:
            raise SettingsError(f"alert_share: must be above 0 and at most 1, got {self.alert_share}")
        time_zone(self.time_zone)
        self._fill_in_preset()
        if not self.queries:
            raise SettingsError("queries: at least one is needed, or a preset")
        for label in (*self.queries, *self.by):
            if not _LABEL.fullmatch(label):
                raise SettingsError(
                    f"'{label}' is not a valid name of a column or label: expected letters, digits and '_', "
                    "no digit first"
                )
        self.training  # noqa: B018 - what makes no sense there is an error here

    @property
    def training(self) -> TrainingSettings:
        """The settings of training."""
        return TrainingSettings(
            model=cast("Any", self.model),
            season=cast("Any", self.season or None),
            half_lives=self.half_lives,
            target_fpr=self.target_fpr,
            seed=self.seed,
        )

    def _fill_in_preset(self) -> None:
        if not self.preset:
            if self.selector:
                raise SettingsError("selector: goes with a preset; write it into the queries")
            return
        if self.preset not in PRESETS:
            raise SettingsError(f"preset: unknown '{self.preset}'; known are {', '.join(PRESETS)}")
        preset = PRESETS[self.preset]
        by = self.by or preset.by
        rate = format_duration(max(60.0, _RATE_STEPS * self.step))
        filled = queries_of(preset, by=by, selector=self.selector, rate=rate)
        self._fill("queries", {**filled, **self.queries})
        self._fill("by", by)

    def _fill(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


@dataclass(frozen=True, kw_only=True)
class WatchConfig:
    """The whole file.

    Attributes
    ----------
    directory : Path
        Holds models and states; relative to the file.
    source : Endpoint
        Where queries are answered.
    models : tuple of Model
    exposition : Exposition
    remote_write : Endpoint or None
    """

    directory: Path
    source: Endpoint
    models: tuple[Model, ...]
    exposition: Exposition
    remote_write: Endpoint | None = None


def load_config(path: Path) -> WatchConfig:
    """Read the file.

    Raises
    ------
    SettingsError
        It cannot be read, or a key is unknown, missing or wrong; the key is named.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from error
    try:
        return _config(content, path.parent)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error


def _config(content: dict[str, Any], folder: Path) -> WatchConfig:
    known = ("directory", "source", "models", "exposition", "remote_write")
    for key in content:
        if key not in known:
            raise SettingsError(_unknown(key, known))
    for key in ("source", "models"):
        if not content.get(key):
            raise SettingsError(f"[{key}] is missing")
    directory = content.get("directory", "watch")
    if not isinstance(directory, str):
        raise SettingsError(f"directory: expected text, got {directory!r}")
    models = _table(content["models"], "[models]")
    remote_write = content.get("remote_write")
    config = WatchConfig(
        directory=folder / directory,
        source=_read(Endpoint, content["source"], "[source]", folder),
        models=tuple(
            _read(Model, values, f"[models.{name}]", folder, name=name) for name, values in models.items()
        ),
        exposition=_read(Exposition, content.get("exposition", {}), "[exposition]", folder),
        remote_write=None
        if remote_write is None
        else _read(Endpoint, remote_write, "[remote_write]", folder),
    )
    if not config.exposition.enabled and config.remote_write is None:
        raise SettingsError("neither exposition nor remote_write: scores would go nowhere")
    return config


def _read(kind: type[_T], values: object, where: str, folder: Path, **given: object) -> _T:
    """Make a dataclass of a table; `given` are fields that the table does not have."""
    read = dict(given)
    known = {f.name: f for f in fields(cast("Any", kind)) if f.name not in given}
    hints = typing.get_type_hints(kind, globals() | {"Mapping": typing.Mapping})
    for key, value in _table(values, where).items():
        if key not in known:
            raise SettingsError(f"{where}: {_unknown(key, tuple(known))}")
        read[key] = _value(value, hints[key], f"{where} {key}")
        if key.endswith("_file") and read[key]:
            read[key] = str(folder / str(read[key]))
    for name, setting in known.items():
        if name not in read and _is_required(setting):
            raise SettingsError(f"{where}: {name} is missing")
    try:
        return kind(**read)
    except SettingsError as error:
        raise SettingsError(f"{where} {error}") from error


def _is_required(setting: Field[Any]) -> bool:
    return setting.default is MISSING and setting.default_factory is MISSING


def _value(value: object, hint: Any, where: str) -> object:  # noqa: ANN401  # a type
    if hint is Seconds:
        if type(value) is not str:
            raise SettingsError(f'{where}: expected a duration such as "15s", got {value!r}')
        try:
            return parse_duration(value)
        except SettingsError as error:
            raise SettingsError(f"{where}: {error}") from error
    origin = typing.get_origin(hint)
    if origin is tuple:
        if type(value) is not list:
            raise SettingsError(f"{where}: expected a list, got {value!r}")
        return tuple(_value(item, typing.get_args(hint)[0], where) for item in value)
    if origin is not None and not isinstance(hint, types.UnionType):
        return {name: _value(item, str, f"{where}.{name}") for name, item in _table(value, where).items()}
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise SettingsError(f"{where}: expected {KIND_NAMES[hint]}, got {value!r}")
    return value


def _table(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SettingsError(f"{where}: expected a table, got {value!r}")
    return value


def _unknown(key: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"key '{key}' is unknown; " + (
        f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
    )


def _positive(name: str, value: float) -> None:
    if value <= 0:
        raise SettingsError(f"{name}: must be more than 0")
