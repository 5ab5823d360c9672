// The parts that every handler needs: its export, its failures, its configuration and its log.
//
// `http.js`, `state.js` and `followups.js` are separate files. A component that imports one of them also imports the
// interface behind it, which the manifest must grant.

import * as store from 'wasi:config/store@0.2.0-rc.1';
import { log as write } from 'wasi:logging/logging@0.1.0-draft';
import { Failure, permanent, retryable } from './failure.js';

export { Failure, defer, permanent, retryable } from './failure.js';

/** @typedef {import('outbox:handler/types@0.1.0').Item & { json(): any }} Item */

/**
 * Makes the component's export. `handle` may be async. Its return value is the item's result: nothing, bytes, or any
 * other value, which becomes JSON.
 *
 * @param {{ name: string, version: string, types: string[], handle(item: Item): any }} definition
 */
export function handler({ name, version, types, handle }) {
  return {
    describe: () => ({ name, version, types }),
    async handle(item) {
      try {
        return outcome(await handle(withJson(item)));
      } catch (error) {
        throw asFailure(error).toWit();
      }
    },
  };
}

/** The operator's settings under `[config]` in the plugin's manifest. */
export const config = {
  /**
   * The value of a key, or undefined when the manifest does not set it.
   * @param {string} key
   * @returns {string | undefined}
   */
  get(key) {
    try {
      return store.get(key);
    } catch (error) {
      throw retryable('config.unavailable', `reading "${key}": ${JSON.stringify(error.payload)}`);
    }
  },

  /**
   * The value of a key that the handler requires. A missing key fails retryably with `config.missing`.
   * @param {string} key
   * @returns {string}
   */
  require(key) {
    const value = config.get(key);
    if (value === undefined) {
      throw retryable('config.missing', `the manifest sets no "${key}": add it under [config]`);
    }
    return value;
  },
};

/** Writes lines to the host's log. The host adds the plugin and the item. */
export const log = {
  debug: (message) => write('debug', '', String(message)),
  info: (message) => write('info', '', String(message)),
  warn: (message) => write('warn', '', String(message)),
  error: (message) => write('error', '', String(message)),
};

function withJson(item) {
  return Object.assign(item, {
    json() {
      try {
        return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(item.payload));
      } catch (error) {
        throw permanent('payload.invalid', error.message);
      }
    },
  });
}

function outcome(result) {
  if (result === undefined || result === null) return undefined;
  return result instanceof Uint8Array ? result : new TextEncoder().encode(JSON.stringify(result));
}

// An unexpected exception may pass, so it is retryable, like a trap.
function asFailure(error) {
  if (error instanceof Failure) return error;
  return retryable('handler.exception', `${error}\n${error?.stack ?? ''}`.trim());
}
