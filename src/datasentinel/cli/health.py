"""`datasentinel health`: ask the server on this machine whether it is ready."""

from __future__ import annotations

from http.client import HTTPConnection, HTTPException
from pathlib import Path

import click

from datasentinel.errors import ServerError
from datasentinel.settings import load_settings

_READY_PATH = "/v2/health/ready"
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # what to dial where a server listens on all


@click.command()
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The server's TOML file of settings.  [env: DATASENTINEL_CONFIG]",
)
@click.option(
    "--timeout-s",
    type=click.FloatRange(0, min_open=True),
    default=3.0,
    show_default=True,
    help="Wait so long.",
)
def command(*, config_file: Path | None, timeout_s: float) -> None:
    """Ask the server on this machine whether it is ready: exit code 0 if it is, 1 if not.

    Its address comes from the same environment variables and file as that of `datasentinel serve`.
    """
    settings = load_settings(config_file=config_file)
    if not settings.http:
        raise ServerError("http is off, so the server cannot be asked")
    host = _LOOPBACK.get(settings.host, settings.host)
    connection = HTTPConnection(host, settings.http_port, timeout=timeout_s)
    try:
        connection.request("GET", _READY_PATH)
        response = connection.getresponse()
        body = response.read()
    except (OSError, HTTPException) as error:
        raise ServerError(f"{host}:{settings.http_port}: no answer: {error}") from error
    finally:
        connection.close()
    if response.status != 200:
        raise ServerError(f"{host}:{settings.http_port}: {body.decode('utf-8', 'replace').strip()}")
    click.echo("ready")
