"""Follow-ups: items that the host enqueues in the transaction that completes this item, or not at all.

They inherit the saga and the correlation id. The manifest lists their types under ``emit`` in ``[grant]``.
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
    """Enqueues one item when this item is completed. The payload is bytes, or any other value, which becomes JSON.

    The name distinguishes it from other follow-ups of its type. Without names, their order distinguishes them.
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
