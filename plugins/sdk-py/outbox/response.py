"""The answer to a request, and the failure that its status means."""

import json
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from .failure import defer, permanent, retryable

RETRYABLE = (401, 403, 408, 409, 425, 429)
"""The statuses below 500 of failures that may pass or that the operator can repair."""
SUMMARY_BYTES = 256
"""The part of a refusal's body that goes into the item's history, in bytes: enough for one line of explanation."""


@dataclass
class Response:
    """An answer with its body, which is cut at 1 MiB. The names of headers are in lower case."""

    status: int
    headers: list[tuple[str, bytes]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The first header of this name. The name is in lower case."""
        return next((value.decode(errors="replace") for header, value in self.headers if header == name), None)

    def json(self) -> Any:
        """Parses the body as JSON. A body that is not JSON fails retryably with ``upstream.body``."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise retryable("upstream.body", f"reading the answer: {error}") from error

    def ok_or_fail(self) -> "Response":
        """Returns the answer when its status is 2xx. Otherwise raises the failure that the status means.

        429 and 503 with a ``Retry-After`` are deferred until that time. 401, 403, 408, 409, 425, 429 and 5xx are
        retryable, because they may pass or can be repaired. All other statuses, also redirects, are permanent,
        because another attempt would get the same answer. The code is ``upstream.`` and the status.
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
        """The header has seconds or a date. A date is compared with the answer's own, so the two clocks may differ."""
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
