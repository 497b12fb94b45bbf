"""`datasentinel watch`: score the series of a Prometheus-compatible server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from datasentinel.atomic_file import overwriting
from datasentinel.cli.writing import require_other_file
from datasentinel.errors import DataError
from datasentinel.serving.logs import configure_logging
from datasentinel.serving.settings import Settings

if TYPE_CHECKING:
    from datasentinel.distributed.prometheus.config import WatchConfig


@click.command()
@click.argument("config", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--once", is_flag=True, help="Train and score what is due, then exit.")
@click.option(
    "--rules-out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write recording and alerting rules for Prometheus, then exit.",
)
@click.option(
    "--dashboard-out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a dashboard for Grafana, then exit.",
)
@click.option(
    "--log-level",
    type=click.Choice(("debug", "info", "warning", "error")),
    default="info",
    show_default=True,
    help="Least severe log line shown.",
)
@click.option("--log-format", type=click.Choice(("text", "json")), default="text", show_default=True)
def command(  # noqa: PLR0917 - click passes them by name
    config: Path,
    once: bool,
    rules_out: Path | None,
    dashboard_out: Path | None,
    log_level: str,
    log_format: str,
) -> None:
    """Train on the series of a Prometheus-compatible server, score them as they come, and publish the scores.

    CONFIG is a TOML file: where the server is, which PromQL queries make up each model, and where scores go.
    Until SIGTERM or Ctrl-C, scores are offered for scraping, sent by remote write, or both. Models and the
    state of each series are kept in the directory that CONFIG names, so that a restart continues where the
    last run stopped.
    """
    from datasentinel.distributed.prometheus.config import load_config

    settings = load_config(config)
    for out in (rules_out, dashboard_out):
        if out is not None:
            require_other_file(out, [config])
    if rules_out is not None or dashboard_out is not None:
        _write(rules_out, dashboard_out, settings)
        return
    configure_logging(Settings(log_level=log_level, log_format=log_format))
    from datasentinel.distributed.prometheus.run import watch

    watch(settings, once=once, on_ready=lambda address: click.echo(f"ready exposition={address}"))


def _write(rules_out: Path | None, dashboard_out: Path | None, config: WatchConfig) -> None:
    from datasentinel.distributed.prometheus.dashboard import write_dashboard
    from datasentinel.distributed.prometheus.rules import write_rules

    for path, write in ((rules_out, write_rules), (dashboard_out, write_dashboard)):
        if path is None:
            continue
        try:
            with overwriting(path) as file:
                file.write(write(config).encode())
        except OSError as error:
            raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error
