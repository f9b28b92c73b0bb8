"""Ray launcher files, job files and the image: what Ray itself accepts, with the token on and no door open."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from kustomization import read
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.runtime_env import RuntimeEnv
from ray.scripts.scripts import start
from ray.scripts.symmetric_run import symmetric_run

from tests.waiting import HANG_S

ROOT = Path(__file__).parents[3]
CLUSTER = ROOT / "cluster"
LAUNCHERS = ["aws", "gcp", "on-premise"]


def launcher(name: str) -> dict[str, Any]:
    (config,) = read(CLUSTER / f"{name}.yaml")
    return dict(config)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_ray_accepts_the_file(name: str) -> None:
    config = prepare_config(launcher(name))
    validate_config(config)
    workers = [each for key, each in config["available_node_types"].items() if key != "head"]
    assert config["max_workers"] == sum(each["max_workers"] for each in workers)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_the_token_is_on_and_reaches_every_node(name: str) -> None:
    config = launcher(name)
    assert "--env=RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"]["/home/dreamgym/.ray/auth_token"] == "~/.ray/auth_token"


@pytest.mark.parametrize("name", LAUNCHERS)
def test_no_port_is_open_to_the_world(name: str) -> None:
    config = launcher(name)
    assert any("--dashboard-host=127.0.0.1" in each for each in config["head_start_ray_commands"])
    assert not any("0.0.0.0" in line for line in (CLUSTER / f"{name}.yaml").read_text().splitlines())
    assert not any("publish" in each or each.startswith("-p") for each in config["docker"]["run_options"])
    if name != "on-premise":
        assert config["provider"]["use_internal_ips"] is True
    for node in config.get("available_node_types", {}).values():
        machine = node["node_config"]
        if name == "aws":
            # Without it Ray makes a group of its own, with SSH open to everybody.
            assert machine["SecurityGroupIds"] and machine["SubnetIds"]
            assert machine["MetadataOptions"]["HttpTokens"] == "required"
            assert all(disk["Ebs"]["Encrypted"] for disk in machine["BlockDeviceMappings"])
        else:
            # Without it Ray gives every machine a public address.
            assert machine["networkInterfaces"]
            assert not any("accessConfigs" in each for each in machine["networkInterfaces"])


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_groups_for_rollouts_engines_and_learner(name: str) -> None:
    groups = launcher(name)["available_node_types"]
    assert set(groups) == {"head", "rollouts", "engines", "learner"}
    assert groups["head"]["resources"] == {"CPU": 0}
    assert groups["rollouts"]["min_workers"] == 0 and "GPU" not in groups["rollouts"]["resources"]
    for group in ("engines", "learner"):
        assert 1 <= groups[group]["min_workers"] <= groups[group]["max_workers"]


@pytest.mark.parametrize(("name", "image"), [("aws", "IMAGE"), ("gcp", "IMAGE_FAMILY")])
def test_every_machine_names_an_image_with_a_driver_for_cuda_13(name: str, image: str) -> None:
    """Without one Ray takes an old image of its own choice, whose driver cannot run torch 2.13."""
    config = launcher(name)
    for node in config["available_node_types"].values():
        machine = node["node_config"]
        given = machine["ImageId"] if name == "aws" else machine["disks"][0]["initializeParams"]["sourceImage"]
        assert given.rpartition("/")[2] == image
    for node in prepare_config(config)["available_node_types"].values() if name == "aws" else ():
        assert node["node_config"]["ImageId"] == image, "Ray would take another"
    assert "R580 or newer" in (CLUSTER / f"{name}.yaml").read_text()


def test_launchers_and_manifests_run_one_image() -> None:
    (values,) = read(ROOT / "k8s" / "overlays" / "gpu-nvidia" / "values" / "values.yaml")
    tag = values["data"]["image"].rpartition("/")[2]
    for name in LAUNCHERS:
        assert launcher(name)["docker"]["image"] == f"REGISTRY/{tag}"


def test_ray_accepts_the_runtime_environment_and_it_holds_no_secret() -> None:
    (spec,) = read(CLUSTER / "runtime_env.yaml")
    assert RuntimeEnv(**spec)["env_vars"] == spec["env_vars"]
    assert not [name for name in spec["env_vars"] if re.search(r"KEY|TOKEN$|PASSWORD|SECRET", name)]
    assert "/k8s/secrets.env" in spec["excludes"]


def test_slurm_script_uses_options_that_ray_has() -> None:
    file = CLUSTER / "slurm.sbatch"
    subprocess.run(["bash", "-n", str(file)], check=True, timeout=HANG_S)
    script = file.read_text()
    command = script[script.index("ray symmetric-run \\") : script.index(" -- env ")]
    used = set(re.findall(r"(--[a-z-]+)", command))
    known = {option for each in (start, symmetric_run) for parameter in each.params for option in parameter.opts}
    assert len(used) > 10 and used <= known
    assert "export RAY_AUTH_MODE=token" in script and "umask 077" in script
    # Without an address dreamgym would start a Ray of its own beside the cluster.
    assert 'env RAY_ADDRESS="$address" "$@"' in script


def test_slurm_script_refuses_to_start_without_a_command() -> None:
    result = subprocess.run(
        ["bash", str(CLUSTER / "slurm.sbatch")],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert result.returncode == 2 and "name the command" in result.stderr


def test_image_is_pinned_and_not_root() -> None:
    lines = (ROOT / "k8s" / "Dockerfile").read_text().splitlines()
    (python,) = [line for line in lines if line.startswith("ARG PYTHON")]
    assert re.fullmatch(r"ARG PYTHON=3\.11\.\d+-slim-\w+", python)
    assert [line for line in lines if line.startswith("FROM")] == [
        "FROM python:${PYTHON} AS build",
        "FROM python:${PYTHON}",
    ]
    assert [line for line in lines if line.startswith("USER")][-1] == "USER 1000:1000"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (torch,) = [each for each in project["dependencies"] if each.startswith("torch==")]
    pins = re.findall(r"torch==([\d.]+)", "\n".join(lines))
    assert pins and all(pin.startswith(torch.removeprefix("torch==").rstrip("*")) for pin in pins)
    extras = re.findall(r"^\s+(\w+)\) .*;; \\$", "\n".join(lines), re.MULTILINE)
    assert sorted(extras) == ["cpu", "gpu"] and set(extras) <= set(project["optional-dependencies"])
    assert any("DS_BUILD_OPS=0" in line for line in lines)
    assert not any("NVIDIA_VISIBLE_DEVICES=" in line for line in lines), "pods without a GPU request would see all GPUs"
