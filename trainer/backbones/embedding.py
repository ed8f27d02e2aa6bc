"""Windows through a backbone, a batch at a time."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.backbones.backbone import Backbone


def embed_windows(model: Backbone, windows: NDArray[np.float32], *, batch_size: int = 64) -> NDArray[np.float32]:
    """Embed windows (n, window_length) with a model in evaluation mode, on its own device. Returns (n, dim) float32."""
    device = next(model.parameters()).device
    with torch.no_grad():
        parts = [
            model(torch.from_numpy(np.array(windows[i : i + batch_size], dtype=np.float32)).to(device)).cpu().numpy()
            for i in range(0, len(windows), batch_size)
        ]
    return np.concatenate([np.zeros((0, model.dim), dtype=np.float32), *parts])
