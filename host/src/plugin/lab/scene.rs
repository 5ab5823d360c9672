//! One attempt's outside in the lab: hands every call to the world and carries out what it says.

use std::fmt;
use std::future::pending;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request as HttpRequest, Response};
use http_body_util::{BodyExt, Full};
use tokio::sync::watch;
use wasmtime_wasi_http::{Error, WasiBody};

use super::World;
use super::call::{Answer, Call, Request};
use super::clock::Staged;
use crate::plugin::outside::{HostCall, Outside, Sending, Unanswered};

/// Why an attempt is over although its guest has not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// The world says that the process died.
    Crashed,
    /// The guest has waited until its deadline.
    OutOfTime,
}

/// The outside of one attempt.
#[derive(Clone)]
pub(super) struct Scene(Arc<Inner>);

struct Inner {
    world: Arc<dyn World>,
    staged: Staged,
    attempt_time: Duration,
    over: watch::Sender<Option<Over>>,
    has_sent: AtomicBool,
    current: Mutex<Option<Call>>,
}

impl fmt::Debug for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scene").field("staged", &self.0.staged).field("over", &*self.0.over.borrow()).finish()
    }
}

impl Scene {
    pub(super) fn new(world: Arc<dyn World>, staged: Staged, attempt_time: Duration) -> Self {
        let (over, has_sent, current) = (watch::Sender::new(None), AtomicBool::new(false), Mutex::default());
        Self(Arc::new(Inner { world, staged, attempt_time, over, has_sent, current }))
    }

    /// Resolves when the attempt is over before its guest has answered.
    pub(super) async fn over(&self) -> Over {
        let mut over = self.0.over.subscribe();
        match over.wait_for(Option::is_some).await.map(|over| *over) {
            Ok(Some(over)) => over,
            _ => pending().await,
        }
    }

    /// Why the attempt is over, if its guest was not let to its end.
    pub(super) fn is_over(&self) -> Option<Over> {
        *self.0.over.borrow()
    }

    /// Whether a request that may have had an effect went out.
    pub(super) fn has_sent(&self) -> bool {
        self.0.has_sent.load(Ordering::Relaxed)
    }

    fn end(&self, over: Over) {
        self.0.over.send_if_modified(|known| known.is_none() && known.replace(over).is_none());
    }

    /// Goes on, or never does.
    async fn go_on(&self, flow: ControlFlow<()>) {
        if flow.is_break() {
            self.end(Over::Crashed);
        }
        if self.is_over().is_some() {
            pending::<()>().await;
        }
    }

    async fn exchange(
        self,
        request: HttpRequest<WasiBody>,
        wish: Option<Duration>,
    ) -> Result<Response<WasiBody>, Unanswered> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(lost)?.to_bytes();
        let call = Call::Request(Request::new(&head, body.to_vec()));
        let Call::Request(request) = &call else { return Err(lost(Error::HttpProtocolError)) };
        self.go_on(ControlFlow::Continue(())).await;
        self.go_on(self.0.world.enter(&call)).await;
        self.0.has_sent.fetch_or(!request.is_safe(), Ordering::Relaxed);
        let answer = self.0.world.answer(request);
        self.go_on(self.0.world.leave(&call)).await;
        self.deliver(answer, wish).await
    }

    async fn deliver(&self, answer: Answer, wish: Option<Duration>) -> Result<Response<WasiBody>, Unanswered> {
        match answer {
            Answer::Response { status, headers, body } => response(status, &headers, body),
            Answer::Refused => Err(Unanswered { error: Error::ConnectionRefused, was_sent: false, denial: None }),
            Answer::Broken => Err(lost(Error::ConnectionTerminated)),
            Answer::Silence => {
                self.wait(wish.unwrap_or(self.0.attempt_time)).await;
                Err(lost(Error::HttpResponseTimeout))
            }
        }
    }
}

fn lost(error: Error) -> Unanswered {
    Unanswered { error, was_sent: true, denial: None }
}

fn response(status: u16, headers: &[(String, String)], body: Vec<u8>) -> Result<Response<WasiBody>, Unanswered> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    let body = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync();
    response.body(body).map_err(|_| lost(Error::HttpProtocolError))
}

impl Outside for Scene {
    fn send(&self, request: HttpRequest<WasiBody>, wish: Option<Duration>) -> Sending {
        Box::pin(self.clone().exchange(request, wish))
    }

    fn enter(&self, call: HostCall<'_>) -> wasmtime::Result<()> {
        let call = Call::of(call);
        let flow = self.0.world.enter(&call);
        *self.0.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(call);
        self.pass(flow)
    }

    fn leave(&self) -> wasmtime::Result<()> {
        let call = self.0.current.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.pass(call.map_or(ControlFlow::Continue(()), |call| self.0.world.leave(&call)))
    }

    fn staged(&self) -> Option<&Staged> {
        Some(&self.0.staged)
    }

    fn wait(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            self.0.staged.pass(time);
            if self.0.staged.passed() >= self.0.attempt_time {
                self.end(Over::OutOfTime);
                pending::<()>().await;
            }
        })
    }
}

impl Scene {
    fn pass(&self, flow: ControlFlow<()>) -> wasmtime::Result<()> {
        if flow.is_break() {
            self.end(Over::Crashed);
        }
        match self.is_over() {
            None => Ok(()),
            Some(over) => Err(wasmtime::Error::msg(format!("the attempt is over: {over:?}"))),
        }
    }
}
