"""What an engine is when its settings leave it open: as before on a CPU, and on a GPU as vLLM's own server."""

from __future__ import annotations

from pathlib import Path

import pytest
from vllm.engine.arg_utils import EngineArgs
from vllm.usage.usage_lib import UsageContext

from dreamgym.config import EngineConfig, ModelConfig, ScratchModel
from dreamgym.inference.engine import TokenEngine
from dreamgym.models.checkpoint import prepare_model

SERVER = UsageContext.OPENAI_API_SERVER


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = ScratchModel(layers=1, hidden=32, intermediate=64, heads=1, head_dim=32, vocab=300, context=2048)
    return prepare_model(ModelConfig(scratch=shape), tmp_path_factory.mktemp("model") / "m", ["go north"] * 20, 0)


def test_on_a_cpu_it_is_eager_with_64_seats(model: Path) -> None:
    made = TokenEngine(model, EngineConfig())._vllm_config(on_cpu=True)
    assert made.model_config.enforce_eager
    assert (made.scheduler_config.max_num_seqs, made.scheduler_config.max_num_batched_tokens) == (64, 4096)
    assert not made.scheduler_config.enable_chunked_prefill


@pytest.mark.parametrize("seats", [None, 100])
def test_on_a_gpu_it_is_vllms_server(model: Path, seats: int | None) -> None:
    made = TokenEngine(model, EngineConfig(max_num_seqs=seats))._vllm_config(on_cpu=False)
    tokens, sequences = EngineArgs.get_batch_defaults(1)
    assert not made.model_config.enforce_eager
    assert made.scheduler_config.max_num_batched_tokens == tokens[SERVER]
    assert made.scheduler_config.max_num_seqs == (seats or sequences[SERVER])
    assert TokenEngine(model, EngineConfig(enforce_eager=True))._vllm_config(on_cpu=False).model_config.enforce_eager
