"""What every handler needs: itself, its failures, its configuration and its log.

``outbox.http``, ``outbox.state`` and ``outbox.followups`` stand beside this module. Importing one of
them makes the component import what it wraps, and the manifest beside the handler must grant it.
"""

import json
import traceback
from typing import Any, Callable

from componentize_py_types import Err
from wit_world.exports.handler import Description
from wit_world.imports import contract as wit

from . import config, log
from .failure import Failure, defer, permanent, retryable

__all__ = ["Failure", "Item", "config", "defer", "export", "log", "permanent", "retryable"]


class Item(wit.Item):
    """One durable side-effect request, as its handler sees it."""

    def json(self) -> Any:
        """The payload, read as JSON. One that is not JSON is a permanent failure, ``payload.invalid``."""
        try:
            return json.loads(self.payload)
        except ValueError as error:
            raise permanent("payload.invalid", str(error)) from error


def export(handle: Callable[[Item], Any], name: str, version: str, types: list[str]) -> type:
    """Makes the component's export, which the module must call ``Handler``.

    What ``handle`` returns is the item's result: ``None``, bytes as they are, or anything else as JSON.
    """

    class Handler:
        def describe(self) -> Description:
            return Description(name, version, types)

        def handle(self, item: wit.Item) -> bytes | None:
            try:
                return _outcome(handle(Item(**vars(item))))
            except Exception as error:
                raise Err(_as_failure(error).to_wit()) from error

    return Handler


def dumps(value: Any) -> bytes:
    """JSON as the kits of all languages write it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _outcome(result: Any) -> bytes | None:
    return result if result is None or isinstance(result, bytes) else dumps(result)


def _as_failure(error: Exception) -> Failure:
    """What the handler did not mean to raise may pass, like a trap."""
    if isinstance(error, Failure):
        return error
    return retryable("handler.exception", "".join(traceback.format_exception(error)).strip())
