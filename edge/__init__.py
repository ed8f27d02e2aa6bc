"""soundkeep on the device: audio in, decisions out, exact learning. Never imports torch."""

__version__ = "0.1.0"
