"""Handles ``{{type}}``: tells the receiver at the configured ``url`` whom to greet."""

import outbox
from outbox import http


def handle(item: outbox.Item) -> None:
    user = item.json().get("user")
    if not user:
        raise outbox.permanent("user.missing", "the payload names no user")
    http.post(outbox.config.require("url")).json({"to": user}).send().ok_or_fail()


Handler = outbox.export(handle, name="{{name}}", version="0.1.0", types=["{{type}}"])
