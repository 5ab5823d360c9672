// Handles `{{type}}`: tells the receiver at the configured `url` whom to greet.

import * as outbox from './outbox/index.js';
import * as http from './outbox/http.js';

export const handler = outbox.handler({
  name: '{{name}}',
  version: '0.1.0',
  types: ['{{type}}'],

  handle(item) {
    const { user } = item.json();
    if (!user) throw outbox.permanent('user.missing', 'the payload names no user');
    http.post(outbox.config.require('url')).json({ to: user }).send().okOrFail();
  },
});
