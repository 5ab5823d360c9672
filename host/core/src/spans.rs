//! The spans of an attempt: what was done for an item, when, and as a part of what.
//!
//! Worker and runtime report them; a [`SpanSink`] records them. The times are the store's, so that spans of several
//! processes are in order. This file knows no protocol.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use outbox_item::{Item, Millis};
use tokio::time::Instant;

use crate::failure::Failure;
use crate::trace::{SpanIds, TraceContext, span_id};

/// What a span is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanWork {
    /// The item was enqueued, by whichever way. It takes no time.
    Enqueue,
    /// The item was due and waited for its attempt.
    Wait,
    /// An attempt ran.
    Attempt,
    /// The attempt sent a request, until the head of the answer.
    Request,
    /// The store was told how the attempt ended.
    Settlement,
}

impl SpanWork {
    /// The word with which the name of a span begins.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enqueue => "enqueue",
            Self::Wait => "wait",
            Self::Attempt => "attempt",
            Self::Request => "request",
            Self::Settlement => "settlement",
        }
    }
}

/// A fact about a span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpanFact {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
}

/// A finished span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// What it is about.
    pub work: SpanWork,
    /// The type of the item; the method of a request.
    pub subject: String,
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// 16 hexadecimal digits.
    pub span_id: String,
    /// The span that this one is a part of, in 16 hexadecimal digits; `None` for the first of a trace.
    pub parent: Option<String>,
    /// The `tracestate` of the caller.
    pub state: Option<String>,
    /// When it began, as the time since 1970-01-01 00:00 UTC.
    pub begun: Duration,
    /// When it ended.
    pub ended: Duration,
    /// Facts by name.
    pub facts: Vec<(&'static str, SpanFact)>,
    /// Why it failed; `None` if it did not.
    pub error: Option<String>,
}

/// Records spans.
pub trait SpanSink: fmt::Debug + Send + Sync + 'static {
    /// Whether the spans of a trace are recorded. `caller` is who began it, if the item names one.
    fn is_recorded(&self, trace_id: &str, caller: Option<&TraceContext>) -> bool;

    /// Takes a span. Returns at once; a sink without room drops it.
    fn record(&self, span: Span);
}

/// Reports the spans of one attempt.
#[derive(Debug)]
pub struct TracedAttempt {
    sink: Arc<dyn SpanSink>,
    item: Arc<Item>,
    caller: Option<TraceContext>,
    ids: SpanIds,
    is_recorded: bool,
    /// A moment on the monotonic clock, and the store's time then.
    claimed: (Instant, Millis),
    begun: OnceLock<Instant>,
    /// The requests so far; `None` once the attempt is reported.
    requests: Mutex<Option<Vec<Span>>>,
}

impl TracedAttempt {
    /// Of the present claim of the item, which was requested at `sent` or a little later.
    pub fn new(sink: Arc<dyn SpanSink>, item: Arc<Item>, sent: Instant) -> Arc<Self> {
        let (caller, ids) = (TraceContext::of_headers(&item.headers), SpanIds::of(&item));
        let is_recorded = sink.is_recorded(&ids.trace_id, caller.as_ref());
        let claimed = (sent, item.claimed_at.unwrap_or_default());
        Arc::new(Self {
            sink,
            item,
            caller,
            ids,
            is_recorded,
            claimed,
            begun: OnceLock::new(),
            requests: Mutex::new(Some(Vec::new())),
        })
    }

    /// Whether the spans of the trace are recorded. Requests tell their receivers so.
    pub fn is_recorded(&self) -> bool {
        self.is_recorded
    }

    /// The attempt as the caller of what it enqueues, in the form of the header; `None` if it is not recorded.
    pub fn traceparent(&self) -> Option<String> {
        self.is_recorded.then(|| format!("00-{}-{}-01", self.ids.trace_id, self.ids.attempt))
    }

    /// The handler begins.
    pub fn begin(&self, at: Instant) {
        // An attempt begins once.
        self.begun.set(at).ok();
    }

