"""Every exception that Sightline raises on purpose.

One grammar for every message: **what: got X; expected Y. Do Z.** with shapes, units and the place (file, line, frame).
All of them derive from `SightlineError`, so `except SightlineError` catches exactly what is the caller's to mend;
anything else that escapes is a bug of ours. The command line prints the sentence and exits with status 2.
"""

from __future__ import annotations


class SightlineError(Exception):
    """Base of every error that Sightline raises on purpose."""


class GeometryError(SightlineError, ValueError):
    """A box, crop or map has an impossible shape, unit or value."""


class VideoError(SightlineError):
    """A frame source cannot be opened or read, or a video cannot be written."""


class CheckpointError(SightlineError):
    """A weights file is missing, damaged, unsafe, or made for another model."""


class UnknownModel(SightlineError, KeyError):
    """No model of that name in the zoo table."""

    def __str__(self) -> str:  # KeyError would print the repr of the sentence
        return str(self.args[0]) if self.args else ""


class DatasetError(SightlineError):
    """An annotation file or a data set folder does not have the stated layout."""


class MissingExtra(SightlineError, ImportError):
    """An optional dependency is not installed; the sentence names the pip command."""


class ProtocolError(SightlineError):
    """A session was given, or gave back, arrays that its graphs do not declare."""


class ExportMismatch(SightlineError):
    """An exported graph disagrees with the torch model by more than the stated tolerance."""
