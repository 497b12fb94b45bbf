"""TLS and mutual TLS on every port, against OpenSSL's and grpcio's own clients."""

from __future__ import annotations

import http.client
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import grpc
import numpy as np
import pytest

from datasentinel.v1 import inference_pb2, inference_pb2_grpc
from tests.certificates import Authority
from tests.integration.server_process import (
    ANY_PORT,
    clean_environment,
    command,
    read_all,
    to_line,
    to_lines,
    to_replies,
)

TIMEOUT_S = 20


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def certificate(authority) -> tuple[Path, Path]:
    return authority.sign("server")


@pytest.fixture(scope="module")
def tls_server(start_server, certificate):
    certificate_file, key_file = certificate
    with start_server("--tls-certificate", str(certificate_file), "--tls-key", str(key_file)) as process:
        yield from process.until_stopped()


@pytest.fixture(scope="module")
def mutual_server(start_server, certificate, authority):
    certificate_file, key_file = certificate
    with start_server(
        *("--tls-certificate", str(certificate_file), "--tls-key", str(key_file)),
        *("--tls-client-ca", str(authority.file)),
    ) as process:
        yield process


@pytest.fixture(scope="module")
def trusting(authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority.file)


def connect(server, context: ssl.SSLContext, transport: str = "tcp") -> ssl.SSLSocket:
    raw = server.connect(transport)
    try:
        return context.wrap_socket(raw, server_hostname="localhost")
    except OSError:
        raw.close()
        raise


def ask_over_tls(server, context: ssl.SSLContext, transport: str, data: bytes) -> bytes:
    with connect(server, context, transport) as sock:
        sock.sendall(data)
        return sock.recv(100)  # In TLS 1.3 the client learns of a refusal after its handshake.


def secure_channel(server, authority, key: Path | None = None, certificate: Path | None = None):
    credentials = grpc.ssl_channel_credentials(
        authority.file.read_bytes(),
        key.read_bytes() if key else None,
        certificate.read_bytes() if certificate else None,
    )
    return grpc.secure_channel(f"localhost:{server.grpc_port}", credentials)


def evaluate(channel: grpc.Channel, row: np.ndarray) -> inference_pb2.EvaluateResponse:
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    return stub.Evaluate(inference_pb2.EvaluateRequest(values=row), timeout=TIMEOUT_S)


def https_status(server, context: ssl.SSLContext) -> int:
    connection = http.client.HTTPSConnection(
        "localhost", server.http_port, context=context, timeout=TIMEOUT_S
    )
    connection.request("GET", "/healthz")
    status = connection.getresponse().status
    connection.close()
    return status


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_lines_are_answered_over_tls(tls_server, authority, detector, rows, version):
    context = ssl.create_default_context(cafile=authority.file)
    context.minimum_version = context.maximum_version = version
    with connect(tls_server, context) as sock, sock.makefile("rb") as replies:
        assert sock.version() == version.name.replace("_", ".")
        for row, expected in zip(rows[:20], to_replies(detector.predict(rows[:20])), strict=True):
            sock.sendall(to_line(row))
            assert replies.readline() == expected + b"\n"


def test_many_lines_and_the_farewell_arrive_whole(tls_server, trusting, detector, rows):
    """Far more than one TLS record or one read; then the client says goodbye and the server answers it."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with tls_server.connect() as sock:
        shake_hands(client, incoming, outgoing, sock)
        client.write(to_lines(rows) + to_line(rows[0]).rstrip())
        with pytest.raises(ssl.SSLWantReadError):
            client.unwrap()  # The farewell; the line before it has no newline, and counts.
        sock.sendall(outgoing.read())
        incoming.write(read_all(sock))
    assert read_to_the_farewell(client).split() == to_replies(detector.predict(np.vstack([rows, rows[:1]])))


def read_to_the_farewell(client: ssl.SSLObject) -> bytes:
    """Read everything; without the server's farewell at its end, SSLWantReadError says so."""
    received = []
    try:
        while True:
            received.append(client.read(1 << 16))
    except ssl.SSLZeroReturnError:
        return b"".join(received)


def shake_hands(client: ssl.SSLObject, incoming, outgoing, sock: socket.socket) -> None:
    while True:
        try:
            client.do_handshake()
        except ssl.SSLWantReadError:
            sock.sendall(outgoing.read())
            incoming.write(sock.recv(1 << 16))
        else:
            sock.sendall(outgoing.read())
            return


