//! What receivers carry out and answer, request by request.

use super::*;

fn receivers(behaviour: ReceiverBehaviour, answers: &[&str]) -> SimulatedReceivers {
    SimulatedReceivers::new(behaviour, answers.iter().map(|answer| toml::from_str(answer).unwrap()).collect())
}

fn request(method: &str, url: &str, key: &str, body: &str) -> OutgoingRequest {
    let headers = vec![("x-request-id".to_owned(), format!("own-{body}"))];
    OutgoingRequest { method: method.into(), url: url.into(), headers, key: Some(key.into()), body: body.into() }
}

fn charge(body: &str) -> OutgoingRequest {
    request("POST", "http://shop.test/charges", "k/1", body)
}

fn at(attempt: u32) -> CallPosition {
    CallPosition { attempt, call: 1 }
}

/// Sends a request in an attempt, without a fault. Returns the status of the answer.
fn sent(receivers: &mut SimulatedReceivers, request: &OutgoingRequest, attempt: u32) -> Option<u16> {
    crate::call_record::response_status(&receivers.receive(request, at(attempt), None).response)
}

const ALL: &[&str] = &["url = '*'\nstatus = 201"];

#[test]
fn a_key_is_carried_out_once_and_repeats_its_answer() {
    let mut receivers = receivers(ReceiverBehaviour::Honour, &["url = '*'\nstatus = 201\ntimes = 1", "url = '*'"]);
    assert_eq!(sent(&mut receivers, &charge("5"), 1), Some(201));
    assert_eq!(sent(&mut receivers, &charge("5"), 2), Some(201));
    assert_eq!((receivers.effects.len(), receivers.key_reuses.len(), receivers.swallowed.len()), (1, 0, 0));
    assert_eq!(sent(&mut receivers, &charge("6"), 2), Some(422));
    assert_eq!((receivers.effects.len(), receivers.key_reuses.len()), (1, 1));
    assert_eq!(sent(&mut receivers, &charge("5"), 2), Some(201));
    assert_eq!(receivers.swallowed.len(), 1, "two equal requests of one attempt");
}

#[test]
fn each_origin_has_its_own_keys() {
    let mut receivers = receivers(ReceiverBehaviour::Honour, ALL);
    for origin in ["http://shop.test", "http://mail.test", "http://shop.test:8080"] {
        assert_eq!(sent(&mut receivers, &request("POST", &format!("{origin}/a"), "k/1", origin), 1), Some(201));
    }
    assert_eq!((receivers.effects.len(), receivers.key_reuses.len()), (3, 0));
}

#[test]
fn a_receiver_that_ignores_keys_carries_everything_out_but_what_sets_the_same_again() {
    for (behaviour, answer) in
        [(ReceiverBehaviour::Ignore, "url = '*'"), (ReceiverBehaviour::Honour, "url = '*'\nreceiver = 'ignores'")]
    {
        let mut receivers = receivers(behaviour, &[answer]);
        for attempt in [1, 2] {
            sent(&mut receivers, &charge("5"), attempt);
            sent(&mut receivers, &request("PUT", "http://shop.test/state", "k/2", "ready"), attempt);
        }
        assert_eq!(receivers.effects.len(), 3);
    }
}

#[test]
fn a_receiver_can_have_a_header_of_its_own_for_keys() {
    let mut receivers = receivers(ReceiverBehaviour::Honour, &["url = '*'\nkey_header = 'X-Request-Id'"]);
    sent(&mut receivers, &charge("5"), 1);
    sent(&mut receivers, &request("POST", "http://shop.test/charges", "k/2", "5"), 2);
    assert_eq!(receivers.effects.len(), 1);
    sent(&mut receivers, &charge("6"), 2);
    assert_eq!((receivers.effects.len(), receivers.key_reuses.len()), (2, 0));
    assert_eq!(receivers.effects[1].key.as_deref(), Some("own-6"));
    sent(&mut receivers, &request("POST", "http://mail.test/charges", "k/3", "6"), 2);
    assert_eq!((receivers.effects.len(), receivers.key_reuses.len()), (3, 0), "each origin has its own keys");
}