    /// The request with this span begins, to a receiver of this origin. Its end is reported by what is returned. The path
    /// and the query can be secrets, and no span has them.
    pub fn request(self: &Arc<Self>, span_id: &str, method: &str, origin: &str) -> RequestSpan {
        RequestSpan {
            attempt: Arc::clone(self),
            span_id: span_id.to_owned(),
            method: method.to_owned(),
            begun: Instant::now(),
            facts: vec![("http.request.method", text(method)), ("url.full", text(origin))],
            error: Some("no answer before the attempt ended".to_owned()),
        }
    }

    /// The handler ended at `ended`, with this failure or none, and the store took the settlement that this word names,
    /// or none, at `settled`. Reports every span of the attempt. An attempt that never began has none.
    pub fn end(&self, ended: Instant, settled: Instant, failure: Option<&Failure>, taken: Option<&str>) {
        let Some(begun) = self.begun.get().copied().filter(|_| self.is_recorded) else { return };
        for request in self.requests().take().into_iter().flatten() {
            self.sink.record(request);
        }
        let (begun, ended, settled) = (self.time(begun), self.time(ended), self.time(settled));
        let enqueue = span_id("enqueue", &self.item, 0);
        let since_epoch = |time: Millis| Duration::from_millis(u64::try_from(time.get()).unwrap_or(0));
        let created = since_epoch(self.item.created_at);
        if is_first_told(&self.item) && !matches!(taken, None | Some("release")) {
            let parent = self.caller.as_ref().map(|caller| caller.span_id.clone());
            self.record(SpanWork::Enqueue, enqueue.clone(), parent, (created, created), (self.facts(), None));
        }
        let due = since_epoch(self.item.available_at).max(created).min(begun);
        let of_claim = |work: SpanWork| span_id(work.as_str(), &self.item, self.item.deliveries);
        let wait = of_claim(SpanWork::Wait);
        self.record(SpanWork::Wait, wait, Some(enqueue.clone()), (due, begun), (self.facts(), None));
        let mut facts = self.facts();
        if let Some(failure) = failure {
            facts.push(("outbox.failure.class", text(failure.class.as_str())));
            facts.push(("outbox.failure.code", text(&failure.code)));
        }
        // The message can repeat what the item or an answer contains.
        let error = failure.map(|failure| failure.code.clone());
        let attempt = self.ids.attempt.clone();
        self.record(SpanWork::Attempt, attempt.clone(), Some(enqueue), (begun, ended), (facts, error));
        let mut facts = self.facts();
        facts.extend(taken.map(|taken| ("outbox.settlement", text(taken))));
        let error = taken.is_none().then(|| "the store did not take the settlement".to_owned());
        let settlement = of_claim(SpanWork::Settlement);
        self.record(SpanWork::Settlement, settlement, Some(attempt), (ended, settled), (facts, error));
    }

    fn facts(&self) -> Vec<(&'static str, SpanFact)> {
        vec![
            ("outbox.item.id", SpanFact::Number(self.item.id.get())),
            ("outbox.item.type", text(&self.item.item_type)),
            ("outbox.item.idem_key", text(&self.item.idem_key)),
            ("outbox.item.cid", text(&self.item.cid)),
            ("outbox.attempt", SpanFact::Number(self.item.attempts.into())),
            ("outbox.delivery", SpanFact::Number(self.item.deliveries.into())),
        ]
    }

