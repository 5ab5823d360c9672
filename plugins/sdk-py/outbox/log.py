"""Lines for the host's log. The host adds the plugin and the item."""

from wit_world.imports.logging import Level, log


def debug(message: object) -> None:
    """Details for finding a fault."""
    log(Level.DEBUG, "", str(message))


def info(message: object) -> None:
    """Events of normal operation that an operator wants to see."""
    log(Level.INFO, "", str(message))


def warn(message: object) -> None:
    """An unexpected condition with which the handler could continue."""
    log(Level.WARN, "", str(message))


def error(message: object) -> None:
    """An operation that failed."""
    log(Level.ERROR, "", str(message))
