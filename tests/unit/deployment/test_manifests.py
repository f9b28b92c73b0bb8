"""The Kubernetes manifests as they reach a cluster: valid, and open to nobody who need not come in."""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from kustomization import Document, build, read, select

from dreamgym.config.loading import load_config
from tests.waiting import HANG_S

ROOT = Path(__file__).parents[3]
K8S = ROOT / "k8s"
OVERLAYS = ["gpu-nvidia", "small-cpu"]
CASES = {
    **{name: (f"overlays/{name}", []) for name in OVERLAYS},
    **{f"{name}/job": (f"overlays/{name}/job", []) for name in OVERLAYS},
    "everything": ("overlays/gpu-nvidia", ["internet", "qdrant-tls"]),
}
CLUSTERS = [*OVERLAYS, "everything"]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder to build for each case; where components are added, a kustomization as a user would write it."""
    result = {}
    for case, (overlay, components) in CASES.items():
        result[case] = K8S / overlay
        if components:
            result[case] = folder = tmp_path_factory.mktemp("overlay").resolve()
            spec = {
                "apiVersion": "kustomize.config.k8s.io/v1beta1",
                "kind": "Kustomization",
                "namespace": "dreamgym",
                "resources": [os.path.relpath(K8S / overlay, folder)],
                "components": [os.path.relpath(K8S / "components" / name, folder) for name in components],
            }
            (folder / "kustomization.yaml").write_text(yaml.safe_dump(spec))
    return result


@pytest.fixture(scope="session")
def rendered(folders: dict[str, Path]) -> dict[str, list[Document]]:
    return {case: build(folder) for case, folder in folders.items()}


def one(documents: list[Document], kind: str, name: str) -> Document:
    (document,) = select(documents, kind=kind, name=name)
    return document


def pods(documents: list[Document]) -> Iterator[tuple[str, Document]]:
    """Every pod template, with a name to show."""
    for document in documents:
        spec, kind = document.get("spec", {}), document["kind"]
        if kind == "StatefulSet":
            yield document["metadata"]["name"], spec["template"]
        elif kind == "RayCluster":
            yield "head", spec["headGroupSpec"]["template"]
            for group in spec["workerGroupSpecs"]:
                yield group["groupName"], group["template"]
        elif kind == "RayJob":
            yield "submitter", spec["submitterPodTemplate"]


def containers(documents: list[Document]) -> list[tuple[str, Document]]:
    """Every container, and the autoscaler that KubeRay puts beside the head."""
    found = [(name, each) for name, pod in pods(documents) for each in pod["spec"]["containers"]]
    clusters = select(documents, kind="RayCluster")
    return found + [("autoscaler", each["spec"]["autoscalerOptions"]) for each in clusters]


def walk(node: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
        yield str(key), value
        if isinstance(value, dict | list):
            yield from walk(value)


# --- valid


def test_every_file_is_reached_by_a_kustomization(folders: dict[str, Path]) -> None:
    reached: set[Path] = set()
    for folder in folders.values():
        build(folder, reached)
    assert set(K8S.rglob("*.yaml")) <= reached


def test_patches_and_replacements_name_what_exists() -> None:
    everything = [d for f in K8S.rglob("*.yaml") for d in read(f) if isinstance(d, dict) and "metadata" in d]
    for file in K8S.rglob("kustomization.yaml"):
        (spec,) = read(file)
        replacements = spec.get("replacements", [])
        targets = [patch["target"] for patch in spec.get("patches", [])]
        targets += [target["select"] for replacement in replacements for target in replacement["targets"]]
        for target in targets:
            assert select(everything, **target), f"{file}: {target}"


@pytest.mark.parametrize("case", CASES)
def test_kustomize_itself_renders_the_same(
    case: str, folders: dict[str, Path], rendered: dict[str, list[Document]]
) -> None:
    program = next((p for p in (["kustomize", "build"], ["kubectl", "kustomize"]) if shutil.which(p[0])), None)
    if program is None:
        pytest.skip("neither kustomize nor kubectl is installed")
    output = subprocess.run(
        [*program, str(folders[case])],
        check=True,
        capture_output=True,
        timeout=HANG_S,
        env={**os.environ, "KUBECONFIG": os.devnull},
    ).stdout

    def order(document: Document) -> tuple[str, str]:
        return document["kind"], document["metadata"]["name"]

    assert sorted(yaml.load_all(output, yaml.CSafeLoader), key=order) == sorted(rendered[case], key=order)


def test_core_objects_follow_kubernetes_schemas(rendered: dict[str, list[Document]]) -> None:
    different = {json.dumps(document): document for documents in rendered.values() for document in documents}
    core = [d for d in different.values() if not d["apiVersion"].startswith(("ray.io/", "monitoring.coreos.com/"))]
    assert len(core) > 20
    for document in core:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def crd(kind: str) -> jsonschema.protocols.Validator:
    """KubeRay's published schema for a kind, which refuses unknown fields as `kubectl apply` does."""
    file = ROOT.parent / "shared" / "k8s-crds" / f"ray.io_{kind.lower()}s.yaml"
    if not file.exists():
        pytest.skip("KubeRay's schemas are not beside the repository")
    definition = yaml.load(file.read_bytes(), yaml.CSafeLoader)
    (version,) = [each for each in definition["spec"]["versions"] if each["name"] == "v1"]
    schema = version["schema"]["openAPIV3Schema"]
    for _, node in [("", schema), *walk(schema)]:
        if isinstance(node, dict) and node.get("type") == "object" and isinstance(node.get("properties"), dict):
            node.setdefault("additionalProperties", False)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("kind", ["RayCluster", "RayJob"])
