"""The command `doctor`: looks over the cluster a run would use, one line a check, with the remedy where one fails."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import socket
import uuid
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.markup import escape

from dreamgym.commands.doctor_cuda import Finding, ask_cuda, cuda_findings, torch_build
from dreamgym.commands.doctor_env import environment, logs
from dreamgym.config import ModelConfig, RunConfig
from dreamgym.errors import ConfigError, ModelError
from dreamgym.models.checkpoint import gguf_file
from dreamgym.planning.check import check_cluster
from dreamgym.planning.machine import here
from dreamgym.replay.index import connect
from dreamgym.runs.remote_checkpoints import FIELD
from dreamgym.runs.remote_folder import RemoteFolder
from dreamgym.runtime.cluster import Machine, ensure_ray, slow_precisions
from dreamgym.telemetry.console import console

PACKAGES = ("ray", "torch", "vllm", "deepspeed", "transformers", "qdrant-client", "pyarrow")
NODE_TIMEOUT_S = 60.0


def doctor(config: RunConfig) -> None:
    """Check the cluster that `RAY_ADDRESS` names, or this machine, for a run of this configuration.

    Raises:
        ConfigError: a check failed; each has said so on its own line.
    """
    machine = ensure_ray("cpu" if config.device == "cpu" else "auto")
    findings = examine(config, machine)
    for finding in findings:
        mark = "[green]✓[/]" if finding.ok else "[bold red]✗[/]"
        remedy = "" if finding.ok else f"; {finding.remedy}"
        console.print(f"{mark} {finding.check}: {escape(finding.said + remedy)}", soft_wrap=True)
    if failed := [finding.check for finding in findings if not finding.ok]:
        raise ConfigError(f"doctor: {len(failed)} of {len(findings)} checks failed ({', '.join(failed)}).")


def examine(config: RunConfig, machine: Machine) -> list[Finding]:
    """All findings, in the order in which a run would meet the faults; Ray must be connected.

    `machine` is what `ensure_ray` says of it.
    """
    token = config.run_dir / f".doctor-{uuid.uuid4().hex}"
    unwritable: Finding | None = None
    try:
        token.parent.mkdir(parents=True, exist_ok=True)
        token.write_text("here")
    except OSError as error:
        said = f"{config.run_dir} cannot be written ({error.strerror})"
        unwritable = Finding("storage", False, said, "choose another `out`")
    nodes, faults = _ask_nodes(token, config.device != "cpu")
    if unwritable is None:
        token.unlink()
    return [
        *faults,
        *_versions(nodes),
        *cuda_findings(config.device, nodes),
        unwritable or _storage(config, nodes),
        _ports(nodes),
        _gpus(config, machine),
        _precision(config, machine),
        _memory(config, machine, nodes),
        _qdrant(config),
        checkpoints(config),
        *(_model(f"{name}.model", model) for name, model in _models(config)),
        environment(config),
        logs(config),
    ]


# Nodes ---------------------------------------------------------------------------------------------------


def _ask_nodes(token: Path, gpus_count: bool) -> tuple[list[dict[str, Any]], list[Finding]]:
    """What every living node says of itself, of its GPUs where they count; a finding for each that was not reached."""
    import ray

    probe = ray.remote(num_cpus=0)(_probe)
    living = [node for node in ray.nodes() if node["Alive"]]
    gpus = [int(node["Resources"].get("GPU", 0)) if gpus_count else 0 for node in living]
    asked = [probe.options(**_at(n["NodeID"])).remote(str(token), g) for n, g in zip(living, gpus, strict=True)]
    told, faults = [], []
    for node, answer in zip(living, asked, strict=True):
        try:
            told.append({"id": node["NodeID"], **ray.get(answer, timeout=NODE_TIMEOUT_S)})
        except ray.exceptions.RayError as error:
            said = str(error).strip().splitlines()[-1] or type(error).__name__
            faults.append(Finding(f"node {node['NodeName']}", False, said, "install dreamgym on it as on the others"))
    return told, faults


def _at(node_id: str) -> dict[str, Any]:
    """Options that put a task or an actor on one node."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False)}


