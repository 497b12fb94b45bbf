"""`datasentinel serve`: serve a model over TCP, gRPC and HTTP."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from datasentinel.cli.standard_streams import give_up_output
from datasentinel.serving.run import run
from datasentinel.serving.setting_sources import load_settings
from datasentinel.serving.settings import Settings, flag_name, variable_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import Field

    from datasentinel.serving.connections.addresses import Address

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


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    for setting in reversed(fields(Settings)):
        if setting.name != _ARGUMENT:
            command = _option(setting)(command)
    return command


def _print_ready(addresses: dict[str, Address]) -> None:
    """Print the one line that programs wait for; to serve on does not depend on a reader."""
    try:
        click.echo("ready " + " ".join(f"{name}={address}" for name, address in addresses.items()))
    except OSError:
        give_up_output()


@click.command()
@click.argument(_ARGUMENT, required=False)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="TOML file of settings, one `name = value` a line.  [env: DATASENTINEL_CONFIG]",
)
@_with_options
def command(config_file: Path | None, **flags: object) -> None:
    """Serve MODEL, an artifact folder (default: models), until SIGTERM or Ctrl-C.

    Once every port listens, a line such as `ready tcp=127.0.0.1:9000 grpc=127.0.0.1:9001 http=127.0.0.1:9002`
    is printed; log lines go to standard error. A flag wins over its environment variable, that over the
    configuration file, that over the default.
    """
    run(load_settings(flags, config_file=config_file), _print_ready)
