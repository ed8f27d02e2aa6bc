"""From a trained checkpoint to a bundle that a device can verify, load and trust. Runs where torch is installed."""
