"""`datasentinel health`: ask the server on this machine whether it is ready."""

from __future__ import annotations

import ssl
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import TYPE_CHECKING

import click

from datasentinel.errors import ServerError, SettingsError
from datasentinel.serving.setting_sources import load_settings

if TYPE_CHECKING:
    from datasentinel.serving.settings import Settings

_READY_PATH = "/v2/health/ready"
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # what to dial where a server listens on all


def _connection(settings: Settings, timeout_s: float) -> HTTPConnection:
    host = _LOOPBACK.get(settings.host, settings.host)
    if not settings.tls_certificate:
        return HTTPConnection(host, settings.http_port, timeout=timeout_s)
    # The certificate names the machine as others see it, and nothing secret is sent: it is not checked.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if settings.tls_client_ca:
        try:
            context.load_cert_chain(settings.tls_certificate, settings.tls_key or None, password="")
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"tls_certificate, tls_key: cannot be shown to the server: {error}"
            ) from error
    return HTTPSConnection(host, settings.http_port, timeout=timeout_s, context=context)


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
    help="How long to wait for the answer.",
)
def command(*, config_file: Path | None, timeout_s: float) -> None:
    """Ask the server on this machine whether it is ready: exit code 0 if it is, 1 if not.

    Its address comes from the same environment variables and file as that of `datasentinel serve`. A server
    that requires client certificates is shown its own.
    """
    settings = load_settings(config_file=config_file)
    if not settings.http:
        raise ServerError("http is off, so the server cannot be asked")
    connection = _connection(settings, timeout_s)
    where = f"{connection.host}:{connection.port}"
    try:
        connection.request("GET", _READY_PATH)
        response = connection.getresponse()
        body = response.read()
    except (OSError, HTTPException) as error:
        raise ServerError(f"{where}: no answer: {error}") from error
    finally:
        connection.close()
    if response.status != 200:
        raise ServerError(f"{where}: {body.decode('utf-8', 'replace').strip()}")
    click.echo("ready")
