// Mails the receipt of an order through the service at the configured `url` and counts the receipts of each customer.
// For a customer's third receipt it emits an item of type `thanks`.

import * as outbox from './outbox/index.js';
import * as followups from './outbox/followups.js';
import * as http from './outbox/http.js';
import * as state from './outbox/state.js';

const THANKED_AT = 3;

export const handler = outbox.handler({
  name: 'js-receipt',
  version: '0.1.0',
  types: ['receipt'],

  handle(item) {
    const order = item.json();
    if (!order.customer.includes('@')) {
      throw outbox.permanent('receipt.no_address', `${order.customer} is no address`);
    }
    mail(order);
    const receipts = count(order.customer);
    if (receipts === THANKED_AT) {
      followups.emit('thanks', { customer: order.customer, receipts }, { name: order.order });
    }
    return { receipts };
  },
});

function mail({ order, customer, cents }) {
  const amount = (cents / 100).toFixed(2);
  const receipt = { to: customer, subject: `Your order ${order}`, amount };
  http.post(outbox.config.require('url')).json(receipt).send().okOrFail();
}

function count(customer) {
  const key = `receipts/${customer}`;
  const receipts = (state.getJson(key) ?? 0) + 1;
  state.putJson(key, receipts);
  return receipts;
}
