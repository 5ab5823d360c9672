//! A world that answers as one attempt was answered before.
//!
//! A request is the same when its method, its URL, its body and the name of its effect are. Each
//! recorded answer is given once, in the order of the recording.

use std::ops::ControlFlow;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Answer, Call, Request, World};
use crate::item::{self, Body, Exchange, Recording};
use crate::plugin::load::sha256;

/// The world of a recording.
pub struct Recorded {
    otherwise: Option<u16>,
    script: Mutex<Script>,
}

struct Script {
    left: Vec<Exchange>,
    sent: Vec<Sent>,
    divergences: Vec<Divergence>,
}

/// A request of the attempt, and how it was answered here.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Sent {
    /// Its method.
    pub method: String,
    /// Its URL.
    pub url: String,
    /// The answer: a status, or the kind of silence.
    pub answer: String,
    /// Whether this is the recorded answer.
    pub is_recorded: bool,
}

/// Where an attempt leaves its recording.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Divergence {
    /// A request is sent that was not recorded.
    NotRecorded {
        /// Its method.
        method: String,
        /// Its URL.
        url: String,
        /// In what it differs from the recorded request that is most like it.
        difference: String,
    },
    /// A recorded request is not sent.
    NotSent {
        /// Its method.
        method: String,
        /// Its URL.
        url: String,
    },
    /// A request is answered with less than the receiver answered, because no more was kept.
    Shortened {
        /// Its method.
        method: String,
        /// Its URL.
        url: String,
        /// How many bytes of the answer were kept.
        kept: u64,
    },
}

impl Recorded {
    /// The world of a recording. A request that is not in it is answered with the status `otherwise`;
    /// without one, the attempt ends there.
    pub fn new(recording: Recording, otherwise: Option<u16>) -> Self {
        let script = Script { left: recording.exchanges, sent: Vec::new(), divergences: Vec::new() };
        Self { otherwise, script: Mutex::new(script) }
    }

