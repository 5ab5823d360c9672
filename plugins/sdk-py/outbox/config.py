"""The operator's settings under ``[config]`` in the plugin's manifest."""

from componentize_py_types import Err
from wit_world.imports import configuration

from .failure import retryable


def get(key: str) -> str | None:
    """The value of a key, or ``None`` when the manifest does not set it."""
    try:
        return configuration.get(key)
    except Err as error:
        raise retryable("config.unavailable", f'reading "{key}": {error.value}') from error


def require(key: str) -> str:
    """The value of a key that the handler requires. A missing key fails retryably with ``config.missing``."""
    value = get(key)
    if value is None:
        raise retryable("config.missing", f'the manifest sets no "{key}": add it under [config]')
    return value
