from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from datasentinel.artifact import load_artifact
from datasentinel.detector import Detector
from datasentinel.distributed.prometheus.client import Grid, PrometheusClient
from datasentinel.distributed.prometheus.config import Endpoint, Model
from datasentinel.distributed.prometheus.fitting import fit, load_fitted
from datasentinel.distributed.prometheus.samples import fetch
from datasentinel.distributed.prometheus.scoring import SeriesScorer
from datasentinel.distributed.prometheus.states import SeriesStates
from datasentinel.errors import ArtifactError, DataError
from tests.recordings import oscillations
from tests.unit.distributed.prometheus.fake_server import matrix, serving

ROWS = 600
# Without half-lives it would be seen that single rows of these columns are the steadiest alone.
MODEL = Model(
    half_lives=(8.0, 32.0),
    name="pumps",
    queries={"load": "0", "delay": "1"},
    by=("pump",),
    step=10.0,
    fit_window=10.0 * ROWS,
)
RECORDINGS = {f"pump-{i}": oscillations(1000, seed=i) for i in range(2)}


def answer(request):
    """The column that the query names of two pumps; the first row is that of moment 0."""
    first, last = (round(float(request.form[name]) / 10) for name in ("start", "end"))
    column = int(request.form["query"])
    return matrix(
        *(
            ({"pump": name}, [[10 * i, str(float(rows[i, column]))] for i in range(first, last + 1)])
            for name, rows in RECORDINGS.items()
        )
    )


def test_a_model_is_trained_on_the_window_and_found_again(tmp_path):
    with serving(answer) as server:
        client = PrometheusClient(Endpoint(url=server.url))
        fitted = fit(client, MODEL, tmp_path, last=700)
        again = fit(client, MODEL, tmp_path, last=710)
        fit(client, MODEL, tmp_path, last=720)
    assert {request.form["start"] for request in server.requests[:2]} == {"1010.000"}
    assert fitted.labels == ("pump",)
    assert fitted.artifact.config.feature_names == ("load", "delay")
    assert fitted.artifact.config.training["rows"] == 2 * ROWS
    assert fitted.artifact.config.gap_s == fitted.artifact.config.warm_up_rows * 10
    rows = np.ascontiguousarray(RECORDINGS["pump-0"][700:, :2])
    assert Detector(fitted.artifact).predict(rows).mean() < 0.2
    # The newest two versions are kept.
    assert sorted(folder.name for folder in (tmp_path / "pumps").iterdir()) == ["2", "3"]
    found = load_fitted(tmp_path, MODEL)
    assert (found.labels, found.fitted_to) == (("pump",), 720)
    assert load_artifact(tmp_path / "pumps" / "2").config.version == again.artifact.config.version


@pytest.mark.parametrize(
    "change",
    [{"queries": {"load": "0", "delay": "2"}}, {"step": 20.0}, {"by": ("host",)}, {"target_fpr": 0.001}],
)
def test_a_model_of_other_settings_is_not_taken(tmp_path, change):
    with serving(answer) as server:
        fit(PrometheusClient(Endpoint(url=server.url)), MODEL, tmp_path, last=700)
    assert load_fitted(tmp_path, replace(MODEL, **change)) is None
    # How often it is looked at changes nothing about what was learnt.
    assert load_fitted(tmp_path, replace(MODEL, infer_every=60.0)) is not None


def test_a_model_of_somebody_else_is_not_taken(tmp_path, detector):
    from datasentinel.artifact import save_artifact

    assert load_fitted(tmp_path, MODEL) is None
    save_artifact(tmp_path / "pumps" / "1", detector.artifact.onnx, detector.artifact.config)
    with pytest.raises(ArtifactError, match="was not trained by watch"):
        load_fitted(tmp_path, MODEL)


def test_a_model_without_memory_scores_from_the_first_row(tmp_path):
    model = replace(MODEL, half_lives=())
    with serving(answer) as server:
        client = PrometheusClient(Endpoint(url=server.url))
        detector = Detector(fit(client, model, tmp_path, last=700).artifact)
        samples = fetch(client, model.queries, Grid(10.0, 701, 50), model.by)
    assert detector.scorer.state_dim == 0
    states = SeriesStates.new("", 700, 0, 2)
    moments = list(SeriesScorer(detector, model).advance(states, samples))
    for place, name in enumerate(RECORDINGS):
        rows = np.ascontiguousarray(RECORDINGS[name][701:751, :2])
        assert all(moment.keys[place] == (name,) for moment in moments)
        severities = [moment.severity[place] for moment in moments]
        np.testing.assert_allclose(severities, detector.severity(rows), rtol=1e-4)
        np.testing.assert_array_equal([m.anomaly[place] for m in moments], detector.predict(rows))


def test_what_is_missing_is_named(tmp_path):
    def delay_only(request):
        return answer(request) if request.form["query"] == "1" else matrix()

    with serving(delay_only) as server, pytest.raises(DataError, match="no sample in the window of: load"):
        fit(PrometheusClient(Endpoint(url=server.url)), MODEL, tmp_path, last=700)


def test_series_that_share_no_labels_are_named(tmp_path):
    def apart(request):
        column = request.form["query"]
        return matrix(({"pump": f"{column}"}, [[float(request.form["end"]), "1"]]))

    with (
        serving(apart) as server,
        pytest.raises(DataError, match=r"none of 2 series has .* by the labels pump"),
    ):
        fit(PrometheusClient(Endpoint(url=server.url)), MODEL, tmp_path, last=700)
