// Follow-ups: items that the host enqueues in the transaction that completes this item, or not at all.
//
// They inherit the saga and the correlation id. The manifest lists their types under `emit` in `[grant]`.

import * as followups from 'outbox:handler/followups@0.1.0';
import { permanent, retryable } from './failure.js';

/**
 * Enqueues one item when this item is completed. The payload is bytes, or any other value, which becomes JSON.
 *
 * The name distinguishes it from other follow-ups of its type. Without names, their order distinguishes them.
 *
 * @param {string} type
 * @param {any} payload
 * @param {{ name?: string, orderingKey?: string, delayMs?: number, contentType?: string }} [options]
 */
export function emit(type, payload, options = {}) {
  const { name, orderingKey, delayMs = 0, contentType = 'application/json' } = options;
  const bytes = payload instanceof Uint8Array ? payload : new TextEncoder().encode(JSON.stringify(payload));
  try {
    followups.emit({ type, payload: bytes, contentType, orderingKey, delayMs: BigInt(delayMs), name });
  } catch (error) {
    throw failure(error);
  }
}

function failure(error) {
  switch (error.payload?.tag) {
    case 'denied':
      return retryable('followups.denied', error.payload.val);
    case 'too-large':
      return permanent('followups.too_large', 'the payload is larger than the host stores');
    case 'too-many':
      return permanent('followups.too_many', 'this attempt has emitted all the items it may');
    case 'other':
      return retryable('followups.other', error.payload.val);
    default:
      return error;
  }
}
