"""The `datasentinel` command. Each sub-command is one module, imported when it is used."""

from __future__ import annotations

import contextlib
import importlib
import io
import sys

import click

from datasentinel.cli.standard_streams import give_up_output, open_missing
from datasentinel.errors import DataSentinelError

# Exit codes: 0 success, 1 the command failed, 2 wrong usage (click), 130 interrupted.
EXIT_FAILURE = 1

_COMMANDS: dict[str, str] = {
    "train": "Train a detector on a CSV, Parquet or NumPy file.",
    "export": "Write a trained model in a lower precision.",
    "score": "Score the rows of a file and write scores and decisions.",
    "serve": "Serve a model over TCP, gRPC and HTTP.",
    "stream": "Score the messages of a broker and publish the results.",
    "watch": "Score the series of a Prometheus-compatible server.",
    "health": "Ask the server on this machine whether it is ready.",
    "evaluate": "Evaluate a model on labelled data, in tables and an HTML report.",
    "recalibrate": "Move a model's threshold without retraining.",
    "drift": "Report whether data has moved away from what a model was calibrated on.",
    "import": "Make a model artifact from an ONNX graph made elsewhere.",
    "produce": "Send samples to a server and summarise its replies.",
    "build-engine": "Build a model's TensorRT engine ahead of time.",
    "bench": "Measure a model on this machine, or compare two results.",
    "info": "Show versions, backends and, given a model, what it is.",
    "demo": "Train, serve and produce on real data, in one go.",
}

# Where the module cannot have the command's name.
_MODULES = {"import": "import_model", "build-engine": "build_engine"}


class _LazyGroup(click.Group):
    """A group that imports a sub-command's module only when that command runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Name the sub-commands in the order of the work."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import the command's module and return its `command`."""
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"datasentinel.cli.{_MODULES.get(cmd_name, cmd_name)}")
        command = module.command
        assert isinstance(command, click.Command)  # noqa: S101
        command.name = cmd_name
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the sub-commands without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(
    cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(package_name="datasentinel")
def cli() -> None:
    """Anomaly detection on live numeric data: train, export, serve and score."""


def main() -> None:
    """Run the command line; turn errors raised on purpose into one line and exit code 1."""
    open_missing()
    for stream in (sys.stdout, sys.stderr):
        # A terminal that lacks a character shows another one.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        cli.main(prog_name="datasentinel", standalone_mode=True)
    except (DataSentinelError, OSError) as error:
        try:
            sys.stdout.flush()
        except OSError:  # as on a disk that is full
            give_up_output()
        with contextlib.suppress(OSError):
            click.echo(f"error: {error}", err=True)
        sys.exit(EXIT_FAILURE)
