"""Mails the receipt of an order through the service at the configured ``url`` and counts the receipts of each customer.
For a customer's third receipt it emits an item of type ``thanks``."""

import outbox
from outbox import followups, http, state

THANKED_AT = 3


def handle(item: outbox.Item) -> dict:
    order = item.json()
    customer = order["customer"]
    if "@" not in customer:
        raise outbox.permanent("receipt.no_address", f"{customer} is no address")
    mail(order)
    receipts = count(customer)
    if receipts == THANKED_AT:
        followups.emit("thanks", {"customer": customer, "receipts": receipts}, name=order["order"])
    return {"receipts": receipts}


def mail(order: dict) -> None:
    amount = f'{order["cents"] // 100}.{order["cents"] % 100:02}'
    receipt = {"to": order["customer"], "subject": f'Your order {order["order"]}', "amount": amount}
    http.post(outbox.config.require("url")).json(receipt).send().ok_or_fail()


def count(customer: str) -> int:
    key = f"receipts/{customer}"
    receipts = (state.get_json(key) or 0) + 1
    state.put_json(key, receipts)
    return receipts


Handler = outbox.export(handle, name="py-receipt", version="0.1.0", types=["receipt"])
