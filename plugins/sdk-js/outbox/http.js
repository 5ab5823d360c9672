// A small HTTP client over `wasi:http`: it builds a request, sends it and classifies the answer.
//
// The host adds the idempotency key and the tracing headers, enforces the manifest's grants, and ends every wait at
// the item's deadline. The client follows no redirects. The manifest needs a `[[grant.http]]` for each receiver.
//
// The failure of a request without an answer has one of these codes: `upstream.connect` (no connection, or it broke),
// `upstream.timeout`, `upstream.denied` (not granted), `upstream.invalid` (the request cannot be sent) and
// `upstream.request` (the request is too large). Only `upstream.request` is permanent.

import { handle } from 'wasi:http/outgoing-handler@0.2.12';
import { Fields, OutgoingBody, OutgoingRequest, RequestOptions } from 'wasi:http/types@0.2.12';
import { permanent, retryable } from './failure.js';
import { Response } from './response.js';

// The part of an answer's body that is kept, in bytes: enough for the answers of APIs, little of an instance's memory.
const BODY_MAX = 1 << 20;
const READ_BYTES = 64n << 10n;
const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'OPTIONS', 'PATCH'];
/** @type {any} */
const DISPOSE = Symbol['dispose'] ?? Symbol.for('dispose');

/** A GET request. @param {string} url */
export const get = (url) => new Request('GET', url);

/** A POST request. @param {string} url */
export const post = (url) => new Request('POST', url);

/** A request that has not been sent yet. */
export class Request {
  /** @param {string} method @param {string} url */
  constructor(method, url) {
    this.method = method;
    this.url = url;
    /** @type {[string, Uint8Array][]} */
    this.headers = [];
    /** @type {Uint8Array} */
    this.content = new Uint8Array();
    /** @type {bigint | undefined} */
    this.nanos = undefined;
  }

  /** Adds a header. */
  header(name, value) {
    this.headers.push([name, new TextEncoder().encode(value)]);
    return this;
  }

  /** Sets the body to bytes or text. @param {Uint8Array | string} content */
  body(content) {
    this.content = typeof content === 'string' ? new TextEncoder().encode(content) : content;
    return this;
  }

  /** Sets the body to JSON, and the content type to `application/json`. */
  json(value) {
    return this.header('content-type', 'application/json').body(JSON.stringify(value));
  }

  /**
   * Names this effect. Its idempotency key then depends on the name instead of method, URL and order. An attempt
   * that sends different things to one URL needs this. The receiver does not see the name.
   */
  effect(name) {
    return this.header('outbox-effect', name);
  }

  /** Limits each wait: for the connection, for the head of the answer, and between two parts of its body. */
  timeout(milliseconds) {
    this.nanos = BigInt(Math.round(milliseconds * 1e6));
    return this;
  }

  /** Sends the request and waits for the whole answer. Any status is an answer. @returns {Response} */
  send() {
    return this.start().wait();
  }

  /** Sends the request and does not wait for the answer, so that several requests can run at the same time. */
  start() {
    const target = describe(this);
    const outgoing = head(this, target);
    const body = outgoing.body();
    try {
      const answer = handle(outgoing, this.nanos === undefined ? undefined : waiting(this.nanos));
      write(body, this.content);
      return new Pending(answer, target);
    } catch (error) {
      throw failure(target, error.payload);
    }
  }
}

/** A request that waits for its answer. The host fails an attempt that ends with such a request. */
class Pending {
  constructor(answer, target) {
    this.answer = answer;
    this.target = target;
  }

  /** Waits for the whole answer. Any status is an answer. @returns {Response} */
  wait() {
    block(this.answer);
    const { tag, val } = this.answer.get()?.val ?? { tag: 'err', val: { tag: 'HTTP-response-incomplete' } };
    if (tag === 'err') throw failure(this.target, val);
    return read(val, this.target);
  }
}

