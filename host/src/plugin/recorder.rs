//! Writes down what one attempt sends and is answered, for its history: bounded, and redacted when it
//! is asked for.
//!
//! Bodies are copied as they pass, so that nothing is read that the handler does not read.

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

use super::hex;
use super::outgoing::EFFECT;
use super::redact::Redactor;
use crate::item::{Answer, Body, Exchange, Recording};

/// Bytes of one body that are kept: a problem document many times over.
const BODY_MAX: usize = 64 << 10;
/// Bytes of URLs, headers and bodies that are kept of one attempt. An attempt holds so much memory.
const RECORDING_MAX: usize = 256 << 10;

/// The record of one attempt. Clones write to the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Recorder(Arc<Mutex<Log>>);

#[derive(Debug, Default)]
struct Log {
    drafts: Vec<Draft>,
    used: usize,
    left_out: u32,
}

#[derive(Debug)]
struct Draft {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    sent: Passed,
    answer: Option<Reply>,
}

#[derive(Debug)]
enum Reply {
    Response { status: StatusCode, headers: HeaderMap, read: Passed },
    Error(&'static str),
}

/// What has passed of a body.
#[derive(Debug, Default)]
struct Passed {
    kept: Vec<u8>,
    length: u64,
    /// Of everything that passed, once not everything is kept.
    digest: Option<Box<Sha256>>,
    is_ended: bool,
}

/// Where one exchange is written down, if there was room for it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    recorder: Recorder,
    index: Option<usize>,
}

/// Which of the two bodies of an exchange.
#[derive(Clone, Copy, Debug)]
enum Side {
    Request,
    Response,
}

impl Recorder {
    /// Begins an exchange, with the request as the guest wrote it.
    pub(super) fn begin(&self, head: request::Parts) -> Entry {
        let request::Parts { method, uri, headers, .. } = head;
        let mut log = self.log();
        let size = uri.to_string().len() + size(&headers);
        let index = log.take(size).then_some(log.drafts.len());
        match index {
            Some(_) => log.drafts.push(Draft { method, uri, headers, sent: Passed::default(), answer: None }),
            None => log.left_out += 1,
        }
        Entry { recorder: self.clone(), index }
    }

    /// What was written down. The recorder is empty afterwards.
    pub(super) fn finish(&self, redactor: &Redactor) -> Recording {
        let Log { drafts, left_out, .. } = std::mem::take(&mut *self.log());
        Recording { exchanges: drafts.into_iter().map(|draft| draft.finish(redactor)).collect(), left_out }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    /// Takes room for so many bytes, if there is as much.
    fn take(&mut self, bytes: usize) -> bool {
        let fits = bytes <= RECORDING_MAX - self.used;
        self.used += if fits { bytes } else { 0 };
        fits
    }

    fn pass(&mut self, index: usize, side: Side, bytes: &[u8]) {
        let room = RECORDING_MAX - self.used;
        let Some(passed) = self.body(index, side) else { return };
        self.used += passed.push(bytes, room);
    }

    fn end(&mut self, index: usize, side: Side) {
        if let Some(passed) = self.body(index, side) {
            passed.is_ended = true;
        }
    }

    fn body(&mut self, index: usize, side: Side) -> Option<&mut Passed> {
        let draft = self.drafts.get_mut(index)?;
        match (side, &mut draft.answer) {
            (Side::Request, _) => Some(&mut draft.sent),
            (Side::Response, Some(Reply::Response { read, .. })) => Some(read),
            (Side::Response, _) => None,
        }
    }
}

impl Passed {
    /// Says how many of the bytes were kept.
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

    fn finish(self, headers: &HeaderMap, redactor: &Redactor) -> Body {
        // A sender stops looking when it has sent as much as it said that there was.
        let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let is_ended = self.is_ended || announced == Some(self.length);
        let kept = redactor.body(self.kept, headers, is_ended && self.digest.is_none());
        Body { kept, length: self.length, sha256: self.digest.map(|digest| hex(&digest.finalize())), is_ended }
    }
}

impl Draft {
    fn finish(self, redactor: &Redactor) -> Exchange {
        let answer = self.answer.map(|reply| match reply {
            Reply::Error(error) => Answer::Error { error: error.to_owned() },
            Reply::Response { status, headers, read } => {
                let body = read.finish(&headers, redactor);
                Answer::Response { status: status.as_u16(), headers: redactor.headers(&headers), body }
            }
        });
        let effect = self.headers.get(EFFECT).map(|name| redactor.text(&String::from_utf8_lossy(name.as_bytes())));
        Exchange {
            method: self.method.to_string(),
            url: redactor.text(&self.uri.to_string()),
            effect,
            headers: redactor.headers(&self.headers),
            body: self.sent.finish(&self.headers, redactor),
            answer,
        }
    }
}

impl Entry {
    /// The body of the request, copied as it goes out.
    pub(super) fn sending(&self, body: WasiBody) -> WasiBody {
        self.copying(body, Side::Request)
    }