def test_a_stream_cut_without_a_farewell_is_no_message(tls_server, trusting, detector, rows):
    """An attacker who cuts a line short must not get the rest of it scored."""
    (expected,) = to_replies(detector.predict(rows[0]))
    sock = connect(tls_server, trusting)
    sock.sendall(to_line(rows[0]) + to_line(rows[1]).rstrip())
    assert sock.recv(100) == expected + b"\n"
    raw = socket.socket(fileno=sock.detach())
    raw.settimeout(TIMEOUT_S)
    raw.shutdown(socket.SHUT_WR)
    assert b"OK" not in read_all(raw)
    raw.close()


def test_an_over_long_line_is_answered_over_tls(tls_server, trusting):
    with connect(tls_server, trusting) as sock:
        sock.sendall(b"1" * ((1 << 20) + 1) + b"\nmore\n" * 1000)
        assert read_all(sock) == b"ERROR: line longer than 1048576 bytes\n"


def test_grpc_and_http_speak_tls(tls_server, authority, trusting, detector, rows):
    with secure_channel(tls_server, authority) as channel:
        for row in rows[:20]:
            assert evaluate(channel, row).mse == detector.score(row)[0]
    assert https_status(tls_server, trusting) == 200


def test_the_protocols_are_negotiated(tls_server, trusting, authority):
    context = ssl.create_default_context(cafile=authority.file)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with connect(tls_server, context, "http") as sock:
        assert sock.selected_alpn_protocol() == "http/1.1"
    with connect(tls_server, context, "grpc") as sock:
        assert sock.selected_alpn_protocol() == "h2"


@pytest.mark.parametrize("junk", [b"1 2 3 4 5 6 7 8\n", b"GET / HTTP/1.1\r\n\r\n", bytes(1000)])
@pytest.mark.parametrize("transport", ["tcp", "http"])
def test_who_speaks_no_tls_is_sent_away(tls_server, trusting, detector, rows, transport, junk):
    reply = tls_server.ask(junk, transport)
    assert b"OK" not in reply
    assert b"ANOMALY" not in reply
    assert b"HTTP" not in reply
    with connect(tls_server, trusting) as sock:
        sock.sendall(to_line(rows[0]))
        assert sock.recv(100).split() == to_replies(detector.predict(rows[0]))


def test_a_client_that_distrusts_the_certificate_says_so(tls_server):
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(tls_server, ssl.create_default_context())


def test_mutual_tls_wants_a_certificate_that_the_authority_signed(
    mutual_server, authority, detector, rows, tmp_path
):
    certificate, key = authority.sign("client")
    known = ssl.create_default_context(cafile=authority.file)
    known.load_cert_chain(certificate, key)
    with connect(mutual_server, known) as sock:
        sock.sendall(to_line(rows[0]))
        assert sock.recv(100).split() == to_replies(detector.predict(rows[0]))
    assert https_status(mutual_server, known) == 200
    with secure_channel(mutual_server, authority, key, certificate) as channel:
        assert evaluate(channel, rows[0]).mse == detector.score(rows[0])[0]

    nobody = ssl.create_default_context(cafile=authority.file)
    stranger = ssl.create_default_context(cafile=authority.file)
    stranger.load_cert_chain(*Authority(tmp_path, "authority").sign("client"))
    for context in (nobody, stranger):
        for transport in ("tcp", "http"):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                ask_over_tls(mutual_server, context, transport, to_line(rows[0]))
    with secure_channel(mutual_server, authority) as channel, pytest.raises(grpc.RpcError) as caught:
        evaluate(channel, rows[0])
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_handshakes_count_against_the_limits(start_server, certificate, trusting):
    flags = ("--tls-certificate", str(certificate[0]), "--tls-key", str(certificate[1]), "--no-grpc")
    with start_server(
        *flags, "--tcp-max-connections", "2", "--receive-timeout-s", "0.5", "--tcp-idle-timeout-s", "0"
    ) as server:
        dumb = [server.connect() for _ in range(2)]
        with server.connect() as refused:
            assert refused.recv(1) == b""
        for sock in dumb:
            assert sock.recv(1) == b""
            sock.close()
        server.wait_for_log("event=slow_sender_closed transport=tcp")
        deadline = time.monotonic() + 10
        while True:
            try:
                connect(server, trusting).close()
                break
            except OSError:
                assert time.monotonic() < deadline


def test_what_was_accepted_over_tls_is_answered_when_the_server_stops(
    start_server, certificate, trusting, detector, rows
):
    flags = ("--tls-certificate", str(certificate[0]), "--tls-key", str(certificate[1]))
    with start_server(*flags, "--no-grpc") as server, connect(server, trusting) as sock:
        with connect(server, trusting) as idle:
            sock.sendall(to_lines(rows))
            server.process.terminate()
            assert read_all(sock).split() == to_replies(detector.predict(rows))
            assert read_all(idle) == b""
        assert server.process.wait(TIMEOUT_S) == 0
        assert "drain_cut_off" not in server.log()


