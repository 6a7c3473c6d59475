"""Who looked at a result, and what they decided: kept as JSON beside it."""
from __future__ import annotations

import datetime
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import files
from ..errors import SynthMorphError, UsageError

FILE = "signature.json"
ACCEPTED, REJECTED = "accepted", "rejected"


@dataclass(frozen=True)
class Signature:
    """One decision. ``time`` is ISO 8601 with the zone; ``result`` is the SHA-256 of the transform signed for."""

    decision: str
    initials: str
    comment: str = ""
    time: str = ""
    result: str = ""

    @classmethod
    def now(cls, decision: str, initials: str, comment: str = "", result: str = "") -> Signature:
        """Sign now.

        Raises:
            UsageError: the decision is neither "accepted" nor "rejected", or there are no initials.
        """
        if decision not in (ACCEPTED, REJECTED):
            raise UsageError(f"'{decision}' is no decision: choose {ACCEPTED} or {REJECTED}.")
        if not initials.strip():
            raise UsageError("A signature needs initials: say who looked.")
        time = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        return cls(decision, initials.strip(), comment.strip(), time, result)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @property
    def text(self) -> str:
        """One line."""
        comment = f": {self.comment}" if self.comment else ""
        return f"{self.decision} by {self.initials}, {self.time.replace('T', ' ')}{comment}"


def digest(path: str | Path) -> str:
    """SHA-256 of a file, by which a signature knows its result."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def read_signatures(path: str | Path) -> list[Signature]:
    """All decisions on a result, the oldest first; none if there is no such file.

    Raises:
        SynthMorphError: the file is damaged.
    """
    path = Path(path)
    if not path.exists():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["signatures"]
        return [Signature(**{key: str(entry.get(key, "")) for key in Signature.__dataclass_fields__})
                for entry in entries]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise SynthMorphError(f"'{path}' is damaged: restore it, or move it away to sign anew.") from None


def add_signature(path: str | Path, signature: Signature) -> list[Signature]:
    """Add a decision to those in a file; earlier ones stay. Returns all of them."""
    signatures = [*read_signatures(path), signature]
    files.write_text(path, json.dumps({"signatures": [s.as_dict() for s in signatures]}, indent=2) + "\n")
    return signatures
