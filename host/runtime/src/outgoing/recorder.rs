//! Records the requests and responses of one attempt for its history, in bounded memory.
//!
//! Bodies are copied as they pass, so the recorder reads nothing that the handler does not read. Secrets are removed
//! when the recording is taken, by [`Redactor`].

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderMap};
use http::{Method, StatusCode, Uri, request, response};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use sha2::{Digest, Sha256};
use wasmtime_wasi_http::{Error, WasiBody};

use outbox_core::{RecordedBody, RecordedExchange, RecordedResponse, Recording, hex};

use crate::outgoing::idempotency_key::EFFECT;
use crate::outgoing::redact::{BodyExtent, Redactor};

/// Bytes of one body that are kept: many times the size of a problem document.
const BODY_MAX: usize = 64 << 10;
/// Bytes of URLs, headers and bodies that are kept of one attempt. Every attempt may hold this much memory.
const RECORDING_MAX: usize = 256 << 10;

/// The recording of one attempt. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorder(Arc<Mutex<RecorderState>>);

#[derive(Debug, Default)]
struct RecorderState {
    exchanges: Vec<OpenExchange>,
    used: usize,
    omitted: u32,
}

#[derive(Debug)]
struct OpenExchange {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: BodyCapture,
    response: Option<OpenResponse>,
}

#[derive(Debug)]
enum OpenResponse {
    Response { status: StatusCode, headers: HeaderMap, body: BodyCapture },
    Error(&'static str),
}

/// The part of a body that has passed.
#[derive(Debug, Default)]
struct BodyCapture {
    kept: Vec<u8>,
    length: u64,
    /// The digest of all bytes that passed, once some of them are not kept.
    digest: Option<Box<Sha256>>,
    is_ended: bool,
}

/// The place of one exchange in the recording, if there was room for it.
#[derive(Clone, Debug)]
pub(crate) struct ExchangeHandle {
    recorder: Recorder,
    index: Option<usize>,
}

/// One of the two bodies of an exchange.
#[derive(Clone, Copy, Debug)]
enum BodySide {
    Request,
    Response,
}

impl Recorder {
    /// Begins an exchange with the request as the guest wrote it.
    pub(crate) fn begin(&self, head: request::Parts) -> ExchangeHandle {
        let request::Parts { method, uri, headers, .. } = head;
        let mut state = self.lock();
        let size = uri.to_string().len() + size(&headers);
        let index = state.reserve(size).then_some(state.exchanges.len());
        match index {
            Some(_) => state.exchanges.push(OpenExchange {
                method,
                uri,
                headers,
                body: BodyCapture::default(),
                response: None,
            }),
            None => state.omitted += 1,
        }
        ExchangeHandle { recorder: self.clone(), index }
    }

    /// Takes the recording, without secrets. The recorder is empty afterwards.
    pub(crate) fn finish(&self, redactor: &Redactor) -> Recording {
        let RecorderState { exchanges, omitted, .. } = std::mem::take(&mut *self.lock());
        Recording { exchanges: exchanges.into_iter().map(|exchange| exchange.finish(redactor)).collect(), omitted }
    }

    fn lock(&self) -> MutexGuard<'_, RecorderState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RecorderState {
    /// Reserves room for `bytes`. Returns false if there is not enough.
    fn reserve(&mut self, bytes: usize) -> bool {
        let fits = bytes <= RECORDING_MAX - self.used;
        self.used += if fits { bytes } else { 0 };
        fits
    }

    fn append(&mut self, index: usize, side: BodySide, bytes: &[u8]) {
        let room = RECORDING_MAX - self.used;
        let Some(body) = self.body(index, side) else { return };
        self.used += body.push(bytes, room);
    }

    fn end_body(&mut self, index: usize, side: BodySide) {
        if let Some(body) = self.body(index, side) {
            body.is_ended = true;
        }
    }

