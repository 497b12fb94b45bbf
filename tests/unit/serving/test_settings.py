"""Settings: precedence of the sources, and what is said about values that cannot be used."""

from __future__ import annotations

from dataclasses import fields

import pytest

from datasentinel.errors import SettingsError
from datasentinel.serving.setting_sources import load_settings, service_links
from datasentinel.serving.settings import Settings, flag_name, variable_name


@pytest.fixture
def config_file(tmp_path):
    def write(text: str):
        path = tmp_path / "datasentinel.toml"
        path.write_text(text)
        return path

    return write


def test_defaults_need_no_source():
    settings = load_settings(environ={})
    assert settings == Settings()
    assert (settings.host, settings.tcp_port, settings.grpc_port, settings.http_port) == (
        "127.0.0.1",
        9000,
        9001,
        9002,
    )


def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(config_file):
    path = config_file("tcp_port = 1\ngrpc_port = 2\nhttp_port = 3\n")
    settings = load_settings(
        {"tcp_port": 5, "grpc_port": None},
        config_file=path,
        environ={"DATASENTINEL_TCP_PORT": "6", "DATASENTINEL_GRPC_PORT": "7"},
    )
    assert (settings.tcp_port, settings.grpc_port, settings.http_port) == (5, 7, 3)
    assert settings.host == Settings().host


def test_the_environment_can_name_the_file(config_file):
    path = config_file("host = '::1'")
    assert load_settings(environ={"DATASENTINEL_CONFIG": str(path)}).host == "::1"


@pytest.mark.parametrize("setting", fields(Settings), ids=lambda setting: setting.name)
def test_every_setting_has_a_flag_a_variable_a_key_and_help(setting, config_file):
    assert flag_name(setting) == "--" + setting.name.replace("_", "-")
    assert setting.metadata["help"].endswith(".")
    value = setting.default
    text = str(value).lower() if isinstance(value, bool) else str(value)
    assert load_settings(environ={variable_name(setting): text}) == Settings()
    toml = f"'{value}'" if isinstance(value, str) else text
    assert load_settings(config_file=config_file(f"{setting.name} = {toml}"), environ={}) == Settings()
    assert load_settings({setting.name: value}, environ={}) == Settings()


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("ON", True), ("1", True), ("no", False), ("0", False)]
)
def test_booleans_in_the_environment(text, value):
    assert load_settings(environ={"DATASENTINEL_GRPC": text}).grpc is value


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("TCP_PORT", "9000/tcp", "expected a whole number, got '9000/tcp'"),
        ("TCPP_PORT", "9000", "is unknown; did you mean DATASENTINEL_TCP_PORT?"),
        ("NAME", "mine", "is unknown"),
        ("TCP_PORT", "65536", "must be at most 65535, got 65536"),
        ("TCP_PORT", "-1", "must be at least 0, got -1"),
        ("TCP", "maybe", "expected true or false, got 'maybe'"),
        ("DRAIN_TIMEOUT_S", "nan", "expected a finite number, got nan"),
        ("LOG_FORMAT", "xml", "expected one of text, json, got 'xml'"),
        ("BACKEND", "abacus", "got 'abacus'"),
        ("TCP_PROT", "9000", "is unknown; did you mean DATASENTINEL_TCP_PORT?"),
        ("ABACUSES_PER_WORKER", "1", "is unknown; known: DATASENTINEL_MODEL"),
    ],
)
def test_a_bad_variable_is_named(name, text, reason):
    with pytest.raises(SettingsError) as caught:
        load_settings(environ={f"DATASENTINEL_{name}": text})
    assert f"environment variable DATASENTINEL_{name}" in str(caught.value)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "variable",
    [
        "DATASENTINEL_SERVICE_HOST",
        "DATASENTINEL_SERVICE_PORT",
        "DATASENTINEL_SERVICE_PORT_GRPC",
        "DATASENTINEL_PORT_9000_TCP_ADDR",
        "DATASENTINEL_ONNXRUNTIME_LIBRARY",
        "DATASENTINEL_PROTOCOL",
        "DATASENTINEL_SHARED_DATA",
        "DATASENTINEL_CACHE_DIR",
        "DATASENTINEL_ISA",
        "HOME",
    ],
)
def test_variables_that_are_no_settings_are_left_alone(variable):
    assert load_settings(environ={variable: "tcp://10.0.0.1:9000"}) == Settings()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("tcp_prot = 1", "key 'tcp_prot' is unknown; known: model"),
        ("tcp_port = '9000'", "key 'tcp_port': expected a whole number, got '9000'"),
        ("tcp_port = true", "key 'tcp_port': expected a whole number, got True"),
        ("tcp = 1", "key 'tcp': expected true or false, got 1"),
        ("num_threads = 0", "key 'num_threads': must be at least 1, got 0"),
        ("[server]\nhost = 'x'", "key 'server' is unknown"),
        ("tcp_port = ", "not valid TOML"),
    ],
)
def test_a_bad_file_is_named_with_the_key(config_file, text, reason):
    path = config_file(text)
    with pytest.raises(SettingsError) as caught:
        load_settings(config_file=path, environ={})
    assert str(path) in str(caught.value)
    assert reason in str(caught.value)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        load_settings(config_file=tmp_path / "none.toml", environ={})


def test_a_bad_flag_is_named():
    with pytest.raises(SettingsError, match="command line: --tcp-port: must be at most 65535"):
        load_settings({"tcp_port": 70000}, environ={})
    with pytest.raises(SettingsError, match="command line: 'port' is unknown"):
        load_settings({"port": 1}, environ={})


def test_contradictions_are_errors():
    with pytest.raises(SettingsError, match="all off"):
        Settings(tcp=False, grpc=False, http=False)
    with pytest.raises(SettingsError, match="tcp_port and http_port are both 9002"):
        Settings(tcp_port=9002)
    with pytest.raises(SettingsError, match="host: must not be empty"):
        Settings(host="")
    assert Settings(tcp_port=0, grpc_port=0).tcp_port == 0
    assert Settings(tcp_port=9002, http=False).tcp_port == 9002


def test_a_whole_number_of_seconds_is_a_number(config_file):
    settings = load_settings(config_file=config_file("drain_timeout_s = 5"), environ={})
    assert settings.drain_timeout_s == 5.0
    assert isinstance(settings.drain_timeout_s, float)


@pytest.mark.parametrize("service", ["", "TCP_", "GRPC_", "HTTP_", "PREDICTOR_"])
def test_service_links_are_told_from_settings(service):
    """What Kubernetes sets beside a service named datasentinel, datasentinel-tcp and so on."""
    prefix = f"DATASENTINEL_{service}"
    environ = {
        f"{prefix}PORT": "tcp://10.0.0.1:9002",
        f"{prefix}PORT_9002_TCP": "tcp://10.0.0.1:9002",
        f"{prefix}PORT_9002_TCP_PORT": "9002",
        f"{prefix}SERVICE_HOST": "10.0.0.1",
        f"{prefix}SERVICE_PORT": "9002",
        f"{prefix}NAME": "/web/datasentinel",
    }
    assert load_settings(environ=environ) == Settings()
    assert service_links(environ) == sorted(environ)
    assert service_links({"DATASENTINEL_TCP_PORT": "9002"}) == []