def _probe(token: str, gpus: int) -> dict[str, Any]:
    """Runs on a node: name, versions, its `gpus`, and whether it sees the driver's file and may write beside it."""
    sees = Path(token).is_file()
    return {
        "host": socket.gethostname(),
        "versions": _installed(),
        "build": torch_build(),
        "cuda": ask_cuda(gpus) if gpus else None,
        "node": here().nodes[0],
        "sees": sees,
        "writes": sees and os.access(Path(token).parent, os.W_OK),
    }


def _installed() -> dict[str, str]:
    """Versions of Python and of what has to be the same on every node."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str:
    """The installed version without its build tag (2.13.0+cpu is 2.13.0); "none" where it is not installed."""
    for name in (package, f"{package}-cpu"):
        try:
            return importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    return "none"


def _versions(nodes: Sequence[dict[str, Any]]) -> list[Finding]:
    """One finding for all nodes that are as the driver is, and one for each that differs."""
    mine = _installed()
    found = []
    for node in nodes:
        other = [f"{n} {v} and not {mine[n]}" for n, v in node["versions"].items() if v != mine[n]]
        if other:
            remedy = "install the same pyproject.toml on every node"
            found.append(Finding("versions", False, f"{node['host']} has {', '.join(other)}", remedy))
    builds = ", ".join(sorted({node["build"] for node in nodes}))
    said = f"{len(nodes)} node{'s' * (len(nodes) != 1)}, ray {mine['ray']}, vllm {mine['vllm']}, torch {builds}"
    return found or [Finding("versions", bool(nodes), said, "start Ray on at least one node")]


def _storage(config: RunConfig, nodes: Sequence[dict[str, Any]]) -> Finding:
    blind = sorted({node["host"] for node in nodes if not (node["sees"] and node["writes"])})
    if blind:
        said = f"{', '.join(blind)} cannot see or write {config.run_dir}"
        return Finding("storage", False, said, "set `out` to a folder that all nodes share")
    return Finding("storage", True, f"{config.run_dir} is shared by {len(nodes)} nodes")


def _ports(nodes: Sequence[dict[str, Any]]) -> Finding:
    """Whether every node reaches a free port of every other: learner workers and weights travel that way."""
    import ray

    listeners = [ray.remote(num_cpus=0)(_Listener).options(**_at(node["id"])).remote() for node in nodes]
    addresses = ray.get([listener.address.remote() for listener in listeners], timeout=NODE_TIMEOUT_S)
    reach = ray.remote(num_cpus=0)(_unreachable)
    lost = ray.get([reach.options(**_at(node["id"])).remote(addresses) for node in nodes], timeout=NODE_TIMEOUT_S)
    for listener in listeners:
        ray.kill(listener)
    gaps = [f"{node['host']} to {host}" for node, hosts in zip(nodes, lost, strict=True) for host in hosts]
    if gaps:
        return Finding("ports", False, f"no connection from {', '.join(gaps)}", "open all ports between the nodes")
    return Finding("ports", True, f"free ports are open between {len(nodes)} node{'s' * (len(nodes) != 1)}")


class _Listener:
    """A free port on a node, as a learner's rendezvous opens one."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("", 0))

    def address(self) -> tuple[str, int]:
        import ray

        return ray.util.get_node_ip_address(), self._socket.getsockname()[1]


def _unreachable(addresses: Sequence[tuple[str, int]]) -> list[str]:
    """Runs on a node: the hosts among `addresses` that do not take a connection."""
    lost = []
    for host, port in addresses:
        try:
            socket.create_connection((host, port), timeout=5).close()
        except OSError:
            lost.append(host)
    return lost


# What a run needs ----------------------------------------------------------------------------------------


