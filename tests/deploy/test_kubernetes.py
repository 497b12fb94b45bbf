"""The manifests in deploy/kubernetes: valid by Kubernetes' own schemas, and true to the server's settings."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import fields
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from datasentinel.cli.stream import command as stream
from datasentinel.serving.setting_sources import load_settings
from datasentinel.serving.settings import Settings, variable_name

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
OLDEST_KUBERNETES = "1.30"
# Of the Prometheus operator, KEDA and KServe, which bring their schemas into the cluster themselves.
CUSTOM_KINDS = {"ServiceMonitor", "ScaledObject", "ServingRuntime", "InferenceService"}
KUSTOMIZE_KINDS = {"Kustomization", "Component"}
VARIABLES = {variable_name(setting) for setting in fields(Settings)}


def documents(text: str) -> list[dict]:
    return [document for document in yaml.safe_load_all(text) if document is not None]


def all_files() -> list[Path]:
    files = sorted(FOLDER.rglob("*.yaml"))
    assert files, FOLDER
    return files


def render(target: str) -> list[dict]:
    """What `kubectl apply --kustomize` would send to the cluster."""
    if (kubectl := shutil.which("kubectl")) is not None:
        command = [kubectl, "kustomize"]
    elif (kustomize := shutil.which("kustomize")) is not None:
        command = [kustomize, "build"]
    else:
        pytest.skip("neither kubectl nor kustomize is installed, so nothing can be rendered")
    finished = subprocess.run([*command, FOLDER / target], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return documents(finished.stdout)


def render_with(tmp_path: Path, *components: str) -> list[dict]:
    """The base with some of the components."""
    # Kustomize wants relative paths.
    up = Path(*[".."] * (len(tmp_path.resolve().parts) - 1))
    folder = up / FOLDER.relative_to("/")
    overlay = {
        "resources": [str(folder / "base")],
        "components": [str(folder / "components" / name) for name in components],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    return render(str(tmp_path))


def one(objects: list[dict], kind: str, name: str = "datasentinel") -> dict:
    (found,) = [
        each for each in objects if each["kind"] == kind and each["metadata"]["name"].startswith(name)
    ][:1]
    return found


def server_of(objects: list[dict]) -> dict:
    return one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]


def validate(objects: list[dict]) -> int:
    count = 0
    for each in objects:
        if each["kind"] not in CUSTOM_KINDS | KUSTOMIZE_KINDS:
            for version in (OLDEST_KUBERNETES, kubernetes_validate.latest_version()):
                kubernetes_validate.validate(each, version, strict=True)
            count += 1
    return count


def test_every_manifest_is_valid_by_itself():
    objects = [each for file in all_files() for each in documents(file.read_text())]
    assert validate(objects) >= 8


def test_kustomizations_name_every_file_beside_them():
    for file in all_files():
        if file.name == "kustomization.yaml":
            named = set(yaml.safe_load(file.read_text()).get("resources", []))
            beside = {path.name for path in file.parent.iterdir() if path != file}
            assert {name for name in named if not name.startswith("..")} == beside, file


@pytest.mark.parametrize("target", ["base", "overlays/example", "overlays/kserve"])
def test_what_kustomize_renders_is_valid(target):
    objects = render(target)
    assert validate(objects) or {each["kind"] for each in objects} <= CUSTOM_KINDS


def test_every_setting_is_one_of_the_server_and_its_values_are_accepted():
    checked = 0
    for file in all_files():
        for document in documents(file.read_text()):
            environment = dict(
                literal.split("=", 1)
                for generator in document.get("configMapGenerator", ())
                for literal in generator["literals"]
            )
            texts = [document, *(yaml.safe_load(each["patch"]) for each in document.get("patches", ()))]
            for text in texts:
                environment |= {each["name"]: each["value"] for each in find_environment(text)}
            assert set(environment) <= VARIABLES, file
            load_settings(environ=environment)
            checked += len(environment)
    assert checked >= 5


def find_environment(node: object) -> list[dict]:
    """Every entry of a list `env` anywhere below `node`."""
    if isinstance(node, dict):
        below = [each for key, value in node.items() if key != "env" for each in find_environment(value)]
        return [*node.get("env", ()), *below]
    if isinstance(node, list):
        return [each for item in node for each in find_environment(item)]
    return []


def test_ports_and_probes_are_the_servers():
    documents_of = {file.name: documents(file.read_text()) for file in (FOLDER / "base").glob("*.yaml")}
    container = server_of(documents_of["deployment.yaml"])
    defaults = Settings()
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {name: getattr(defaults, f"{name}_port") for name in ("tcp", "grpc", "http")}
    for service in documents_of["services.yaml"]:
        for port in service["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] == "http"
    assert container["readinessProbe"]["httpGet"]["path"] == "/v2/health/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/v2/health/live"


def test_a_pod_has_time_to_drain():
    (deployment,) = documents((FOLDER / "base" / "deployment.yaml").read_text())
    kustomization = yaml.safe_load((FOLDER / "base" / "kustomization.yaml").read_text())
    literals = kustomization["configMapGenerator"][0]["literals"]
    settings = load_settings(environ=dict(literal.split("=", 1) for literal in literals))
    pod = deployment["spec"]["template"]["spec"]
    pause_s = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > pause_s + settings.drain_timeout_s


def test_selectors_find_the_pods():
    objects = [each for file in all_files() for each in documents(file.read_text())]
    labels = one(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert labels
    selectors = [
        one(objects, "Deployment")["spec"]["selector"]["matchLabels"],
        one(objects, "Service")["spec"]["selector"],
        one(objects, "Service", "datasentinel-pods")["spec"]["selector"],
        one(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector == labels


def test_the_pod_gives_nothing_away():
    for file in all_files():
        for document in documents(file.read_text()):
            for pod, container in containers_of(document):
                where = f"{file}: {container['name']}"
                own = container.get("securityContext", {})
                assert own["readOnlyRootFilesystem"] is True, where
                assert own["allowPrivilegeEscalation"] is False, where
                assert own["capabilities"] == {"drop": ["ALL"]}, where
                both = pod.get("securityContext", {}) | own
                assert both["runAsNonRoot"] is True, where
                assert both["runAsUser"] == 10001, where
                assert both["seccompProfile"] == {"type": "RuntimeDefault"}, where


def containers_of(document: dict) -> list[tuple[dict, dict]]:
    pod = document.get("spec", {})
    pod = pod.get("template", {}).get("spec", pod)
    return [(pod, container) for container in pod.get("containers", ()) if isinstance(pod, dict)]


def test_the_gpu_component_asks_for_a_gpu_and_its_image(tmp_path):
    objects = render_with(tmp_path, "gpu")
    validate(objects)
    container = server_of(objects)
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["image"].endswith(":gpu")


def test_an_artifact_can_come_out_of_an_image_instead_of_a_claim(tmp_path):
    objects = render_with(tmp_path, "fetch-artifact")
    validate(objects)
    assert "PersistentVolumeClaim" not in {each["kind"] for each in objects}
    pod = one(objects, "Deployment")["spec"]["template"]["spec"]
    models = next(volume for volume in pod["volumes"] if volume["name"] == "models")
    assert set(models) == {"name", "emptyDir"}
    (copy,) = pod["initContainers"]
    assert copy["volumeMounts"] == [{"name": "models", "mountPath": copy["command"][-1]}]


def test_prometheus_is_told_of_the_http_port(tmp_path):
    objects = render_with(tmp_path, "monitoring")
    validate(objects)
    monitor = one(objects, "ServiceMonitor")
    service = one(objects, "Service")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert {each["port"] for each in monitor["spec"]["endpoints"]} <= {
        each["name"] for each in service["spec"]["ports"]
    }


def test_a_stream_is_scaled_by_what_waits_at_the_broker_and_may_reach_it(tmp_path):
    objects = render_with(tmp_path, "stream")
    validate(objects)
    container = server_of(objects)
    with stream.make_context("stream", ["--from", "nats://h/telemetry", "--to", "nats://h/t"]) as context:
        group = context.params["group"]
    assert container["args"] == ["stream"]
    secrets = [each["secretRef"]["name"] for each in container["envFrom"] if "secretRef" in each]
    assert secrets == ["datasentinel-stream"]
    assert any("configMapRef" in each for each in container["envFrom"])
    # Two that scale the same pods would fight.
    assert "HorizontalPodAutoscaler" not in {each["kind"] for each in objects}
    scaled = one(objects, "ScaledObject")["spec"]
    deployment = one(objects, "Deployment")
    assert scaled["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    (trigger,) = scaled["triggers"]
    assert trigger["type"] == "nats-jetstream"
    assert trigger["metadata"]["consumer"] == group
    assert all(isinstance(text, str) for text in trigger["metadata"].values())
    egress = one(objects, "NetworkPolicy")["spec"]["egress"]
    assert {port["port"] for rule in egress for port in rule["ports"]} == {4222, 53}


def test_the_example_has_tls_and_tokens_where_the_settings_say():
    objects = render("overlays/example")
    pod = one(objects, "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    environment = {each["name"]: each["value"] for each in container["env"]}
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    secrets = {each["name"]: each["secret"]["secretName"] for each in pod["volumes"] if "secret" in each}
    for variable, secret, key in (
        ("DATASENTINEL_TLS_CERTIFICATE", "datasentinel-tls", "tls.crt"),
        ("DATASENTINEL_TLS_KEY", "datasentinel-tls", "tls.key"),
        ("DATASENTINEL_TOKEN_FILE", "datasentinel-tokens", "tokens"),
    ):
        path = Path(environment[variable])
        assert path.name == key
        assert secrets[mounts[str(path.parent)]] == secret
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["scheme"] == "HTTPS"
    assert one(objects, "ServiceMonitor")["spec"]["endpoints"][0]["scheme"] == "https"
    for each in objects:
        assert each["kind"] == "Namespace" or each["metadata"]["namespace"] == "datasentinel"


def test_kserve_gets_a_runtime_for_the_format_that_the_service_asks_for():
    objects = render("overlays/kserve")
    runtime, service = one(objects, "ServingRuntime"), one(objects, "InferenceService")
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"]["name"] in {each["name"] for each in runtime["spec"]["supportedModelFormats"]}
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    (container,) = runtime["spec"]["containers"]
    assert container["name"] == "kserve-container"
    assert {each["containerPort"] for each in container["ports"]} == {Settings().http_port}
    assert {"name": "DATASENTINEL_MODEL", "value": "/mnt/models"} in container["env"]
