//! A world that gives an attempt the responses of a recorded one.
//!
//! Two requests are the same if their method, URL, body and name of the effect are the same. Each recorded response is
//! given once, in the order of the recording.

use std::ops::ControlFlow;
use std::sync::{Mutex, MutexGuard, PoisonError};

use outbox_core::{RecordedBody, RecordedExchange, RecordedResponse, Recording, sha256};

use crate::simulation::call::{GuestCall, OutgoingRequest, WorldResponse};
use crate::simulation::world::SimulatedWorld;

/// The world of a recording.
pub struct RecordedWorld {
    fallback_status: Option<u16>,
    playback: Mutex<Playback>,
}

struct Playback {
    remaining: Vec<RecordedExchange>,
    sent: Vec<ReplayedRequest>,
    divergences: Vec<Divergence>,
}

/// A request of the replayed attempt, and its response.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ReplayedRequest {
    /// Its method.
    pub method: String,
    /// Its URL.
    pub url: String,
    /// The response: its status, or in words why there is none.
    pub answer: String,
    /// Whether this is the recorded response.
    pub is_recorded: bool,
}

/// A difference between the replayed attempt and the recorded one.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Divergence {
    /// The attempt sent a request that was not recorded.
    NotRecorded {
        /// Its method.
        method: String,
        /// Its URL.
        url: String,
        /// How it differs from the most similar recorded request, in words.
        difference: String,
    },
    /// The attempt did not send a recorded request.
    NotSent {
        /// Its method.
        method: String,
        /// Its URL.
        url: String,
    },
    /// The response is shorter than the receiver's, because only its beginning was recorded.
    Shortened {
        /// Its method.
        method: String,
        /// Its URL.
        url: String,
        /// The bytes of the response that were recorded.
        kept: u64,
    },
}

impl RecordedWorld {
    /// The world of a recording. A request that was not recorded gets an empty response with `fallback_status`; without
    /// a fallback the attempt ends there.
    pub fn new(recording: Recording, fallback_status: Option<u16>) -> Self {
        let playback = Playback { remaining: recording.exchanges, sent: Vec::new(), divergences: Vec::new() };
        Self { fallback_status, playback: Mutex::new(playback) }
    }

    /// Returns the requests that were sent, and the divergences, with the requests that were not sent at the end. Can
    /// be called once.
    pub fn finish(&self) -> (Vec<ReplayedRequest>, Vec<Divergence>) {
        let mut playback = self.playback();
        let remaining = std::mem::take(&mut playback.remaining).into_iter();
        let not_sent = remaining.map(|RecordedExchange { method, url, .. }| Divergence::NotSent { method, url });
        let mut divergences = std::mem::take(&mut playback.divergences);
        divergences.extend(not_sent);
        (std::mem::take(&mut playback.sent), divergences)
    }

