"""What the commands refuse, in a line that says why, before they do any work."""

from __future__ import annotations

import contextlib
import os
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from datasentinel.cli import cli
from datasentinel.cli.reading import ReadingOptions, progress_bar, read_data
from datasentinel.errors import DataSentinelError
from tests.networks import Network, write_artifact

D = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model beside files that suit it, or do not."""
    folder = tmp_path_factory.mktemp("refusals")
    write_artifact(folder / "m", Network.random([D, 3, D]).to_onnx(), input_dim=D, threshold=4.0)
    rows = np.random.default_rng(0).normal(size=(300, D))
    np.save(folder / "rows.npy", rows)
    np.savez(folder / "all.npz", X=rows, y=np.ones(300))
    np.savez(folder / "marked.npz", X=rows, y=np.arange(300) % 10 == 0)
    np.savez(folder / "wide.npz", X=np.ones((20, D + 1)), y=np.arange(20) % 2)
    (folder / "apart.csv").write_text("a,b,c\n" + ",1,2\n2,,1\n" * 150)
    (folder / "token").write_text("secret")
    (folder / "deep").write_text("a = " + "[" * 100_000)
    return folder


def refusal(folder, line):
    """Return what a command line fails with, of wrong usage or of an error of ours."""
    arguments = [part.format(folder) for part in line.split()]
    done = CliRunner().invoke(cli, arguments)
    if isinstance(done.exception, DataSentinelError):
        return str(done.exception)
    assert done.exit_code == 2, done.output
    return done.output


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("produce --dim 4 --token-file {0}/token", "the line protocol has no tokens"),
        ("produce --dim 4 --model-name m", "--model-name is for --protocol http"),
        ("produce --dim 4 --json --replies", "do not go together"),
        ("produce --dim 4 --to nats://h/t", "--to and --results go together"),
        ("produce --dim 4 --to nats://h/t --results nats://h/r --port 9", "a broker's are in its URL"),
        ("produce --to nats://h/t --results nats://h/r --dim 4 --time ts", "--time needs the names of the features"),
        ("produce --dim 4 --to smoke://h/t --results nats://h/r", "unknown scheme 'smoke'"),
        ("produce", "needs one of --dim and --model"),
        ("produce --dim 4 --label x", "need --file"),
        ("produce --dim 4 --file {0}/rows.npy", "for synthetic telemetry, not for --file"),
        ("score {0}/rows.npy --model {0}/m --workers 2", "--address and --workers are for --engine ray"),
        ("score {0}/a.parquet --model {0}/m --engine ray --out {0}/o --day-first", "reads each date alone"),
        ("score {0}/rows.npy --model {0}/m --alarm-budget 0.1", "for models with memory"),
        ("evaluate {0}/m {0}/marked.npz --alarm-budget 0.1", "--alarm-budget is for models with memory"),
        ("evaluate {0}/m {0}/rows.npy", "no label column"),
        ("train {0}/apart.csv --out {0}/new", "no usable rows: 150 for column 'a', 150 for column 'b'"),
        ("evaluate {0}/m {0}/all.npz --normal 0", "all of one kind"),
        ("recalibrate {0}/m {0}/all.npz --normal 0", "no normal rows: all are labelled as anomalies"),
        ("train {0}/rows.npy --out {0}/out --test {0}/rows.npy", "no label column; --test needs one"),
        ("train {0}/rows.npy --out {0}/out --test {0}/wide.npz", "5 feature columns, but the data to train on has 4"),
        ("train {0}/rows.npy --out {0}/out --hidden 8,x", "expected widths such as 64,16, or none"),
        ("train {0}/rows.npy --out {0}/out --model context --max-rows 100", "a random sample of 300 rows has no context"),
        ("bench {0}/m --batches 1,x", "not a list of numbers from 1 to 1000000"),
        ("bench {0}/m --batches 0", "not a list of numbers from 1 to 1000000"),
        ("serve {0}/m --repository-control --workers 2", "repository_control"),
        ("score {0}/none.npy --model {0}/m", "no such file"),
        ("score {0}/rows.npy --model {0}/none", "none: no such directory"),
        ("drift {0}/m {0}/rows.npy", "recalibrate"),
        ("info {0}/m --backend fuse", "'fuse' is not one of"),
        ("health --timeout-s 0", "0.0 is not in the range x>0"),
        ("watch {0}/deep", "deep: not valid TOML"),
        ("serve {0}/m --config {0}/deep", "deep: not valid TOML"),
        ("trian {0}/rows.npy", "No such command 'trian'"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_with_a_reason(folder, line, reason):
    text = " ".join(refusal(folder, line).split())
    assert reason in text
    assert not (folder / "out").exists()


def test_a_terminal_sees_how_far_the_work_is(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with progress_bar("scoring rows.csv") as show:
            show(0.5, rows=1000)
    # A terminal passes on what was written in pieces, and when it has all of it ends with an error.
    shown = b""
    with contextlib.suppress(OSError):
        while piece := os.read(ours, 1 << 16):
            shown += piece
    os.close(ours)
    assert b"scoring rows.csv" in shown


def test_more_rows_left_out_than_used_is_warned_of(tmp_path, capsys):
    path = tmp_path / "data.csv"
    path.write_text("a,b,c\n" + "1,2,3\n2,,1\n,5,1\n2,,1\n" * 25)
    read_data([str(path)], ReadingOptions())
    told = capsys.readouterr().err
    assert "warning     more rows are left out than used, 50 for column 'b', 25 for column 'a': mend" in told
    path.write_text("a,b\n" + "1,2\n,3\n2,2\n" * 25)
    read_data([str(path)], ReadingOptions())
    assert "left out than used" not in capsys.readouterr().err
