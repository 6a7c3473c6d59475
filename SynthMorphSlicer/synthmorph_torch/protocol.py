"""Messages between a program that shows images and the worker that registers them.

One JSON object per line, UTF-8, on the worker's standard input and output; voxels travel in files named by the
messages. Standard library only: the other side need not have torch.

A request holds ``id`` (a number of the sender's choice), ``command`` and the command's arguments:

* ``probe``: which torch, which devices.
* ``register``: ``moving``, ``fixed`` (image files), ``options`` (keyword arguments of ``Model.register``), ``initial``
  (a matrix as nested lists), ``model``, ``device``, ``precision``, ``threads`` and ``outputs``.
* ``relambda``: ``regularization``, ``outputs`` and ``preview``; repeats the last registration with another lambda, for
  a quick ``preview`` without the finest part of its refinement. While several wait, only the newest counts: the others
  are answered with ``superseded``.
* ``release``: forget the model and the last registration, and free the device's memory.
* ``transform``: ``path`` of a transform file and a ``folder``; answers with ``fixed_to_moving`` as ``register`` does.
* ``check``: whether the last registration is ``doubtful`` at first sight.
* ``review``: measures, verdict and hot spots of a ``case`` (see below), in a ``mask`` called ``region``; ``spots`` of
  each kind; ``disagreement`` compares lambda 0.3 and 0.7. ``report``: the same as a page at ``path`` with a ``title``,
  ``signatures``, the points of a ``sweep`` and the pictures ``seen`` (``caption`` and ``path`` of a PNG). A case that
  was asked about last with the same ``key`` is not examined again.
* ``sweep``: the last registration with ``lambdas``, and ``moving_labels`` and ``fixed_labels``; answers ``points``.
* ``correct``: the transforms ``forward`` and ``backward`` (files) bent by ``landmarks`` within ``radius``; answers with
  errors and with what ``outputs`` asks for, on ``fixed`` and ``moving``. ``resample``: what ``forward`` moves.
* ``atlases``: what is in ``folders``. ``transfer``: ``folders`` of atlases onto ``patient``, with ``method`` of fusion,
  ``options``, ``model``, ``device``, ``precision``, ``threads``, and a ``folder`` for the results; a file ``stop``
  in it ends the work, and what is done is fused. Progress messages name the ``atlas``, its ``folder`` and ``state``.
  ``atlas``: the ``image`` of one ``atlas`` (its folder) as a file in ``folder``, and its ``name``.
* ``move``: ``images`` (``path``, ``name`` and ``labels``, true for label maps) by the ``transform`` in a file onto the
  grid of the image ``reference``, into ``folder``; answers ``moved``, for each its ``path`` and ``interpolation``.
* ``weights``: which weights there are. ``fetch``: download those of ``roles``. ``clear``: empty the cache of weights.

``outputs`` names a ``folder`` and what to write there: ``moved`` and ``jacobian`` (booleans) and ``labels`` (a list
of label image files in the moving space).

``case`` names the files ``fixed``, ``moving`` and ``forward`` (a transform), ``last`` (true if ``forward`` is the last
registration's own), the label maps ``moving_labels`` and ``fixed_labels`` with ``names`` by number, ``landmarks``
(``fixed`` and ``moving`` points in LPS millimetres, ``names``) and ``provenance``.

Every answer holds the request's ``id`` and an ``event``:

* ``received``: the request has come; the first answer to every request.
* ``progress``: ``stage``, ``fraction`` (0 to 1) and ``message``.
* ``result``: what the command gives.
* ``superseded``: a newer request took its place.
* ``error``: ``kind`` (one of :data:`ERROR_KINDS`), one sentence as ``message``, and ``details`` (a traceback).
"""
from __future__ import annotations

import json
from typing import Any

VERSION = 1
ERROR_KINDS = ("user", "memory", "torch", "released", "bug")

Message = dict[str, Any]


def encode(message: Message) -> str:
    """One line of text, with its line end."""
    return json.dumps(message, ensure_ascii=True, allow_nan=False) + "\n"


def decode(line: str) -> Message:
    """The message of one line.

    Raises:
        ValueError: the line is not a message.
    """
    message = json.loads(line)
    if not isinstance(message, dict) or "id" not in message:
        raise ValueError("not a message of the worker's protocol")
    return message
