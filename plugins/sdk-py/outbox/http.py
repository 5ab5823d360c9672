"""A small HTTP client over ``wasi:http``: it builds a request, sends it and classifies the answer.

The host adds the idempotency key and the tracing headers, enforces the manifest's grants, and ends every wait at the
item's deadline. The client follows no redirects. The manifest needs a ``[[grant.http]]`` for each receiver.

The failure of a request without an answer has one of these codes: ``upstream.connect`` (no connection, or it broke),
``upstream.timeout``, ``upstream.denied`` (not granted), ``upstream.invalid`` (the request cannot be sent) and
``upstream.request`` (the request is too large). Only ``upstream.request`` is permanent.
"""

import re
from typing import Any

from componentize_py_types import Err, Ok
from wit_world.imports import http_types as wit
from wit_world.imports import outgoing_handler
from wit_world.imports.streams import StreamError_Closed

from . import dumps
from .failure import Failure, permanent, retryable
from .response import Response

BODY_MAX = 1 << 20
"""The bytes of an answer's body that are kept: enough for the answers of APIs, little of an instance's memory."""
READ_BYTES = 64 << 10
METHODS = ("Get", "Head", "Post", "Put", "Delete", "Options", "Patch")
TIMEOUTS = ("DnsTimeout", "ConnectionTimeout", "ConnectionReadTimeout", "ConnectionWriteTimeout", "HttpResponseTimeout")
DENIALS = ("HttpRequestDenied", "DestinationIpProhibited")
TOO_LARGE = ("HttpRequestBodySize", "HttpRequestHeaderSize", "HttpRequestHeaderSectionSize")


def get(url: str) -> "Request":
    """A GET request."""
    return Request("GET", url)


def post(url: str) -> "Request":
    """A POST request."""
    return Request("POST", url)


class Request:
    """A request that has not been sent yet."""

    def __init__(self, method: str, url: str):
        self.method = method
        self.url = url
        self.headers: list[tuple[str, bytes]] = []
        self.content = b""
        self.nanos: int | None = None

    def header(self, name: str, value: str) -> "Request":
        """Adds a header."""
        self.headers.append((name, value.encode()))
        return self

    def body(self, content: bytes | str) -> "Request":
        """Sets the body."""
        self.content = content.encode() if isinstance(content, str) else content
        return self

    def json(self, value: Any) -> "Request":
        """Sets the body to JSON, and the content type to ``application/json``."""
        return self.header("content-type", "application/json").body(dumps(value))

    def effect(self, name: str) -> "Request":
        """Names this effect. Its idempotency key then depends on the name instead of method, URL and order.

        An attempt that sends different things to one URL needs this. The receiver does not see the name.
        """
        return self.header("outbox-effect", name)

    def timeout(self, seconds: float) -> "Request":
        """Limits each wait: for the connection, for the head of the answer, and between two parts of its body."""
        self.nanos = round(seconds * 1e9)
        return self

    def send(self) -> Response:
        """Sends the request and waits for the whole answer. Any status is an answer."""
        return self.start().wait()

    def start(self) -> "Pending":
        """Sends the request and does not wait for the answer, so that several requests can run at the same time."""
        target = _target(self)
        outgoing = _head(self, target)
        body = outgoing.body()
        try:
            answer = outgoing_handler.handle(outgoing, None if self.nanos is None else _waiting(self.nanos))
        except Err as error:
            raise _failure(target, error.value) from error
        _write(body, self.content)
        return Pending(answer, target)


class Pending:
    """A request that waits for its answer. The host fails an attempt that ends with such a request."""

    def __init__(self, answer: wit.FutureIncomingResponse, target: str):
        self._answer = answer
        self._target = target

    def wait(self) -> Response:
        """Waits for the whole answer. Any status is an answer."""
        with self._answer.subscribe() as ready:
            ready.block()
        match self._answer.get():
            case Ok(Ok(response)):
                return _read(response, self._target)
            case Ok(Err(code)):
                raise _failure(self._target, code)
            case _:
                raise _failure(self._target, wit.ErrorCode_HttpResponseIncomplete())