def _gpus(config: RunConfig, machine: Machine) -> Finding:
    """Whether the engines and the learner of this configuration fit on the GPUs, by asking Ray to reserve them."""
    import ray

    from dreamgym.runtime.placement import asks_of_run, lacking

    here = int(ray.cluster_resources().get("GPU", 0))
    if config.device == "cpu" or (config.device == "auto" and not machine.gpu):
        known = "none in this cluster by now" if not here else "not used"
        why = "device is cpu; " if config.device == "cpu" else ""
        return Finding("gpus", True, f"{known}: {why}engines and learner compute on the CPU")
    asks = asks_of_run(config)
    if lack := lacking(asks, config.device):
        return Finding("gpus", False, lack, "add GPUs, end other jobs, or ask for fewer")
    return Finding("gpus", True, f"{here} GPUs, and room for {', '.join(map(str, asks))}")


def _precision(config: RunConfig, machine: Machine) -> Finding:
    """What a `dtype` of auto is here, and which precisions that were asked for are slow."""
    slow = slow_precisions(config, machine)
    warned = f"; slow here: bfloat16 for {', '.join(slow)}" if slow else ""
    return Finding("precision", True, f"{machine.precision.dtype()}, as {machine.precision.because}{warned}")


def _memory(config: RunConfig, machine: Machine, nodes: Sequence[dict[str, Any]]) -> Finding:
    """Whether models, caches and optimiser fit what the nodes have, by the estimate of `dreamgym plan`."""
    gpus = machine.gpu or config.device == "gpu"
    known = [replace(node["node"], gpus=node["node"].gpus if gpus else 0) for node in nodes]
    verdict = check_cluster(config, known)
    return Finding("memory", verdict.fits, verdict.said, verdict.remedy or "take a larger machine")


def _qdrant(config: RunConfig) -> Finding:
    url = config.replay.qdrant.url
    if config.replay.top_k == 0:
        return Finding("qdrant", True, "not used: replay.top_k is 0")
    if not url:
        return Finding("qdrant", True, "embedded: each run keeps its own buffer")
    try:
        with closing(connect(config.replay.qdrant, timeout_s=10)) as client:
            count = len(client.get_collections().collections)
    except Exception as error:  # noqa: BLE001 - whatever the client raises, the service cannot be used
        remedy = f"correct replay.qdrant.url, or the key in {config.replay.qdrant.api_key_env}"
        return Finding("qdrant", False, f"{url} does not answer ({_short(error)})", remedy)
    return Finding("qdrant", True, f"{url} answers; it has {count} collections")


def checkpoints(config: RunConfig) -> Finding:
    """Whether the second place of checkpoints can be written, where there is to be one."""
    uri = config.train.checkpoint_uri
    if not uri:
        return Finding("checkpoints", True, "in the run folder alone: train.checkpoint_uri is empty")
    try:
        RemoteFolder(uri, FIELD)
    except ConfigError as error:
        said, _, remedy = str(error).removesuffix(".").rpartition("; ")
        return Finding("checkpoints", False, said, remedy)
    return Finding("checkpoints", True, f"{uri} can be written")


def _models(config: RunConfig) -> list[tuple[str, ModelConfig]]:
    """The models that must be there before a run begins: neither made from scratch nor the world's own."""
    both = [("world", config.world.model), ("policy", config.policy.model)]
    return [(name, model) for name, model in both if model.source not in ("scratch", "world")]


def _model(check: str, model: ModelConfig) -> Finding:
    from transformers import AutoConfig

    remedy = f"correct {check}.source, or give it as a folder on storage that the nodes share"
    try:
        file = gguf_file(model.source)
    except ModelError as error:
        return Finding(check, False, _short(error), remedy)
    if file:
        return Finding(check, file.is_file(), f"{file} is {'there' if file.is_file() else 'no file'}", remedy)
    try:
        kind = AutoConfig.from_pretrained(model.source).model_type
    except (OSError, ValueError, KeyError) as error:
        return Finding(check, False, f"{model.source} cannot be loaded ({_short(error)})", remedy)
    return Finding(check, True, f"{model.source} is a {kind}")


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
