"""`datasentinel produce`: send samples to a server and sum up its replies."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from datasentinel.artifact import load_artifact
from datasentinel.cli.reading import Names, ReadingOptions
from datasentinel.distributed.brokers.base import BrokerUrl
from datasentinel.producer import (
    PROTOCOLS,
    Credentials,
    FileRows,
    Fleet,
    Producer,
    Summary,
    Telemetry,
    connector,
    new_event_loop,
    read_token,
    stream,
)
from datasentinel.producer.broker_client import BROKER_FAULTS, Payloads, Topics, broker_connector
from datasentinel.producer.samples import Fault

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasentinel.artifact import Config
    from datasentinel.producer.replies import Connect, Reply
    from datasentinel.producer.samples import Sample

_DEFAULT_PORTS = {"tcp": 9000, "grpc": 9001, "http": 9002}


def _rows(
    *,
    count: int | None,
    file: Path | None,
    label: str | None,
    normal: tuple[str, ...],
    config: Config | None,
    dim: int | None,
    anomaly_share: float | None,
    seed: int,
    id_column: str | None,
    time_column: str | None,
    streams: int | None,
) -> FileRows | Fleet | Telemetry:
    if file is None:
        if label is not None or normal or id_column is not None or time_column is not None:
            raise click.UsageError("--label, --normal, --id and --time need --file.")
        if (dim is None) == (config is None):
            raise click.UsageError(
                "Synthetic telemetry needs one of --dim and --model; rows come from --file."
            )
        width = config.input_dim if config is not None else dim
        assert width is not None  # noqa: S101
        share = 0.05 if anomaly_share is None else anomaly_share
        if streams is not None:
            return Fleet(streams, width, anomaly_share=share, seed=seed)
        return Telemetry(width, anomaly_share=share, seed=seed)
    if dim is not None or anomaly_share is not None or streams is not None:
        raise click.UsageError(
            "--dim, --anomaly-share and --streams are for synthetic telemetry, not for --file."
        )
    from datasentinel.tables import open_table

    roles = ReadingOptions(label=label, normal=normal, id=id_column, time=time_column).roles(config)
    table = open_table(file, roles=roles)
    if time_column is not None and config is not None and config.time_zone is not None:
        table.add_calendar(config.time_zone)
    return FileRows(table, repeat=count is not None, with_times=time_column is not None)


def _payloads(rows: FileRows | Fleet | Telemetry, config: Config | None, time: str | None) -> Payloads:
    """Return how samples are written for a broker: by name where there are names."""
    names = config.table_features if config is not None else ()
    if isinstance(rows, FileRows) and not names:
        names = rows.names
    if time is None and config is not None and isinstance(told := config.columns.get("time"), str):
        time = told
    if time is not None and not names:
        raise click.UsageError("--time needs the names of the features: say --model or --file.")
    return Payloads(names, time)


def _note(text: str) -> None:
    click.echo(text, err=True)


def _print_reply(sample: Sample, reply: Reply) -> None:
    score = "" if reply.score is None else f" {reply.score:.6g}"
    reason = f": {reply.message}" if reply.message else ""
    click.echo(f"{sample.index} {reply.status}{reason or score}")


async def _run(producer: Producer) -> int | None:
    """Run the producer; return the number of the signal that stopped it, if one did."""
    received: list[int] = []

    def stop(number: int) -> None:
        received.append(number)
        producer.stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    await producer.run()
    return received[0] if received else None


def _percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2%}"


def _print(summary: Summary, rows: FileRows | Fleet | Telemetry) -> None:
    facts = summary.as_dict()
    table = Table(show_header=False, title="Summary", title_justify="left")
    resent = f", {facts['resent']:,} sent again" if facts["resent"] else ""
    table.add_row("samples", f"{facts['sent']:,} sent, {facts['answered']:,} answered{resent}")
    table.add_row("replies", ", ".join(f"{name} {count:,}" for name, count in facts["replies"].items()))
    invalid = facts["invalid"]
    table.add_row("invalid", f"{invalid['refused']:,} refused, {invalid['not_refused']:,} not refused")
    for reason, count in facts["valid_refused"]["reasons"].items():
        table.add_row("valid refused", escape(f"{count:,} times: {reason}"))
    if facts["unanswered"]:
        table.add_row("unanswered", f"{facts['unanswered']:,}")
    if facts["reconnects"]:
        table.add_row("reconnects", f"{facts['reconnects']:,}")
    if isinstance(rows, FileRows) and rows.skipped:
        table.add_row("bad rows skipped", escape(f"{rows.skipped:,}; the first: {rows.first_problem}"))
    agreement = facts["agreement"]
    if agreement:
        ratios = ", ".join(
            f"{name} {_percent(agreement[name])}" for name in ("accuracy", "precision", "recall")
        )
        table.add_row("agreement", f"{ratios} on {agreement['labelled']:,} labelled samples")
    for row, key in (("latency", "latency_us"), ("before sending", "send_delay_us")):
        if facts[key]:
            table.add_row(row, ", ".join(f"{name} {value:,.0f} µs" for name, value in facts[key].items()))
    table.add_row("throughput", f"{facts['throughput_per_s']:,.0f} replies/s over {facts['elapsed_s']:.2f} s")
    Console().print(table)


@click.command()
@click.option(
    "--protocol",
    type=click.Choice(list(PROTOCOLS)),
    default="tcp",
    show_default=True,
    envvar="DATASENTINEL_PROTOCOL",
    show_envvar=True,
    help="Protocol to use.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    envvar="ENGINE_HOST",
    show_envvar=True,
    help="Where the server listens.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    envvar="ENGINE_PORT",
    show_envvar=True,
    help="Its port.  [default: 9000 for tcp, 9001 for grpc, 9002 for http]",
)
@click.option(
    "--to",
    metavar="URL",
    envvar="DATASENTINEL_PRODUCE_TO",
    show_envvar=True,
    help="Publish to a message broker instead: the --from of `datasentinel stream`.",
)
@click.option(
    "--results",
    metavar="URL",
    envvar="DATASENTINEL_PRODUCE_RESULTS",
    show_envvar=True,
    help="Where results come from: its --to.",
)
@click.option(
    "--dead-letters",
    metavar="URL",
    envvar="DATASENTINEL_PRODUCE_DEAD_LETTERS",
    show_envvar=True,
    help="Where samples come back that cannot be scored.  [default: the topic of --results with .dead]",
)
@click.option(
    "--group",
    default=Topics.group,
    show_default=True,
    help="Name of the reader of results; concurrent readers need a name each.",
)
@click.option(
    "--tls-ca",
    type=click.Path(path_type=Path),
    help="Use TLS; PEM file of the authorities that sign the server's certificate.",
)
@click.option(
    "--tls-certificate",
    type=click.Path(path_type=Path),
    help="PEM file of the certificate to show to the server.",
)
@click.option(
    "--tls-key",
    type=click.Path(path_type=Path),
    help="PEM file of its key.  [default: in the certificate's file]",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help="File whose first line is the bearer token to show to the server, over gRPC or HTTP.",
)
@click.option(
    "--file",
    type=click.Path(path_type=Path),
    help="Send the rows of this CSV, Parquet or NumPy file instead of synthetic telemetry.",
)
@click.option("--label", help="Label column of --file, by name or number.  [default: find out]")
@click.option(
    "--normal", type=Names(), default="", metavar="VALUE,..", help="The label's values that mean normal."
)
@click.option(
    "--id", "id_column", help="Column of --file that says which stream a row belongs to, and is sent along."
)
@click.option(
    "--time",
    help="Column of --file that says when a row was taken, and is sent along. For a broker, the name of the "
    "time of sending.  [default there: as in the training of --model]",
)
@click.option(
    "--streams",
    type=click.IntRange(1),
    help="Send synthetic telemetry of this many streams in turn, with their ids.",
)
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    help="Artifact folder: take the number of values, and the columns of --file, from it.",
)
@click.option("--model-name", default="", help="Over HTTP, the model to ask.  [default: the only one]")
@click.option("--dim", type=click.IntRange(1), help="Number of values in a synthetic sample.")
@click.option(
    "--anomaly-share",
    type=click.FloatRange(0, 1),
    help="Share of anomalies in synthetic telemetry.  [default: 0.05]",
)
@click.option(
    "--invalid-every",
    type=click.IntRange(0),
    default=10,
    show_default=True,
    help="Insert an invalid sample (wrong count, not a number, nan) as every n-th; 0: none.",
)
@click.option(
    "--count",
    type=click.IntRange(1),
    help="Stop after this many samples, invalid ones included; --file is repeated as needed.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything random in samples.")
@click.option(
    "--rate",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="Samples per second; 0 is as fast as possible. Latency then counts from the intended start.",
)
@click.option(
    "--window",
    type=click.IntRange(1),
    default=32,
    show_default=True,
    help="Maximum number of samples in flight.",
)
@click.option(
    "--give-up-s",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    help="Give up after this long without a server; retry until then.",
)
@click.option(
    "--reply-timeout-s",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    help="Reconnect when a reply is this long overdue.",
)
@click.option("--replies", is_flag=True, help="Print every reply too.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def command(
    *,
    protocol: str,
    host: str,
    port: int | None,
    to: str | None,
    results: str | None,
    dead_letters: str | None,
    group: str,
    time: str | None,
    tls_ca: Path | None,
    tls_certificate: Path | None,
    tls_key: Path | None,
    token_file: Path | None,
    file: Path | None,
    label: str | None,
    normal: tuple[str, ...],
    model: Path | None,
    model_name: str,
    dim: int | None,
    anomaly_share: float | None,
    id_column: str | None,
    streams: int | None,
    invalid_every: int,
    count: int | None,
    seed: int,
    rate: float,
    window: int,
    give_up_s: float,
    reply_timeout_s: float,
    replies: bool,
    as_json: bool,
) -> None:
    """Send samples to a server, or through a message broker, at a chosen rate and sum up the replies.

    Samples are synthetic telemetry (say --dim or --model), without end unless --count is given, or the rows
    of --file, once or over and over up to --count. Where labels are known, the decisions are compared with
    them; those of synthetic telemetry mean something only to a model trained on such data.

    With --to, samples are JSON (objects where --model or --file names the features, otherwise arrays) with an
    id, keyed by their stream; a reply is the result or the dead letter with that id.

    When the server goes away, produce reconnects and sends again what was not answered: the server gets every
    sample at least once. The exit code is 1 if replies were lost, an invalid sample was not refused or a
    valid one was; 130 after Ctrl-C.
    """
    if replies and as_json:
        raise click.UsageError("--replies and --json do not go together.")
    if token_file is not None and protocol == "tcp":
        raise click.UsageError("--token-file is for gRPC and HTTP; the line protocol has no tokens.")
    if model_name and protocol != "http":
        raise click.UsageError("--model-name is for --protocol http; the others ask the default model.")
    if to is not None and (port or tls_ca or tls_certificate or tls_key or token_file):
        raise click.UsageError("--port, --tls-* and --token-file are for servers; a broker's are in its URL.")
    if (to is None) != (results is None):
        raise click.UsageError("--to and --results go together.")
    config = load_artifact(model).config if model is not None else None
    rows = _rows(
        count=count,
        file=file,
        label=label,
        normal=normal,
        config=config,
        dim=dim,
        anomaly_share=anomaly_share,
        seed=seed,
        id_column=id_column,
        time_column=time if to is None else None,
        streams=streams,
    )
    connect: Connect
    faults: Sequence[Fault]
    if to is not None and results is not None:
        read = BrokerUrl.parse(results)
        dead = read.dead_letters if dead_letters is None else BrokerUrl.parse(dead_letters)
        topics = Topics(BrokerUrl.parse(to), read, dead, group)
        faults, connect = BROKER_FAULTS, broker_connector(topics, _payloads(rows, config, time))
    else:
        credentials = Credentials(
            ca=tls_ca,
            certificate=tls_certificate,
            key=tls_key,
            token=read_token(token_file) if token_file is not None else "",
        )
        faults = PROTOCOLS[protocol]
        connect = connector(protocol, host, port or _DEFAULT_PORTS[protocol], credentials, model=model_name)
    if config is not None and config.first_values:
        faults = tuple(fault for fault in faults if fault is not Fault.NAN)  # It is scored.
    samples = stream(rows, invalid_every=invalid_every, faults=faults, seed=seed)
    producer = Producer(
        itertools.islice(samples, count),
        connect,
        rate=rate,
        window=window,
        give_up_s=give_up_s,
        reply_timeout_s=reply_timeout_s,
        on_reply=_print_reply if replies else None,
        on_note=_note,
    )
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        stopped_by = runner.run(_run(producer))
    summary = producer.summary
    if as_json:
        skipped = rows.skipped if isinstance(rows, FileRows) else 0
        click.echo(json.dumps(summary.as_dict() | {"bad_rows_skipped": skipped}, indent=2))
    else:
        _print(summary, rows)
    if summary.failure:
        _note(f"error: {summary.failure}")
    if stopped_by is not None:
        sys.exit(128 + stopped_by)
    sys.exit(0 if summary.ok else 1)
