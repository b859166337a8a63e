"""The parts that every process has that reads the rollout file."""

import os
import secrets
import socket
import time
from collections.abc import Sequence

from understudy import loading
from understudy.clock import SystemClock
from understudy.domain import Variant
from understudy.drift.watch import DriftMonitor
from understudy.inference import OutputReader
from understudy.inference.decoding import Decoder, Rows
from understudy.inference.devices import device_of
from understudy.loading.store import open_store
from understudy.observability import host
from understudy.observability.metrics import Metrics
from understudy.records.pairs import Pairs, judged_by_agreement, tolerances
from understudy.records.writer import RecordWriter
from understudy.rollout import losses
from understudy.rollout.identity import identity
from understudy.rollout.requirements import Requirements
from understudy.serving import noise_floor
from understudy.settings import Settings
from understudy.store import Tally


def holder() -> str:
    """The name of this process in leases."""
    return f"{socket.gethostname()}:{os.getpid()}"


class ProcessParts:
    """The models' cards, the fields, the metrics, the store, and a writer."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.policy, self.clock = settings, loading.served_policy(settings), SystemClock()
        policy = self.policy
        self.cards = loading.read_cards(policy, settings)
        self.fields = loading.fields_of(self.cards[Variant.PRIMARY], self.cards.get(Variant.CANDIDATE))
        loading.check_keys(policy, self.fields)
        self.decoder = Decoder(
            self.fields,
            context=[name for name in (policy.route_by, policy.unit) if name],
            rows_max=settings.rows_max,
            key_max_chars=settings.key_max_chars,
        )
        self.metrics = Metrics()
        self.readers = {variant: OutputReader(card) for variant, card in self.cards.items()}
        # Ids sort by the start time of their process and then by arrival. No two processes share a prefix.
        self.id_prefix = f"{int(time.time() * 1000):011x}{secrets.token_hex(4)}"
        self.rollout = loading.rollout_key(policy, self.cards)
        self.store, self.store_lost = open_store(
            settings,
            self.rollout,
            self._tally(),
            identity(policy, self.cards),
            self.id_prefix,
            self.metrics.store_spooled.set,
        )
        setup = host.setup_of(
            settings, policy, self.cards, device_of(policy.device), loading.thread_count(settings, policy)
        )
        self.requirements = Requirements(policy, setup, self.store)
        self.watch = DriftMonitor(
            self.cards, self.decoder.positions, self.store, self.metrics, self.clock, self.id_prefix, holder(), settings
        )
        noise = noise_floor.read(settings.state_dir, self.cards[Variant.PRIMARY].digest)
        self.writer = RecordWriter(
            policy.model,
            self.store,
            self.metrics,
            self.readers,
            self._units_of,
            salt=int(self.rollout, 16),
            pairs=Pairs(
                self.readers, tolerances(policy, self.cards.values()), noise, judged=judged_by_agreement(policy)
            ),
            watch=self.watch.add,
            scale=policy.goals.quality.scale if policy.goals.quality else None,
        )

    def _tally(self) -> Tally:
        classes = {variant: card.classes for variant, card in self.cards.items()}
        positive = {variant: card.positive for variant, card in self.cards.items()}
        scale = self.policy.goals.quality.scale if self.policy.goals.quality else None
        return lambda outcome: losses.tally(outcome, classes, positive, scale)

    def _units_of(self, rows: Rows) -> Sequence[str | None]:
        return self.decoder.values(rows, self.policy.unit)