    /// What was sent, and where the attempt left the recording, with what it did not send last. The world
    /// is used up.
    pub fn finish(&self) -> (Vec<Sent>, Vec<Divergence>) {
        let mut script = self.script();
        let left = std::mem::take(&mut script.left).into_iter();
        let not_sent = left.map(|Exchange { method, url, .. }| Divergence::NotSent { method, url });
        let mut divergences = std::mem::take(&mut script.divergences);
        divergences.extend(not_sent);
        (std::mem::take(&mut script.sent), divergences)
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World for Recorded {
    fn enter(&self, call: &Call) -> ControlFlow<()> {
        let Call::Request(request) = call else { return ControlFlow::Continue(()) };
        let mut script = self.script();
        if script.left.iter().any(|recorded| is_same(recorded, request)) {
            return ControlFlow::Continue(());
        }
        let divergence = not_recorded(&script.left, request);
        script.divergences.push(divergence);
        if self.otherwise.is_some() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    fn answer(&self, request: &Request) -> Answer {
        let mut script = self.script();
        let found = script.left.iter().position(|recorded| is_same(recorded, request));
        let answer = match found {
            Some(found) => script.take(found),
            None => Answer::Response { status: self.otherwise.unwrap_or(500), headers: Vec::new(), body: Vec::new() },
        };
        let (method, url) = (request.method.clone(), request.url.clone());
        script.sent.push(Sent { method, url, answer: told(&answer), is_recorded: found.is_some() });
        answer
    }

    fn leave(&self, _: &Call) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

impl Script {
    /// The recorded answer of a request that is the same.
    fn take(&mut self, found: usize) -> Answer {
        let Exchange { method, url, answer, .. } = self.left.remove(found);
        if let Some(item::Answer::Response { body, .. }) = &answer
            && !body.is_whole()
        {
            self.divergences.push(Divergence::Shortened { method, url, kept: body.kept.len() as u64 });
        }
        given(answer)
    }
}

fn told(answer: &Answer) -> String {
    match answer {
        Answer::Response { status, .. } => status.to_string(),
        Answer::Refused => "no connection".to_owned(),
        Answer::Broken => "the connection broke".to_owned(),
        Answer::Silence => "no answer".to_owned(),
    }
}

fn is_same(recorded: &Exchange, request: &Request) -> bool {
    is_alike(recorded, request) && is_named_alike(recorded, request) && is_body(&recorded.body, &request.body)
}

fn is_alike(recorded: &Exchange, request: &Request) -> bool {
    recorded.method == request.method && recorded.url == request.url
}

/// The name of an effect is the end of its key. Keys without one end in a number.
fn is_named_alike(recorded: &Exchange, request: &Request) -> bool {
    let (Some(effect), Some(key)) = (&recorded.effect, &request.key) else { return true };
    key.rsplit('/').next() == Some(effect)
}

fn is_body(recorded: &Body, body: &[u8]) -> bool {
    match &recorded.sha256 {
        Some(digest) => *digest == sha256(body),
        None => recorded.kept == body,
    }
}

fn not_recorded(left: &[Exchange], request: &Request) -> Divergence {
    let alike = || left.iter().filter(|recorded| is_alike(recorded, request));
    let difference = match (alike().next(), alike().any(|recorded| is_named_alike(recorded, request))) {
        (None, _) => "no request with this method and URL was recorded, or all were answered".to_owned(),
        (Some(recorded), false) => {
            format!("the recorded one names its effect {:?}", recorded.effect.as_deref().unwrap_or_default())
        }
        (Some(recorded), true) => format!(
            "its body differs: {:?} was recorded, this is {:?}",
            beginning(&recorded.body.kept),
            beginning(&request.body)
        ),
    };
    Divergence::NotRecorded { method: request.method.clone(), url: request.url.clone(), difference }
}

/// As much of a body as fits a line.
fn beginning(body: &[u8]) -> String {
    String::from_utf8_lossy(body).chars().take(200).collect()
}

/// The recorded answer; how long its body is follows from what was kept of it.
fn given(answer: Option<item::Answer>) -> Answer {
    match answer {
        Some(item::Answer::Response { status, mut headers, body }) => {
            headers.retain(|(name, _)| !matches!(name.as_str(), "content-length" | "transfer-encoding"));
            Answer::Response { status, headers, body: body.kept }
        }
        Some(item::Answer::Error { error }) => match error.as_str() {
            "connection-terminated" | "HTTP-protocol-error" | "internal-error" => Answer::Broken,
            "HTTP-response-timeout" => Answer::Silence,
            _ => Answer::Refused,
        },
        None => Answer::Silence,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(url: &str, effect: Option<&str>, body: Body, answer: Option<item::Answer>) -> Exchange {
        let (method, effect) = ("POST".to_owned(), effect.map(str::to_owned));
        Exchange { method, url: url.to_owned(), effect, headers: Vec::new(), body, answer }
    }

    fn response(status: u16) -> item::Answer {
        let headers = vec![("content-length".into(), "2".into())];
        item::Answer::Response { status, headers, body: Body::whole("ok") }
    }

    fn request(url: &str, key: &str, body: &str) -> Request {
        let (method, key) = ("POST".to_owned(), Some(key.to_owned()));
        Request { method, url: url.to_owned(), headers: Vec::new(), key, body: body.into() }
    }

    fn world(exchanges: Vec<Exchange>, otherwise: Option<u16>) -> Recorded {
        Recorded::new(Recording { exchanges, left_out: 0 }, otherwise)
    }

    fn status(answer: &Answer) -> u16 {
        match answer {
            Answer::Response { status, .. } => *status,
            other => panic!("a response is expected, not {other:?}"),
        }
    }

    #[test]
    fn each_recorded_answer_is_given_once_to_the_same_request() {
        let cut = Body { kept: b"lo".to_vec(), length: 4, sha256: Some(sha256(b"long")), is_ended: true };
        let world = world(
            vec![
                exchange("http://a", Some("debit"), Body::whole("x"), Some(response(200))),
                exchange("http://a", Some("credit"), Body::whole("x"), Some(response(201))),
                exchange("http://a", None, cut, Some(response(202))),
            ],
            Some(418),
        );
        for (key, body, expected) in [
            ("k/credit", "x", 201),
            ("k/debit", "x", 200),
            ("k/debit", "x", 418),
            ("k/0a1b/1", "long", 202),
            ("k/0a1b/2", "lonG", 418),
        ] {
            assert_eq!(status(&world.answer(&request("http://a", key, body))), expected, "{key} {body}");
        }
        let (sent, divergences) = world.finish();
        assert!(divergences.is_empty());
        assert_eq!(sent.iter().map(|sent| sent.is_recorded).collect::<Vec<_>>(), [true, true, false, true, false]);
    }

    #[test]
    fn a_request_that_was_not_recorded_ends_the_attempt_and_is_told_with_what_differs() {
        let world =
            world(vec![exchange("http://a", Some("mail"), Body::whole("{\"n\":1}"), Some(response(200)))], None);
        let told = |url: &str, key: &str, body: &str| {
            assert!(world.enter(&Call::Request(request(url, key, body))).is_break());
            match world.script().divergences.pop() {
                Some(Divergence::NotRecorded { difference, .. }) => difference,
                other => panic!("a divergence is expected, not {other:?}"),
            }
        };
        assert!(told("http://b", "k/mail", "").contains("no request with this method and URL"));
        assert!(told("http://a", "k/sms", "").contains(r#"names its effect "mail""#));
        assert!(told("http://a", "k/mail", "{}").contains("this is \"{}\""));
        assert!(world.enter(&Call::Request(request("http://a", "k/mail", "{\"n\":1}"))).is_continue());
        assert_eq!(world.finish().1, [Divergence::NotSent { method: "POST".into(), url: "http://a".into() }]);
    }

    #[test]
    fn what_was_not_kept_of_an_answer_is_told() {
        let body = Body { kept: b"o".to_vec(), length: 9, sha256: None, is_ended: false };
        let answer = Some(item::Answer::Response { status: 200, headers: Vec::new(), body });
        let world = world(vec![exchange("http://a", None, Body::whole(""), answer)], None);
        world.answer(&request("http://a", "k/1", ""));
        assert!(matches!(world.finish().1[..], [Divergence::Shortened { kept: 1, .. }]));
    }

    #[test]
    fn an_error_is_given_as_what_it_was() {
        let error = |error: &str| given(Some(item::Answer::Error { error: error.to_owned() }));
        assert_eq!(error("connection-refused"), Answer::Refused);
        assert_eq!(error("connection-terminated"), Answer::Broken);
        assert_eq!((error("HTTP-response-timeout"), given(None)), (Answer::Silence, Answer::Silence));
        assert!(matches!(given(Some(response(200))), Answer::Response { headers, .. } if headers.is_empty()));
    }
}
