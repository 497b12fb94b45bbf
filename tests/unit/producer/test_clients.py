import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasentinel.errors import InvalidInputError, ServerError, SettingsError
from datasentinel.producer import Credentials, Producer, read_token
from datasentinel.producer.clients import connector, encode_line, parse_reply
from datasentinel.producer.replies import Reply
from datasentinel.producer.samples import Fault, Sample

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(finite, min_size=1, max_size=8))
def test_a_line_reads_back_as_the_same_float32(values):
    row = np.array(values, np.float32)
    line = encode_line(Sample(0, row, None, None))
    assert line.endswith(b"\n")
    read = np.array([np.float32(token) for token in line.split()])
    np.testing.assert_array_equal(read.view(np.uint32), row.view(np.uint32))


@given(finite)
def test_no_shorter_decimal_reads_back_the_same(value):
    exact = np.float32(value)
    (token,) = encode_line(Sample(0, np.array([exact]), None, None)).split()
    digits = token.lstrip(b"-").split(b"e")[0].replace(b".", b"").strip(b"0")
    if len(digits) > 1:
        assert np.float32(f"{exact:.{len(digits) - 2}e}") != exact


@pytest.mark.parametrize(
    ("fault", "line"),
    [(Fault.NOT_A_NUMBER, b"1.5 abc\n"), (Fault.NAN, b"1.5 nan\n")],
)
def test_faults_of_a_line(fault, line):
    assert encode_line(Sample(0, np.array([1.5, np.nan], np.float32), None, fault)) == line


def test_replies_are_read():
    assert parse_reply(b"OK") == Reply("OK")
    assert parse_reply(b"ANOMALY") == Reply("ANOMALY")
    assert parse_reply(b"ERROR: value 2 is not finite: 'nan'") == Reply(
        "ERROR", "value 2 is not finite: 'nan'"
    )


@pytest.mark.parametrize("line", [b"", b"ok", b"HTTP/1.1 400 Bad Request", b"\xff\x00"])
def test_any_other_line_is_no_reply(line):
    with pytest.raises(ServerError, match="does not speak the line protocol"):
        parse_reply(line)


def test_an_unknown_protocol_is_refused():
    with pytest.raises(InvalidInputError, match="tcp, grpc"):
        connector("udp", "127.0.0.1", 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": -1.0}, "rate must be a finite number of at least 0"),
        ({"window": 0}, "window must be a finite number of at least 1"),
        ({"give_up_s": float("inf")}, "give_up_s must be a finite number"),
        ({"reply_timeout_s": 0.0}, "reply_timeout_s must be greater than 0"),
    ],
)
def test_a_producer_that_cannot_run_is_refused(settings, message):
    with pytest.raises(InvalidInputError, match=message):
        Producer(iter(()), None, **settings)


def test_credentials_that_are_of_no_use_are_refused(tmp_path):
    with pytest.raises(SettingsError, match="of no use without TLS"):
        Credentials(certificate=tmp_path / "c.pem")
    for secret in ("", "a\tb", "p\u00e4ss"):
        (tmp_path / "token").write_text(secret)
        with pytest.raises(SettingsError, match="the first line is not a token of printable ASCII"):
            read_token(tmp_path / "token")
