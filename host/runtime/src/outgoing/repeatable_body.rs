//! The body of a request that can be sent again from its beginning. A guest writes its body only once, so the host keeps
//! what was sent until the answer begins.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use wasmtime_wasi_http::{Error, WasiBody};

/// What all sendings of one body share.
#[derive(Clone, Debug)]
pub(crate) struct RepeatableBody(Arc<Mutex<BodyState>>);

#[derive(Debug)]
struct BodyState {
    sent: Vec<Bytes>,
    rest: WasiBody,
    /// False once something was sent that is not kept.
    is_repeatable: bool,
}

impl RepeatableBody {
    pub(crate) fn new(body: WasiBody) -> Self {
        Self(Arc::new(Mutex::new(BodyState { sent: Vec::new(), rest: body, is_repeatable: true })))
    }

    /// The whole body, to be sent once.
    pub(crate) fn sending(&self) -> BodySending {
        BodySending { body: self.clone(), position: 0 }
    }

    pub(crate) fn is_repeatable(&self) -> bool {
        self.lock().is_repeatable
    }

    fn lock(&self) -> MutexGuard<'_, BodyState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One sending of a body.
#[derive(Debug)]
pub(crate) struct BodySending {
    body: RepeatableBody,
    /// How many of the parts that are kept this sending has passed on.
    position: usize,
}

impl Body for BodySending {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Self { body, position } = self.get_mut();
        let mut state = body.lock();
        if let Some(part) = state.sent.get(*position) {
            *position += 1;
            return Poll::Ready(Some(Ok(Frame::data(part.clone()))));
        }
        let polled = ready!(Pin::new(&mut state.rest).poll_frame(context));
        match polled.as_ref().map(|frame| frame.as_ref().ok().and_then(Frame::data_ref)) {
            Some(Some(part)) => {
                state.sent.push(part.clone());
                *position += 1;
            }
            Some(None) => state.is_repeatable = false,
            None => {}
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        let state = self.body.lock();
        state.sent.len() == self.position && state.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.body.lock();
        let kept: u64 = state.sent[self.position..].iter().map(|part| part.len() as u64).sum();
        let rest = state.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + kept);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + kept);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    fn body(frames: Vec<Frame<Bytes>>) -> RepeatableBody {
        let frames = futures_util::stream::iter(frames).map(Ok);
        RepeatableBody::new(StreamBody::new(frames).boxed_unsync())
    }

    #[tokio::test]
    async fn a_body_that_was_sent_in_part_is_sent_again_as_a_whole() {
        let body = body(vec![Frame::data("one".into()), Frame::data("two".into())]);
        let mut interrupted = body.sending();
        assert_eq!(interrupted.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
        drop(interrupted);
        let again = body.sending();
        assert_eq!(again.size_hint().lower(), 3);
        assert_eq!(again.collect().await.unwrap().to_bytes(), "onetwo");
        assert!(body.is_repeatable() && body.sending().collect().await.unwrap().to_bytes() == "onetwo");
    }

    #[tokio::test]
    async fn a_body_with_trailers_is_not_repeated() {
        let body = body(vec![Frame::data("one".into()), Frame::trailers(http::HeaderMap::new())]);
        body.sending().collect().await.unwrap();
        assert!(!body.is_repeatable());
    }
}
