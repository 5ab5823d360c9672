// The plugin's key-value state. The host commits changes in the transaction that completes the item, or not at all.
//
// An attempt reads its own writes. The manifest needs `state = true` under `[grant]`.

import * as state from 'outbox:handler/state@0.1.0';
import { permanent, retryable } from './failure.js';

/** The value of a key as bytes, or undefined when there is none. */
export const get = (key) => call(() => state.get(key));

/** Sets the value of a key to bytes. */
export const put = (key, value) => call(() => state.put(key, value));

/** Removes a key. A missing key is no error. */
export const remove = (key) => call(() => state.delete(key));

/** The value of a key, parsed as JSON, or undefined. Other values fail permanently with `state.invalid`. */
export function getJson(key) {
  const value = get(key);
  try {
    return value === undefined ? undefined : JSON.parse(new TextDecoder().decode(value));
  } catch (error) {
    throw permanent('state.invalid', `reading state "${key}": ${error.message}`);
  }
}

/** Sets the value of a key to JSON. */
export const putJson = (key, value) => put(key, new TextEncoder().encode(JSON.stringify(value)));

function call(action) {
  try {
    return action();
  } catch (error) {
    throw failure(error);
  }
}

function failure(error) {
  switch (error.payload?.tag) {
    case 'denied':
      return retryable('state.denied', 'state is not available to this attempt');
    case 'too-large':
      return permanent('state.too_large', 'the key or the value is larger than the host stores');
    case 'quota':
      return retryable('state.quota', "the plugin's quota of state is used up");
    case 'other':
      return retryable('state.other', error.payload.val);
    default:
      return error;
  }
}
