from __future__ import annotations

import pytest

from datasentinel.distributed.prometheus.config import load_config
from datasentinel.distributed.prometheus.durations import format_duration, parse_duration
from datasentinel.errors import SettingsError

MINIMAL = """
[source]
url = "http://localhost:9090"
[models.hosts.queries]
load = "node_load1"
"""


def load(tmp_path, text):
    path = tmp_path / "watch.toml"
    path.write_text(text)
    return load_config(path)


def test_what_is_not_told_has_a_default(tmp_path):
    config = load(tmp_path, MINIMAL)
    (model,) = config.models
    assert config.directory == tmp_path / "watch"
    assert config.remote_write is None
    assert (config.exposition.host, config.exposition.port) == ("127.0.0.1", 9003)
    assert model.name == "hosts"
    assert model.queries == {"load": "node_load1"}
    assert (model.step, model.infer_every, model.alert_window) == (60, 60, 300)


def test_everything_can_be_told(tmp_path):
    (tmp_path / "token").write_text("secret")
    config = load(
        tmp_path,
        """
        directory = "kept"
        [source]
        url = "https://metrics.example/prometheus"
        timeout = "10s"
        retries = 2
        bearer_token_file = "token"
        headers = { X-Scope-OrgID = "team" }
        [exposition]
        host = "0.0.0.0"
        port = 9100
        [remote_write]
        url = "https://metrics.example/api/v1/push"
        username = "writer"
        password_file = "token"
        [models.disks]
        by = ["instance", "device"]
        step = "15s"
        infer_every = "1m"
        offset = "30s"
        fit_window = "2w"
        fit_every = "1d"
        catch_up = "6h"
        half_lives = [8, 32]
        target_fpr = 0.001
        [models.disks.queries]
        reads = "rate(node_disk_reads_completed_total[1m])"
        """,
    )
    (model,) = config.models
    assert config.source.bearer_token_file == str(tmp_path / "token")
    assert config.source.headers == {"X-Scope-OrgID": "team"}
    assert config.remote_write.username == "writer"
    assert model.by == ("instance", "device")
    assert (model.step, model.infer_every, model.offset) == (15, 60, 30)
    assert (model.fit_window, model.catch_up) == (14 * 86_400, 6 * 3600)
    assert model.training.half_lives == (8.0, 32.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[source]", "[sauce]"), r"key 'sauce' is unknown; did you mean source"),
        (("[source]", "[source]\nretires = 2"), r"\[source\]: key 'retires' is unknown; did you mean retries"),
        (("[models.hosts.q", '[models.hosts]\nstep = 15\n[models.hosts.q'), r"\[models.hosts\] step: expected a duration"),
        (("[models.hosts.q", '[models.hosts]\nstep = "15"\n[models.hosts.q'), r"\[models.hosts\] step: '15' is not a duration"),
        (("[models.hosts.q", '[models.hosts]\nby = "host"\n[models.hosts.q'), r"\[models.hosts\] by: expected a list"),
        (("[models.hosts.q", '[models.hosts]\nname = "x"\n[models.hosts.q'), r"\[models.hosts\]: key 'name' is unknown"),
        (("[models.hosts.q", '[models.hosts]\nmodel = "cnn"\n[models.hosts.q'), r"\[models.hosts\] unknown model 'cnn'"),
        (("[models.hosts.q", '[models.hosts]\npreset = "x"\n[models.hosts.q'), r"preset: unknown 'x'; known are node-exporter"),
        (("[models.hosts.q", "[models.hosts]\ntime_zone = 'Mars'\n[models.hosts.q"), r"unknown time zone 'Mars'"),
        (("load =", "load-1 ="), r"\[models.hosts\] 'load-1' is not a valid name of a column"),
        (('"node_load1"', "1"), r"\[models.hosts\] queries.load: expected text, got 1"),
        (("models.hosts", "models.'1 x'"), r"'1 x' is not a valid name"),
        (("http://localhost:9090", "localhost"), r"\[source\] url: expected http://"),
        (("http://localhost", "http://me:secret@localhost"), r"without user and password"),
        (('url = "http://localhost:9090"', "retries = 1"), r"\[source\]: url is missing"),
        (("[source]", "[exposition]\nenabled = false\n[source]"), r"scores would go nowhere"),
        (("[source]", "[exposition]\nport = 70000\n[source]"), r"\[exposition\] port: expected 0 to 65535"),
        (("[source]", "[source]\nusername = 'x'"), r"\[source\] username and password_file go together"),
        (("[source]", "[source"), r"not valid TOML"),
        (("[source]", "[source]\nretries = -1"), r"\[source\] retries: must not be negative, got -1"),
        (("[source]", "[source]\nusername = 'x'\npassword_file = 'p'\nbearer_token_file = 't'"), r"exclude each other"),
        (("[source]", "[source]\nkey_file = 'k'"), r"key_file is set, but certificate_file is not"),
        (("[source]", "[source]\ntimeout = '0s'"), r"\[source\] timeout: must be more than 0"),
        (("[source]", "[exposition]\nkey_file = 'k'\n[source]"), r"certificate_file and key_file go together"),
        (("[source]", "directory = 1\n[source]"), r"directory: expected text, got 1"),
        (("[source]", "remote_write = 1\n[source]"), r"\[remote_write\]: expected a table, got 1"),
        (("[models.hosts.q", "[models.hosts]\nfit_window = '1m'\n[models.hosts.q"), r"fit_window: must be ten steps at least"),
        (("[models.hosts.q", "[models.hosts]\nmax_rows = 0\n[models.hosts.q"), r"max_rows: must be at least 1, got 0"),
        (("[models.hosts.q", "[models.hosts]\nalert_share = 1.5\n[models.hosts.q"), r"alert_share: must be above 0 and at most 1"),
        (("[models.hosts.q", "[models.hosts]\nselector = 'x'\n[models.hosts.q"), r"selector: goes with a preset"),
        (("[models.hosts.queries]\nload =", "[models.hosts]\nmodel ="), r"queries: at least one is needed, or a preset"),
        (("[models.hosts.queries]", "[mod.hosts.queries]"), r"key 'mod' is unknown; did you mean models"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(tmp_path, change, message):
    with pytest.raises(SettingsError, match=message):
        load(tmp_path, MINIMAL.replace(*change))


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"nowhere\.toml: cannot be read"):
        load_config(tmp_path / "nowhere.toml")


def test_a_preset_is_filled_in_and_added_to(tmp_path):
    config = load(
        tmp_path,
        """
        [source]
        url = "http://localhost:9090"
        [models.nodes]
        preset = "node-exporter"
        selector = 'job="node"'
        step = "30s"
        [models.nodes.queries]
        load_per_cpu = "node_load5"
        temperature = "node_hwmon_temp_celsius"
        """,
    )
    (model,) = config.models
    assert model.by == ("job", "instance")
    assert model.queries["load_per_cpu"] == "node_load5"
    assert model.queries["temperature"] == "node_hwmon_temp_celsius"
    assert model.queries["cpu_busy"] == (
        '1 - avg by (job, instance) (rate(node_cpu_seconds_total{mode="idle",job="node"}[2m]))'
    )


@pytest.mark.parametrize(
    ("text", "duration_s"), [("15s", 15), ("1h30m", 5400), ("14d", 1_209_600), ("500ms", 0.5), ("2w", 1_209_600)]
)  # fmt: skip
def test_durations_are_those_of_promql(text, duration_s):
    assert parse_duration(text) == duration_s
    assert parse_duration(format_duration(duration_s)) == duration_s


@pytest.mark.parametrize("text", ["", "15", "s", "1m1h", "-5s", "1.5h", "5 m", "1s1s"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(SettingsError, match="is not a duration"):
        parse_duration(text)
