"""From Arrow batches of token lists to packed tensors, and from trajectories to such a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from dreamgym.errors import DataError
from dreamgym.learner.advantages import advantages, rewarded_part, token_streams
from dreamgym.learner.algorithms.base import Algorithm, Floats
from dreamgym.learner.packing import positions
from dreamgym.types import Trajectory

SFT_SCHEMA = pa.schema([("ids", pa.list_(pa.int32())), ("weights", pa.list_(pa.float32()))])
RL_SCHEMA = pa.schema(
    [
        ("ids", pa.list_(pa.int32())),
        ("mask", pa.list_(pa.int8())),
        ("logprobs", pa.list_(pa.float32())),
        ("advantages", pa.list_(pa.float32())),
    ]
)
REWARD_SCHEMA = pa.schema([*list(RL_SCHEMA)[:-1], ("rewards", pa.list_(pa.float32()))])
"""For a critic. Where a row goes on after its last sampled token, the episode was cut in the state read there."""
TRAJECTORY = pa.field("trajectory", pa.string())
"""The id of the trajectory that a row is of, for the learner's log; a batch need not have it."""

NO_SIGNAL = 1e-6


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One packed row of T tokens, N of which are targets.

    ids, positions  (1, T), and `lengths` of the sequences in the row
    index           (N,) where in the row each target is predicted (one before its own place)
    targets         (N,) the target ids
    sequence        (N,) which of the row's sequences each target is in, ascending; none is split over rows
    streams         name -> (N,) float32, at the targets
    echo_index, echo_targets  (M,) the same of what was read between two sampled turns, where that is learned too
    """

    ids: torch.Tensor
    positions: torch.Tensor
    lengths: tuple[int, ...]
    index: torch.Tensor
    targets: torch.Tensor
    sequence: torch.Tensor
    streams: dict[str, torch.Tensor]
    echo_index: torch.Tensor | None = None
    echo_targets: torch.Tensor | None = None

    def to(self, device: torch.device) -> MicroBatch:
        """The same on a device."""
        return MicroBatch(
            self.ids.to(device),
            self.positions.to(device),
            self.lengths,
            self.index.to(device),
            self.targets.to(device),
            self.sequence.to(device),
            {name: stream.to(device) for name, stream in self.streams.items()},
            *(None if echoed is None else echoed.to(device) for echoed in (self.echo_index, self.echo_targets)),
        )


class Columns:
    """List columns of a batch as flat arrays, not copied; `select` names the one that marks targets.

    With `echo`, what was read after a row's first target is a target of another kind.
    """

    def __init__(self, batch: pa.RecordBatch | pa.Table, schema: pa.Schema, select: str, echo: bool = False) -> None:
        check_columns(batch, schema)
        arrays = {name: _one_array(batch.column(name)) for name in schema.names}
        self.offsets: npt.NDArray[np.int32] = arrays["ids"].offsets.to_numpy()
        self.lengths = np.diff(self.offsets)
        self.flat = {name: array.values.to_numpy(zero_copy_only=False) for name, array in arrays.items()}
        self._starts = {name: array.offsets.to_numpy() for name, array in arrays.items()}
        self._select, self._echo = select, echo
        for name, starts in self._starts.items():
            if not np.array_equal(np.diff(starts), self.lengths):
                raise DataError(f"learner batch: '{name}' and 'ids' differ in length in some row.")

    def row(self, name: str, index: int) -> npt.NDArray[np.float32]:
        """One list of one column."""
        starts = self._starts[name]
        values: npt.NDArray[np.float32] = self.flat[name][starts[index] : starts[index + 1]]
        return values

    def target_sum(self, rows: Sequence[int]) -> float:
        """The sum of the selecting column over some rows, first tokens aside (nothing predicts them)."""
        return float(sum(self.row(self._select, r)[1:].sum(dtype=np.float64) for r in rows))

    def sequence_count(self, rows: Sequence[int]) -> int:
        """How many of some rows hold a target."""
        return sum(bool((self.row(self._select, r)[1:] > 0).any()) for r in rows)

    def echo_count(self, rows: Sequence[int]) -> int:
        """How many tokens some rows read after their first target; 0 where those are not learned."""
        return sum(int(self._echoed(r).sum()) for r in rows) if self._echo else 0

    def _echoed(self, row: int) -> npt.NDArray[np.bool_]:
        """Which tokens of a row were read after its first target."""
        chosen = self.row(self._select, row) > 0
        read: npt.NDArray[np.bool_] = np.logical_or.accumulate(chosen) & ~chosen
        return read

    def micro_batch(self, rows: Sequence[int]) -> MicroBatch:
        """Pack rows; no row at all gives a row of one token without a target."""
        if not len(rows):
            return _empty(list(self.flat))
        ids = np.concatenate([self.row("ids", r) for r in rows]).astype(np.int64)
        lengths = tuple(int(self.lengths[r]) for r in rows)
        chosen = np.concatenate([self.row(self._select, r) for r in rows]) > 0
        chosen[np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)] = False
        places = np.flatnonzero(chosen)
        streams = {
            name: torch.from_numpy(np.concatenate([self.row(name, r) for r in rows])[places].astype(np.float32))
            for name in self.flat
            if name != "ids"
        }
        return MicroBatch(
            torch.from_numpy(ids)[None],
            positions(lengths),
            lengths,
            torch.from_numpy(places - 1),
            torch.from_numpy(ids[places]),
            torch.from_numpy(np.repeat(np.arange(len(rows)), lengths)[places]),
            streams,
            *self._echo_of(rows, ids),
        )

    def _echo_of(
        self, rows: Sequence[int], ids: npt.NDArray[np.int64]
    ) -> tuple[torch.Tensor, torch.Tensor] | tuple[()]:
        """`echo_index` and `echo_targets` of packed rows, where they are learned."""
        if not self._echo:
            return ()
        places = np.flatnonzero(np.concatenate([self._echoed(r) for r in rows]))
        return torch.from_numpy(places - 1), torch.from_numpy(ids[places])


def check_columns(batch: pa.RecordBatch | pa.Table, schema: pa.Schema) -> None:
    """Raise DataError, naming the column, where a batch is not of a learner schema."""
    for field in schema:
        index = batch.schema.get_field_index(field.name)
        if index < 0 or batch.schema.field(index).type != field.type:
            found = "missing" if index < 0 else str(batch.schema.field(index).type)
            raise DataError(f"learner batch: column '{field.name}' must be {field.type}, but is {found}.")


def rl_schema(algorithm: Algorithm) -> pa.Schema:
    """What the learner is sent: advantages, or where a critic makes them rewards."""
    return REWARD_SCHEMA if algorithm.advantage is None else RL_SCHEMA


class RLBatch(NamedTuple):
    """What the learner is sent, what was left out (groups without a signal, rows too long), and the groups it holds."""

    batch: pa.RecordBatch
    groups_left_out: int
    rows_left_out: int
    groups: int


def rl_batch(
    trajectories: Sequence[Trajectory], algorithm: Algorithm, bootstrap: bool = False, longest: int = 2**31
) -> RLBatch:
    """Policy-sampled trajectories as a batch of `rl_schema` and `TRAJECTORY`, one row a token sample.

    Episodes that are `env_failed` are left out before the groups are formed. Where the algorithm drops flat
    groups, those without an advantage in any turn are left out too (dynamic sampling, DAPO, arXiv 2503.14476); the
    batch is empty where no group is left. Where a critic makes the advantages, no group is compared or left out.

    A row ends with its last sampled token, for what was read after it teaches nothing.

    Args:
        bootstrap: to a critic, the end of a truncated episode is no end (see `rewarded_part`).
        longest: tokens of a row that the learner can take; a longer one is left out, once its group is compared.

    Raises:
        DataError: the algorithm needs one step for each sampled turn, or one sample an episode, and there is another.
    """
    kept = [t for t in trajectories if t.status == "ok" and t.samples]
    if algorithm.advantage is None:
        dropped: set[str] = set()
        rows = [rewarded_part(t, bootstrap, longest) | {"trajectory": t.id} for t in kept]
    else:
        values = advantages(algorithm.advantage, kept)
        taught = {t.group for t, turns in zip(kept, values, strict=True) if (np.abs(turns) > NO_SIGNAL).any()}
        dropped = {t.group for t in kept} - taught if algorithm.drop_flat else set()
        rows = [
            row for t, turns in zip(kept, values, strict=True) if t.group not in dropped for row in _valued(t, turns)
        ]
    rows = [row for row in rows if any(row["mask"])]
    fit = [row for row in rows if len(row["ids"]) <= longest]
    batch = pa.RecordBatch.from_pylist(fit, schema=rl_schema(algorithm).append(TRAJECTORY))
    group = {t.id: t.group for t in kept}
    return RLBatch(batch, len(dropped), len(rows) - len(fit), len({group[str(row["trajectory"])] for row in fit}))


def _valued(t: Trajectory, turns: Floats) -> Iterator[dict[str, Any]]:
    """The samples of an episode, each up to its last sampled token, with the advantages of their turns."""
    streams = token_streams(turns, [sample.mask for sample in t.samples])
    for sample, stream in zip(t.samples, streams, strict=True):
        columns: dict[str, list[Any]] = {"ids": sample.ids, "mask": sample.mask, "logprobs": sample.logprobs}
        columns["advantages"] = stream
        end = 1 + max((place for place, sampled in enumerate(sample.mask) if sampled), default=-1)
        yield {**{name: values[:end] for name, values in columns.items()}, "trajectory": t.id}


def _one_array(column: pa.Array | pa.ChunkedArray) -> pa.ListArray:
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
    return column


def _empty(names: Sequence[str]) -> MicroBatch:
    none = torch.zeros(0, dtype=torch.int64)
    one = torch.zeros(1, 1, dtype=torch.int64)
    return MicroBatch(one, one, (1,), none, none, none, {name: torch.zeros(0) for name in names if name != "ids"})