    fn record(
        &self,
        work: SpanWork,
        span_id: String,
        parent: Option<String>,
        (begun, ended): (Duration, Duration),
        (facts, error): (Vec<(&'static str, SpanFact)>, Option<String>),
    ) {
        let (subject, trace_id) = (self.item.item_type.clone(), self.ids.trace_id.clone());
        let state = self.caller.as_ref().and_then(|caller| caller.state.clone());
        self.sink.record(Span { work, subject, trace_id, span_id, parent, state, begun, ended, facts, error });
    }

    /// Reports a request together with its attempt, because a span without its parent tells nothing.
    fn record_request(&self, span: Span) {
        match &mut *self.requests() {
            Some(requests) => requests.push(span),
            None => self.sink.record(span),
        }
    }

    fn requests(&self) -> MutexGuard<'_, Option<Vec<Span>>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store's time of a moment.
    fn time(&self, at: Instant) -> Duration {
        let (sent, claimed_at) = self.claimed;
        let claimed = Duration::from_millis(u64::try_from(claimed_at.get()).unwrap_or(0));
        claimed + at.saturating_duration_since(sent)
    }
}

/// A request on its way. It ends when this is dropped.
#[derive(Debug)]
pub struct RequestSpan {
    attempt: Arc<TracedAttempt>,
    span_id: String,
    method: String,
    begun: Instant,
    facts: Vec<(&'static str, SpanFact)>,
    error: Option<String>,
}

impl RequestSpan {
    /// The receiver answered with this status.
    pub fn answered(mut self, status: u16) {
        self.facts.push(("http.response.status_code", SpanFact::Number(status.into())));
        self.error = (status >= 400).then(|| format!("the receiver answered {status}"));
    }

    /// The request got no answer, for this reason.
    pub fn failed(mut self, why: String) {
        self.error = Some(why);
    }
}

impl Drop for RequestSpan {
    fn drop(&mut self) {
        let attempt = &self.attempt;
        if !attempt.is_recorded {
            return;
        }
        attempt.record_request(Span {
            work: SpanWork::Request,
            subject: std::mem::take(&mut self.method),
            trace_id: attempt.ids.trace_id.clone(),
            span_id: std::mem::take(&mut self.span_id),
            parent: Some(attempt.ids.attempt.clone()),
            state: attempt.caller.as_ref().and_then(|caller| caller.state.clone()),
            begun: attempt.time(self.begun),
            ended: attempt.time(Instant::now()),
            facts: std::mem::take(&mut self.facts),
            error: self.error.take(),
        });
    }
}

/// Whether no claim before this one told of the enqueueing: those that were lost or released did not.
fn is_first_told(item: &Item) -> bool {
    item.deliveries.saturating_sub(item.losses) <= 1 || (item.replays == 0 && item.last_error.is_none())
}

fn text(text: &str) -> SpanFact {
    SpanFact::Text(text.to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use outbox_item::{ItemId, NewItem};

    use super::*;
    use crate::failure::FailureClass;

    #[derive(Debug, Default)]
    struct Recorded(Mutex<Vec<Span>>);

    impl SpanSink for Recorded {
        fn is_recorded(&self, _: &str, caller: Option<&TraceContext>) -> bool {
            caller.is_none_or(|caller| caller.flags == "01")
        }

        fn record(&self, span: Span) {
            self.0.lock().unwrap().push(span);
        }
    }

    fn attempt(sink: &Arc<Recorded>, deliveries: u32, flags: &str) -> Arc<TracedAttempt> {
        let parent = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}");
        let headers = [("traceparent".to_owned(), parent)].into();
        let item = NewItem { headers, ..NewItem::new("mail", "k", "") }.into_item(ItemId::new(7), Millis::new(1_000));
        let last_error = (deliveries > 1).then(|| "down".to_owned());
        let claimed_at = Some(Millis::new(5_000));
        let item = Item { claimed_at, deliveries, attempts: deliveries, last_error, ..item };
        TracedAttempt::new(Arc::clone(sink) as _, Arc::new(item), Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn the_spans_of_an_attempt_are_one_tree_below_its_caller() {
        let sink = Arc::<Recorded>::default();
        let traced = attempt(&sink, 1, "01");
        let start = Instant::now();
        traced.begin(start + Duration::from_millis(10));
        traced.request("aaaaaaaaaaaaaaaa", "POST", "http://a").answered(503);
        drop(traced.request("bbbbbbbbbbbbbbbb", "POST", "http://a"));
        let failure = Failure::new(FailureClass::Retryable, "upstream.503", "down");
        let (ended, settled) = (start + Duration::from_millis(30), start + Duration::from_millis(35));
        traced.end(ended, settled, Some(&failure), Some("retry"));
        let spans = sink.0.lock().unwrap();
        let works: Vec<_> = spans.iter().map(|span| span.work.as_str()).collect();
        assert_eq!(works, ["request", "request", "enqueue", "wait", "attempt", "settlement"]);
        let [answered, unanswered, enqueue, wait, attempt, settlement] = &spans[..] else { unreachable!() };
        assert_eq!(enqueue.parent.as_deref(), Some("00f067aa0ba902b7"));
        assert_eq!((&wait.parent, &attempt.parent), (&Some(enqueue.span_id.clone()), &Some(enqueue.span_id.clone())));
        for child in [answered, unanswered, settlement] {
            assert_eq!(child.parent, Some(attempt.span_id.clone()));
        }
        let millis = |span: &Span| (span.begun.as_millis(), span.ended.as_millis());
        assert_eq!((millis(enqueue), millis(wait)), ((1_000, 1_000), (1_000, 5_010)));
        assert_eq!((millis(attempt), millis(settlement)), ((5_010, 5_030), (5_030, 5_035)));
        assert_eq!((attempt.error.as_deref(), settlement.error.as_deref()), (Some("upstream.503"), None));
        assert!(answered.error.as_deref().is_some_and(|error| error.contains("503")) && unanswered.error.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn requests_are_reported_with_their_attempt_and_not_without() {
        let sink = Arc::<Recorded>::default();
        let (traced, now) = (attempt(&sink, 1, "01"), Instant::now());
        traced.begin(now);
        drop(traced.request("aaaaaaaaaaaaaaaa", "GET", "http://a"));
        assert_eq!(sink.0.lock().unwrap().len(), 0, "nobody knows yet whether the attempt ends");
        let late = traced.request("bbbbbbbbbbbbbbbb", "GET", "http://a");
        traced.end(now, now, None, Some("done"));
        drop(late);
        let spans = sink.0.lock().unwrap();
        let of_attempt = spans.iter().filter(|span| span.parent.as_ref() == Some(&traced.ids.attempt));
        assert_eq!(of_attempt.filter(|span| span.work == SpanWork::Request).count(), 2);
    }

    #[test]
    fn what_a_recorded_attempt_enqueues_is_called_by_it() {
        let sink = Arc::<Recorded>::default();
        let traced = attempt(&sink, 1, "01");
        let parent = TraceContext::parse(&traced.traceparent().unwrap(), None).unwrap();
        let (trace_id, span_id) = (traced.ids.trace_id.clone(), traced.ids.attempt.clone());
        assert_eq!(parent, TraceContext { trace_id, span_id, flags: "01".into(), state: None });
        assert_eq!(attempt(&sink, 1, "00").traceparent(), None);
    }

    #[test]
    fn the_first_claim_with_an_end_tells_of_the_enqueueing() {
        let item = |deliveries, losses, last_error: Option<&str>| Item {
            deliveries,
            losses,
            last_error: last_error.map(str::to_owned),
            ..NewItem::new("mail", "k", "").into_item(ItemId::new(7), Millis::new(1_000))
        };
        assert!(is_first_told(&item(1, 0, None)) && is_first_told(&item(2, 0, None)));
        assert!(is_first_told(&item(2, 1, Some("lease expired"))));
        assert!(!is_first_told(&item(2, 0, Some("down"))) && !is_first_told(&item(3, 1, Some("down"))));
        assert!(!is_first_told(&Item { replays: 1, ..item(2, 0, None) }));
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_first_claim_tells_of_the_enqueueing_and_a_trace_that_is_not_recorded_has_no_spans() {
        let sink = Arc::<Recorded>::default();
        let now = Instant::now();
        for (delivery, flags) in [(2, "01"), (1, "00")] {
            let traced = attempt(&sink, delivery, flags);
            traced.begin(now);
            drop(traced.request("aaaaaaaaaaaaaaaa", "GET", "http://a"));
            traced.end(now, now, None, None);
        }
        attempt(&sink, 1, "01").end(now, now, None, None);
        let works: Vec<_> = sink.0.lock().unwrap().iter().map(|span| span.work.as_str()).collect();
        assert_eq!(works, ["request", "wait", "attempt", "settlement"]);
    }
}
