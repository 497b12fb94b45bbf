"""`datasentinel serve`: serve a model over TCP, gRPC and HTTP."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import click

from datasentinel.cli.serving_options import print_ready, serving_options
from datasentinel.serving.run import run
from datasentinel.serving.setting_sources import load_settings
from datasentinel.serving.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@serving_options(setting.name for setting in fields(Settings))
def command(config_file: Path | None, **flags: object) -> None:
    """Serve MODEL, an artifact folder (default: models), until SIGTERM or Ctrl-C.

    Once every port listens, a line such as `ready tcp=127.0.0.1:9000 grpc=127.0.0.1:9001 http=127.0.0.1:9002`
    is printed; log lines go to standard error. Flags take precedence over environment variables, and
    those over the configuration file.
    """
    run(load_settings(flags, config_file=config_file), print_ready)
