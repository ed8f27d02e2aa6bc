"""What goes wrong on the way to a microcontroller, as sentences."""

from __future__ import annotations

from edge.errors import DeviceError


class LinkError(DeviceError):
    """The device cannot be reached, or what it says cannot be used."""


class LinkLostError(LinkError):
    """The device was there and is gone, or takes no bytes any more; it is dialled again."""
