"""The Helm chart, the manifest that it gives, and the overrides for nv-ingest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement

from assets_pkg import nim
from assets_pkg.nim.settings import ServerSettings, settings_from, unknown_variables
from tests.nim.helm import render

NIM = Path(nim.__file__).parent
CHART = NIM / "helm" / "retune-embedding"


def pod(objects: list[dict[str, Any]]) -> dict[str, Any]:
    return objects[0]["spec"]["template"]["spec"]


def variables(container: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each.get("value", "from a secret") for each in container["env"]}


def test_the_manifest_is_the_chart_with_its_defaults() -> None:
    written = list(yaml.safe_load_all((NIM / "kubernetes" / "embedding.yaml").read_text()))
    assert written == render(CHART, "embedding")


def test_the_defaults_are_allowed_by_the_schema_and_mistakes_are_not() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(schema["properties"]) - {"global"} == set(values)
    jsonschema.validate(values, schema)
    for wrong in ({"replica": 2}, {"replicas": "2"}, {"image": ""}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**values, **wrong}, schema)


def test_a_pod_may_do_little_and_has_time_to_answer() -> None:
    spec = pod(render(CHART, "embedding"))
    server = spec["containers"][0]
    settings = settings_from({**variables(server), "NIM_CUSTOM_MODEL": "/model"}, {})
    assert isinstance(settings, ServerSettings)
    assert unknown_variables(variables(server)) == []
    assert spec["terminationGracePeriodSeconds"] >= settings.request_timeout_s + settings.drain_grace_s
    ready = server["readinessProbe"]
    assert ready["periodSeconds"] * ready["failureThreshold"] < settings.drain_grace_s
    assert spec["securityContext"]["runAsNonRoot"]
    assert f"USER {spec['securityContext']['runAsUser']}:" in (NIM / "Dockerfile").read_text()
    limits = server["securityContext"]
    assert (limits["readOnlyRootFilesystem"], limits["allowPrivilegeEscalation"]) == (True, False)
    mounted = {each["mountPath"]: each.get("readOnly", False) for each in server["volumeMounts"]}
    assert mounted == {"/model": True, "/tmp": False}


def test_the_model_from_an_image_a_certificate_and_a_gpu() -> None:
    objects = render(CHART, "e", modelImage="registry/model:1", tlsSecret="cert", gpus=1)
    spec = pod(objects)
    (copies,) = spec["initContainers"]
    assert copies["image"] == "registry/model:1"
    assert {"name": "model", "emptyDir": {}} in spec["volumes"]
    server = spec["containers"][0]
    assert variables(server)["NIM_TLS_KEY_PATH"] == "/tls/tls.key"
    probes = [server[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert {probe["scheme"] for probe in probes} == {"HTTPS"}
    assert server["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert (
        objects[1]["spec"]["selector"].items() <= objects[0]["spec"]["template"]["metadata"]["labels"].items()
    )


def test_nv_ingest_is_pointed_at_the_charts_service_and_name() -> None:
    values = yaml.safe_load((NIM / "kubernetes" / "nv-ingest-values.yaml").read_text())
    assert values["nimOperator"]["embedqa"]["enabled"] is False
    deployment, service = render(CHART, "embedding")
    address = f"http://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}/v1"
    served = variables(pod([deployment])["containers"][0])["NIM_SERVED_MODEL_NAME"]
    assert values["envVars"] == {"EMBEDDING_NIM_ENDPOINT": address, "EMBEDDING_NIM_MODEL_NAME": served}


def test_the_lock_has_exact_versions_that_the_requirements_allow() -> None:
    def locked(path: Path) -> dict[str, str]:
        lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
        return dict(line.lower().replace("_", "-").split("==") for line in lines)

    versions = locked(NIM / "requirements.lock")
    for line in (NIM / "requirements.txt").read_text().splitlines():
        wanted = Requirement(line)
        assert versions[wanted.name] in wanted.specifier, line
    tested = locked(NIM.parents[1] / "constraints.txt")
    assert {name: tested[name] for name in versions if name in tested}.items() <= versions.items()
    gpu = locked(NIM / "requirements-gpu.lock")
    assert gpu["onnxruntime-gpu"] == versions["onnxruntime"]
