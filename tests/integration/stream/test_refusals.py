"""What a broker will never take, and what others publish that its clients stumble over."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import nullcontext, suppress
from dataclasses import replace

import pytest

from datasentinel.distributed.brokers import open_sink, open_source
from datasentinel.distributed.brokers.base import BrokerUrl, Record
from datasentinel.distributed.stream.answers import Answerer
from datasentinel.distributed.stream.consumer import Consumer
from datasentinel.errors import RefusedError
from tests.integration.stream.brokers import Mosquitto, others_slowly
from tests.integration.stream.pipeline import Pipeline, consuming
from tests.integration.stream.test_stream import samples

only_nats = pytest.mark.parametrize("broker", ["nats"], indirect=True)
only_mqtt = pytest.mark.parametrize("broker", ["mqtt"], indirect=True)


@others_slowly("nats", "kafka", "mqtt")
def test_a_message_larger_than_the_broker_takes_is_refused_and_the_next_one_is_not(broker, topic):
    if broker.scheme == "redis":
        pytest.skip("Redis takes half a gigabyte")
    if broker.scheme == "mqtt":
        large = Record(bytes(1 << 28), "", "large", {})
    elif broker.scheme == "amqp":
        large = Record(b"", "", "large", {"h": "x" * 200_000})
    else:
        large = Record(b"x" * (1 << 20), "", "large", {})
    small = [Record(b"1", "", str(number), {}) for number in range(3)]
    pipeline = Pipeline(broker, topic)

    async def run():
        await pipeline.make_topics()
        sink = open_sink(BrokerUrl.parse(pipeline.dead_letters))
        await sink.open()
        with pytest.raises(RefusedError):
            await sink.publish([large])
        await sink.publish(small)
        await sink.close()
        return await pipeline.letters(3)

    assert [letter.headers.get("id") or letter.headers["Nats-Msg-Id"] for letter in asyncio.run(run())] == [
        "0",
        "1",
        "2",
    ]


@others_slowly("nats")
def test_results_and_dead_letters_that_are_refused_hold_up_no_other(
    broker, topic, artifact, rows, monkeypatch
):
    if broker.scheme in ("redis", "mqtt"):
        pytest.skip("takes a quarter of a gigabyte")
    pipeline = Pipeline(broker, topic)
    payloads = samples(rows[:20])
    # Within the limit as it came, and beyond it with the headers of a dead letter.
    limit = 125_000 if broker.scheme == "amqp" else 1 << 20 if broker.scheme == "nats" else 1_000_000
    if broker.scheme != "amqp":
        payloads[3] = b"{" + b" " * (limit - 150)
    answer = Answerer.answer

    def answer_at_length(self, model, messages, shadow=None):
        answers = answer(self, model, messages, shadow)
        answers.results = [
            record._replace(headers={**record.headers, "x": "x" * limit})
            if record.id == "sample-7"
            else record
            for record in answers.results
        ]
        return answers

    async def run():
        await pipeline.make_topics()
        await pipeline.publish(payloads)
        monkeypatch.setattr(Answerer, "answer", answer_at_length)
        async with consuming(artifact, pipeline.options):
            letters = await pipeline.letters(1 if broker.scheme == "amqp" else 2)
            return letters, await pipeline.results(20 - len(letters))

    letters, results = asyncio.run(run())
    by_id = {letter.headers.get("id") or letter.headers["Nats-Msg-Id"]: letter for letter in letters}
    assert by_id["sample-7"].payload == payloads[7]
    assert "its result is refused" in by_id["sample-7"].headers["reason"]
    if broker.scheme != "amqp":
        assert by_id["sample-3"].payload == b""
        assert "not JSON" in by_id["sample-3"].headers["reason"]
        assert str(len(payloads[3])) in by_id["sample-3"].headers["left-out"]
    expected = {f"sample-{number}" for number in range(20)} - by_id.keys()
    assert {result["id"] for result in results} == expected


class Narrow(Mosquitto):
    """A broker that takes no more than so many bytes, as one of its settings says."""

    def __init__(self, folder, setting):
        super().__init__(folder)
        self.setting = setting

    def command(self):
        command = super().command()
        with (self.folder / "settings").open("a") as settings:
            settings.write(f"{self.setting} 1000\n")
        return command


@pytest.fixture(params=["max_packet_size", "message_size_limit"])
def narrow(request, tmp_path):
    broker = Narrow(tmp_path, request.param)
    broker.start()
    yield broker
    broker.stop()


def test_the_size_that_an_mqtt_broker_takes_is_heeded(narrow):
    """The first setting it tells; at what exceeds the second it hangs up."""

    async def run():
        source = open_source(BrokerUrl.parse(narrow.url("t", client_id="reader")), "readers")
        await source.open()
        sink = open_sink(BrokerUrl.parse(narrow.url("t")))
        await sink.open()
        for _ in range(2):
            with pytest.raises(RefusedError):
                await sink.publish([Record(b"x" * 1001, "", "large", {})])
        await sink.publish([Record(b"y", "", "small", {})])
        while not (messages := await source.take(9)):
            pass
        await sink.close()
        await source.close()
        return messages

    (message,) = asyncio.run(run())
    assert message.payload == b"y"


@pytest.mark.parametrize("narrow", ["message_size_limit"], indirect=True)
def test_a_result_at_which_an_mqtt_broker_hangs_up_is_a_dead_letter(
    narrow, topic, artifact, rows, monkeypatch
):
    pipeline = Pipeline(narrow, topic)
    answer = Answerer.answer

    def answer_at_length(self, model, messages, shadow=None):
        answers = answer(self, model, messages, shadow)
        answers.results = [
            record._replace(payload=record.payload + b" " * 1000) if record.id == "sample-7" else record
            for record in answers.results
        ]
        return answers

    async def run():
        await pipeline.make_topics()
        await pipeline.publish(samples(rows[:20]))
        monkeypatch.setattr(Answerer, "answer", answer_at_length)
        async with consuming(artifact, pipeline.options):
            (letter,) = await pipeline.letters(1)
            return letter, await pipeline.results(19)

    letter, results = asyncio.run(run())
    assert letter.headers["id"] == "sample-7"
    assert "its result is refused" in letter.headers["reason"]
    assert {result["id"] for result in results} == {f"sample-{n}" for n in range(20)} - {"sample-7"}


@pytest.mark.parametrize("hang_ups", [1, 2])
def test_an_mqtt_broker_that_hangs_up_is_asked_once_more_before_a_message_is_refused(hang_ups):
    """By a broker of a few packets: CONNACK, UNSUBACK and, after it has hung up often enough, PUBACK."""
    pytest.importorskip("paho.mqtt.client")
    connect, publish, unsubscribe = 1, 3, 10
    protocol_error = bytes([0xE0, 2, 0x82, 0])
    published = []

    async def answer(reader, writer):
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                kind, size = await reader.readexactly(2)
                body = await reader.readexactly(size)
                if kind >> 4 == connect:
                    writer.write(bytes([0x20, 3, 0, 0, 0]))
                elif kind >> 4 == unsubscribe:
                    writer.write(bytes([0xB0, 4, *body[:2], 0, 0]))
                elif kind >> 4 == publish:
                    published.append(body)
                    if len(published) <= hang_ups:
                        writer.write(protocol_error)
                        break
                    number = body[3:5]  # After a topic of one letter.
                    writer.write(bytes([0x40, 2, *number]))
        writer.close()

    async def run():
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            sink = open_sink(BrokerUrl.parse(f"mqtt://127.0.0.1:{port}/t"))
            await sink.open()
            with pytest.raises(RefusedError) if hang_ups == 2 else nullcontext():
                await sink.publish([Record(b"x", "", "1", {})])
            await sink.close()

    asyncio.run(run())
    assert len(published) == 2


@only_mqtt
def test_texts_that_mqtt_does_not_allow_are_published_without_what_is_not_allowed(broker, topic):
    pipeline = Pipeline(broker, topic)
    wrong = "".join(map(chr, (0, 7, 31, 127, 0x9F, 0xFDD0, 0xFFFE, 0xFFFF, 0x1FFFF, 0x10FFFE, 0xD800)))
    long = "ä" * 70_000

    async def run():
        await pipeline.make_topics()
        sink = open_sink(BrokerUrl.parse(pipeline.dead_letters))
        await sink.open()
        await sink.publish([Record(b"1", f"k{wrong}", "1", {f"n{wrong}": f"a{wrong}b", "long": long})])
        await sink.close()
        return await pipeline.letters(1)

    (message,) = asyncio.run(run())
    assert message.headers["long"] == "ä" * 32_767
    (name,) = message.headers.keys() - {"long", "id"}
    assert (name[0], message.key[0], message.headers[name][0], message.headers[name][-1]) == tuple("nkab")


@only_mqtt
def test_messages_of_quality_of_service_0_are_scored_and_not_acknowledged(broker, topic, artifact, rows):
    client_module = pytest.importorskip("paho.mqtt.client")
    pipeline = Pipeline(broker, topic)

    def publish_unconfirmed() -> None:
        client = client_module.Client(
            client_module.CallbackAPIVersion.VERSION2, protocol=client_module.MQTTv5
        )
        client.connect("127.0.0.1", broker.port)
        client.loop_start()
        for payload in samples(rows[:5]):
            client.publish(f"{topic}-in", payload, 0).wait_for_publish(60)
        client.disconnect()
        client.loop_stop()

    async def run():
        await pipeline.make_topics()
        async with consuming(artifact, pipeline.options):
            await asyncio.to_thread(publish_unconfirmed)
            await pipeline.results(5)
            await pipeline.publish(samples(rows[5:10]))
            return await pipeline.results(5)

    # None came again, as all would after a lost connection.
    assert len(asyncio.run(run())) == 5


@only_mqtt
def test_messages_of_quality_of_service_0_are_not_kept_without_bound(broker, topic):
    client_module = pytest.importorskip("paho.mqtt.client")
    url = BrokerUrl.parse(broker.url(f"{topic}-in", in_flight=10, client_id=topic))

    async def run():
        source = open_source(url, "takers")
        await source.open()
        client = client_module.Client(
            client_module.CallbackAPIVersion.VERSION2, protocol=client_module.MQTTv5
        )
        client.connect("127.0.0.1", broker.port)
        client.loop_start()
        for number in range(100):
            await asyncio.to_thread(client.publish(f"{topic}-in", json.dumps(number), 0).wait_for_publish, 60)
        last = client.publish(f"{topic}-in", b"last", 1)
        await asyncio.to_thread(last.wait_for_publish, 60)
        async with asyncio.timeout(120):
            while not (arrived := source._connection.arrived) or arrived[-1].payload != b"last":
                await asyncio.sleep(0.01)
        taken = await source.take(1000)
        client.disconnect()
        await asyncio.to_thread(client.loop_stop)
        await source.close()
        return taken

    taken = [message.payload for message in asyncio.run(run())]
    assert taken == [*(str(number).encode() for number in range(10)), b"last"]


@only_nats
def test_a_fault_at_an_acknowledgement_ends_no_consumer(broker, topic, artifact, rows, monkeypatch):
    source = pytest.importorskip("datasentinel.distributed.brokers.nats").NatsSource
    acknowledge = source.acknowledge
    pipeline = Pipeline(broker, topic, ack_wait_s=0.3)
    failures = []

    async def fail_once(self, messages):
        if not failures:
            failures.append(messages)
            raise ValueError("of the client")
        await acknowledge(self, messages)

    async def run():
        await pipeline.make_topics()
        await pipeline.publish(samples(rows[:1]))
        monkeypatch.setattr(source, "acknowledge", fail_once)
        async with consuming(artifact, pipeline.options):
            async with asyncio.timeout(120):
                while not failures:
                    await asyncio.sleep(0.01)
            await pipeline.publish(samples(rows[:5]))
            return await pipeline.results(5)

    assert {result["id"] for result in asyncio.run(run())} == {f"sample-{number}" for number in range(5)}


@only_nats
def test_a_consumer_that_fails_ends_its_server(broker, topic, artifact, rows, monkeypatch, caplog):
    pipeline = Pipeline(broker, topic)
    received = []

    async def fail(self, messages):
        raise ValueError("a fault")

    async def run():
        await pipeline.make_topics()
        await pipeline.publish(samples(rows[:1]))
        monkeypatch.setattr(Consumer, "_answer", fail)
        stopping = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
        async with consuming(artifact, pipeline.options):
            await asyncio.wait_for(stopping.wait(), 60)
            received.append(signal.SIGTERM)

    asyncio.run(run())
    assert received
    assert any("consumer_failed" in record.getMessage() for record in caplog.records)


@only_nats
@pytest.mark.parametrize("most", [1, 2])
def test_few_deliveries_are_as_many_as_told(broker, topic, artifact, rows, most):
    pipeline = Pipeline(broker, topic, ack_wait_s=0.3)

    async def take(count: int) -> None:
        source = open_source(BrokerUrl.parse(pipeline.source), pipeline.group)
        await source.open()
        for _ in range(count):
            async with asyncio.timeout(120):
                while not await source.take(1):
                    pass
        await source.close()

    async def run():
        await pipeline.make_topics()
        await pipeline.publish(samples(rows[:1]))
        await take(most)
        async with consuming(artifact, replace(pipeline.options, max_deliveries=most)):
            return await pipeline.letters(1)

    (letter,) = asyncio.run(run())
    assert "times and never answered" in letter.headers["reason"]
