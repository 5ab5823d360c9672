"""Why an attempt failed. Its class decides what the host does with the item."""

from wit_world.imports import contract as wit


class Failure(Exception):
    """Raise one to end the attempt.

    A code is stable and dotted, for grouping, such as ``upstream.timeout``; the message is for people.
    """

    def __init__(self, failure_class: wit.FailureClass, code: str, message: str, retry_after_ms: int | None = None):
        super().__init__(message)
        self.failure_class = failure_class
        self.code = code
        self.message = message
        self.retry_after_ms = retry_after_ms

    def after(self, milliseconds: float) -> "Failure":
        """The same failure, with a wish not to be tried again earlier than so long from now."""
        return Failure(self.failure_class, self.code, self.message, round(milliseconds))

    def to_wit(self) -> wit.Failure:
        """As the contract has it."""
        return wit.Failure(self.failure_class, self.code, self.message, self.retry_after_ms)


def retryable(code: str, message: str) -> Failure:
    """Try again after the backoff, until the retries are used up."""
    return Failure(wit.FailureClass.RETRYABLE, code, message)


def permanent(code: str, message: str) -> Failure:
    """Trying again cannot help: the item goes to the dead-letter queue at once."""
    return Failure(wit.FailureClass.PERMANENT, code, message)


def defer(code: str, message: str) -> Failure:
    """Not now: try again later, without counting this attempt."""
    return Failure(wit.FailureClass.DEFER, code, message)
