"""`dreamgym serve` as a user runs it: a real engine behind HTTP, a key, no port but loopback's, nothing left behind."""

from __future__ import annotations

import ipaddress
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dreamgym.config import ModelConfig, ScratchModel
from dreamgym.models.chat import ChatFormat
from dreamgym.models.checkpoint import prepare_model
from tests.waiting import HANG_S, until_ended

pytestmark = pytest.mark.usefixtures("no_ray")

KEY = "sk-served-secret-0123456789"
ASKED = [{"role": "user", "content": "at a, go north to b"}]


class Served(NamedTuple):
    """A running command, its clients' base URL, and its model."""

    process: subprocess.Popen[str]
    url: str
    out: Path
    model: Path

    def family(self) -> list[psutil.Process]:
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def ask(self, key: str = KEY, **body: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.post(
            f"{self.url}/chat/completions", headers=headers, json={"messages": ASKED, **body}, timeout=HANG_S
        )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    out = tmp_path_factory.mktemp("served")
    shape = ScratchModel(layers=1, hidden=32, intermediate=64, heads=1, head_dim=32, vocab=300)
    model = out / "run-seed0" / "policy"
    prepare_model(ModelConfig(scratch=shape, dtype="float32"), model, [ASKED[0]["content"]] * 20, seed=0)
    fields = ["serve.port=0", "policy.model.dtype=float32", "policy.engine.max_model_len=256"]
    process = subprocess.Popen(
        [sys.executable, "-m", "dreamgym.cli", "serve", f"out={out}", *fields, "policy.engine.kv_cache_gib=0.1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"DREAMGYM_API_KEY": KEY, "COLUMNS": "200"},
    )
    assert process.stdout is not None
    told = ""
    while not (found := re.search(r"http://\S+/v1", told)):
        line = process.stdout.readline()
        assert line, told
        told += line
    yield Served(process, found[0], out, model)
    process.kill()
    process.wait(HANG_S)


def test_a_greedy_answer_is_the_models_own(served: Served) -> None:
    answer = served.ask(temperature=0, max_tokens=12)
    body = answer.json()
    assert answer.status_code == 200, body
    chat = ChatFormat(AutoTokenizer.from_pretrained(served.model))
    prompt = chat.start(ASKED)
    model = AutoModelForCausalLM.from_pretrained(served.model, dtype="float32")
    grown = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=12, eos_token_id=chat.stop_ids)
    written = grown[0, len(prompt) :].tolist()
    assert body["choices"][0]["message"]["content"] == chat.decode(written)
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (len(prompt), len(written))


def test_only_the_key_opens_and_what_is_too_long_is_refused(served: Served) -> None:
    assert served.ask("wrong").status_code == 401
    assert httpx.get(f"{served.url}/models").status_code == 401
    models = httpx.get(f"{served.url}/models", headers={"Authorization": f"Bearer {KEY}"}).json()["data"]
    assert [model["id"] for model in models] == ["run-seed0-policy"]
    long = served.ask(messages=[{"role": "user", "content": "go north " * 500}])
    assert long.status_code == 400 and "context window of 256" in long.json()["error"]["message"]


def test_every_port_is_loopbacks(served: Served) -> None:
    """Ray's own are at its node's address, loopback where a machine has no other; elsewhere they ask for its token."""
    listening = [
        connection.laddr
        for process in served.family()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    mine = int(served.url.rsplit(":", 1)[1].partition("/")[0])
    lines = " ".join(word for process in served.family() for word in process.cmdline())
    node = re.search(r"--node_ip_address=(\S+)", lines)
    alone = node is not None and ipaddress.ip_address(node[1]).is_loopback
    assert mine in {at.port for at in listening}
    ours = [at for at in listening if alone or at.port == mine]
    assert [at for at in ours if not ipaddress.ip_address(at.ip).is_loopback] == []


def test_the_key_is_written_nowhere(served: Served) -> None:
    lines = [" ".join(process.cmdline()) for process in served.family()]
    session = next(found[1] for line in lines if (found := re.search(r"--session[-_]dir[= ](\S+)", line)))
    assert not any(KEY in line for line in lines)
    written = [path for folder in (session, served.out) for path in Path(folder).rglob("*") if path.is_file()]
    assert len(written) > 10
    assert [path for path in written if KEY.encode() in path.read_bytes()] == []


def test_ctrl_c_ends_it_and_all_it_started(served: Served) -> None:
    family = served.family()
    served.process.send_signal(signal.SIGINT)
    out, _ = served.process.communicate(timeout=HANG_S)
    assert served.process.returncode == 130, out
    assert "Traceback" not in out
    until_ended(family)
