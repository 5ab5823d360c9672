"""An answer, and what it says about the item."""

import json
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from .failure import defer, permanent, retryable

RETRYABLE = (401, 403, 408, 409, 425, 429)
"""What may pass or be repaired."""
SUMMARY_BYTES = 256
"""How much of a refusal's body goes into the item's history: enough for one line of explanation."""


@dataclass
class Response:
    """An answer with its body, which is cut at one MiB. Names of headers are in lower case."""

    status: int
    headers: list[tuple[str, bytes]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The first header of this name, which is given in lower case."""
        return next((value.decode(errors="replace") for header, value in self.headers if header == name), None)

    def json(self) -> Any:
        """The body, read as JSON. One that is not JSON is retryable, ``upstream.body``."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise retryable("upstream.body", f"reading the answer: {error}") from error

    def ok_or_fail(self) -> "Response":
        """The answer itself when its status is 2xx, else raises the failure that the status means.

        429 and 503 that say when to come back are deferred until then. What may pass or be repaired,
        401, 403, 408, 409, 425, 429 and 5xx, is retryable. The rest would be answered alike every time
        and is permanent, redirects included. The code is ``upstream.`` and the status.
        """
        if 200 <= self.status < 300:
            return self
        code, message = f"upstream.{self.status}", self._summary()
        delay = self._retry_after_ms() if self.status in (429, 503) else None
        if delay is not None:
            raise defer(code, message).after(delay)
        passes = self.status in RETRYABLE or 500 <= self.status < 600
        raise retryable(code, message) if passes else permanent(code, message)

    def _retry_after_ms(self) -> float | None:
        """In seconds or as a date, which counts from the answer's own, so that clocks need not agree."""
        value = (self.header("retry-after") or "").strip()
        if value.isdecimal():
            return int(value) * 1000
        try:
            delay = parsedate_to_datetime(value) - parsedate_to_datetime(self.header("date") or "")
        except ValueError:
            return None
        return max(0.0, delay.total_seconds() * 1000)

    def _summary(self) -> str:
        text = self.body[:SUMMARY_BYTES].decode(errors="replace")
        return f"the upstream answered {self.status}: {text.strip()}"
