"""What the producer makes of a server's answers over HTTP, whatever they are."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import suppress

import numpy as np
import pytest

from datasentinel.errors import ServerError
from datasentinel.producer import connector
from datasentinel.producer.http import parse_reply
from datasentinel.producer.replies import Reply
from datasentinel.producer.samples import Sample

MODELS = [{"name": "m", "version": "1", "state": "READY"}]
SCORED = {"outputs": [{"name": "score", "data": [0.5]}, {"name": "anomaly", "data": [True]}]}


def answer(document, status=200):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


class Listener:
    def __init__(self):
        self.replies = []
        self.lost = asyncio.get_running_loop().create_future()

    def on_reply(self, sample, reply):
        self.replies.append((sample.index, reply))

    def on_lost(self, error):
        self.lost.set_result(error)


def heard(*answers, samples=1, model=""):
    """Return replies, and why the connection was lost, from a server that gives one answer to each request."""

    async def serve(reader, writer):
        with suppress(ConnectionError):
            for content in answers:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(re.search(rb"Content-Length: (\d+)", head)[1]))
                for part in (content[:20], content[20:]):
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0)
            writer.write_eof()
            await reader.read()
        writer.close()
        has_ended.set()

    async def run():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            listener = Listener()
            connect = connector("http", "127.0.0.1", server.sockets[0].getsockname()[1], model=model)
            connection = await connect(listener)
            connection.send([Sample(i, np.ones(2, np.float32), None, None) for i in range(samples)])
            error = await asyncio.wait_for(listener.lost, 30)
            await connection.close()
            await asyncio.wait_for(has_ended.wait(), 30)
        return listener.replies, error

    has_ended = asyncio.Event()
    return asyncio.run(run())


def test_replies_are_matched_with_samples_however_they_are_cut():
    replies, error = heard(answer(MODELS), answer(SCORED), answer({"error": "row 1"}, 400), samples=2)
    assert replies == [(0, Reply("ANOMALY", score=0.5)), (1, Reply("ERROR", "row 1"))]
    assert isinstance(error, ConnectionError)


@pytest.mark.parametrize(
    ("answers", "model", "kind", "message"),
    [
        ([b"SSH-2.0-OpenSSH_9.2\r\n\r\n"], "", ServerError, "does not speak HTTP/1.1"),
        ([answer({}, 503)], "", ServerError, "does not speak the protocol"),
        ([answer({"error": "draining"}, 503)], "", ConnectionError, "503: draining"),
        ([answer({"error": "no token"}, 401)], "", ServerError, "401: no token"),
        ([answer({"error": "odd"}, 400)], "", ServerError, "400 when it was asked for its models"),
        ([answer(b"<html>")], "", ServerError, "does not speak the protocol: it answered 200 b'<html>'"),
        ([answer({"models": 1})], "", ServerError, "does not speak the protocol"),
        ([answer(b"[" * 100_000)], "", ServerError, "does not speak the protocol"),
        ([answer([])], "", ConnectionError, "serves no model yet"),
        ([answer(MODELS)], "x", ServerError, "no model 'x'; it has m"),
        ([answer([*MODELS, {"name": "n"}])], "", ServerError, "several models: name one of m, n"),
        ([answer(MODELS), answer(SCORED) + answer(SCORED)], "", ServerError, "more replies than"),
        ([answer(MODELS), answer({"outputs": []})], "", ServerError, "does not speak the protocol"),
        ([answer(MODELS), answer(b"[" * 100_000)], "", ServerError, "does not speak the protocol"),
    ],
)  # fmt: skip
def test_a_server_that_cannot_be_used_is_described(answers, model, kind, message):
    _, error = heard(*answers, model=model)
    assert isinstance(error, kind)
    assert re.search(message, str(error))


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_is_busy_is_tried_again(status):
    with pytest.raises(ConnectionError, match=f"{status}: later"):
        parse_reply(status, b'{"error": "later"}')
