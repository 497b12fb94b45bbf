"""Brokers that ask for TLS, a certificate of the client, a user and a password."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from datasentinel.distributed.brokers import open_sink, open_source
from datasentinel.distributed.brokers.base import BrokerUrl, Record
from datasentinel.errors import BrokerError
from tests.certificates import Authority
from tests.integration.stream.brokers import BROKERS, Broker, Guard

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECURE = {"nats": "tls", "redis": "rediss", "mqtt": "mqtts", "amqp": "amqps"}


@pytest.fixture(scope="module")
def guard(tmp_path_factory) -> Guard:
    return Guard(Authority(tmp_path_factory.mktemp("certificates")))


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow if name == "amqp" else ()) for name in SECURE],
)
def guarded(request, guard, tmp_path_factory) -> Iterator[Broker]:
    running = BROKERS[request.param](tmp_path_factory.mktemp(request.param), guard)
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def files(guard) -> dict[str, Path]:
    certificate, key = guard.authority.sign("client")
    return {"tls_ca": guard.authority.file, "tls_certificate": certificate, "tls_key": key}


def test_a_guarded_broker_takes_a_certificate_and_a_password_from_a_file(guarded, guard, files, tmp_path):
    (tmp_path / "password").write_text(f"{guard.password}\n")
    url = url_of(guarded, guard.user, "", **files, password_file=tmp_path / "password")
    message = asyncio.run(there_and_back(url))
    assert (message.payload, message.key, message.is_repeat) == (b"sample", "pump", False)
    assert guard.password not in f"{url} {url!r}"


# A socket whose handshake failed is left to the garbage collector by paho, and by redis-py where the event loop ends
# before the connection has.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in.*(SSLSocket|socket.socket|_SelectorTransport|StreamWriter)"
    ":pytest.PytestUnraisableExceptionWarning"
)
def test_a_guarded_broker_refuses_without_showing_the_password(guarded, guard, files, tmp_path):
    stranger = Authority(tmp_path / "stranger")
    certificate, key = stranger.sign("client")
    wrong = {
        "another password": url_of(guarded, guard.user, "not-the-password", **files),
        "no certificate": url_of(guarded, guard.user, guard.password, tls_ca=guard.authority.file),
        "a stranger's certificate": url_of(
            guarded,
            guard.user,
            guard.password,
            **files | {"tls_certificate": certificate, "tls_key": key},
        ),
        "a server signed by nobody known": url_of(
            guarded, guard.user, guard.password, **files | {"tls_ca": stranger.file}
        ),
        "plain text": BrokerUrl.parse(guarded.url("guarded?").replace("?", "")),
    }
    for what, url in wrong.items():
        with pytest.raises(BrokerError) as caught:
            asyncio.run(there_and_back(url))
        assert guard.password not in str(caught.value), what
        assert "not-the-password" not in str(caught.value), what
        del caught
    gc.collect()


@pytest.mark.parametrize("broker", ["nats"], indirect=True)
def test_no_password_goes_to_a_server_that_does_not_speak_tls(broker, guard, files):
    with pytest.raises(BrokerError, match="does not speak TLS"):
        asyncio.run(there_and_back(url_of(broker, guard.user, guard.password, **files)))


def url_of(broker: Broker, user: str, password: str, **options: object) -> BrokerUrl:
    secret = f":{quote(password, safe='')}" if password else ""
    url = broker.url("guarded", **options, **broker.member("only"))
    return BrokerUrl.parse(url.replace(f"{broker.scheme}://", f"{SECURE[broker.scheme]}://{user}{secret}@"))


async def there_and_back(url: BrokerUrl):
    source, sink = open_source(url, "readers"), open_sink(url)
    try:
        await source.open()
        await sink.open()
        await sink.publish([Record(b"sample", "pump", "1", {})])
        while not (messages := await source.take(1)):
            pass
        await source.acknowledge(messages)
        return messages[0]
    finally:
        await sink.close()
        await source.close()
