"""The failure of an attempt. Its class decides what the host does with the item."""

from wit_world.imports import contract as wit


class Failure(Exception):
    """The failure of an attempt. Raise it to end the attempt.

    The code is stable and dotted, such as ``upstream.timeout``, so that failures can be grouped; the message is for
    people.
    """

    def __init__(self, failure_class: wit.FailureClass, code: str, message: str, retry_after_ms: int | None = None):
        super().__init__(message)
        self.failure_class = failure_class
        self.code = code
        self.message = message
        self.retry_after_ms = retry_after_ms

    def after(self, milliseconds: float) -> "Failure":
        """The same failure. The host makes the next attempt no earlier than this many milliseconds from now."""
        return Failure(self.failure_class, self.code, self.message, round(milliseconds))

    def to_wit(self) -> wit.Failure:
        """The failure in the contract's form."""
        return wit.Failure(self.failure_class, self.code, self.message, self.retry_after_ms)


def retryable(code: str, message: str) -> Failure:
    """A failure that may pass: the host retries after the backoff, until the retries are used up."""
    return Failure(wit.FailureClass.RETRYABLE, code, message)


def permanent(code: str, message: str) -> Failure:
    """A failure that retries cannot change: the item becomes DLQ at once."""
    return Failure(wit.FailureClass.PERMANENT, code, message)


def defer(code: str, message: str) -> Failure:
    """A request for a later attempt: the host makes one and does not count this attempt."""
    return Failure(wit.FailureClass.DEFER, code, message)
