"""What commands write: never over what they read, and whole or not at all."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import threading

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from datasentinel.atomic_file import overwriting
from datasentinel.cli import cli
from datasentinel.errors import DataError
from datasentinel.page import write_page
from tests.networks import Network, write_artifact

D = 4
ROWS = "f0,f1,f2,f3\n" + "1,2,3,4\n" * 50


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model, data and links to it, as the current folder."""
    write_artifact(tmp_path / "m", Network.random([D, 3, D]).to_onnx(), input_dim=D, threshold=4.0)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/rows.csv").write_text(ROWS)
    (tmp_path / "data/more.csv").write_text(ROWS)
    (tmp_path / "soft.csv").symlink_to("data/rows.csv")
    (tmp_path / "hard.csv").hardlink_to(tmp_path / "data/rows.csv")
    (tmp_path / "round.csv").symlink_to("soft.csv")
    (tmp_path / "labelled.csv").write_text("f0,f1,f2,f3,label\n" + "1,2,3,4,0\n" * 20 + "9,9,9,9,1\n" * 5)
    (tmp_path / "old.csv").write_text("from an earlier run\n")
    (tmp_path / "words.csv").write_text("f0,f1,f2,f3\n" + "v,w,x,y\n" * 5)
    (tmp_path / "report").mkdir()
    for name in ("scores.png", "report.html", "model.onnx"):
        (tmp_path / "report" / name).write_text(ROWS)
    (tmp_path / "charts").mkdir()
    (tmp_path / "charts/test-latency.png").hardlink_to(tmp_path / "m/model.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    "line",
    [
        "score data/rows.csv --model m --out data/rows.csv",
        "score data/rows.csv --model m --out ./data/../data/rows.csv",
        "score data/rows.csv --model m --out soft.csv",
        "score round.csv --model m --out data/rows.csv",
        "score data/rows.csv --model m --out hard.csv",
        "score data/more.csv data/rows.csv --model m --out data/rows.csv",
        "score data --model m --out data/rows.csv",
        "score data/*.csv --model m --out soft.csv",
        "score data/rows.csv --model m --out m/model.onnx",
        "evaluate m labelled.csv --report labelled.csv",
        "evaluate m labelled.csv --report m/config.json",
        "export m --out m --precision fp32",
        "import m/model.onnx --calibrate data/rows.csv --out m",
        "train report/scores.png --out new --report report",
        "train labelled.csv --test report/report.html --out new --report report",
        "train report --out new --report report",
        "train report/model.onnx --out report",
        "bench m --json m/config.json",
        "bench m --charts charts",
    ],
)
def test_no_input_is_written_over(folder, line):
    before = contents(folder)
    done = CliRunner().invoke(cli, line.split())
    assert isinstance(done.exception, DataError), done.output
    assert "name another file for the output" in str(done.exception)
    assert contents(folder) == before


@pytest.mark.parametrize("redirected", ["- --out {0} < {0}", "{0} >> {0}", "{0} --out /dev/stdout >> {0}"])
def test_nor_by_the_shells_redirections(folder, redirected):
    data = folder / "data/rows.csv"
    command = f"{sys.executable} -m datasentinel score --model m {redirected.format(data)}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "name another file for the output" in done.stderr
    assert data.read_text() == ROWS


@pytest.mark.parametrize("out", ["old.csv", "old.jsonl", "old.parquet"])
def test_a_run_that_fails_leaves_an_older_output_as_it_was(folder, out):
    (folder / "old.csv").replace(folder / out)
    before = contents(folder)
    for data in ("words.csv", "absent.csv"):
        done = CliRunner().invoke(cli, ["score", data, "--model", "m", "--out", out])
        assert isinstance(done.exception, DataError)
    assert contents(folder) == before


def test_an_output_is_replaced_behind_its_link_with_its_permissions(folder):
    (folder / "old.csv").chmod(0o640)
    (folder / "link.csv").symlink_to("old.csv")
    done = CliRunner().invoke(cli, ["score", "data/rows.csv", "--model", "m", "--out", "link.csv"])
    assert done.exit_code == 0, done.output
    assert (folder / "link.csv").is_symlink()
    assert (folder / "old.csv").read_text().count("\n") == 51
    assert (folder / "old.csv").stat().st_mode & 0o777 == 0o640


def test_pipes_and_devices_are_written_at_once(folder):
    os.mkfifo(folder / "pipe.csv")
    read = []
    reader = threading.Thread(target=lambda: read.append((folder / "pipe.csv").read_text()), daemon=True)
    reader.start()
    for out in ("pipe.csv", "/dev/null"):
        done = CliRunner().invoke(cli, ["score", "data/rows.csv", "--model", "m", "--out", out])
        assert done.exit_code == 0, done.output
    reader.join(timeout=60)
    assert read[0].count("\n") == 51
    command = f"{sys.executable} -m datasentinel score data/rows.csv --model m --out /dev/stdout"
    for shell in (f"{command} | cat", f"{command} > all.txt; cat all.txt"):
        done = subprocess.run(shell, shell=True, capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout.startswith("row,score,anomaly")
        assert done.stdout.count("\n") >= 51


def test_what_breaks_off_is_not_there(tmp_path):
    def break_off():
        with overwriting(tmp_path / "new.csv") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert not list(tmp_path.iterdir())


def shell(line):
    return subprocess.run(
        line.replace("datasentinel", f"{sys.executable} -m datasentinel"),
        shell=True,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("line", ["info m", "score data/rows.csv --model m"])
def test_an_output_that_cannot_be_written_is_an_error_in_a_line(folder, line):
    done = shell(f"datasentinel {line} > /dev/full")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_reader_that_has_seen_enough_is_no_error(folder):
    (folder / "long.csv").write_text("f0,f1,f2,f3\n" + "1,2,3,4\n" * 50_000)
    done = shell("datasentinel score long.csv --model m | head -1")
    assert (done.stdout, done.stderr) == ("row,score,anomaly,error,severity\n", "")


def test_halves_of_characters_are_handed_through_as_escapes(folder):
    rows = [{"f0": 1, "f1": 2, "f2": 3, "f3": 4, "s": f"a\ud800{number}"} for number in range(3)]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    expected = [f"a\\ud800{number}" for number in range(3)]
    for out in ("out.jsonl", "out.csv", "out.parquet"):
        done = CliRunner().invoke(cli, f"score in.jsonl --model m --keep s --out {out}".split())
        assert done.exit_code == 0, done.output
    told = [json.loads(line)["s"] for line in (folder / "out.jsonl").read_text().splitlines()]
    assert told == [row["s"] for row in rows]
    with (folder / "out.csv").open(newline="") as file:
        assert [row["s"] for row in csv.DictReader(file)] == expected
    assert pq.read_table(folder / "out.parquet")["s"].to_pylist() == expected


def test_a_report_names_files_whose_names_are_not_utf_8(tmp_path):
    write_page(tmp_path / "page.html", os.fsdecode(b"\xffm"))
    assert "<h1>\\udcffm</h1>" in (tmp_path / "page.html").read_text()
