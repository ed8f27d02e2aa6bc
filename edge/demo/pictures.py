"""Pictures without a plotting library: spectrograms as small palette PNG files, ready for a page. Pure."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

_ANCHORS = ((4, 6, 20), (38, 20, 84), (110, 31, 108), (178, 50, 90), (232, 94, 60), (250, 163, 62), (253, 240, 170))


def palette() -> NDArray[np.uint8]:
    """Return 256 colours from night blue over red to cream, (256, 3), each lighter than the last."""
    at = np.linspace(0.0, 1.0, len(_ANCHORS))
    columns = [np.interp(np.linspace(0.0, 1.0, 256), at, [a[i] for a in _ANCHORS]) for i in range(3)]
    return np.rint(np.stack(columns, axis=1)).astype(np.uint8)


def png(pixels: NDArray[np.uint8], colours: NDArray[np.uint8]) -> bytes:
    """Encode pixels (height, width), indices into colours (256, 3), as a PNG file.

    Source: W3C, Portable Network Graphics specification, colour type 3, filter 0.
    """
    height, width = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    rows = np.concatenate([np.zeros((height, 1), dtype=np.uint8), pixels], axis=1)
    chunks = (
        (b"IHDR", header),
        (b"PLTE", colours.tobytes()),
        (b"IDAT", zlib.compress(rows.tobytes(), 6)),
        (b"IEND", b""),
    )
    body = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def data_uri(file: bytes) -> str:
    """Return a PNG file as a data URI."""
    return "data:image/png;base64," + base64.b64encode(file).decode("ascii")


def spectrogram(samples: NDArray[np.float32], sample_rate: int, *, width: int, height: int) -> NDArray[np.uint8]:
    """Return levels 0..255 of samples (n,): (height, width), high pitch on top, 70 dB from black to cream.

    Rows are spaced on the mel scale from 50 Hz to the Nyquist frequency (O'Shaughnessy 1987); each pixel shows the
    loudest of what it covers, so that a click does not vanish in a long picture.
    """
    n_fft = 1 << max(8, int(sample_rate * 0.032).bit_length())
    hop = max(64, len(samples) // (4 * width))
    padded = np.pad(samples, (n_fft // 2, n_fft))
    n_frames = max(1, 1 + (len(padded) - n_fft) // hop)
    taper = np.hanning(n_fft).astype(np.float32)
    mel = np.linspace(_mel(50.0), _mel(sample_rate / 2.0), height + 1)
    edges = np.clip((_hertz(mel) * n_fft / sample_rate).astype(int), 0, n_fft // 2 - 1)
    levels = np.empty((height, n_frames), dtype=np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop][:n_frames]
    for begin in range(0, n_frames, 512):
        power = np.abs(np.fft.rfft(frames[begin : begin + 512] * taper, axis=1)).T ** 2
        levels[:, begin : begin + 512] = np.maximum.reduceat(power, edges[:-1], axis=0)
    columns = np.minimum(np.arange(width) * n_frames // width, n_frames - 1)
    shown = np.maximum.reduceat(levels, columns, axis=1) if n_frames >= width else levels[:, columns]
    decibels = 10.0 * np.log10(shown + 1e-12)
    top = float(np.percentile(decibels, 99.8))
    return np.clip((decibels[::-1] - top + 70.0) / 70.0 * 255.0, 0.0, 255.0).astype(np.uint8)


def _mel(hertz: float) -> float:
    return float(2595.0 * np.log10(1.0 + hertz / 700.0))


def _hertz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(700.0 * (10.0 ** (mel / 2595.0) - 1.0))


def spectrogram_uri(samples: NDArray[np.float32], sample_rate: int, *, width: int, height: int) -> str:
    """Return the spectrogram as a data URI of a PNG."""
    return data_uri(png(spectrogram(samples, sample_rate, width=width, height=height), palette()))