function head(request, target) {
  const match = /^http(s?):\/\/([^/?#]+)([^#]*)/i.exec(request.url);
  if (!match) throw invalid(target, 'its URL does not begin with http://HOST or https://HOST');
  const [, secure, authority, path] = match;
  try {
    const outgoing = new OutgoingRequest(Fields.fromList(headers(request)));
    outgoing.setMethod(method(request.method));
    outgoing.setScheme({ tag: secure ? 'HTTPS' : 'HTTP' });
    outgoing.setAuthority(authority);
    outgoing.setPathWithQuery(path.startsWith('/') ? path : `/${path}`);
    return outgoing;
  } catch (error) {
    throw invalid(target, `a header, its method or its URL is not allowed there (${error.payload?.tag ?? error})`);
  }
}

function headers({ method, headers, content }) {
  const length = new TextEncoder().encode(String(content.length));
  const bare = content.length === 0 && (method === 'GET' || method === 'HEAD');
  return bare ? headers : [...headers, ['content-length', length]];
}

/** @returns {any} */
const method = (name) => (METHODS.includes(name) ? { tag: name.toLowerCase() } : { tag: 'other', val: name });

// A host without support for such a limit refuses it. The item's deadline limits the request in any case.
function waiting(nanos) {
  const options = new RequestOptions();
  for (const set of ['setConnectTimeout', 'setFirstByteTimeout', 'setBetweenBytesTimeout']) {
    try {
      options[set](nanos);
    } catch {
      continue;
    }
  }
  return options;
}

// A failed write is not reported here, because the answer, for which the caller waits next, contains the reason.
function write(body, bytes) {
  try {
    const stream = body.write();
    for (let rest = bytes; rest.length > 0; ) {
      block(stream);
      const room = Number(stream.checkWrite());
      stream.write(rest.slice(0, room));
      rest = rest.slice(room);
    }
    stream.blockingFlush();
    stream[DISPOSE]();
    OutgoingBody.finish(body, undefined);
  } catch {
    return;
  }
}

function read(answer, target) {
  const fields = answer.headers();
  const headers = fields.entries().map(([name, value]) => [name.toLowerCase(), value]);
  fields[DISPOSE]();
  try {
    return new Response(answer.status(), headers, readBody(answer.consume()));
  } catch (error) {
    throw failure(target, { tag: 'HTTP-response-incomplete', val: error.payload?.tag });
  }
}

function readBody(body) {
  const stream = body.stream();
  const chunks = [];
  for (let size = 0; size < BODY_MAX; size += chunks.at(-1).length) {
    try {
      chunks.push(stream.blockingRead(READ_BYTES));
    } catch (error) {
      if (error.payload?.tag !== 'closed') throw error;
      break;
    }
  }
  stream[DISPOSE]();
  body[DISPOSE]();
  return joined(chunks).slice(0, BODY_MAX);
}

function joined(chunks) {
  const bytes = new Uint8Array(chunks.reduce((size, chunk) => size + chunk.length, 0));
  chunks.reduce((at, chunk) => (bytes.set(chunk, at), at + chunk.length), 0);
  return bytes;
}

function block(source) {
  const pollable = source.subscribe();
  pollable.block();
  pollable[DISPOSE]();
}

// The name of the request in messages. It omits user, path and query, because messages become part of the item's
// history and the URL of a webhook often contains a secret.
function describe({ method, url }) {
  const authority = /^https?:\/\/(?:[^/?#]*@)?([^/?#]+)/i.exec(url)?.[1];
  return `${method} ${authority ?? 'an unreadable URL'}`;
}

const invalid = (target, why) => retryable('upstream.invalid', `${target}: the request cannot be sent: ${why}`);

// The failure that an error of the transport causes. It is permanent only when the request alone causes the error.
// A denial is retryable, because the operator can change the grants.
function failure(target, code) {
  const message = `${target}: ${code?.tag ?? code}`;
  switch (code?.tag) {
    case 'HTTP-request-denied':
    case 'destination-IP-prohibited':
      return retryable('upstream.denied', message);
    case 'DNS-timeout':
    case 'connection-timeout':
    case 'connection-read-timeout':
    case 'connection-write-timeout':
    case 'HTTP-response-timeout':
      return retryable('upstream.timeout', message);
    case 'HTTP-request-body-size':
    case 'HTTP-request-header-size':
    case 'HTTP-request-header-section-size':
      return permanent('upstream.request', message);
    default:
      return retryable('upstream.connect', message);
  }
}
