"""What commands that serve have in common: options for settings, and the line that says ready."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from datasentinel.cli.standard_streams import give_up_output
from datasentinel.serving.settings import Settings, flag_name, variable_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from dataclasses import Field

_ARGUMENT = "model"


def _option(setting: Field[Any]) -> Callable[[Any], Any]:
    """Make the command-line option of a setting; `load_settings` checks its value."""
    kind: type = type(setting.default)
    flag = flag_name(setting)
    default: object = setting.default
    declaration = flag
    choice: click.Choice[str] | type = kind
    if kind is bool:
        declaration = f"{flag}/--no-{flag.removeprefix('--')}"
        default = "on" if default else "off"
    elif setting.metadata["choices"]:
        choice = click.Choice(setting.metadata["choices"])
    return click.option(
        declaration,
        setting.name,
        type=choice,
        default=None,
        help=f"{setting.metadata['help']}  [default: {default}; env: {variable_name(setting)}]",
    )


def serving_options(names: Iterable[str]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return what adds the argument MODEL, `--config`, and an option for each of these settings."""
    wanted = set(names) - {_ARGUMENT}

    def add(command: Callable[..., None]) -> Callable[..., None]:
        for setting in reversed(fields(Settings)):
            if setting.name in wanted:
                command = _option(setting)(command)
        command = click.option(
            "--config",
            "config_file",
            type=click.Path(path_type=Path, dir_okay=False),
            default=None,
            help="TOML file of settings, one `name = value` a line.  [env: DATASENTINEL_CONFIG]",
        )(command)
        return click.argument(_ARGUMENT, required=False)(command)

    return add


def print_ready(addresses: Mapping[str, object]) -> None:
    """Print the one line that programs wait for; to serve on does not depend on a reader."""
    try:
        click.echo("ready " + " ".join(f"{name}={address}" for name, address in addresses.items()))
    except OSError:
        give_up_output()
