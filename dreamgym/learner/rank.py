"""One rank of a learner, whatever it learns: it meets the others, and owns a DeepSpeed engine and what that keeps."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamgym.learner.engines import begin_anew, import_deepspeed, initialize, partitioned
from dreamgym.learner.spec import LearnerSpec
from dreamgym.runtime.spared_imports import spare_imports
from dreamgym.telemetry.tracing import log_to_session

if TYPE_CHECKING:
    import torch

    from dreamgym.learner.batches import Columns, MicroBatch

Pack = Callable[[Iterable[tuple[str, "torch.Tensor"]], int], Any]


class Rank:
    """Rank `rank` of a learner: build, `listen` (rank 0), then `setup`; afterwards all ranks are called alike."""

    def __init__(self, spec: LearnerSpec, rank: int) -> None:
        if spec.gpu:
            os.environ["DS_ACCELERATOR"] = "cuda"
        else:
            spare_imports()
            from dreamgym.learner import on_cpu

            on_cpu.settle()
        os.environ.update(RANK=str(rank), LOCAL_RANK="0", WORLD_SIZE=str(spec.world_size), LOCAL_SIZE="1")
        log_to_session()
        self.spec = spec
        self.rank = rank
        self._store: Any = None
        self._rl_steps = 0
        import_deepspeed()  # takes seconds, in which the caller goes on

    def listen(self) -> tuple[str, int]:
        """Open the rendezvous on a free port of this node's address (torch would take all addresses); (host, port)."""
        import ray
        from torch.distributed import TCPStore

        host = ray.util.get_node_ip_address()
        door = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        port: int = door.getsockname()[1]
        self._store = TCPStore(
            host, port, self.spec.world_size, is_master=True, wait_for_workers=False, master_listen_fd=door.detach()
        )
        return host, port

    def setup(self, host: str, port: int) -> None:
        """Join the other ranks, load the model and build the engine.

        Raises:
            ModelError: the checkpoint cannot be trained.
        """
        import torch
        from torch.distributed import TCPStore

        if self.spec.threads:
            torch.set_num_threads(self.spec.threads)
        if self.spec.gpu and self.spec.dtype == "bfloat16":
            # What is left in float32 is the head, on numbers of bfloat16, which TF32 holds exactly.
            torch.set_float32_matmul_precision("high")
        deepspeed = import_deepspeed()
        torch.manual_seed(self.spec.seed)
        if self._store is None:
            self._store = TCPStore(host, port, self.spec.world_size, is_master=False)
        backend = "nccl" if self.spec.gpu else "gloo"
        torch.distributed.init_process_group(
            backend, store=self._store, rank=self.rank, world_size=self.spec.world_size
        )
        deepspeed.init_distributed(backend)
        self._device = torch.device("cuda:0" if self.spec.gpu else "cpu")
        self._build_engine()

    def empty_cache(self) -> None:
        """Give back the memory of the GPU that no tensor uses; on a CPU nothing is kept."""
        import torch

        if self.spec.gpu:
            torch.cuda.empty_cache()

    def weights(self, version: int, pack: Pack, part_bytes: int) -> Iterator[Any]:
        """`pack(some of the weights, version)`, part by part, on rank 0, and on every rank a last item, None.

        With adapters it is they alone that are packed. All ranks must be called and drained.

        While a part is on its way the next one is gathered, so no rank ever holds more than one whole.
        """
        from dreamgym.models.lora import parts_of, sent_weights

        for names in parts_of(self._network.lm, part_bytes):
            with self._gathered(names):
                if self.rank == 0:
                    yield pack(sent_weights(self._network.lm, names), version)
        yield None

    def address(self) -> dict[str, Any]:
        """`host` and a free `port` of this node, and the `gpus` that this rank computes on."""
        import ray

        from dreamgym.inference.weight_transfer import my_gpus

        host = ray.util.get_node_ip_address()
        with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as door:
            port = door.getsockname()[1]
        return {"host": host, "port": port, "gpus": my_gpus()}

    def connect(self, backend: str, engines: list[Any], ranks: int, master: tuple[str, int], timeout_s: float) -> None:
        """Meet the engines, to send weights from GPU to GPU; all ranks must be called. See `direct.Sender`."""
        from dreamgym.learner.direct import Sender

        source = (self._network.lm, self._gathered)
        self._sender = Sender(backend, self.rank, source, engines, ranks, master, timeout_s)

    def send(self, version: int) -> float:
        """Send all weights to the engines; all ranks must be called. Returns their longest standstill, in seconds."""
        return self._sender.send(version)

    def save(self, path: str) -> None:
        """Write a Hugging Face checkpoint with its tokenizer; all ranks must be called."""
        with self._gathered():
            if self.rank == 0:
                from dreamgym.models.lora import whole_weights
                from dreamgym.models.tokenizer import load_tokenizer

                merged = dict(whole_weights(self._network.lm)) if self.spec.lora.rank else None
                self._network.lm.save_pretrained(path, state_dict=merged)
                load_tokenizer(self.spec.model_path).save_pretrained(path)

    def save_checkpoint(self, path: str) -> None:
        """Write everything that the next step depends on: trained weights, optimisers, step and random state.

        Raises:
            DataError: it cannot be written.
        """
        import torch

        from dreamgym.learner.checkpoint import write

        write(self._engine, path, {"rl_steps": self._rl_steps, "rng": torch.get_rng_state()})
        if self._critic is not None:
            self._critic.save(str(Path(path) / "critic"))

    def load_checkpoint(self, path: str, momentum: bool = True) -> None:
        """Go back to a checkpoint of `save_checkpoint`, made with the same number of workers.

        Without `momentum` it is the beginning of another training: the optimiser is as new, and its rate warms up.

        Raises:
            DataError: it is not whole, or holds something that only code could read.
        """
        import torch

        from dreamgym.learner.checkpoint import read

        state = read(self._engine, path, strict=not self.spec.lora.rank)
        if self._critic is not None:
            self._critic.load(str(Path(path) / "critic"), momentum)
        if not momentum:
            begin_anew(self._engine)
        self._rl_steps = state["rl_steps"]
        torch.set_rng_state(state["rng"])

    def _build_engine(self) -> None:
        import torch

        from dreamgym.learner.algorithms import resolve
        from dreamgym.learner.network import load_network
        from dreamgym.models.lora import WithoutAdapters, add_adapters

        spec, config = self.spec, self.spec.config
        self._algorithm = resolve(config)
        dtype = getattr(torch, spec.dtype)
        self._network = load_network(spec.model_path, dtype, spec.temperature, config.entropy_coef > 0)
        if spec.lora.rank:
            add_adapters(self._network.lm, spec.lora)
        if config.gradient_checkpointing:
            self._network.lm.gradient_checkpointing_enable({"use_reentrant": False})
        self._reference: Any = None
        if spec.lora.rank:
            self._reference = WithoutAdapters(self._network) if config.kl_coef > 0 or spec.reference else None
        elif config.kl_coef > 0 or spec.reference:
            frozen = load_network(spec.reference or spec.model_path, dtype, spec.temperature)
            frozen.eval().requires_grad_(False)
            apart = config.zero_stage == 3
            self._reference = partitioned(frozen, spec.dtype) if apart else frozen.to(self._device)
        self._engine = initialize(self._network, config, spec.dtype)
        self._critic = None
        if self._algorithm.advantage is None:
            from dreamgym.learner.critic import Critic

            self._critic = Critic(spec.model_path, config, spec.dtype, self._reduce)

    def _my_share(self, columns: Columns, rows: Sequence[int], together: int = 1) -> Iterable[MicroBatch]:
        """This rank's packed micro-batches of some rows; every rank has the same number of them.

        Each `together` rows that follow one another are in one micro-batch, side by side.
        """
        from dreamgym.learner.packing import pack

        units = np.asarray(rows).reshape(-1, together)
        bins = pack(columns.lengths[units].sum(1).tolist(), self.spec.config.token_budget, self.spec.world_size)
        for part in bins[self.rank :: self.spec.world_size]:
            yield columns.micro_batch(units[part].flatten().tolist()).to(self._device)

    def _backward(self, loss: torch.Tensor) -> None:
        """DeepSpeed averages gradients over ranks; losses here are shares of one global sum."""
        self._engine.backward(loss * self.spec.world_size, scale_wrt_gas=False)

    def _step(self, lr: float) -> float:
        config = self.spec.config
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr * config.muon_lr / config.lr if group.get("use_muon") else lr
        self._engine.step()
        norm = self._engine.get_global_grad_norm()
        return float("nan") if norm is None else float(norm)

    def _reduce(self, sums: dict[str, float], greatest: bool = False) -> dict[str, float]:
        """Sums over all ranks, or the greatest of all."""
        import torch

        values = torch.tensor(list(sums.values()), dtype=torch.float64, device=self._device)
        operation = torch.distributed.ReduceOp.MAX if greatest else torch.distributed.ReduceOp.SUM
        torch.distributed.all_reduce(values, op=operation)
        return dict(zip(sums, values.tolist(), strict=True))

    def _gathered(self, names: Collection[str] | None = None) -> Any:
        """Weights whole on this rank, those of some names or all (they are partitioned under ZeRO-3 only)."""
        from deepspeed.runtime.zero.partition_parameters import GatheredParameters

        wanted = [p for name, p in self._network.lm.named_parameters() if names is None or name in names]
        return GatheredParameters(wanted, enabled=self.spec.config.zero_stage == 3)
