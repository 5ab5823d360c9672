"""New items, enqueued together with this item's completion or not at all.

The saga and the correlation id pass on. The manifest needs the types under ``emit`` in ``[grant]``.
"""

from typing import Any

from componentize_py_types import Err
from wit_world.imports import followups as wit

from . import dumps
from .failure import Failure, permanent, retryable


def emit(
    item_type: str,
    payload: Any,
    name: str | None = None,
    ordering_key: str | None = None,
    delay_ms: int = 0,
    content_type: str = "application/json",
) -> None:
    """Enqueues one item when this one is done. Its payload is bytes, or anything else as JSON.

    A name tells it from other follow-ups of its type; without one they are told apart by their order.
    """
    content = payload if isinstance(payload, bytes) else dumps(payload)
    try:
        wit.emit(wit.NewItem(item_type, content, content_type, ordering_key, delay_ms, name))
    except Err as error:
        raise _failure(error.value) from error


def _failure(error: wit.Error) -> Failure:
    match error:
        case wit.Error_Denied(words):
            return retryable("followups.denied", words)
        case wit.Error_TooLarge():
            return permanent("followups.too_large", "the payload is larger than the host stores")
        case wit.Error_TooMany():
            return permanent("followups.too_many", "this attempt has emitted all the items it may")
        case wit.Error_Other(words):
            return retryable("followups.other", words)
