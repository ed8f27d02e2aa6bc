"""A device of the fleet as the server sees it: a key, a counter and signed requests, over any httpx client.

It has no ear and no journal: its records are unit vectors that follow from seeds.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from edge.memory_file import encode_memory
from edge.records import Record
from edge.space import EmbeddingSpace, FeatureSpace, l2_normalize
from edge.statistics import StatisticsAccumulator, SufficientStatistics
from edge.sync.keys import DeviceKey
from edge.sync.signing import sign_request
from edge.sync.state_message import encode_state

SPACE = EmbeddingSpace("f1" * 32, sample_rate=16000, window_length=16000, hop_length=4000, dim=8)
CHUNK = 256 * 1024


def unit_rows(rng: np.random.Generator, n: int, space: EmbeddingSpace = SPACE) -> NDArray[np.int16]:
    """Return (n, d) int16: random unit vectors on the grid."""
    return space.grid.quantize(l2_normalize(rng.standard_normal((n, space.dim)).astype(np.float32)))[0]


def sound(label: str, seed: int, *, n_windows: int = 3, space: EmbeddingSpace = SPACE) -> Record:
    """Return a record of unit vectors that follow from ``seed``."""
    return Record(space.sha256, label, unit_rows(np.random.default_rng(seed), n_windows, space))


def statistics_of(records: Iterable[Record], space: EmbeddingSpace = SPACE) -> SufficientStatistics:
    accumulator = StatisticsAccumulator(SufficientStatistics.zero(FeatureSpace(space)))
    for record in records:
        accumulator.add(record.embeddings, record.label)
    return accumulator.snapshot()


def statement(revision: int, records: Sequence[Record], space: EmbeddingSpace = SPACE) -> bytes:
    """Return the statement of exactly these records."""
    return encode_state(revision, [record.id for record in records], statistics_of(records, space))


def embeddings(records: Sequence[Record], space: EmbeddingSpace = SPACE) -> bytes:
    return encode_memory(space, records)


@dataclass
class FleetDevice:
    """http: a client whose base URL is the server's."""

    http: httpx.Client
    name: str = "device"
    key: DeviceKey = field(default_factory=DeviceKey.generate)
    sequence: int = 0

    @property
    def id(self) -> str:
        return self.key.device_id

    def signed(self, method: str, target: str, body: bytes = b"", *, sequence: int | None = None) -> dict[str, str]:
        """Return the headers of a request, with the next sequence number unless one is given."""
        if sequence is None:
            self.sequence += 1
            sequence = self.sequence
        return sign_request(self.key, method, target, body, sequence=sequence, nonce=secrets.token_bytes(16))

    def ask(self, method: str, target: str, body: bytes = b"", **headers: str) -> httpx.Response:
        return self.http.request(method, target, content=body, headers={**self.signed(method, target, body), **headers})

    def enrol(self, token: str) -> httpx.Response:
        public = base64.urlsafe_b64encode(self.key.public_bytes).decode("ascii")
        return self.ask(
            "POST", "/v1/enrol", json.dumps({"token": token, "public_key": public, "name": self.name}).encode()
        )

    def poll(self, **report: Any) -> httpx.Response:
        return self.ask("POST", "/v1/poll", json.dumps(report).encode())

    def begin(self, kind: str, data: bytes, first: bytes = b"") -> httpx.Response:
        name = hashlib.sha256(data).hexdigest()
        return self.ask("POST", f"/v1/uploads?kind={kind}&sha256={name}&size={len(data)}", first)

    def go_on(self, data: bytes, offset: int, chunk: bytes) -> httpx.Response:
        return self.ask("PATCH", f"/v1/uploads/{hashlib.sha256(data).hexdigest()}?offset={offset}", chunk)

    def offset(self, data: bytes) -> int | None:
        answer = self.ask("HEAD", f"/v1/uploads/{hashlib.sha256(data).hexdigest()}")
        return int(answer.headers["upload-offset"]) if answer.status_code == 200 else None

    def upload(self, kind: str, data: bytes, *, chunk: int = CHUNK) -> httpx.Response:
        """Send a whole upload; returns the last answer (200 with the outcome, or a refusal)."""
        answer = self.begin(kind, data, data[:chunk])
        while answer.status_code == 202:
            offset = int(answer.json()["offset"])
            answer = self.go_on(data, offset, data[offset : offset + chunk])
        return answer
