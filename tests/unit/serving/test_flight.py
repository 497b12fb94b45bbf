"""What an exchange over Arrow Flight is asked for, whose turn it is, and how it ends."""

from __future__ import annotations

import json
import socket
import threading
import time

import pytest
from pyarrow import flight

from datasentinel.errors import BackendError, InvalidInputError, ResourceExhaustedError
from datasentinel.serving.flight.commands import read_command
from datasentinel.serving.flight.errors import flight_error
from datasentinel.serving.flight.turns import Pace, Turns
from datasentinel.serving.flight.waits import Waits


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (b"{", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[1]", "is not a JSON object"),
        (b'{"modle": "a"}', "unknown key 'modle'.*known are .*model"),
        (b'{"features": "a"}', "'features'.*wrong type"),
        (b'{"features": [1]}', "'features'.*wrong type"),
        (b'{"model": 1}', "'model'.*wrong type"),
        (b'{"explain": 1.5}', "'explain'.*wrong type"),
        (b'{"explain": true}', "'explain'.*wrong type"),
        (b'{"p_values": 1}', "'p_values'.*wrong type"),
        (b'{"alarm_budget": "1"}', "'alarm_budget'.*wrong type"),
    ],
)
def test_a_mistake_in_a_command_is_named(command, message):
    with pytest.raises(InvalidInputError, match=message):
        read_command(flight.FlightDescriptor.for_command(command))


def test_a_command_is_json_or_a_path():
    asked = {"model": "m", "explain": 2, "p_values": True, "alarm_budget": 1, "keep": ["host"]}
    assert read_command(flight.FlightDescriptor.for_command(json.dumps(asked))) == asked
    assert read_command(flight.FlightDescriptor.for_command(b"")) == {}
    assert read_command(flight.FlightDescriptor.for_path("m")) == {"model": "m"}
    assert read_command(flight.FlightDescriptor.for_path("m", "2")) == {"model": "m", "version": "2"}


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (InvalidInputError("row 3 is bad"), flight.FlightServerError, b"InvalidInput"),
        (ResourceExhaustedError("row 3 waits"), flight.FlightUnavailableError, b"ResourceExhausted"),
        (BackendError("row 3 lies at /secret"), flight.FlightInternalError, b"Backend"),
        (ZeroDivisionError("row 3 lies at /secret"), flight.FlightInternalError, b"Internal"),
    ],
)
def test_a_client_learns_of_its_own_mistakes_and_the_log_of_ours(caplog, error, kind, code):
    sent = flight_error(error)
    assert type(sent) is kind
    assert sent.extra_info == code
    is_ours = kind is flight.FlightInternalError
    assert ("row 3" in str(sent)) is not is_ours
    assert [record.msg for record in caplog.records] == ["request_failed"] * is_ours


def test_exchanges_take_turns_in_the_order_in_which_they_ask():
    turns, order, threads = Turns(), [], []

    def take(number):
        with turns.turn():
            order.append(number)

    with turns.turn():
        for number in range(3):
            threads.append(threading.Thread(target=take, args=(number,)))
            threads[-1].start()
            while len(turns._waiting) <= number:
                time.sleep(0.001)
        assert order == []
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2]
    take(3)  # Nobody holds one any more.
    assert order[-1] == 3


def test_a_turn_has_fewer_rows_where_rows_are_slow():
    pace = Pace()
    first = pace.rows
    pace.take(first, elapsed_s=1.0)
    assert 1 <= pace.rows < first
    pace.take(1_000_000, elapsed_s=0.0)
    assert pace.rows > 1_000_000


def test_a_client_that_is_waited_for_too_long_is_cut_off():
    waits = Waits()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client, listener.accept()[0]:
            peer = f"ipv4:127.0.0.1:{client.getsockname()[1]}"
            with waits.wait(peer) as wait:
                assert waits.end_late(port, timeout_s=3600.0) == []
                assert not wait.is_over
                while not waits.end_late(port, timeout_s=0.0):  # The clock may not have moved on yet.
                    pass
                assert wait.is_over
                assert waits.end_late(port, timeout_s=0.0) == []
            assert client.recv(1) == b""
        with waits.wait(peer):
            pass
        assert waits.end_late(port, timeout_s=0.0) == []