    fn body(&mut self, index: usize, side: BodySide) -> Option<&mut BodyCapture> {
        let exchange = self.exchanges.get_mut(index)?;
        match (side, &mut exchange.response) {
            (BodySide::Request, _) => Some(&mut exchange.body),
            (BodySide::Response, Some(OpenResponse::Response { body, .. })) => Some(body),
            (BodySide::Response, _) => None,
        }
    }
}

impl BodyCapture {
    /// Adds bytes that passed. Returns how many of them were kept.
    fn push(&mut self, bytes: &[u8], room: usize) -> usize {
        self.length += bytes.len() as u64;
        if let Some(digest) = &mut self.digest {
            digest.update(bytes);
            return 0;
        }
        let fitting = bytes.len().min(room).min(BODY_MAX - self.kept.len());
        self.kept.extend_from_slice(&bytes[..fitting]);
        if fitting < bytes.len() {
            let digest = Sha256::new_with_prefix(&self.kept).chain_update(&bytes[fitting..]);
            self.digest = Some(Box::new(digest));
        }
        fitting
    }

    fn finish(self, headers: &HeaderMap, redactor: &Redactor) -> RecordedBody {
        // A sender that announced a length stops there and never reports the end.
        let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let is_ended = self.is_ended || announced == Some(self.length);
        let is_whole = is_ended && self.digest.is_none();
        let extent = if is_whole { BodyExtent::Whole } else { BodyExtent::Beginning };
        let kept = redactor.body(self.kept, headers, extent);
        RecordedBody { kept, length: self.length, sha256: self.digest.map(|digest| hex(&digest.finalize())), is_ended }
    }
}

impl OpenExchange {
    fn finish(self, redactor: &Redactor) -> RecordedExchange {
        let answer = self.response.map(|response| match response {
            OpenResponse::Error(error) => RecordedResponse::Error { error: error.to_owned() },
            OpenResponse::Response { status, headers, body } => {
                let body = body.finish(&headers, redactor);
                RecordedResponse::Response { status: status.as_u16(), headers: redactor.headers(&headers), body }
            }
        });
        let effect = self.headers.get(EFFECT).map(|name| redactor.text(&String::from_utf8_lossy(name.as_bytes())));
        RecordedExchange {
            method: self.method.to_string(),
            url: redactor.text(&self.uri.to_string()),
            effect,
            headers: redactor.headers(&self.headers),
            body: self.body.finish(&self.headers, redactor),
            answer,
        }
    }
}

impl ExchangeHandle {
    /// Wraps the request body so that it is copied as it is sent.
    pub(crate) fn capture_request(&self, body: WasiBody) -> WasiBody {
        self.capturing(body, BodySide::Request)
    }

    /// Wraps the response body so that it is copied as the guest reads it. [`ExchangeHandle::response_received`] must
    /// have been called before.
    pub(crate) fn capture_response(&self, body: WasiBody) -> WasiBody {
        self.capturing(body, BodySide::Response)
    }

    /// Records the head of the response.
    pub(crate) fn response_received(&self, head: &response::Parts) {
        self.with_exchange(|state, index| {
            let headers = if state.reserve(size(&head.headers)) { head.headers.clone() } else { HeaderMap::new() };
            let response = OpenResponse::Response { status: head.status, headers, body: BodyCapture::default() };
            state.exchanges[index].response = Some(response);
        });
    }

    /// Records that the request failed without a response.
    pub(crate) fn request_failed(&self, error: &Error) {
        self.with_exchange(|state, index| {
            state.exchanges[index].response = Some(OpenResponse::Error(error_name(error)));
        });
    }

    fn capturing(&self, body: WasiBody, side: BodySide) -> WasiBody {
        if self.index.is_none() {
            return body;
        }
        let capturing = CapturingBody { body, handle: self.clone(), side };
        capturing.note_end();
        capturing.boxed_unsync()
    }

