"""Several workers under a supervisor: shared ports, death and restart, signals, metrics in sum."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest

from tests.integration.server_process import (
    ANY_PORT,
    ServerProcess,
    clean_environment,
    command,
    read_all,
    to_line,
    to_lines,
    to_replies,
)

TIMEOUT_S = 20.0


@pytest.fixture(scope="module")
def workers(start_server):
    """Two workers for every test that leaves two."""
    with start_server("--workers", "2") as process:
        yield process
        assert process.stop() == 0


def pids(server: ServerProcess) -> dict[int, int]:
    """The process that fills each worker's place now."""
    found = re.findall(r"event=worker_started worker=(\d+) pid=(\d+)", server.log())
    return {int(worker): int(pid) for worker, pid in found}


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(condition, what: str, timeout_s: float = TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


REQUESTS = ("datasentinel_requests_total", ("transport", "tcp"))


def wait_for_requests(server: ServerProcess, count: int) -> None:
    """Wait until every worker knows of `count` requests: by chance, forty scrapes reach all of them."""
    wait_until(
        lambda: all(server.metrics()[REQUESTS] == count for _ in range(40)), "the requests are not summed"
    )


def test_connections_are_spread_and_the_metrics_are_the_sum(workers, detector, rows):
    expected = to_replies(detector.predict(rows[:10]))
    before = workers.metrics()
    for _ in range(40):
        assert workers.ask(to_lines(rows[:10])).split() == expected
    wait_for_requests(workers, int(before[REQUESTS]) + 400)
    samples = workers.metrics()
    for key in (
        ("datasentinel_model_rows_total",),
        ("datasentinel_request_duration_seconds_count", ("transport", "tcp")),
    ):
        assert samples[key] - before[key] == 400
    for worker in ("0", "1"):
        assert samples["datasentinel_ready", ("worker", worker)] == 1
        assert samples["process_resident_memory_bytes", ("worker", worker)] > 0
    assert len([key for key in samples if key[0] == "datasentinel_model_info"]) == 1


def test_a_killed_worker_is_replaced_and_no_count_is_lost(workers, detector, rows):
    expected = to_replies(detector.predict(rows[:10]))
    count = int(workers.metrics()[REQUESTS])
    restarts = workers.metrics()["datasentinel_worker_restarts_total",]
    for worker in (0, 1):
        wait_for_requests(workers, count)  # What is not posted yet dies with a worker.
        before, ready = pids(workers), workers.log().count("event=ready")
        os.kill(before[worker], signal.SIGKILL)
        workers.wait_for_log(f"event=worker_died worker={worker} reason=SIGKILL")
        # The other one goes on at once.
        for _ in range(20):
            assert workers.ask(to_lines(rows[:10])).split() == expected
        count += 200
        wait_until(lambda ready=ready: workers.log().count("event=ready") > ready, "no successor is ready")
        after = pids(workers)
        assert {number for number in before if before[number] != after[number]} == {worker}
    wait_for_requests(workers, count)
    assert workers.metrics()["datasentinel_worker_restarts_total",] == restarts + 2


def test_what_was_accepted_is_answered_when_all_stop(start_server, detector, rows):
    expected = to_replies(detector.predict(rows))
    results: dict[int, list[bytes]] = {}

    def talk(client: int) -> None:
        replies = results[client] = []
        with workers.connect() as sock, sock.makefile("rb") as stream:
            for row in rows:
                sock.sendall(to_line(row))
                reply = stream.readline()
                if not reply:
                    return
                replies.append(reply.strip())

    with start_server("--workers", "2") as workers:
        clients = [threading.Thread(target=talk, args=(client,)) for client in range(16)]
        for client in clients:
            client.start()
        wait_until(
            lambda: len(results) == 16 and min(map(len, results.values())) >= 5,
            "the clients are not answered",
        )
        # These have sent more than is read at once.
        patient = [workers.connect() for _ in range(6)]
        for sock in patient:
            sock.sendall(to_lines(rows))
        workers.process.send_signal(signal.SIGTERM)
        for sock in patient:
            assert read_all(sock).split() == expected
            sock.close()
        for client in clients:
            client.join(TIMEOUT_S)
        assert workers.process.wait(TIMEOUT_S) == 0
        stopped = [int(count) for count in re.findall(r"event=stopped worker=\d rows=(\d+) ", workers.log())]
        assert "level=error" not in workers.log()
    for replies in results.values():
        assert replies == expected[: len(replies)]
    answered = sum(map(len, results.values()))
    assert answered < 16 * len(rows), "the server was not stopped while busy"
    assert sum(stopped) == answered + 6 * len(rows)
    assert min(stopped) > 0, "one worker did nothing"


def test_workers_do_not_outlive_their_supervisor(start_server):
    with start_server("--workers", "2", "--no-grpc") as server:
        processes = pids(server)
        assert len(processes) == 2
        server.process.kill()
        server.process.wait(TIMEOUT_S)
        wait_until(lambda: not any(map(is_alive, processes.values())), "a worker outlived its supervisor")
        assert server.log().count("event=supervisor_gone") == 2
        assert server.log().count("event=stopped") == 2


def test_signals_reach_every_worker(start_server, tmp_path):
    file = tmp_path / "tokens"
    file.write_text("first")
    with start_server("--workers", "3", "--no-grpc", "--token-file", str(file)) as server:
        file.write_text("second")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: server.log().count("event=tokens_reloaded") == 3, "a worker did not reload")
        assert server.stop(signal.SIGINT) == 0
        assert server.log().count("event=stopped") == 3