#[test]
fn a_fault_says_what_is_carried_out() {
    for (fault, answer, effects) in [
        (ResponseFault::NoResponse, WorldResponse::Silence, 1),
        (ResponseFault::ErrorAfterEffect, status(500), 1),
        (ResponseFault::Broken, WorldResponse::Broken, 1),
        (ResponseFault::Error, status(500), 0),
        (ResponseFault::Unavailable, status(503), 0),
        (ResponseFault::GatewayTimeout, status(504), 0),
        (ResponseFault::Throttled, throttled(), 0),
        (ResponseFault::Refused, WorldResponse::Refused, 0),
        (ResponseFault::Vanished, WorldResponse::Vanished, 0),
        (ResponseFault::Outage, status(500), 0),
        (ResponseFault::Unreachable, WorldResponse::Refused, 0),
    ] {
        let mut receivers = receivers(ReceiverBehaviour::Honour, ALL);
        assert_eq!(receivers.receive(&charge("5"), at(1), Some(fault)).response, answer, "{fault:?}");
        assert_eq!(receivers.effects.len(), effects, "{fault:?}");
    }
}

#[test]
fn a_receiver_throttles_three_requests_and_an_outage_lasts_until_it_ends() {
    let mut throttling = receivers(ReceiverBehaviour::Honour, ALL);
    throttling.receive(&charge("5"), at(1), Some(ResponseFault::Throttled));
    let answers = [2, 3, 4].map(|attempt| sent(&mut throttling, &charge("5"), attempt));
    assert_eq!(answers, [Some(429), Some(429), Some(201)]);
    let mut out = receivers(ReceiverBehaviour::Honour, ALL);
    out.receive(&charge("5"), at(1), Some(ResponseFault::Outage));
    assert_eq!(sent(&mut out, &request("POST", "http://shop.test/other", "k/2", ""), 1), Some(201));
    assert_eq!([2, 3, 4, 5].map(|attempt| sent(&mut out, &charge("5"), attempt)), [Some(500); 4]);
    out.end_outages();
    assert_eq!(sent(&mut out, &charge("5"), 6), Some(201));
}

#[test]
fn a_request_without_a_sender_is_answered_with_409_and_carried_out_or_given_up() {
    for (behaviour, left) in
        [(ReceiverBehaviour::Busy, 1), (ReceiverBehaviour::Abort, 0), (ReceiverBehaviour::Honour, 1)]
    {
        let mut receivers = receivers(behaviour, &["url = '*'\nstatus = 201\ntimes = 1\nname = 'done'", "url = '*'"]);
        sent(&mut receivers, &charge("5"), 1);
        receivers.orphan(&charge("5"));
        let first = sent(&mut receivers, &charge("5"), 2);
        assert_eq!(first, if behaviour == ReceiverBehaviour::Honour { Some(201) } else { Some(409) });
        assert_eq!(receivers.effects.len(), left, "{behaviour:?}");
        assert_eq!(sent(&mut receivers, &charge("5"), 3), Some(201), "{behaviour:?}");
        assert_eq!(receivers.effects.len(), 1);
    }
}

#[test]
fn what_was_put_is_read_unless_the_case_says_what_is() {
    let get = OutgoingRequest { method: "GET".into(), key: None, ..request("GET", "http://shop.test/n", "", "") };
    let read = |answer: &str| {
        let mut receivers = receivers(ReceiverBehaviour::Honour, &[answer, "url = '*'"]);
        sent(&mut receivers, &request("PUT", "http://shop.test/n", "k/1", "11"), 1);
        match receivers.receive(&get, at(1), None).response {
            WorldResponse::Response { body, .. } => String::from_utf8(body).unwrap(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(read("method = 'GET'\nurl = '*'\nbody = '10'"), "11");
    assert_eq!(read("method = 'GET'\nurl = '*'\nbody = '10'\nstable = true"), "10");
}

#[test]
fn an_answer_without_an_effect_is_given_again_and_recorded_as_a_lookup() {
    let mut receivers = receivers(ReceiverBehaviour::Honour, &["url = '*'\neffect = false"]);
    for attempt in [1, 2] {
        assert_eq!(receivers.receive(&charge("5"), at(attempt), None).kind, CallKind::Lookup);
    }
    assert_eq!((receivers.effects.len(), receivers.stored.len()), (0, 0));
}
