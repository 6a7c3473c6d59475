"""Errors that a user may see: each message is one sentence saying what is wrong and what to do about it."""
from __future__ import annotations


class SynthMorphError(Exception):
    """Base of all errors meant for a person; anything else that escapes the engine is a bug."""

    exit_status = 1


class UsageError(SynthMorphError):
    """An option or argument makes no sense."""

    exit_status = 2


class ImageError(SynthMorphError):
    """An image cannot be read, written or registered."""


class WeightsError(SynthMorphError):
    """Network weights are missing, corrupt or of another network."""


class TransformError(SynthMorphError):
    """A transform cannot be read, written or inverted."""


class DeviceError(SynthMorphError):
    """A computing device is absent or ran out of memory."""