    fn playback(&self) -> MutexGuard<'_, Playback> {
        self.playback.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SimulatedWorld for RecordedWorld {
    fn before_call(&self, call: &GuestCall) -> ControlFlow<()> {
        let GuestCall::Request(request) = call else { return ControlFlow::Continue(()) };
        let mut playback = self.playback();
        if playback.remaining.iter().any(|recorded| is_same(recorded, request)) {
            return ControlFlow::Continue(());
        }
        let divergence = not_recorded(&playback.remaining, request);
        playback.divergences.push(divergence);
        if self.fallback_status.is_some() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    fn respond(&self, request: &OutgoingRequest) -> WorldResponse {
        let mut playback = self.playback();
        let found = playback.remaining.iter().position(|recorded| is_same(recorded, request));
        let answer = match found {
            Some(found) => playback.respond_from(found),
            None => WorldResponse::Response {
                status: self.fallback_status.unwrap_or(500),
                headers: Vec::new(),
                body: Vec::new(),
            },
        };
        let (method, url) = (request.method.clone(), request.url.clone());
        playback.sent.push(ReplayedRequest {
            method,
            url,
            answer: response_name(&answer),
            is_recorded: found.is_some(),
        });
        answer
    }

    fn after_call(&self, _: &GuestCall) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

impl Playback {
    /// Gives the recorded response at this index.
    fn respond_from(&mut self, found: usize) -> WorldResponse {
        let RecordedExchange { method, url, answer, .. } = self.remaining.remove(found);
        if let Some(RecordedResponse::Response { body, .. }) = &answer
            && !body.is_whole()
        {
            self.divergences.push(Divergence::Shortened { method, url, kept: body.kept.len() as u64 });
        }
        to_response(answer)
    }
}

fn response_name(answer: &WorldResponse) -> String {
    match answer {
        WorldResponse::Response { status, .. } => status.to_string(),
        WorldResponse::Refused => "no connection".to_owned(),
        WorldResponse::Broken => "the connection broke".to_owned(),
        WorldResponse::Silence | WorldResponse::Vanished => "no answer".to_owned(),
    }
}

fn is_same(recorded: &RecordedExchange, request: &OutgoingRequest) -> bool {
    has_same_target(recorded, request)
        && has_same_effect(recorded, request)
        && has_same_body(&recorded.body, &request.body)
}

fn has_same_target(recorded: &RecordedExchange, request: &OutgoingRequest) -> bool {
    recorded.method == request.method && recorded.url == request.url
}

/// Compares the names of the effects. The name is the end of a key; keys without a name end in a number.
fn has_same_effect(recorded: &RecordedExchange, request: &OutgoingRequest) -> bool {
    let (Some(effect), Some(key)) = (&recorded.effect, &request.key) else { return true };
    key.rsplit('/').next() == Some(effect)
}

fn has_same_body(recorded: &RecordedBody, body: &[u8]) -> bool {
    match &recorded.sha256 {
        Some(digest) => *digest == sha256(body),
        None => recorded.kept == body,
    }
}

fn not_recorded(remaining: &[RecordedExchange], request: &OutgoingRequest) -> Divergence {
    let alike = || remaining.iter().filter(|recorded| has_same_target(recorded, request));
    let difference = match (alike().next(), alike().any(|recorded| has_same_effect(recorded, request))) {
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

/// The beginning of a body, short enough for a line.
fn beginning(body: &[u8]) -> String {
    String::from_utf8_lossy(body).chars().take(200).collect()
}

/// The recorded response, with the length of the bytes that were kept.
fn to_response(answer: Option<RecordedResponse>) -> WorldResponse {
    match answer {
        Some(RecordedResponse::Response { status, mut headers, body }) => {
            headers.retain(|(name, _)| !matches!(name.as_str(), "content-length" | "transfer-encoding"));
            WorldResponse::Response { status, headers, body: body.kept }
        }
        Some(RecordedResponse::Error { error }) => match error.as_str() {
            "connection-terminated" | "HTTP-protocol-error" | "internal-error" => WorldResponse::Broken,
            "HTTP-response-timeout" => WorldResponse::Silence,
            _ => WorldResponse::Refused,
        },
        None => WorldResponse::Silence,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(
        url: &str,
        effect: Option<&str>,
        body: RecordedBody,
        answer: Option<RecordedResponse>,
    ) -> RecordedExchange {
        let (method, effect) = ("POST".to_owned(), effect.map(str::to_owned));
        RecordedExchange { method, url: url.to_owned(), effect, headers: Vec::new(), body, answer }
    }

    fn response(status: u16) -> RecordedResponse {
        let headers = vec![("content-length".into(), "2".into())];
        RecordedResponse::Response { status, headers, body: RecordedBody::whole("ok") }
    }

    fn request(url: &str, key: &str, body: &str) -> OutgoingRequest {
        let (method, key) = ("POST".to_owned(), Some(key.to_owned()));
        OutgoingRequest { method, url: url.to_owned(), headers: Vec::new(), key, body: body.into() }
    }

    fn world(exchanges: Vec<RecordedExchange>, fallback_status: Option<u16>) -> RecordedWorld {
        RecordedWorld::new(Recording { exchanges, omitted: 0 }, fallback_status)
    }

    fn status(answer: &WorldResponse) -> u16 {
        match answer {
            WorldResponse::Response { status, .. } => *status,
            other => panic!("a response is expected, not {other:?}"),
        }
    }

    #[test]
    fn each_recorded_answer_is_given_once_to_the_same_request() {
        let cut = RecordedBody { kept: b"lo".to_vec(), length: 4, sha256: Some(sha256(b"long")), is_ended: true };
        let world = world(
            vec![
                exchange("http://a", Some("debit"), RecordedBody::whole("x"), Some(response(200))),
                exchange("http://a", Some("credit"), RecordedBody::whole("x"), Some(response(201))),
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
            assert_eq!(status(&world.respond(&request("http://a", key, body))), expected, "{key} {body}");
        }
        let (sent, divergences) = world.finish();
        assert!(divergences.is_empty());
        assert_eq!(sent.iter().map(|sent| sent.is_recorded).collect::<Vec<_>>(), [true, true, false, true, false]);
    }

    #[test]
    fn a_request_that_was_not_recorded_ends_the_attempt_and_is_told_with_what_differs() {
        let world = world(
            vec![exchange("http://a", Some("mail"), RecordedBody::whole("{\"n\":1}"), Some(response(200)))],
            None,
        );
        let difference = |url: &str, key: &str, body: &str| {
            assert!(world.before_call(&GuestCall::Request(request(url, key, body))).is_break());
            match world.playback().divergences.pop() {
                Some(Divergence::NotRecorded { difference, .. }) => difference,
                other => panic!("a divergence is expected, not {other:?}"),
            }
        };
        assert!(difference("http://b", "k/mail", "").contains("no request with this method and URL"));
        assert!(difference("http://a", "k/sms", "").contains(r#"names its effect "mail""#));
        assert!(difference("http://a", "k/mail", "{}").contains("this is \"{}\""));
        assert!(world.before_call(&GuestCall::Request(request("http://a", "k/mail", "{\"n\":1}"))).is_continue());
        assert_eq!(world.finish().1, [Divergence::NotSent { method: "POST".into(), url: "http://a".into() }]);
    }

    #[test]
    fn what_was_not_kept_of_an_answer_is_told() {
        let body = RecordedBody { kept: b"o".to_vec(), length: 9, sha256: None, is_ended: false };
        let answer = Some(RecordedResponse::Response { status: 200, headers: Vec::new(), body });
        let world = world(vec![exchange("http://a", None, RecordedBody::whole(""), answer)], None);
        world.respond(&request("http://a", "k/1", ""));
        assert!(matches!(world.finish().1[..], [Divergence::Shortened { kept: 1, .. }]));
    }

    #[test]
    fn an_error_is_given_as_what_it_was() {
        let error = |error: &str| to_response(Some(RecordedResponse::Error { error: error.to_owned() }));
        assert_eq!(error("connection-refused"), WorldResponse::Refused);
        assert_eq!(error("connection-terminated"), WorldResponse::Broken);
        assert_eq!(
            (error("HTTP-response-timeout"), to_response(None)),
            (WorldResponse::Silence, WorldResponse::Silence)
        );
        assert!(
            matches!(to_response(Some(response(200))), WorldResponse::Response { headers, .. } if headers.is_empty())
        );
    }
}
