"""The parts that every handler needs: its export, its failures, its configuration and its log.

``outbox.http``, ``outbox.state`` and ``outbox.followups`` are separate modules. A component that imports one of them
also imports the interface behind it, which the manifest must grant.
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
    """An item, one durable request for a side effect, as its handler sees it."""

    def json(self) -> Any:
        """Parses the payload as JSON. A payload that is not JSON fails permanently with ``payload.invalid``."""
        try:
            return json.loads(self.payload)
        except ValueError as error:
            raise permanent("payload.invalid", str(error)) from error


def export(handle: Callable[[Item], Any], name: str, version: str, types: list[str]) -> type:
    """Makes the component's export, which the module must call ``Handler``.

    The return value of ``handle`` is the item's result: ``None``, bytes, or any other value, which becomes JSON.
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
    """JSON in the same form as in the SDKs for other languages: compact, without ASCII escapes."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _outcome(result: Any) -> bytes | None:
    return result if result is None or isinstance(result, bytes) else dumps(result)


def _as_failure(error: Exception) -> Failure:
    """The failure for an exception. An unexpected exception may pass, so it is retryable, like a trap."""
    if isinstance(error, Failure):
        return error
    return retryable("handler.exception", "".join(traceback.format_exception(error)).strip())
