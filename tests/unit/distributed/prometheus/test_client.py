from __future__ import annotations

import socket

import numpy as np
import pytest

from datasentinel.distributed.prometheus import http
from datasentinel.distributed.prometheus.client import Grid, PrometheusClient, ServerUnreachableError
from datasentinel.distributed.prometheus.config import Endpoint
from datasentinel.errors import DataError, SettingsError
from tests.certificates import Authority
from tests.unit.distributed.prometheus.fake_server import matrix, serving

GRID = Grid(15.0, 100, 3)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(http, "_FIRST_DELAY_S", 0.0)


def client(url, **settings):
    return PrometheusClient(Endpoint(url=url, **settings))


def test_samples_are_put_at_their_moments():
    answer = matrix(
        ({"host": "a"}, [[1500, "1"], [1530, "3.5"]]), ({"host": "b"}, [[1515, "+Inf"], [1530, "NaN"]])
    )
    with serving(lambda _: answer) as server:
        first, second = client(server.url + "/prometheus/").query_range("up", GRID)
    np.testing.assert_array_equal(first.values, [1, np.nan, 3.5])
    np.testing.assert_array_equal(second.values, [np.nan, np.inf, np.nan])
    assert first.labels == {"host": "a"}
    (request,) = server.requests
    assert request.path == "/prometheus/api/v1/query_range"
    assert request.form == {"query": "up", "start": "1500.000", "end": "1530.000", "step": "15.000"}


def test_a_server_in_trouble_is_asked_again():
    answers = [(503, b"busy"), (429, b"slow down"), matrix(({}, [[1500, "1"]]))]
    with serving(lambda _: answers.pop(0)) as server:
        (series,) = client(server.url).query_range("up", GRID)
    assert series.values[0] == 1
    assert len(server.requests) == 3


def test_it_is_given_up_in_the_end():
    with (
        serving(lambda _: (502, b"<html> bad   gateway")) as server,
        pytest.raises(ServerUnreachableError, match="status 502: <html> bad gateway"),
    ):
        client(server.url, retries=2).query_range("up", GRID)
    assert len(server.requests) == 3


def test_one_that_is_not_there_is_named():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        with pytest.raises(ServerUnreachableError, match=f"{url}: no answer"):
            client(url, retries=1).query_range("up", GRID)


def test_a_wrong_query_is_not_repeated():
    body = b'{"status":"error","errorType":"bad_data","error":"parse error: unexpected end of input"}'
    with (
        serving(lambda _: (400, body)) as server,
        pytest.raises(DataError, match=r"query sum\(: .*status 400: .*unexpected end of input"),
    ):
        client(server.url).query_range("sum(", GRID)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "body",
    [b"<html>", b"[]", b'{"data": {"result": [{"metric": {}}]}}', b'{"data": null}', b"[" * 100_000],
)
def test_an_answer_of_something_else_is_refused(body):
    with serving(lambda _: (200, body)) as server, pytest.raises(DataError, match="not that of a Prometheus"):
        client(server.url).query_range("up", GRID)


def test_a_range_that_the_server_finds_too_long_is_asked_for_in_parts():
    too_long = b'{"error":"query processing would load too many samples into memory in query execution"}'

    def answer(request):
        first, last = (round(float(request.form[name])) // 15 for name in ("start", "end"))
        if last - first >= 4:
            return 422, too_long
        return matrix(({"host": "a"}, [[15 * number, str(number)] for number in range(first, last + 1)]))

    with serving(answer) as server:
        (series,) = client(server.url).query_range("up", Grid(15.0, 100, 13))
    np.testing.assert_array_equal(series.values, np.arange(100, 113))


def test_a_range_of_more_points_than_prometheus_gives_is_asked_for_in_parts():
    with serving(lambda request: matrix(({}, [[float(request.form["start"]), "1"]]))) as server:
        (series,) = client(server.url).query_range("up", Grid(15.0, 0, 25_000))
    np.testing.assert_array_equal(np.flatnonzero(series.values == 1), [0, 10_000, 20_000])


def test_credentials_are_read_anew_and_sent(tmp_path):
    token = tmp_path / "token"
    token.write_text("first\n")
    with serving(lambda _: matrix()) as server:
        asking = client(server.url, bearer_token_file=str(token), headers={"X-Scope-OrgID": "team"})
        asking.query_range("up", GRID)
        token.write_text("second\n")
        asking.query_range("up", GRID)
        client(server.url, username="me", password_file=str(token)).query_range("up", GRID)
    sent = [request.headers["authorization"] for request in server.requests]
    assert sent == ["Bearer first", "Bearer second", "Basic bWU6c2Vjb25k"]
    assert server.requests[0].headers["x-scope-orgid"] == "team"


def test_certificates_are_checked_on_both_sides(tmp_path):
    authority = Authority(tmp_path)
    certificate, key = authority.sign("client")
    with serving(lambda _: matrix(), authority.sign("server"), authority.file) as server:
        known = {"ca_file": str(authority.file), "retries": 0}
        client(server.url, certificate_file=str(certificate), key_file=str(key), **known).query_range(
            "up", GRID
        )
        with pytest.raises(ServerUnreachableError):
            client(server.url, **known).query_range("up", GRID)
        with pytest.raises(ServerUnreachableError, match="certificate verify failed"):
            client(server.url, retries=0).query_range("up", GRID)


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"ca\.pem: cannot be read"):
        client("https://localhost", ca_file=str(tmp_path / "ca.pem"))
