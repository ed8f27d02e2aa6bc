"""Several clips in one upload. No I/O.

Layout (integers little-endian): ``SKCLIPS\\0``, u32 version, u32 number of clips; each: 32 bytes content hash of the
record's embeddings, 32 bytes SHA-256 of the WAV file, u32 length, the WAV bytes; at the end SHA-256 over all before.
Length 0 says: the server has these bytes already (a record moved to another space keeps its clip).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from edge.errors import SyncError

MAGIC = b"SKCLIPS\0"
VERSION = 1
MAX_CLIPS = 1 << 16

_HEAD = struct.Struct("<8sII")
_ENTRY = struct.Struct("<32s32sI")


@dataclass(frozen=True)
class PackedClip:
    """content_sha256: ``Record.content_sha256``. wav: a 16-bit mono WAV file, or empty where the server has it."""

    content_sha256: str
    wav_sha256: str
    wav: bytes

    @classmethod
    def of(cls, content_sha256: str, wav: bytes) -> PackedClip:
        return cls(content_sha256, hashlib.sha256(wav).hexdigest(), wav)

    def known_already(self) -> PackedClip:
        """Return the same clip without its bytes."""
        return PackedClip(self.content_sha256, self.wav_sha256, b"")


def encode_clips(clips: Iterable[PackedClip]) -> bytes:
    """Return one upload of these clips, ordered by content hash."""
    ordered = sorted({clip.content_sha256: clip for clip in clips}.values(), key=lambda clip: clip.content_sha256)
    pieces = [_HEAD.pack(MAGIC, VERSION, len(ordered))]
    for clip in ordered:
        named = bytes.fromhex(clip.content_sha256), bytes.fromhex(clip.wav_sha256)
        pieces += [_ENTRY.pack(*named, len(clip.wav)), clip.wav]
    body = b"".join(pieces)
    return body + hashlib.sha256(body).digest()


def decode_clips(data: bytes) -> list[PackedClip]:
    """Read an upload of clips; each WAV matches its hash, or is empty. Raises SyncError with the reason."""
    body, digest = data[:-32], data[-32:]
    if len(body) < _HEAD.size or not body.startswith(MAGIC):
        raise SyncError("these bytes are not a pack of clips")
    if hashlib.sha256(body).digest() != digest:
        raise SyncError("the pack of clips does not match its SHA-256: it was cut off or altered")
    _, version, n_clips = _HEAD.unpack_from(body)
    if version != VERSION or n_clips > MAX_CLIPS:
        raise SyncError(f"a pack of clips of version {version} with {n_clips} clips; wanted version {VERSION}")
    clips, position = [], _HEAD.size
    for _ in range(n_clips):
        if position + _ENTRY.size > len(body):
            raise SyncError("the pack of clips ends in the middle of a clip")
        content, wav_hash, length = _ENTRY.unpack_from(body, position)
        position += _ENTRY.size
        wav = body[position : position + length]
        position += length
        if len(wav) != length or (wav and hashlib.sha256(wav).digest() != wav_hash):
            raise SyncError(f"the clip of content {content.hex()[:12]} is cut off or does not match its SHA-256")
        clips.append(PackedClip(content.hex(), wav_hash.hex(), wav))
    if position != len(body):
        raise SyncError(f"{len(body) - position} bytes follow the last clip")
    contents = [clip.content_sha256 for clip in clips]
    if contents != sorted(set(contents)):
        raise SyncError("the clips are not ordered by content, or one is there twice")
    return clips
