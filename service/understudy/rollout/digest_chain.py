"""A running digest of the settled rows, by which rows that were changed later are found. Pure."""

import hashlib
from typing import TypedDict

import msgspec

from understudy.domain import Label, Observation

BLOCK_ROWS = 256

_pack = msgspec.msgpack.encode


class ChainState(TypedDict):
    """The stored form of a digest chain."""

    digest: str
    blocks: list[tuple[int, str]]
    in_block: int


class DigestChain:
    """Hashes each settled row together with the digest of all rows before it.

    Attributes:
        digest: of all rows so far, 16 hexadecimal digits; empty before the first row.
        blocks: sequence number and digest at every `BLOCK_ROWS`th row, to find roughly where two chains begin to differ.
    """

    def __init__(self) -> None:
        self.digest = ""
        self.blocks: list[tuple[int, str]] = []
        self._in_block = 0

    def add(self, seq: int, observation: Observation, label: Label | None) -> None:
        """Append a row with the label that it was settled with."""
        o, a, b = observation, observation.primary, observation.candidate
        values: tuple[object, ...] = (
            self.digest,
            seq,
            o.prediction_id,
            o.request_id,
            o.at,
            o.unit,
            o.mode,
            o.revision,
            o.share,
            o.point,
            o.variant,
            o.fallback,
            repr(label),
            a.status,
            a.label,
            a.score,
            a.probabilities,
            a.seconds,
            b.status,
            b.label,
            b.score,
            b.probabilities,
            b.seconds,
            o.sampled,
        )
        # Only if they are set, so that the digest of rows that were judged before these fields existed does not change.
        if not (o.agrees is None and a.vector is None and b.vector is None):
            values = (*values, o.agrees, a.vector, b.vector)
        if o.replay is not None:
            values = (*values, o.replay, o.received_at)
        self.digest = hashlib.blake2b(_pack(values), digest_size=8).hexdigest()
        self._in_block += 1
        if self._in_block == BLOCK_ROWS:
            self.blocks.append((seq, self.digest))
            self._in_block = 0

    def state(self) -> ChainState:
        """The stored form, as JSON values."""
        return {"digest": self.digest, "blocks": self.blocks, "in_block": self._in_block}

    def take(self, state: ChainState) -> None:
        """Restore a stored state."""
        self.digest, self._in_block = state["digest"], state["in_block"]
        self.blocks = [(seq, digest) for seq, digest in state["blocks"]]
