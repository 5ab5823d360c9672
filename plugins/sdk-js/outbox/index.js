// What every handler needs: itself, its failures, its configuration and its log.
//
// `http.js`, `state.js` and `followups.js` stand beside this file. Importing one of them makes the
// component import what it wraps, and the manifest beside the handler must grant it.

import * as store from 'wasi:config/store@0.2.0-rc.1';
import { log as write } from 'wasi:logging/logging@0.1.0-draft';
import { Failure, permanent, retryable } from './failure.js';

export { Failure, defer, permanent, retryable } from './failure.js';

/** @typedef {import('outbox:handler/types@0.1.0').Item & { json(): any }} Item */

/**
 * Makes the component's export. `handle` may be async. What it returns is the item's result: nothing,
 * bytes as they are, or anything else as JSON.
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

/** What the operator wrote under `[config]` in the plugin's manifest. */
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
   * The value of a key that the handler cannot do without. A missing one is retryable, `config.missing`.
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

/** Lines for the host's log, which adds the plugin and the item. */
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

// What the handler did not mean to throw may pass, like a trap.
function asFailure(error) {
  if (error instanceof Failure) return error;
  return retryable('handler.exception', `${error}\n${error?.stack ?? ''}`.trim());
}
