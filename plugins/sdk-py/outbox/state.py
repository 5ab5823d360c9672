"""The plugin's key-value state. The host commits changes in the transaction that completes the item, or not at all.

An attempt reads its own writes. The manifest needs ``state = true`` under ``[grant]``.
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
    """Removes a key. A missing key is no error."""
    _call(wit.delete, key)


def get_json(key: str) -> Any:
    """The value of a key, parsed as JSON, or ``None``. Other values fail permanently with ``state.invalid``."""
    value = get(key)
    try:
        return None if value is None else json.loads(value)
    except ValueError as error:
        raise permanent("state.invalid", f'reading state "{key}": {error}') from error


def put_json(key: str, value: Any) -> None:
    """Sets the value of a key to JSON."""
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