def _head(request: Request, target: str) -> wit.OutgoingRequest:
    match = re.match(r"(https?)://([^/?#]+)([^#]*)", request.url, re.IGNORECASE)
    if not match:
        raise _invalid(target, "its URL does not begin with http://HOST or https://HOST")
    scheme, authority, path = match.groups()
    try:
        outgoing = wit.OutgoingRequest(wit.Fields.from_list(_headers(request)))
        outgoing.set_method(_method(request.method))
        outgoing.set_scheme(wit.Scheme_Https() if scheme.lower() == "https" else wit.Scheme_Http())
        outgoing.set_authority(authority)
        outgoing.set_path_with_query(path if path.startswith("/") else f"/{path}")
    except Err as error:
        raise _invalid(target, f"a header, its method or its URL is not allowed there ({error.value})") from error
    return outgoing


def _headers(request: Request) -> list[tuple[str, bytes]]:
    bare = not request.content and request.method in ("GET", "HEAD")
    return request.headers + ([] if bare else [("content-length", str(len(request.content)).encode())])


def _method(name: str) -> wit.Method:
    known = name.capitalize()
    is_known = known in METHODS and name.isupper()
    return getattr(wit, f"Method_{known}")() if is_known else wit.Method_Other(name)


def _waiting(nanos: int) -> wit.RequestOptions:
    options = wit.RequestOptions()
    for limit in (options.set_connect_timeout, options.set_first_byte_timeout, options.set_between_bytes_timeout):
        try:
            limit(nanos)
        except Err:
            # A host without support for such a limit refuses it. The item's deadline limits the request in any case.
            continue
    return options


def _write(body: wit.OutgoingBody, content: bytes) -> None:
    """Writes the body. A failed write is not reported here: the answer, which is read next, contains the reason."""
    try:
        with body.write() as stream:
            while content:
                with stream.subscribe() as ready:
                    ready.block()
                room = stream.check_write()
                stream.write(content[:room])
                content = content[room:]
            stream.blocking_flush()
        wit.OutgoingBody.finish(body, None)
    except Err:
        return


def _read(answer: wit.IncomingResponse, target: str) -> Response:
    with answer.headers() as fields:
        headers = [(name.lower(), value) for name, value in fields.entries()]
    try:
        return Response(answer.status(), headers, _read_body(answer.consume()))
    except Err as error:
        raise _failure(target, wit.ErrorCode_HttpResponseIncomplete()) from error


def _read_body(body: wit.IncomingBody) -> bytes:
    content = bytearray()
    with body, body.stream() as stream:
        while len(content) < BODY_MAX:
            try:
                content += stream.blocking_read(READ_BYTES)
            except Err as error:
                if not isinstance(error.value, StreamError_Closed):
                    raise
                break
    return bytes(content[:BODY_MAX])


def _target(request: Request) -> str:
    """The name of the request in messages.

    It omits user, path and query, because messages become part of the item's history and the URL of a webhook often
    contains a secret.
    """
    match = re.match(r"https?://(?:[^/?#]*@)?([^/?#]+)", request.url, re.IGNORECASE)
    return f"{request.method} {match[1] if match else 'an unreadable URL'}"


def _invalid(target: str, why: str) -> Failure:
    return retryable("upstream.invalid", f"{target}: the request cannot be sent: {why}")


def _failure(target: str, code: wit.ErrorCode) -> Failure:
    """The failure that an error of the transport causes.

    It is permanent only when the request alone causes the error. A denial is retryable, because the operator can
    change the grants.
    """
    name = type(code).__name__.removeprefix("ErrorCode_")
    message = f"{target}: {name}"
    if name in DENIALS:
        return retryable("upstream.denied", message)
    if name in TIMEOUTS:
        return retryable("upstream.timeout", message)
    if name in TOO_LARGE:
        return permanent("upstream.request", message)
    return retryable("upstream.connect", message)
