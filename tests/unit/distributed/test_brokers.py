"""What all brokers have in common: their URLs, and what guards them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from datasentinel.client_tls import ClientTls
from datasentinel.distributed.brokers.base import BrokerUrl
from datasentinel.errors import SettingsError
from tests.certificates import Authority


def test_urls_of_brokers_are_read_and_told_without_their_secrets():
    url = BrokerUrl.parse("nats://us%40er:p%2Fw@[::1]:4333/a.b/c?ack_wait_s=2.5")
    assert (url.user, url.password, url.host, url.port, url.topic) == ("us@er", "p/w", "::1", 4333, "a.b/c")
    assert url.number("ack_wait_s", 30.0, minimum=0.1) == 2.5
    assert "p/w" not in str(url)
    assert str(replace(url, topic="x")) == "nats://[::1]:4333/x"
    for wrong, reason in {
        "nats://u:secret@host/": "no URL of a broker",
        "host/topic": "no URL of a broker",
        "nats://host:99999/topic": "no URL of a broker",
        "nats://u:secret@host:99999/topic": "no URL of a broker",
    }.items():
        with pytest.raises(SettingsError, match=reason) as caught:
            BrokerUrl.parse(wrong)
        assert "secret" not in str(caught.value)
    with pytest.raises(SettingsError, match="no URL of a broker") as caught:
        BrokerUrl.parse("kafka://host?sasl.password=secret")
    assert "secret" not in str(caught.value)
    with pytest.raises(
        SettingsError, match=r"option 'ack_wait_s': a number of at least .* is expected, got 'x'"
    ):
        BrokerUrl.parse("nats://h/t?ack_wait_s=x").number("ack_wait_s", 30.0, minimum=0.1)
    with pytest.raises(SettingsError, match="option 'ack' is unknown; known: ack_wait_s"):
        BrokerUrl.parse("nats://h/t?ack=x").check_options(("ack_wait_s",))


def test_a_password_and_certificates_may_lie_in_files(tmp_path):
    (tmp_path / "password").write_text("s3cret\nmore\n")
    authority = Authority(tmp_path / "authority")
    certificate, key = authority.sign("client")
    query = f"tls_ca={authority.file}&tls_certificate={certificate}&tls_key={key}&ack_wait_s=1"
    url = BrokerUrl.parse(f"redis://u@h/t?{query}&password_file={tmp_path / 'password'}")
    assert (url.user, url.password, url.tls) == ("u", "s3cret", ClientTls(authority.file, certificate, key))
    assert dict(url.options) == {"ack_wait_s": "1"}
    assert "s3cret" not in repr(url)
    assert BrokerUrl.parse("mqtts://h/t").tls == ClientTls()
    assert BrokerUrl.parse("mqtts://h/t").scheme == "mqtt"
    for wrong, reason in {
        f"redis://u:s3cret@h/t?password_file={tmp_path / 'password'}": "has a password as well as a file",
        "redis://u@h/t?password_file=/no/such": "/no/such: cannot be read",
        "redis://u@h/t?tls_ca=/no/such": "/no/such: cannot be read",
        f"redis://u@h/t?tls_ca={key}": "not PEM certificates",
        f"redis://u@h/t?tls_key={key}": "not its certificate",
    }.items():
        with pytest.raises(SettingsError, match=reason) as caught:
            BrokerUrl.parse(wrong)
        assert "s3cret" not in str(caught.value)


def test_certificates_become_options_of_librdkafka(tmp_path):
    kafka = pytest.importorskip("datasentinel.distributed.brokers.kafka")
    authority = Authority(tmp_path)
    certificate, key = authority.sign("client")
    query = f"tls_ca={authority.file}&tls_certificate={certificate}&tls_key={key}"
    plain = kafka._config(BrokerUrl.parse("kafka://h/t"))
    assert "security.protocol" not in plain
    config = kafka._config(BrokerUrl.parse(f"kafka://h/t?{query}"))
    assert config["security.protocol"] == "SSL"
    assert config["ssl.ca.location"] == str(authority.file)
    assert config["ssl.certificate.location"] == str(certificate)
    assert config["ssl.key.location"] == str(key)
    kafka.Producer(config)  # Reads the files, and refuses what it does not know.
    config = kafka._config(BrokerUrl.parse(f"kafka://u:p@h/t?{query}"))
    assert (config["security.protocol"], config["sasl.password"]) == ("SASL_SSL", "p")


@pytest.mark.parametrize(
    "text",
    [
        "nats://u:{}/x@host/t",
        "nats://u:12/{}@host/t",
        "nats://u:{}?x@host/t",
        "nats://u:x?{}@host/t",
        "nats://u:{}#x@host/t",
        "nats://u:x@{}?y@host/t",
        "nats://u:x@{}/y@host/t",
        "nats://u:[{}@host/t",
        "nats://u:{}@host:x/t",
        "kafka://host?sasl.password=x@{}",
        "u:{}@host/t",
        "{}",
        "nats://nats://u:{}@host",
    ],
)
def test_no_error_quotes_a_part_of_a_password(text):
    with pytest.raises(SettingsError, match="is no URL of a broker") as caught:
        BrokerUrl.parse(text.format("s3cret"))
    assert "s3cret" not in str(caught.value)


def test_errors_say_how_passwords_are_written():
    with pytest.raises(SettingsError, match=r"must be percent-encoded \(%2F %3F %23 %40\)"):
        BrokerUrl.parse("nats://u:p/w@host/t")
    assert BrokerUrl.parse("mqtt://host/a/%23").topic == "a/#"


@pytest.mark.parametrize(
    ("module", "kind", "topic", "group", "message"),
    [
        ("nats", "NatsSource", "t", "a.b", "a consumer of NATS has a name without blanks"),
        ("nats", "NatsSink", "t.*", None, "a subject without blanks and wildcards"),
        ("nats", "NatsSink", "t?ack=1", None, "option 'ack' is unknown; known: stream, ack_wait_s"),
        ("mqtt", "MqttSource", "t", "a/b", "a shared subscription has a name without any of / [+] #"),
        ("mqtt", "MqttSource", "t?in_flight=0", "a", "option 'in_flight': a number of at least 1"),
        ("mqtt", "MqttSink", "t/%23", None, "a topic without wildcards"),
        ("kafka", "KafkaSource", "t?acks=all", "a", "option 'acks' is none of librdkafka's"),
        ("kafka", "KafkaSink", "t?acks=all", None, "option 'acks' is none of librdkafka's"),
    ],
)
def test_what_a_broker_cannot_do_is_refused_before_it_is_asked(module, kind, topic, group, message):
    made = getattr(pytest.importorskip(f"datasentinel.distributed.brokers.{module}"), kind)
    with pytest.raises(SettingsError, match=message):
        made(BrokerUrl.parse(f"{module}://h/{topic}"), *([] if group is None else [group]))
