// The answer to a request, and the failure that its status means.

import { defer, permanent, retryable } from './failure.js';

// The statuses of failures that may pass or that the operator can repair.
const RETRYABLE = [401, 403, 408, 409, 425, 429];
// The part of a refusal's body that goes into the item's history: enough for one line of explanation.
const SUMMARY_BYTES = 256;

/** An answer with its body, which is cut at 1 MiB. */
export class Response {
  /** @param {number} status @param {[string, Uint8Array][]} headers @param {Uint8Array} body */
  constructor(status, headers, body) {
    this.status = status;
    this.headers = headers;
    this.body = body;
  }

  /** The first header of this name. The name is in lower case. @returns {string | undefined} */
  header(name) {
    const found = this.headers.find(([header]) => header === name);
    return found && new TextDecoder().decode(found[1]);
  }

  /** The body as text. */
  text() {
    return new TextDecoder().decode(this.body);
  }

  /** Parses the body as JSON. A body that is not JSON fails retryably with `upstream.body`. */
  json() {
    try {
      return JSON.parse(this.text());
    } catch (error) {
      throw retryable('upstream.body', `reading the answer: ${error.message}`);
    }
  }

  /**
   * Returns the answer when its status is 2xx. Otherwise throws the failure that the status means.
   *
   * 429 and 503 with a `Retry-After` are deferred until that time. 401, 403, 408, 409, 425, 429 and 5xx are retryable,
   * because they may pass or can be repaired. All other statuses, also redirects, are permanent, because another
   * attempt would get the same answer. The code is `upstream.` and the status.
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

  // The header has seconds or a date. A date is compared with the answer's own `Date`, so the two clocks may differ.
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
