"""The command `serve`: the experience model or the policy behind OpenAI-compatible HTTP, until a signal ends it."""

from __future__ import annotations

from contextlib import closing

import uvicorn

from dreamgym.config import RunConfig, ServeConfig
from dreamgym.config.credentials import credential
from dreamgym.errors import ConfigError, DataError
from dreamgym.runtime.address import is_loopback, listen
from dreamgym.runtime.cluster import ensure_ray, settled
from dreamgym.runtime.placement import Ask, require
from dreamgym.serve.app import What, start_chat
from dreamgym.serve.chat_api import chat_app
from dreamgym.telemetry.console import console, waiting

CONNECTIONS = 1024
FAREWELL_S = 10
"""Seconds that requests under way have to end once a signal came."""


def serve(config: RunConfig, what: What = "policy") -> None:
    """Serve `world/` or `policy/` of the run, from this process; replicas of the model are Ray's.

    Raises:
        ConfigError: others can reach the address and there is no key, or the address cannot be had.
        DataError: the run has no such model yet.
        EngineError: the model cannot be started.
    """
    model = config.run_dir / what
    if not (model / "config.json").exists():
        raise DataError(f"{model}: no model yet; run `dreamgym {'sft' if what == 'world' else 'train'}` first.")
    key = _key(config.serve)
    with closing(listen(config.serve.host, config.serve.port, "serve.port")) as port:
        machine = ensure_ray(config.device)
        config = settled(config, machine)
        with waiting(f"starting {what}"):
            field, seats = ("world.replicas", config.world.replicas)
            engine = config.world.engine
            if what == "policy":
                field, seats, engine = "policy.engines", config.policy.engines, config.policy.engine
            gpus = machine.gpus(engine.tensor_parallel)
            require([Ask(field, seats, gpus)], config.device)
            chat = start_chat(config, what, model, threads=machine.threads, gpus=gpus)
        name = f"{config.run_dir.name}-{what}"
        app = chat_app(name, key, chat.complete)
        settings = uvicorn.Config(
            app,
            log_level="warning",
            lifespan="off",
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=FAREWELL_S,
        )
        host, number = port.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{number}/v1"
        console.print(f"[green]✓[/] {name} at [bold]{url}[/]; Ctrl-C ends it", soft_wrap=True)
        with closing(chat):
            uvicorn.Server(settings).run([port])


def _key(config: ServeConfig) -> str:
    """The key that clients must bring; empty where none is set and nobody else can reach the port."""
    key = credential(config.api_key_env)
    if not key and not is_loopback(config.host):
        raise ConfigError(
            f"serve.host: others can reach {config.host}; set a key in the variable {config.api_key_env}, "
            "or serve at 127.0.0.1."
        )
    return key
