//! The answer to a request, and the failure that its status means. It knows nothing of connections.

use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;

use crate::Failure;

/// An answer with its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The headers, names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body, cut at 1 MiB.
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of this name, if its value is text. The name is in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(header, _)| header == name)?;
        std::str::from_utf8(value).ok()
    }

    /// Parses the body as JSON. A body that does not fit `T` fails retryably with `upstream.body`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body)
            .map_err(|error| Failure::retryable("upstream.body", format!("reading the answer: {error}")))
    }

    /// Returns the answer when its status is 2xx, and otherwise the failure that the status means.
    ///
    /// 429 and 503 with a `Retry-After` are deferred until that time. 401, 403, 408, 409, 425, 429 and 5xx are
    /// retryable, because they may pass or can be repaired. All other statuses, also redirects, are permanent, because
    /// another attempt would get the same answer. The code is `upstream.` and the status.
    pub fn ok_or_failure(self) -> Result<Self, Failure> {
        let (code, message) = (format!("upstream.{}", self.status), self.summary());
        match (self.status, self.retry_after()) {
            (200..=299, _) => Ok(self),
            (429 | 503, Some(delay)) => Err(Failure::defer(code, message).after(delay)),
            (401 | 403 | 408 | 409 | 425 | 429 | 500..=599, _) => Err(Failure::retryable(code, message)),
            _ => Err(Failure::permanent(code, message)),
        }
    }

    /// `Retry-After` in seconds or as a date. A date is compared with the answer's own `Date`, so the two clocks may
    /// differ.
    fn retry_after(&self) -> Option<Duration> {
        let value = self.header("retry-after")?.trim();
        if let Ok(seconds) = value.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let date = |text| httpdate::parse_http_date(text).ok();
        let (until, now): (SystemTime, SystemTime) = (date(value)?, date(self.header("date")?)?);
        Some(until.duration_since(now).unwrap_or_default())
    }

    fn summary(&self) -> String {
        let body = String::from_utf8_lossy(&self.body[..self.body.len().min(SUMMARY_BYTES)]);
        format!("the upstream answered {}: {}", self.status, body.trim())
    }
}

/// The part of a refusal's body that goes into the item's history: enough for one line of explanation.
const SUMMARY_BYTES: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FailureClass::{self, Defer, Permanent, Retryable};

    fn answer(status: u16, headers: &[(&str, &str)]) -> Response {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
        Response { status, headers, body: b" no luck\n".to_vec() }
    }

    fn check(status: u16, headers: &[(&str, &str)], class: FailureClass, retry_after_ms: Option<u64>) {
        let failure = answer(status, headers).ok_or_failure().unwrap_err();
        assert_eq!((failure.class, failure.retry_after_ms), (class, retry_after_ms), "{status} {headers:?}");
        assert_eq!(failure.code, format!("upstream.{status}"));
    }

    #[test]
    fn every_2xx_is_ok() {
        for status in [200, 201, 202, 204, 299] {
            assert_eq!(answer(status, &[]).ok_or_failure().unwrap().status, status);
        }
    }

    #[test]
    fn what_may_pass_or_be_repaired_is_retryable_and_the_rest_is_permanent() {
        for status in [401, 403, 408, 409, 425, 429, 500, 502, 503, 504, 599] {
            check(status, &[], Retryable, None);
        }
        for status in [101, 300, 301, 302, 304, 307, 308, 400, 402, 404, 405, 410, 413, 415, 418, 422, 499] {
            check(status, &[], Permanent, None);
        }
    }

    #[test]
    fn an_answer_that_says_when_to_come_back_is_deferred_until_then() {
        for status in [429, 503] {
            check(status, &[("retry-after", " 7 ")], Defer, Some(7_000));
            check(status, &[("retry-after", "0")], Defer, Some(0));
        }
    }

    #[test]
    fn a_retry_after_date_counts_from_the_date_of_the_answer() {
        let until = ("retry-after", "Sun, 06 Nov 1994 08:50:37 GMT");
        check(503, &[until, ("date", "Sun, 06 Nov 1994 08:49:37 GMT")], Defer, Some(60_000));
        check(503, &[until, ("date", "Sun, 06 Nov 1994 09:00:00 GMT")], Defer, Some(0));
        check(503, &[until], Retryable, None);
    }

    #[test]
    fn retry_after_means_nothing_where_it_is_unreadable_or_out_of_place() {
        check(503, &[("retry-after", "soon")], Retryable, None);
        check(429, &[("retry-after", "-1")], Retryable, None);
        check(500, &[("retry-after", "7")], Retryable, None);
        check(301, &[("retry-after", "7")], Permanent, None);
    }

    #[test]
    fn a_failure_quotes_the_start_of_what_the_upstream_said() {
        let failure = answer(400, &[]).ok_or_failure().unwrap_err();
        assert_eq!(failure.message, "the upstream answered 400: no luck");
        let long = Response { body: "é".repeat(1_000).into_bytes(), ..answer(400, &[]) };
        assert!(long.ok_or_failure().unwrap_err().message.len() < 300);
    }
}
