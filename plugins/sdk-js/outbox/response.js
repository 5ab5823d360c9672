// An answer, and what it says about the item.

import { defer, permanent, retryable } from './failure.js';

// What may pass or be repaired.
const RETRYABLE = [401, 403, 408, 409, 425, 429];
// How much of a refusal's body goes into the item's history: enough for one line of explanation.
const SUMMARY_BYTES = 256;

/** An answer with its body, which is cut at one MiB. */
export class Response {
  /** @param {number} status @param {[string, Uint8Array][]} headers @param {Uint8Array} body */
  constructor(status, headers, body) {
    this.status = status;
    this.headers = headers;
    this.body = body;
  }

  /** The first header of this name, which is given in lower case. @returns {string | undefined} */
  header(name) {
    const found = this.headers.find(([header]) => header === name);
    return found && new TextDecoder().decode(found[1]);
  }

  /** The body as text. */
  text() {
    return new TextDecoder().decode(this.body);
  }

  /** The body, read as JSON. One that is not JSON is retryable, `upstream.body`. */
  json() {
    try {
      return JSON.parse(this.text());
    } catch (error) {
      throw retryable('upstream.body', `reading the answer: ${error.message}`);
    }
  }

  /**
   * The answer itself when its status is 2xx, else throws the failure that the status means.
   *
   * 429 and 503 that say when to come back are deferred until then. What may pass or be repaired, 401,
   * 403, 408, 409, 425, 429 and 5xx, is retryable. The rest would be answered alike every time and is
   * permanent, redirects included. The code is `upstream.` and the status.
   */
  okOrFail() {
    const { status } = this;
    if (status >= 200 && status < 300) return this;
    const [code, message] = [`upstream.${status}`, this.#summary()];
    const delay = status === 429 || status === 503 ? this.#retryAfterMs() : undefined;
    if (delay !== undefined) throw defer(code, message).after(delay);
    const passes = RETRYABLE.includes(status) || (status >= 500 && status < 600);
    throw (passes ? retryable : permanent)(code, message);
  }

  // In seconds or as a date. A date counts from the answer's own, so that the two clocks need not agree.
  #retryAfterMs() {
    const value = this.header('retry-after')?.trim();
    if (value === undefined) return undefined;
    if (/^\d+$/.test(value)) return Number(value) * 1000;
    const delay = Date.parse(value) - Date.parse(this.header('date'));
    return Number.isNaN(delay) ? undefined : Math.max(0, delay);
  }

  #summary() {
    const text = new TextDecoder().decode(this.body.slice(0, SUMMARY_BYTES));
    return `the upstream answered ${this.status}: ${text.trim()}`;
  }
}
