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

from datasentinel.artifact import load_artifact
from datasentinel.cli.produce_rows import payloads_for, rows_to_send
from datasentinel.cli.produce_summary import print_summary
from datasentinel.cli.reading import Names
from datasentinel.distributed.brokers.base import BrokerUrl
from datasentinel.producer import (
    PROTOCOLS,
    Credentials,
    FileRows,
    Producer,
    connector,
    new_event_loop,
    read_token,
    stream,
)
from datasentinel.producer.broker_client import BROKER_FAULTS, Topics, broker_connector
from datasentinel.producer.samples import Fault

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasentinel.producer.replies import Connect, Reply
    from datasentinel.producer.samples import Sample

_DEFAULT_PORTS = {"tcp": 9000, "grpc": 9001, "http": 9002}


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
    help="Where samples that cannot be scored come back.  [default: the topic of --results with .dead]",
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
@click.option("--label", help="Label column of --file, by name or number.  [default: inferred]")
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
    of --file, once or repeatedly up to --count. Where labels are known, the decisions are compared with
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
    rows = rows_to_send(
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
        faults, connect = BROKER_FAULTS, broker_connector(topics, payloads_for(rows, config, time))
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
        print_summary(summary, rows)
    if summary.failure:
        _note(f"error: {summary.failure}")
    if stopped_by is not None:
        sys.exit(128 + stopped_by)
    sys.exit(0 if summary.ok else 1)
