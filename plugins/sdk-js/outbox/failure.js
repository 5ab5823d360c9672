// Why an attempt failed. Its class decides what the host does with the item.

/** Throw one to end the attempt. */
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

  /** The same failure, with a wish not to be tried again earlier than so many milliseconds from now. */
  after(milliseconds) {
    return new Failure(this.failureClass, this.code, this.message, milliseconds);
  }

  /** As the contract has it. */
  toWit() {
    const { failureClass, code, message, retryAfterMs } = this;
    const retryAfter = retryAfterMs === undefined ? undefined : BigInt(Math.round(retryAfterMs));
    return { class: failureClass, code, message, retryAfterMs: retryAfter };
  }
}

/** Try again after the backoff, until the retries are used up. */
export const retryable = (code, message) => new Failure('retryable', code, message);

/** Trying again cannot help: the item goes to the dead-letter queue at once. */
export const permanent = (code, message) => new Failure('permanent', code, message);

/** Not now: try again later, without counting this attempt. */
export const defer = (code, message) => new Failure('defer', code, message);