def test_a_renewed_certificate_is_shown_after_sighup(start_server, authority, rows, tmp_path):
    first = Authority(tmp_path / "first", "first")
    certificate, key = first.sign("server")
    with start_server("--tls-certificate", str(certificate), "--tls-key", str(key)) as server:
        assert https_status(server, ssl.create_default_context(cafile=first.file)) == 200
        with secure_channel(server, first) as channel:
            evaluate(channel, rows[0])
        key.write_text("not a key")
        server.process.send_signal(1)
        server.wait_for_log("event=certificate_not_reloaded")
        assert https_status(server, ssl.create_default_context(cafile=first.file)) == 200

        renewed_certificate, renewed_key = authority.sign("renewed")
        certificate.write_bytes(renewed_certificate.read_bytes())
        key.write_bytes(renewed_key.read_bytes())
        server.process.send_signal(1)
        server.wait_for_log("event=certificate_reloaded")
        assert https_status(server, ssl.create_default_context(cafile=authority.file)) == 200
        with secure_channel(server, authority) as channel:
            evaluate(channel, rows[0])


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--tls-certificate", "/nowhere.pem"), "tls_certificate: /nowhere.pem: cannot be read"),
        (("--tls-key", "/nowhere.key"), "tls_key is set, but tls_certificate is not"),
        (("--tls-certificate", "{certificate}"), "not a PEM certificate and its unencrypted key"),
        (
            ("--tls-certificate", "{certificate}", "--tls-key", "{key}", "--tls-client-ca", "{key}"),
            "tls_client_ca: {key}: not PEM certificates",
        ),
    ],
)
def test_files_that_cannot_be_used_are_named(artifact, certificate, flags, reason):
    files = {"certificate": str(certificate[0]), "key": str(certificate[1])}
    done = subprocess.run(
        command(artifact, *ANY_PORT, *(flag.format(**files) for flag in flags)),
        capture_output=True,
        text=True,
        timeout=60,
        env=clean_environment(),
        check=False,
    )
    assert done.returncode == 1
    assert reason.format(**files) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("protocol", ["tcp", "grpc"])
def test_the_producer_speaks_tls(mutual_server, authority, protocol):
    certificate, key = authority.sign(f"producer-{protocol}")
    port = mutual_server.ports[protocol]
    base = [sys.executable, "-W", "error", "-m", "datasentinel", "produce", "--protocol", protocol]
    base += ["--host", "localhost", "--port", str(port), "--dim", "8", "--count", "100", "--give-up-s", "1"]
    trusted = ["--tls-ca", str(authority.file)]
    shown = ["--tls-certificate", str(certificate), "--tls-key", str(key)]
    done = subprocess.run([*base, *trusted, *shown], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "100 sent, 100 answered" in done.stdout
    done = subprocess.run([*base, *trusted], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_an_authority_that_was_removed_is_trusted_no_more(start_server, certificate, tmp_path):
    """Neither with its certificates nor with sessions that its clients would resume."""
    old, new = Authority(tmp_path / "old", "old"), Authority(tmp_path / "new", "new")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(old.file.read_bytes())
    certificate_file, key_file = certificate
    flags = ("--tls-certificate", str(certificate_file), "--tls-key", str(key_file))

    def client(authority: Authority) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.load_cert_chain(*authority.sign("client"))
        return context

    def ask(server, context, transport, session=None):
        """What comes back, and the session to resume."""
        request = (
            b"GET /v2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" if transport == "http" else b"x\n"
        )
        if transport == "grpc":
            context.set_alpn_protocols(["h2"])
            request = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
        try:
            with context.wrap_socket(server.connect(transport), session=session) as sock:
                sock.sendall(request)
                return sock.recv(100), sock.session
        except (ssl.SSLError, ConnectionError):
            return b"", None

    with start_server(*flags, "--tls-client-ca", str(trusted)) as server:
        removed, added = client(old), client(new)
        sessions = {}
        for transport in ("tcp", "http", "grpc"):
            reply, sessions[transport] = ask(server, removed, transport)
            assert reply, transport
            assert not ask(server, added, transport)[0], transport
        trusted.write_bytes(new.file.read_bytes())
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_log("event=certificate_reloaded")
        for transport in ("tcp", "http", "grpc"):
            assert not ask(server, removed, transport)[0], transport
            assert not ask(server, removed, transport, sessions[transport])[0], transport
            assert ask(server, added, transport)[0], transport
