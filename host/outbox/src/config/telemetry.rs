//! `OTEL_…`: whether, where and what of traces and logs is sent, by the variables of the OpenTelemetry specification.
//!
//! Nothing is sent unless a variable asks for it. Platforms set these variables for every process, so a value that is not
//! understood turns telemetry off with a warning instead of stopping the host. This file knows no protocol.

use std::path::PathBuf;
use std::time::Duration;

use outbox_item::is_header;

use crate::config::environment::ProcessEnv;
use crate::config::value::{Secret, redacted_url};

/// The path of a collector for each of the two, which is added to `OTEL_EXPORTER_OTLP_ENDPOINT`.
const PATHS: [(TelemetryKind, &str); 2] = [(TelemetryKind::Traces, "v1/traces"), (TelemetryKind::Logs, "v1/logs")];
/// Where a collector of the same machine listens.
const ENDPOINT: &str = "http://localhost:4318";
/// How long an export may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long spans and lines are gathered before they are sent.
const DELAY: Duration = Duration::from_secs(5);

/// What is sent, and where to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TelemetrySettings {
    /// Where spans go; `None` for nowhere.
    pub(crate) traces: Option<Collector>,
    /// Where log lines go; `None` for nowhere.
    pub(crate) logs: Option<Collector>,
    /// Which traces are recorded.
    pub(crate) sampling: Sampling,
    /// Facts about this process, by name.
    pub(crate) resource: Vec<(String, String)>,
    /// How long spans and lines are gathered before they are sent.
    pub(crate) delay: Duration,
}

/// A collector that takes OTLP over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Collector {
    /// The whole URL, which may have a password or a key in it.
    pub(crate) url: Secret,
    /// Headers of each request.
    pub(crate) headers: Vec<(String, Secret)>,
    /// How long a request may take.
    pub(crate) timeout: Duration,
    /// A PEM file with certificates of authorities that vouch for the collector, besides the public ones.
    pub(crate) ca_file: Option<PathBuf>,
    /// Whether requests are compressed with gzip.
    pub(crate) is_compressed: bool,
}

impl Collector {
    /// A collector at this URL, without headers.
    pub(crate) fn new(url: &str, timeout: Duration) -> Self {
        Self { url: Secret::new(url), headers: Vec::new(), timeout, ca_file: None, is_compressed: false }
    }

    /// Scheme, host and port, for messages.
    pub(crate) fn origin(&self) -> String {
        let url = redacted_url(self.url.expose());
        url.split_inclusive('/').take(3).collect::<String>().trim_end_matches('/').to_owned()
    }
}

/// Which traces are recorded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sampling {
    /// Whether a caller who began the trace decides.
    pub(crate) follows_caller: bool,
    /// The share of the other traces, from 0 to 1.
    pub(crate) share: f64,
}

impl Default for TelemetrySettings {
    /// Sends nothing.
    fn default() -> Self {
        let sampling = Sampling { follows_caller: true, share: 1.0 };
        Self { traces: None, logs: None, sampling, resource: Vec::new(), delay: DELAY }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TelemetryKind {
    Traces,
    Logs,
}

impl TelemetryKind {
    fn word(self) -> &'static str {
        match self {
            Self::Traces => "TRACES",
            Self::Logs => "LOGS",
        }
    }
}

/// Reads the variables, and collects one sentence for each that is not understood.
struct Variables<'a> {
    environment: &'a ProcessEnv,
    warnings: Vec<String>,
}

/// The settings, and one sentence for each variable that cannot be used.
pub(super) fn telemetry(environment: &ProcessEnv) -> (TelemetrySettings, Vec<String>) {
    let mut variables = Variables { environment, warnings: Vec::new() };
    if variables.is_disabled() {
        return (TelemetrySettings::default(), Vec::new());
    }
    let [traces, logs] = PATHS.map(|(kind, path)| variables.collector(kind, path));
    if traces.is_none() && logs.is_none() {
        return (TelemetrySettings::default(), variables.warnings);
    }
    let delay = variables.milliseconds("OTEL_BSP_SCHEDULE_DELAY").unwrap_or(DELAY);
    let (sampling, resource) = (variables.sampling(), variables.resource());
    (TelemetrySettings { traces, logs, sampling, resource, delay }, variables.warnings)
}