def test_ray_objects_follow_kuberay_schemas(kind: str, rendered: dict[str, list[Document]]) -> None:
    validator = crd(kind)
    found = [document for documents in rendered.values() for document in select(documents, kind=kind)]
    assert found
    for document in found:
        validator.validate(document)
    misspelt = copy.deepcopy(found[0])
    misspelt["spec"]["rayVersions"] = "2.60.0"
    with pytest.raises(jsonschema.ValidationError, match="rayVersions"):
        validator.validate(misspelt)


def test_monitors_name_ports_that_exist(rendered: dict[str, list[Document]]) -> None:
    documents = rendered["everything"]
    ports = {
        name: {p["name"] for c in pod["spec"]["containers"] for p in c.get("ports", [])}
        for name, pod in pods(documents)
    }
    (everywhere,) = one(documents, "PodMonitor", "ray")["spec"]["podMetricsEndpoints"]
    for node in ("head", "rollouts", "engines", "learner"):
        assert everywhere["port"] in ports[node]
    for endpoint in one(documents, "PodMonitor", "ray-head")["spec"]["podMetricsEndpoints"]:
        assert endpoint["port"] in ports["head"]
    service = one(documents, "Service", "dreamgym-qdrant")
    (endpoint,) = one(documents, "ServiceMonitor", "qdrant")["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert endpoint["scheme"] == "https"


# --- one place for what matters


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_value_is_used_and_reaches_all_its_places(overlay: str, rendered: dict[str, list[Document]]) -> None:
    documents = rendered[overlay] + rendered[f"{overlay}/job"]
    values = select(documents, kind="ConfigMap", name="dreamgym-values")[0]["data"]
    (spec,) = read(K8S / "overlays" / overlay / "kustomization.yaml")
    used = {
        replacement["source"]["fieldPath"].removeprefix("data.")
        for component in spec["components"]
        for each in read(K8S / "overlays" / overlay / component / "kustomization.yaml")
        for replacement in each.get("replacements", [])
    }
    assert used == set(values)
    ray = [c["image"] for name, c in containers(documents) if c.get("name", "").startswith(("ray-", "submitter"))]
    assert len(ray) >= 3 and set(ray) == {values["image"]}
    cluster = one(rendered[overlay], "RayCluster", "dreamgym")["spec"]
    for group in cluster["workerGroupSpecs"]:
        name = group["groupName"]
        assert (group["minReplicas"], group["maxReplicas"]) == (int(values[f"{name}-min"]), int(values[f"{name}-max"]))
        assert group["replicas"] == group["minReplicas"]
        (worker,) = group["template"]["spec"]["containers"]
        for amounts in worker["resources"].values():
            assert (amounts["cpu"], amounts["memory"]) == (values[f"{name}-cpu"], values[f"{name}-memory"])
            assert amounts.get("nvidia.com/gpu") == values.get(f"{name}-gpus")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_jobs_command_is_a_valid_run_on_this_cluster(overlay: str, rendered: dict[str, list[Document]]) -> None:
    job = one(rendered[f"{overlay}/job"], "RayJob", "dreamgym")["spec"]
    program, _, recipe, *overrides = shlex.split(job["entrypoint"])
    assert program == "dreamgym"
    config = load_config(ROOT / Path(recipe).relative_to("/app"), overrides)
    documents = rendered[overlay]
    service = one(documents, "Service", "dreamgym-qdrant")
    assert config.replay.qdrant.url == f"http://dreamgym-qdrant:{service['spec']['ports'][0]['port']}"
    cluster = one(documents, "RayCluster", job["clusterSelector"]["ray.io/cluster"])["spec"]
    assert str(config.out).startswith("/shared/")
    gpus = 0
    for group in cluster["workerGroupSpecs"]:
        (worker,) = group["template"]["spec"]["containers"]
        assert "/shared" in {mount["mountPath"] for mount in worker["volumeMounts"]}
        gpus += group["minReplicas"] * int(worker["resources"]["limits"].get("nvidia.com/gpu", 0))
    assert gpus == 0 or gpus >= config.learner.workers, "a run looks for the learner's GPUs when it starts"


# --- Ray


@pytest.mark.parametrize("case", CLUSTERS)
def test_ray_asks_for_the_token_scales_by_v2_and_survives_its_head(
    case: str, rendered: dict[str, list[Document]]
) -> None:
    documents = rendered[case]
    cluster = one(documents, "RayCluster", "dreamgym")["spec"]
    assert cluster["authOptions"] == {"mode": "token", "secretName": "dreamgym-secrets"}
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["version"] == "v2"
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    host, port = cluster["gcsFaultToleranceOptions"]["redisAddress"].split(":")
    assert int(port) in [p["port"] for p in one(documents, "Service", host)["spec"]["ports"]]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (pin,) = [dependency for dependency in project["dependencies"] if dependency.startswith("ray[")]
    assert cluster["rayVersion"].startswith(pin.split("==")[1].rstrip("*"))
    for name, pod in pods([d for d in documents if d["kind"] == "RayCluster"]):
        assert pod["spec"]["restartPolicy"] == "Never", name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_submitter_carries_the_token(overlay: str, rendered: dict[str, list[Document]]) -> None:
    (submitter,) = [c for _, c in containers(rendered[f"{overlay}/job"])]
    env = {each["name"]: each for each in submitter["env"]}
    assert env["RAY_AUTH_MODE"]["value"] == "token"
    assert env["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]["key"] == "auth_token"


# --- security


@pytest.mark.parametrize("case", CASES)
def test_no_container_has_more_rights_than_it_needs(case: str, rendered: dict[str, list[Document]]) -> None:
    documents = rendered[case]
    assert containers(documents)
    for name, container in containers(documents):
        context = container["securityContext"]
        assert context["runAsNonRoot"] is True, name
        assert context["allowPrivilegeEscalation"] is False, name
        assert context["readOnlyRootFilesystem"] is True, name
        assert context["capabilities"] == {"drop": ["ALL"]}, name
        for kind in ("requests", "limits"):
            assert {"cpu", "memory"} <= set(container["resources"][kind]), name
    for name, pod in pods(documents):
        context = pod["spec"]["securityContext"]
        assert context["runAsNonRoot"] is True and context["runAsUser"] > 0, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        if name != "head":
            assert pod["spec"]["automountServiceAccountToken"] is False, name
    forbidden = {"hostPort", "hostNetwork", "hostPID", "hostIPC", "hostPath", "privileged", "nodePort"}
    assert not forbidden & {key for document in documents for key, _ in walk(document)}


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_published_outside_the_cluster(case: str, rendered: dict[str, list[Document]]) -> None:
    documents = rendered[case]
    assert not {"Ingress", "HTTPRoute", "Gateway"} & {document["kind"] for document in documents}
    types = [value for d in documents for key, value in walk(d) if key in ("type", "serviceType")]
    assert not {"LoadBalancer", "NodePort"} & {value for value in types if isinstance(value, str)}


@pytest.mark.parametrize("case", CASES)
def test_images_are_pinned(case: str, rendered: dict[str, list[Document]]) -> None:
    images = [value for d in rendered[case] if d["kind"] != "ConfigMap" for key, value in walk(d) if key == "image"]
    assert images
    for image in images:
        assert re.search(r":v?\d+\.\d+\.\d+[\w.-]*$", image), image


def test_secrets_are_references_to_keys_that_the_example_names(rendered: dict[str, list[Document]]) -> None:
    lines = [line for line in (K8S / "secrets.example.env").read_text().splitlines() if line and line[0] != "#"]
    assert all(line.endswith("=") for line in lines), "the example holds a value"
    known = {line.rstrip("=") for line in lines}
    for case, documents in rendered.items():
        assert not select(documents, kind="Secret")
        for key, value in (item for document in documents for item in walk(document)):
            if key == "secretKeyRef" or (key == "credentials" and "key" in value):
                assert value["name"] == "dreamgym-secrets" and value["key"] in known, case
        for name, container in containers(documents):
            for env in container.get("env", []):
                if re.search(r"KEY|TOKEN|PASSWORD|AUTH$|SECRET", env["name"]) and env["name"] != "QDRANT__TLS__KEY":
                    reference = "secretKeyRef" in env.get("valueFrom", {}) or env.get("value", "")[:2] == "$("
                    assert reference, f"{name}: {env['name']}"


@pytest.mark.parametrize("case", CLUSTERS)
def test_qdrant_has_a_key_a_volume_probes_and_a_budget(case: str, rendered: dict[str, list[Document]]) -> None:
    documents = rendered[case]
    qdrant = one(documents, "StatefulSet", "dreamgym-qdrant")["spec"]
    (container,) = qdrant["template"]["spec"]["containers"]
    env = {each["name"]: each for each in container["env"]}
    for kind in ("API_KEY", "READ_ONLY_API_KEY"):
        assert env[f"QDRANT__SERVICE__{kind}"]["valueFrom"]["secretKeyRef"]["key"] == f"QDRANT_{kind}"
    (claim,) = qdrant["volumeClaimTemplates"]
    assert "/qdrant/storage" in {m["mountPath"] for m in container["volumeMounts"] if m["name"] == "data"}
    assert claim["metadata"]["name"] == "data"
    scheme = "HTTPS" if case == "everything" else "HTTP"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["scheme"] == scheme
    budget = one(documents, "PodDisruptionBudget", "qdrant")["spec"]
    assert budget["selector"]["matchLabels"].items() <= qdrant["template"]["metadata"]["labels"].items()
