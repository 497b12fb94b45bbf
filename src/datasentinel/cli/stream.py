"""`datasentinel stream`: score the messages of a broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from datasentinel.cli.reading import Names
from datasentinel.cli.serving_options import print_ready, serving_options
from datasentinel.distributed.brokers.base import BrokerUrl
from datasentinel.distributed.stream.consumer import Consumer, StreamOptions
from datasentinel.distributed.stream.payloads import FORMATS, PayloadOptions
from datasentinel.serving.run import run
from datasentinel.serving.setting_sources import load_settings

if TYPE_CHECKING:
    from pathlib import Path

# The server's settings that matter here: what is loaded, and the port of health, metrics and the page.
_SETTINGS = (
    *("default_model", "watch", "watch_interval_s", "load_timeout_s", "backend", "plan_budget_s"),
    *("num_threads", "precision", "engine_optimization_level", "engine_workspace_mib", "engine_max_rows"),
    *("engine_io_binding", "host", "http", "http_port", "admin_port", "page", "tls_certificate", "tls_key"),
    *("tls_client_ca", "token_file", "metrics_need_token", "max_streams", "stream_memory_mib"),
    *("stream_snapshot", "stream_snapshot_interval_s", "drain_timeout_s", "log_level", "log_format"),
)


@click.command()
@serving_options(_SETTINGS)
@click.option(
    "--from",
    "source",
    required=True,
    metavar="URL",
    envvar="DATASENTINEL_STREAM_FROM",
    show_envvar=True,
    help="Where samples come from: scheme://user:password@host:port/topic?option=value.",
)
@click.option(
    "--to",
    "sink",
    required=True,
    metavar="URL",
    envvar="DATASENTINEL_STREAM_TO",
    show_envvar=True,
    help="Where results go, perhaps another broker.",
)
@click.option(
    "--dead-letters",
    metavar="URL",
    envvar="DATASENTINEL_STREAM_DEAD_LETTERS",
    show_envvar=True,
    help="Where to send messages that cannot be scored, with the reason.  [default: --to's topic with .dead]",
)
@click.option(
    "--group",
    default="datasentinel",
    show_default=True,
    help="Name of the consumer group, whose members share the messages.",
)
@click.option(
    "--max-batch",
    type=click.IntRange(1, 1 << 16),
    default=1024,
    show_default=True,
    help="Largest number of messages scored at once; no message waits for a batch to fill.",
)
@click.option(
    "--max-batch-mib",
    type=click.FloatRange(min=0, min_open=True),
    default=64.0,
    show_default=True,
    help="Approximate size of the messages taken at once, in MiB.",
)
@click.option(
    "--max-deliveries",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="Deliveries without an answer after which a message becomes a dead letter; 0: no limit.",
)
@click.option(
    "--format",
    "payload_format",
    type=click.Choice(FORMATS),
    default="auto",
    show_default=True,
    help="Format of the payloads; auto recognises JSON, CSV and Arrow IPC by their first bytes.",
)
@click.option(
    "--columns",
    type=Names(),
    default="",
    help="Names of the values of a CSV line, a JSON array or a raw row, in order.  [default: the features]",
)
@click.option("--time", help="Column that says when a row was taken.  [default: as in training]")
@click.option(
    "--id", "id_column", help="Column that says which series a row belongs to.  [default: the message's key]"
)
@click.option(
    "--explain",
    "num_reasons",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Report the N features that contributed most to each score.",
)
def command(  # noqa: PLR0917 - click passes them by name
    config_file: Path | None,
    source: str,
    sink: str,
    dead_letters: str | None,
    group: str,
    max_batch: int,
    max_batch_mib: float,
    max_deliveries: int,
    payload_format: str,
    columns: tuple[str, ...],
    time: str | None,
    id_column: str | None,
    num_reasons: int,
    **flags: object,
) -> None:
    """Score the messages of a broker with MODEL, an artifact folder (default: models), until SIGTERM.

    A result is a JSON object with an id, the message's position and key, time, score, threshold, anomaly and
    p-value. A message is acknowledged only when its result is confirmed: each is answered at least once, and
    a repeat has the same id. Health, metrics and a page are served over HTTP as `datasentinel serve` does.
    """
    to = BrokerUrl.parse(sink)
    options = StreamOptions(
        BrokerUrl.parse(source),
        to,
        to.dead_letters if dead_letters is None else BrokerUrl.parse(dead_letters),
        group,
        max_batch,
        num_reasons,
        PayloadOptions(payload_format, columns, time, id_column),
        int(max_batch_mib * (1 << 20)),
        max_deliveries,
    )
    settings = load_settings({**flags, "tcp": False, "grpc": False}, config_file=config_file)
    run(settings, print_ready, lambda plane, metrics: Consumer(plane, metrics, options))