impl Variables<'_> {
    fn get(&self, name: &str) -> Option<String> {
        self.environment.get(name).map(|text| text.trim().to_owned())
    }

    /// The variable of the kind, or the one of both.
    fn of_kind(&self, kind: TelemetryKind, end: &str) -> Option<(String, String)> {
        let names = [format!("OTEL_EXPORTER_OTLP_{}_{end}", kind.word()), format!("OTEL_EXPORTER_OTLP_{end}")];
        names.into_iter().find_map(|name| self.get(&name).map(|text| (name, text)))
    }

    fn warn(&mut self, name: &str, text: &str, accepted: &str) {
        self.warnings.push(format!("{name} is {text:?}: use {accepted}"));
    }

    fn collector(&mut self, kind: TelemetryKind, path: &str) -> Option<Collector> {
        let endpoint = self.of_kind(kind, "ENDPOINT");
        let exporter = format!("OTEL_{}_EXPORTER", kind.word());
        let is_asked_for = match self.get(&exporter).as_deref() {
            None => endpoint.is_some(),
            Some("otlp") => true,
            Some("none") => false,
            Some(other) => {
                self.warn(&exporter, other, "otlp or none; none applies now");
                false
            }
        };
        if !is_asked_for || !self.speaks_http(kind) {
            return None;
        }
        let (name, given) = endpoint.unwrap_or_else(|| (String::new(), ENDPOINT.to_owned()));
        let is_whole = name.contains(kind.word());
        let url = if is_whole { given.clone() } else { format!("{}/{path}", given.trim_end_matches('/')) };
        if !["http://", "https://"].iter().any(|scheme| given.starts_with(scheme)) {
            // The value can have a password in it.
            self.warnings.push(format!("{name} does not begin with http:// or https://: nothing is sent there"));
            return None;
        }
        let timeout = self.of_kind(kind, "TIMEOUT").map(|(name, _)| name);
        let timeout = timeout.and_then(|name| self.milliseconds(&name)).unwrap_or(TIMEOUT);
        Some(Collector {
            headers: self.headers(kind),
            ca_file: self.of_kind(kind, "CERTIFICATE").map(|(_, path)| path.into()),
            is_compressed: self.is_compressed(kind),
            ..Collector::new(&url, timeout)
        })
    }

    fn is_compressed(&mut self, kind: TelemetryKind) -> bool {
        let Some((name, text)) = self.of_kind(kind, "COMPRESSION") else { return false };
        match text.to_ascii_lowercase().as_str() {
            "gzip" => true,
            "none" => false,
            _ => {
                self.warn(&name, &text, "gzip or none; none applies now");
                false
            }
        }
    }

    fn speaks_http(&mut self, kind: TelemetryKind) -> bool {
        match self.of_kind(kind, "PROTOCOL") {
            Some((name, protocol)) if protocol != "http/protobuf" => {
                self.warn(&name, &protocol, "http/protobuf, which is all that this host speaks; nothing is sent");
                false
            }
            _ => true,
        }
    }

    /// Headers can have credentials, so a text that is not understood is not shown.
    fn headers(&mut self, kind: TelemetryKind) -> Vec<(String, Secret)> {
        let Some((name, text)) = self.of_kind(kind, "HEADERS") else { return Vec::new() };
        let pairs: Option<Vec<_>> = pairs(&text).collect();
        let pairs = pairs.filter(|pairs| pairs.iter().all(|(key, value)| is_header(key, value)));
        let headers = pairs.map(|pairs| pairs.into_iter().map(|(key, value)| (key, Secret::new(&value))).collect());
        headers.unwrap_or_else(|| {
            self.warnings.push(format!("{name} is not understood: use name=value with commas between them, and names and values that a request can have"));
            Vec::new()
        })
    }

    /// The standard knows one word that turns everything off.
    fn is_disabled(&mut self) -> bool {
        const NAME: &str = "OTEL_SDK_DISABLED";
        match self.get(NAME) {
            Some(text) if text.eq_ignore_ascii_case("true") => true,
            Some(text) if !text.eq_ignore_ascii_case("false") => {
                self.warn(NAME, &text, "true or false; nothing is turned off");
                false
            }
            _ => false,
        }
    }

    fn milliseconds(&mut self, name: &str) -> Option<Duration> {
        let text = self.get(name)?;
        let parsed = text.parse().ok().map(Duration::from_millis);
        if parsed.is_none() {
            self.warn(name, &text, "a whole number of milliseconds; the default applies");
        }
        parsed
    }

    fn sampling(&mut self) -> Sampling {
        const NAME: &str = "OTEL_TRACES_SAMPLER";
        let text = self.get(NAME).unwrap_or_else(|| "parentbased_always_on".to_owned());
        let (follows_caller, root) = match text.strip_prefix("parentbased_") {
            Some(root) => (true, root),
            None => (false, text.as_str()),
        };
        let share = match root {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => self.share(),
            _ => {
                let accepted = "always_on, always_off or traceidratio, each also with parentbased_ before it; \
                                parentbased_always_on applies";
                self.warn(NAME, &text, accepted);
                return Sampling { follows_caller: true, share: 1.0 };
            }
        };
        Sampling { follows_caller, share }
    }

    fn share(&mut self) -> f64 {
        const NAME: &str = "OTEL_TRACES_SAMPLER_ARG";
        let Some(text) = self.get(NAME) else { return 1.0 };
        let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
        share.unwrap_or_else(|| {
            self.warn(NAME, &text, "a share from 0 to 1; 1 applies");
            1.0
        })
    }

    fn resource(&mut self) -> Vec<(String, String)> {
        const NAME: &str = "OTEL_RESOURCE_ATTRIBUTES";
        let text = self.get(NAME).unwrap_or_default();
        let given: Option<Vec<_>> = pairs(&text).collect();
        let mut resource = given.unwrap_or_else(|| {
            self.warn(NAME, &text, "name=value with commas between them; none applies");
            Vec::new()
        });
        let named = self.get("OTEL_SERVICE_NAME");
        if named.is_some() || !resource.iter().any(|(key, _)| key == "service.name") {
            resource.retain(|(key, _)| key != "service.name");
            resource.push(("service.name".to_owned(), named.unwrap_or_else(|| "outbox".to_owned())));
        }
        resource
    }
}

