"""`datasentinel demo`: the main job from end to end, on real data that ships inside scikit-learn."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from datasentinel.errors import MissingDependencyError, ServerError

if TYPE_CHECKING:
    from collections.abc import Iterator

_STOP_TIMEOUT_S = 30
_HELD_OUT_SHARE = 0.5


def _write_data(folder: Path, seed: int) -> tuple[Path, Path]:
    """Write the Wisconsin breast-cancer set as CSV: a file to train on and one to stream.

    Benign tumours (label 0) are the normal rows. Half of them train the detector; the other half and every
    malignant one are streamed in random order.
    """
    try:
        from sklearn.datasets import load_breast_cancer
    except ImportError as error:
        raise MissingDependencyError(
            "the demo trains a model; run `pip install 'datasentinel[cpu,train]'` first"
        ) from error
    data = load_breast_cancer()
    labels = (data.target_names[data.target] == "malignant").astype(int)
    rng = np.random.default_rng(seed)
    benign = rng.permutation(np.flatnonzero(labels == 0))
    kept = int(len(benign) * _HELD_OUT_SHARE)
    streamed = rng.permutation(np.concatenate([benign[kept:], np.flatnonzero(labels == 1)]))
    header = ",".join([*(str(name).replace(" ", "_") for name in data.feature_names), "label"])
    paths = folder / "breast-cancer-train.csv", folder / "breast-cancer-stream.csv"
    for path, rows in zip(paths, (benign[:kept], streamed), strict=True):
        table = np.column_stack([data.data[rows], labels[rows]])
        np.savetxt(path, table, delimiter=",", header=header, comments="", fmt="%.9g")
    return paths


def _command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "datasentinel", *map(str, arguments)]


def _show(title: str) -> None:
    click.secho(f"\n== {title}", bold=True)


def _run(*arguments: str | Path) -> None:
    """Run a sub-command as a user would, showing it and what it prints."""
    click.secho("$ datasentinel " + " ".join(map(str, arguments)), dim=True)
    sys.stdout.flush()
    finished = subprocess.run(_command(*arguments), check=False)
    if finished.returncode != 0:
        raise click.ClickException(f"`datasentinel {arguments[0]}` ended with code {finished.returncode}")


@contextlib.contextmanager
def _server(model: Path) -> Iterator[dict[str, str]]:
    """Run a server on free ports; yields each transport's port."""
    arguments = ("serve", model, "--tcp-port", "0", "--grpc-port", "0", "--http-port", "0")
    click.secho("$ datasentinel " + " ".join(map(str, arguments)), dim=True)
    with subprocess.Popen(_command(*arguments), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None  # noqa: S101
            ready = process.stdout.readline().strip()
            if not ready.startswith("ready "):
                raise ServerError("the server did not start; its log is above")
            click.echo(ready)
            yield dict(re.findall(r"(\w+)=\S+:(\d+)", ready))
            process.send_signal(signal.SIGTERM)
            code = process.wait(_STOP_TIMEOUT_S)
            if code != 0:
                raise ServerError(f"the server ended with code {code}")
            click.echo("the server has stopped cleanly")
        finally:
            process.kill()


@click.command()
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep data, model and report here.  [default: a temporary folder]",
)
@click.option(
    "--count", type=click.IntRange(1), default=2000, show_default=True, help="Samples per protocol."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def command(directory: Path | None, count: int, seed: int) -> None:
    """Train on real data, serve the model, and send it samples over TCP and gRPC.

    The data is scikit-learn's Wisconsin breast-cancer set: 30 measurements a row, benign as normal.
    """
    with contextlib.ExitStack() as stack:
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="datasentinel-demo-")))
        directory.mkdir(parents=True, exist_ok=True)
        train_file, stream_file = _write_data(directory, seed)
        model = directory / "model"

        _show("Train on benign tumours, judge on the rest")
        # A missed tumour costs more than a second look, and 178 rows hold too few to promise 1 % well.
        options = ("--target-fpr", "0.1", "--seed", str(seed), "--report", directory / "report")
        _run("train", train_file, "--test", stream_file, "--out", model, *options)
        _show("What was made")
        _run("info", model)
        _show("Serve it and send samples, every tenth one invalid on purpose")
        with _server(model) as ports:
            for protocol in ("tcp", "grpc"):
                # One sample in flight: the latency shown is a round trip's, not a queue's.
                samples = ("--file", stream_file, "--count", str(count), "--seed", str(seed), "--window", "1")
                _run("produce", "--protocol", protocol, "--port", ports[protocol], *samples)
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
        _show(f"Done: '{config['name']}' judged {count} samples over each protocol")
