"""Lines for the host's log, which adds the plugin and the item."""

from wit_world.imports.logging import Level, log


def debug(message: object) -> None:
    """For whoever looks for a fault."""
    log(Level.DEBUG, "", str(message))


def info(message: object) -> None:
    """What an operator wants to see on a good day."""
    log(Level.INFO, "", str(message))


def warn(message: object) -> None:
    """Something odd that the handler could live with."""
    log(Level.WARN, "", str(message))


def error(message: object) -> None:
    """Something that the handler could not do."""
    log(Level.ERROR, "", str(message))
