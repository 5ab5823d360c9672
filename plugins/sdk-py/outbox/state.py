"""Key-value state of the plugin, committed together with the item's completion or not at all.

Reads see the attempt's own writes. The manifest needs ``state = true`` under ``[grant]``.
"""

import json
from typing import Any, Callable

from componentize_py_types import Err
from wit_world.imports import state as wit

from . import dumps
from .failure import Failure, permanent, retryable


def get(key: str) -> bytes | None:
    """The value of a key, or ``None`` when there is none."""
    return _call(wit.get, key)


def put(key: str, value: bytes) -> None:
    """Sets the value of a key."""
    _call(wit.put, key, value)


def remove(key: str) -> None:
    """Removes a key; one that is not there is no error."""
    _call(wit.delete, key)


def get_json(key: str) -> Any:
    """The value of a key, read as JSON, or ``None``. One that is not JSON is permanent, ``state.invalid``."""
    value = get(key)
    try:
        return None if value is None else json.loads(value)
    except ValueError as error:
        raise permanent("state.invalid", f'reading state "{key}": {error}') from error


def put_json(key: str, value: Any) -> None:
    """Sets the value of a key, written as JSON."""
    put(key, dumps(value))


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Err as error:
        raise _failure(error.value) from error


def _failure(error: wit.Error) -> Failure:
    match error:
        case wit.Error_Denied():
            return retryable("state.denied", "state is not available to this attempt")
        case wit.Error_TooLarge():
            return permanent("state.too_large", "the key or the value is larger than the host stores")
        case wit.Error_Quota():
            return retryable("state.quota", "the plugin's quota of state is used up")
        case wit.Error_Other(words):
            return retryable("state.other", words)
