"""Accepted or rejected, by whom, when: kept as an attribute of the transform node, so it is saved with the scene."""

import datetime
import json

from slicer.i18n import tr as _

from . import scene, subject
from .job import InputError

KEY = scene.ATTRIBUTE + "signatures"
ACCEPTED, REJECTED = "accepted", "rejected"


def sign(transformNode, fixedNode, decision, initials, comment=""):
    """Add a decision to those on a transform node; earlier ones stay.

    :raises InputError: there are no initials.
    """
    if not initials.strip():
        raise InputError(_("A signature needs initials: say who looked."))
    time = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    entries = [*signatures(transformNode),
               {"decision": decision, "initials": initials.strip(), "comment": comment.strip(), "time": time,
                "result": subject.fingerprint(transformNode, fixedNode)}]
    transformNode.SetAttribute(KEY, json.dumps(entries))
    return entries


def signatures(transformNode):
    """All decisions on a transform node, the oldest first."""
    try:
        return json.loads(transformNode.GetAttribute(KEY) or "[]")
    except ValueError:  # somebody else wrote there
        return []


def describe(transformNode, fixedNode):
    """The last decision as one line; it says if the result has changed since."""
    entries = signatures(transformNode)
    if not entries:
        return _("Not signed.")
    last = entries[-1]
    word = _("Accepted") if last["decision"] == ACCEPTED else _("Rejected")
    text = _("{word} by {initials}, {time}").format(word=word, initials=last["initials"],
                                                   time=last["time"].replace("T", " "))
    if last["comment"]:
        text += f": {last['comment']}"
    if not subject.isSame(last["result"], subject.fingerprint(transformNode, fixedNode)):
        text += " " + _("(the result has changed since: look again)")
    return text


def forReport(transformNode, fixedNode):
    """Decisions on the transform as it is now, without the fingerprints; those on earlier results say so."""
    now, entries = subject.fingerprint(transformNode, fixedNode), []
    for entry in signatures(transformNode):
        comment = entry["comment"]
        if not subject.isSame(entry["result"], now):
            comment = " ".join(filter(None, (comment, _("(signed for an earlier result)"))))
        entries.append({**entry, "comment": comment, "result": ""})
    return entries
