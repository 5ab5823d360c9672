// The failure of an attempt. Its class decides what the host does with the item.

/** The failure of an attempt. Throw it to end the attempt. */
export class Failure extends Error {
  /**
   * @param {import('outbox:handler/types@0.1.0').FailureClass} failureClass
   * @param {string} code stable and dotted, for grouping, such as `upstream.timeout`
   * @param {string} message for people
   * @param {number} [retryAfterMs]
   */
  constructor(failureClass, code, message, retryAfterMs) {
    super(message);
    this.failureClass = failureClass;
    this.code = code;
    this.retryAfterMs = retryAfterMs;
  }

  /** The same failure. The host makes the next attempt no earlier than this many milliseconds from now. */
  after(milliseconds) {
    return new Failure(this.failureClass, this.code, this.message, milliseconds);
  }

  /** The failure in the contract's form. */
  toWit() {
    const { failureClass, code, message, retryAfterMs } = this;
    const retryAfter = retryAfterMs === undefined ? undefined : BigInt(Math.round(retryAfterMs));
    return { class: failureClass, code, message, retryAfterMs: retryAfter };
  }
}

/** A failure that may pass: the host retries after the backoff, until the retries are used up. */
export const retryable = (code, message) => new Failure('retryable', code, message);

/** A failure that retries cannot change: the item becomes DLQ at once. */
export const permanent = (code, message) => new Failure('permanent', code, message);

/** A request for a later attempt: the host makes one and does not count this attempt. */
export const defer = (code, message) => new Failure('defer', code, message);