    /// The body of the answer, copied as the guest reads it. The answer must have been told before.
    pub(super) fn reading(&self, body: WasiBody) -> WasiBody {
        self.copying(body, Side::Response)
    }

    /// The receiver answers.
    pub(super) fn answered(&self, head: &response::Parts) {
        self.with_draft(|log, index| {
            let headers = if log.take(size(&head.headers)) { head.headers.clone() } else { HeaderMap::new() };
            let reply = Reply::Response { status: head.status, headers, read: Passed::default() };
            log.drafts[index].answer = Some(reply);
        });
    }

    /// There is no answer, but an error.
    pub(super) fn failed(&self, error: &Error) {
        self.with_draft(|log, index| log.drafts[index].answer = Some(Reply::Error(word(error))));
    }

    fn copying(&self, body: WasiBody, side: Side) -> WasiBody {
        if self.index.is_none() {
            return body;
        }
        let copied = Copied { body, entry: self.clone(), side };
        copied.note_end();
        copied.boxed_unsync()
    }

    fn with_draft(&self, change: impl FnOnce(&mut Log, usize)) {
        let Some(index) = self.index else { return };
        let mut log = self.recorder.log();
        // Once the recording was taken, what still comes in belongs to nobody.
        if index < log.drafts.len() {
            change(&mut log, index);
        }
    }
}

struct Copied {
    body: WasiBody,
    entry: Entry,
    side: Side,
}

impl Copied {
    fn note_end(&self) {
        if self.body.is_end_stream() {
            self.entry.with_draft(|log, index| log.end(index, self.side));
        }
    }
}

impl http_body::Body for Copied {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let (entry, side) = (&self.entry, self.side);
        match &polled {
            Poll::Ready(None) => entry.with_draft(|log, index| log.end(index, side)),
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(bytes) = frame.data_ref() {
                    entry.with_draft(|log, index| log.pass(index, side, bytes));
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

/// The case of `error-code` that a guest is told, for those that this host tells.
fn word(error: &Error) -> &'static str {
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

    fn passed(recorder: &Recorder, bodies: &[usize]) -> Recording {
        for size in bodies {
            let (head, ()) = http::Request::builder().uri("http://a/b").body(()).unwrap().into_parts();
            let entry = recorder.begin(head);
            entry.with_draft(|log, index| log.pass(index, Side::Request, &vec![b'x'; *size]));
            entry.with_draft(|log, index| log.end(index, Side::Request));
        }
        recorder.finish(&Redactor::default())
    }

    #[test]
    fn a_body_beyond_the_limit_is_cut_and_its_length_and_digest_are_kept() {
        let recording = passed(&Recorder::default(), &[BODY_MAX, BODY_MAX + 1]);
        let [whole, cut] = &recording.exchanges[..] else { panic!("two exchanges were sent") };
        assert!(whole.body.is_whole() && whole.body.kept.len() == BODY_MAX);
        assert_eq!((cut.body.kept.len(), cut.body.length), (BODY_MAX, BODY_MAX as u64 + 1));
        assert_eq!(cut.body.sha256, Some(crate::plugin::load::sha256(&vec![b'x'; BODY_MAX + 1])));
    }

    #[test]
    fn an_attempt_that_sends_without_end_is_remembered_in_bounded_space() {
        let recorder = Recorder::default();
        let recording = passed(&recorder, &[BODY_MAX; 9]);
        let kept: usize = recording.exchanges.iter().map(|exchange| exchange.body.kept.len()).sum();
        assert!(kept <= RECORDING_MAX, "{kept} bytes are kept");
        let many = passed(&recorder, &vec![0; 30_000]);
        assert!(many.exchanges.len() <= RECORDING_MAX / 10);
        assert_eq!(many.exchanges.len() + many.left_out as usize, 30_000);
    }

    #[test]
    fn what_comes_in_after_the_recording_was_taken_is_nobodys() {
        let recorder = Recorder::default();
        let (head, ()) = http::Request::builder().uri("http://a/b").body(()).unwrap().into_parts();
        let entry = recorder.begin(head);
        assert_eq!(recorder.finish(&Redactor::default()).exchanges.len(), 1);
        entry.failed(&Error::ConnectionRefused);
        assert_eq!(recorder.finish(&Redactor::default()), Recording::default());
    }
}