/// `name=value` pairs with commas between them; values may be percent-encoded. `None` for what is no pair.
fn pairs(text: &str) -> impl Iterator<Item = Option<(String, String)>> {
    text.split(',').map(str::trim).filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let name = name.trim();
        (!name.is_empty()).then(|| Some((name.to_owned(), decoded(value.trim())?)))?
    })
}

/// The text without its percent-encoding; `None` where that is not UTF-8 or not whole.
fn decoded(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend(part.as_bytes().get(2..)?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> (TelemetrySettings, Vec<String>) {
        telemetry(&variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    fn urls(variables: &[(&str, &str)]) -> [Option<String>; 2] {
        let (settings, warnings) = read(variables);
        assert_eq!(warnings, Vec::<String>::new());
        [settings.traces, settings.logs].map(|collector| collector.map(|collector| collector.url.expose().to_owned()))
    }

    #[test]
    fn nothing_is_sent_unless_an_exporter_or_an_endpoint_is_named() {
        let all = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/");
        let url = |path: &str| Some(format!("http://c:4318/v1/{path}"));
        assert_eq!(urls(&[]), [None, None]);
        assert_eq!(urls(&[("OTEL_SERVICE_NAME", "orders")]), [None, None]);
        assert_eq!(urls(&[all]), [url("traces"), url("logs")]);
        assert_eq!(urls(&[all, ("OTEL_LOGS_EXPORTER", "none")]), [url("traces"), None]);
        assert_eq!(urls(&[all, ("OTEL_SDK_DISABLED", "true")]), [None, None]);
        let local = Some("http://localhost:4318/v1/logs".to_owned());
        assert_eq!(urls(&[("OTEL_LOGS_EXPORTER", "otlp")]), [None, local]);
        let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://t/x");
        assert_eq!(urls(&[own]), [Some("https://t/x".to_owned()), None]);
    }

    #[test]
    fn what_is_sent_how_is_read_from_the_standard_variables() {
        let (settings, warnings) = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20t, x-tenant=a=b"),
            ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "x=1"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "500"),
            ("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
            ("OTEL_BSP_SCHEDULE_DELAY", "100"),
            ("OTEL_TRACES_SAMPLER", "traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
            ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=prod,service.name=x"),
            ("OTEL_SERVICE_NAME", "orders"),
        ]);
        assert_eq!(warnings, Vec::<String>::new());
        let traces = settings.traces.unwrap();
        let headers: Vec<_> = traces.headers.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
        assert_eq!(headers, [("authorization", "Bearer t"), ("x-tenant", "a=b")]);
        assert_eq!((traces.timeout, traces.ca_file), (Duration::from_millis(500), Some("/ca.pem".into())));
        let logs = settings.logs.unwrap();
        assert_eq!((logs.headers.len(), logs.is_compressed, traces.is_compressed), (1, true, false));
        assert_eq!(settings.sampling, Sampling { follows_caller: false, share: 0.25 });
        assert_eq!(settings.delay, Duration::from_millis(100));
        let resource = [("deployment.environment.name", "prod"), ("service.name", "orders")];
        assert_eq!(settings.resource, resource.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(read(&[("OTEL_TRACES_EXPORTER", "otlp")]).0.resource[0].1, "outbox");
    }

    #[test]
    fn messages_about_a_collector_have_nothing_of_its_url_that_can_be_secret() {
        for (url, origin) in [
            ("https://ada:hunter2@c.example:4318/v1/traces?api-key=hunter2", "https://c.example:4318"),
            ("https://c.example/hunter2/v1/traces", "https://c.example"),
            ("http://ada:hun/ter2@c", "http://c"),
        ] {
            let (settings, _) = read(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", url)]);
            let collector = settings.traces.unwrap();
            assert_eq!(collector.origin(), origin);
            assert!(!format!("{collector:?}").contains("hunter2"), "{collector:?}");
        }
    }

    #[test]
    fn what_is_not_understood_is_a_warning_that_shows_no_header_and_stops_nothing() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c");
        for (name, value, said, is_sent) in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf", false),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "user:hunter2@c:4317", "http://", false),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "gzip or none", true),
            ("OTEL_TRACES_EXPORTER", "zipkin", "otlp or none", false),
            ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2", "name=value", true),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=%zz", "name=value", true),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=hunter2%0A", "name=value", true),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api key=hunter2", "name=value", true),
            ("OTEL_EXPORTER_OTLP_HEADERS", "content-length=0", "name=value", true),
            ("OTEL_SDK_DISABLED", "1", "true or false", true),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "milliseconds", true),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote", "always_on", true),
            ("OTEL_RESOURCE_ATTRIBUTES", "team", "name=value", true),
        ] {
            let (settings, warnings) = read(&[endpoint, (name, value)]);
            assert!(warnings[0].starts_with(name) && warnings[0].contains(said), "{warnings:?}");
            assert!(!warnings.concat().contains("hunter2"), "{warnings:?}");
            assert_eq!(settings.traces.is_some(), is_sent, "{name}");
        }
        let ratio = [endpoint, ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "2")];
        assert_eq!(read(&ratio).0.sampling, Sampling { follows_caller: true, share: 1.0 });
    }
}
