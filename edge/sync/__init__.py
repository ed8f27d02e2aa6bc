"""Resync: the words that device and server speak (no I/O), and the device's side of the conversation."""