def test_a_second_signal_cuts_the_drain_short(start_server):
    with start_server("--workers", "2", "--drain-timeout-s", "60") as server, server.connect() as sock:
        sock.sendall(b"1 2 3")
        time.sleep(0.1)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.log().count("event=draining") == 2, "a worker does not drain")
        assert server.stop() == 0
        assert "event=drain_cut_short" in server.log()


def test_a_server_told_to_stop_while_it_starts_stops_well(artifact, tmp_path):
    log_file = tmp_path / "server.log"
    with log_file.open("w") as log:
        process = subprocess.Popen(
            command(artifact, *ANY_PORT, "--workers", "2"),
            stdout=subprocess.PIPE,
            stderr=log,
            env=clean_environment(),
        )
    with process:
        wait_until(lambda: "event=worker_started" in log_file.read_text(), "no worker was started")
        process.terminate()
        assert process.stdout.read() == b""
        assert process.wait(TIMEOUT_S) == 0
    assert "Traceback" not in log_file.read_text()


def test_a_worker_that_cannot_start_again_is_tried_again_and_the_others_serve(
    start_server, artifact, detector, rows, tmp_path
):
    folder = tmp_path / "models"
    shutil.copytree(artifact, folder)
    with start_server("--workers", "2", "--no-grpc", artifact=folder) as server:
        hidden = folder.rename(tmp_path / "hidden")
        os.kill(pids(server)[1], signal.SIGKILL)
        wait_until(
            lambda: server.log().count('event=worker_died worker=1 reason="exit code 1"') >= 2, "no retry"
        )
        assert server.ask(to_lines(rows[:10])).split() == to_replies(detector.predict(rows[:10]))
        hidden.rename(folder)
        wait_until(lambda: server.log().count("event=ready") == 3, "the worker did not come back")
        assert server.stop() == 0


def test_a_server_that_cannot_start_says_why_once(artifact, tmp_path):
    def run(folder, *flags) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(folder, "--workers", "2", *flags),
            capture_output=True,
            text=True,
            timeout=60,
            env=clean_environment(),
            check=False,
        )

    done = run(tmp_path / "nothing", *ANY_PORT)
    assert done.returncode == 1
    assert done.stderr.count("no such directory") == 1
    assert "worker 0 could not start: exit code 1" in done.stderr
    assert "Traceback" not in done.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(artifact, *ANY_PORT, "--grpc-port", str(port))
    assert done.returncode == 1
    assert f"error: cannot listen for grpc on 127.0.0.1:{port}: Address already in use" in done.stderr


def test_a_second_server_does_not_share_the_ports_by_accident(workers, artifact):
    flags = ("--no-grpc", "--no-http", "--tcp-port", str(workers.tcp_port))
    for count in ("1", "2"):
        done = subprocess.run(
            command(artifact, *flags, "--workers", count),
            capture_output=True,
            text=True,
            timeout=60,
            env=clean_environment(),
            check=False,
        )
        assert done.returncode == 1
        assert "Address already in use" in done.stderr


def test_a_worker_that_hangs_is_replaced(start_server, rows):
    with start_server("--workers", "2", "--worker-timeout-s", "2") as server:
        hung = pids(server)[1]
        os.kill(hung, signal.SIGSTOP)
        server.wait_for_log("event=worker_hung worker=1")
        wait_until(
            lambda: pids(server)[1] != hung and server.log().count("event=ready ") == 3, "no successor"
        )
        assert not is_alive(hung)
        for _ in range(20):
            assert server.ask(to_line(rows[0])) in {b"OK\n", b"ANOMALY\n"}
        assert server.stop() == 0


def test_the_second_signal_ends_workers_that_hang(start_server):
    with start_server("--workers", "2", "--drain-timeout-s", "60") as server:
        for pid in pids(server).values():
            os.kill(pid, signal.SIGSTOP)
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_log("event=signal name=SIGTERM")
        before = time.monotonic()
        assert server.stop() == 1
        assert time.monotonic() - before < 30  # It does not wait for the drain.