    fn with_exchange(&self, change: impl FnOnce(&mut RecorderState, usize)) {
        let Some(index) = self.index else { return };
        let mut state = self.recorder.lock();
        // After the recording was taken, later bytes belong to no exchange.
        if index < state.exchanges.len() {
            change(&mut state, index);
        }
    }
}

struct CapturingBody {
    body: WasiBody,
    handle: ExchangeHandle,
    side: BodySide,
}

impl CapturingBody {
    fn note_end(&self) {
        if self.body.is_end_stream() {
            self.handle.with_exchange(|state, index| state.end_body(index, self.side));
        }
    }
}

impl http_body::Body for CapturingBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let (handle, side) = (&self.handle, self.side);
        match &polled {
            Poll::Ready(None) => handle.with_exchange(|state, index| state.end_body(index, side)),
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(bytes) = frame.data_ref() {
                    handle.with_exchange(|state, index| state.append(index, side, bytes));
                }
                self.note_end();
            }
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

/// The `error-code` case that the guest gets, for the errors that this host produces.
fn error_name(error: &Error) -> &'static str {
    match error {
        Error::ConnectionRefused => "connection-refused",
        Error::ConnectionTimeout => "connection-timeout",
        Error::ConnectionTerminated => "connection-terminated",
        Error::DestinationIpProhibited => "destination-IP-prohibited",
        Error::DnsError { .. } => "DNS-error",
        Error::TlsProtocolError => "TLS-protocol-error",
        Error::HttpProtocolError => "HTTP-protocol-error",
        Error::HttpResponseTimeout => "HTTP-response-timeout",
        Error::HttpRequestBodySize(_) => "HTTP-request-body-size",
        Error::HttpResponseHeaderSectionSize(_) => "HTTP-response-header-section-size",
        _ => "internal-error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(recorder: &Recorder, bodies: &[usize]) -> Recording {
        for size in bodies {
            let (head, ()) = http::Request::builder().uri("http://a/b").body(()).unwrap().into_parts();
            let handle = recorder.begin(head);
            handle.with_exchange(|state, index| state.append(index, BodySide::Request, &vec![b'x'; *size]));
            handle.with_exchange(|state, index| state.end_body(index, BodySide::Request));
        }
        recorder.finish(&Redactor::default())
    }

    #[test]
    fn a_body_beyond_the_limit_is_cut_and_its_length_and_digest_are_kept() {
        let recording = record(&Recorder::default(), &[BODY_MAX, BODY_MAX + 1]);
        let [whole, cut] = &recording.exchanges[..] else { panic!("two exchanges were sent") };
        assert!(whole.body.is_whole() && whole.body.kept.len() == BODY_MAX);
        assert_eq!((cut.body.kept.len(), cut.body.length), (BODY_MAX, BODY_MAX as u64 + 1));
        assert_eq!(cut.body.sha256, Some(outbox_core::sha256(&vec![b'x'; BODY_MAX + 1])));
    }

    #[test]
    fn an_attempt_that_sends_without_end_is_remembered_in_bounded_space() {
        let recorder = Recorder::default();
        let recording = record(&recorder, &[BODY_MAX; 9]);
        let kept: usize = recording.exchanges.iter().map(|exchange| exchange.body.kept.len()).sum();
        assert!(kept <= RECORDING_MAX, "{kept} bytes are kept");
        let many = record(&recorder, &vec![0; 30_000]);
        assert!(many.exchanges.len() <= RECORDING_MAX / 10);
        assert_eq!(many.exchanges.len() + many.omitted as usize, 30_000);
    }

    #[test]
    fn what_comes_in_after_the_recording_was_taken_is_nobodys() {
        let recorder = Recorder::default();
        let (head, ()) = http::Request::builder().uri("http://a/b").body(()).unwrap().into_parts();
        let handle = recorder.begin(head);
        assert_eq!(recorder.finish(&Redactor::default()).exchanges.len(), 1);
        handle.request_failed(&Error::ConnectionRefused);
        assert_eq!(recorder.finish(&Redactor::default()), Recording::default());
    }
}
