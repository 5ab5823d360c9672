//! What a manifest grants a plugin: state, follow-ups, requests.
//!
//! Everything else is denied. A denial comes with the manifest lines that would allow it, so that an operator can copy
//! them. Grants decide about origins, methods and paths. Which *addresses* a granted host name may resolve to is
//! decided at connection time, from the [`AddressScope`].

use std::fmt;
use std::str::FromStr;

use http::Method;
use http::header::{HeaderName, HeaderValue, InvalidHeaderValue};
use http::uri::Uri;

use outbox_core::wildcard_matches;

/// Everything that a plugin may do besides computing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Grants {
    /// Whether the plugin may keep state.
    pub state: bool,
    /// The types of item that the plugin may emit.
    pub emit: Vec<String>,
    /// The requests that the plugin may send.
    pub http: Vec<HttpGrant>,
}

/// One kind of request that a plugin may send.
#[derive(Clone, Debug)]
pub(crate) struct HttpGrant {
    /// The receiver.
    pub origin: Origin,
    /// The allowed methods; all if absent.
    pub methods: Option<Vec<Method>>,
    /// A pattern of the allowed paths, in which `*` matches any text; all if absent.
    pub path: Option<String>,
    /// Whether a wildcard origin also reaches addresses that are not public.
    pub private: bool,
    /// Headers with secrets that the host adds to such a request.
    pub secrets: Vec<SecretHeader>,
}

/// A header that the host adds and the guest never sees.
#[derive(Clone, Debug)]
pub(crate) struct SecretHeader {
    /// The header's name.
    pub header: HeaderName,
    /// The header's value, marked as sensitive, so that it is never printed.
    pub value: HeaderValue,
    /// The secret itself, without the text of the template.
    pub token: HeaderValue,
}

impl SecretHeader {
    /// A secret header. The token replaces `{}` in the template. Errors if a header cannot contain the value.
    pub(crate) fn new(header: HeaderName, template: &str, token: &str) -> Result<Self, InvalidHeaderValue> {
        let value = sensitive(&template.replacen("{}", token, 1))?;
        Ok(Self { header, value, token: sensitive(token)? })
    }
}

fn sensitive(value: &str) -> Result<HeaderValue, InvalidHeaderValue> {
    let mut value = HeaderValue::from_str(value)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Which addresses a host name may resolve to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AddressScope {
    /// None: no grant covers the origin.
    Nothing,
    /// Public ones.
    Public,
    /// Public and private ones.
    Private,
}

impl Grants {
    /// What is granted, in words: neither paths nor headers, which may contain secrets.
    pub(crate) fn in_words(&self) -> Vec<String> {
        let request = |rule: &HttpGrant| {
            let methods = rule.methods.as_ref().map(|methods| methods.iter().map(Method::as_str).collect::<Vec<_>>());
            let methods = methods.map_or("any method".to_owned(), |methods| methods.join(", "));
            let paths = rule.path.as_ref().filter(|path| *path != "/*").map(|_| ", some paths");
            let private = rule.private.then_some(", also private addresses");
            let secrets = (!rule.secrets.is_empty()).then_some(", with secrets");
            let more: String = [paths, private, secrets].into_iter().flatten().collect();
            format!("{methods} {}{more}", rule.origin)
        };
        let state = self.state.then(|| "state".to_owned());
        let emit = (!self.emit.is_empty()).then(|| format!("emit {}", self.emit.join(", ")));
        self.http.iter().map(request).chain(state).chain(emit).collect()
    }

    /// The grant that allows a request, if there is one.
    pub(crate) fn allow(&self, method: &Method, uri: &Uri) -> Option<&HttpGrant> {
        if has_dot_segment(uri.path()) {
            return None;
        }
        self.http.iter().find(|rule| rule.allows(method, uri))
    }

    /// The addresses that the host of a URL may resolve to.
    pub(crate) fn address_scope(&self, uri: &Uri) -> AddressScope {
        let mut rules = self.http.iter().filter(|rule| rule.origin.covers(uri)).peekable();
        if rules.peek().is_none() {
            return AddressScope::Nothing;
        }
        if rules.any(|rule| rule.private || !rule.origin.is_wildcard()) {
            AddressScope::Private
        } else {
            AddressScope::Public
        }
    }

    /// Whether items of a type may be emitted.
    pub(crate) fn may_emit(&self, item_type: &str) -> bool {
        self.emit.iter().any(|granted| granted == item_type)
    }

    /// The manifest lines that would let items of one more type be emitted.
    pub(crate) fn emit_lines(&self, item_type: &str) -> String {
        let types = self.emit.iter().map(String::as_str).chain([item_type]);
        let types: Vec<_> = types.map(|granted| format!("{granted:?}")).collect();
        format!("[grant]\nemit = [{}]", types.join(", "))
    }
}

impl HttpGrant {
    fn allows(&self, method: &Method, uri: &Uri) -> bool {
        self.origin.covers(uri)
            && self.methods.as_ref().is_none_or(|methods| methods.contains(method))
            && self.path.as_ref().is_none_or(|path| wildcard_matches(path, uri.path()))
    }
}

/// The manifest lines that would allow a request.
pub(crate) fn http_lines(method: &Method, uri: &Uri) -> String {
    let base = format!("{}://{}", uri.scheme_str().unwrap_or("https"), uri.host().unwrap_or("HOST"));
    let origin = uri.to_string().parse::<Origin>().map_or(base, |origin| origin.to_string());
    format!("[[grant.http]]\norigin = {origin:?}\nmethods = [\"{method}\"]\npath = {:?}", uri.path())
}

/// Scheme, host and port. The host may be `*` for every host, or begin with `*.` for every name below a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    fn is_wildcard(&self) -> bool {
        self.host.starts_with('*')
    }

    fn covers(&self, uri: &Uri) -> bool {
        let Some((scheme, host, port)) = origin_parts(uri) else { return false };
        self.scheme == scheme && self.port == port && self.covers_host(&host)
    }

    fn covers_host(&self, host: &str) -> bool {
        match self.host.strip_prefix('*') {
            Some("") => true,
            // The suffix keeps its dot, so `*.a.org` does not cover `evila.org`.
            Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
            None => self.host == host,
        }
    }
}

impl FromStr for Origin {
    type Err = String;

    /// Takes the origin of a URL and ignores its path. Errors with the accepted forms.
    fn from_str(text: &str) -> Result<Self, String> {
        let accepted = || {
            r#"a URL such as "https://api.example.com", or "https://*.example.com" for every name below it"#.to_owned()
        };
        let uri: Uri = text.parse().map_err(|_| accepted())?;
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(accepted());
        }
        let (scheme, host, port) = origin_parts(&uri).ok_or_else(accepted)?;
        let labels = host.strip_prefix("*.").unwrap_or(if host == "*" { "" } else { &host });
        if labels.contains('*') { Err(accepted()) } else { Ok(Self { scheme: scheme.to_owned(), host, port }) }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        match (self.scheme.as_str(), self.port) {
            ("http", 80) | ("https", 443) => Ok(()),
            (_, port) => write!(f, ":{port}"),
        }
    }
}

/// The origin of a request, as people write it.
pub(crate) fn origin_of(uri: &Uri) -> String {
    let origin = origin_parts(uri).map(|(scheme, host, port)| Origin { scheme: scheme.to_owned(), host, port });
    origin.map(|origin| origin.to_string()).unwrap_or_default()
}

fn origin_parts(uri: &Uri) -> Option<(&str, String, u16)> {
    let (scheme, default) = match uri.scheme_str()? {
        "http" => ("http", 80),
        "https" => ("https", 443),
        _ => return None,
    };
    // A name with a trailing dot is the same host.
    let host = uri.host()?.trim_end_matches('.').to_ascii_lowercase();
    (!host.is_empty()).then(|| (scheme, host, uri.port_u16().unwrap_or(default)))
}

/// Whether a path has a `.` or `..` segment, also an encoded one. A server may resolve it to a path that is not
/// granted.
fn has_dot_segment(path: &str) -> bool {
    let plain =
        path.to_ascii_lowercase().replace("%2e", ".").replace("%2f", "/").replace("%5c", "/").replace('\\', "/");
    plain.split('/').any(|segment| segment == "." || segment == "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(origin: &str, methods: Option<&[&str]>, path: Option<&str>) -> HttpGrant {
        HttpGrant {
            origin: origin.parse().unwrap(),
            methods: methods.map(|words| words.iter().map(|word| word.parse().unwrap()).collect()),
            path: path.map(str::to_owned),
            private: false,
            secrets: vec![],
        }
    }

    fn check(rule: HttpGrant, method: &str, url: &str) -> bool {
        let grants = Grants { http: vec![rule], ..Grants::default() };
        grants.allow(&method.parse().unwrap(), &url.parse().unwrap()).is_some()
    }

    #[test]
    fn a_request_must_fit_origin_method_and_path() {
        let granted = || rule("http://127.0.0.1:9000/base", Some(&["POST"]), Some("/upsert*"));
        assert!(check(granted(), "POST", "http://127.0.0.1:9000/upsert?x=1"));
        assert!(check(granted(), "POST", "http://127.0.0.1:9000/upsert/many"));
        for (method, url) in [
            ("GET", "http://127.0.0.1:9000/upsert"),
            ("POST", "http://127.0.0.1:9001/upsert"),
            ("POST", "https://127.0.0.1:9000/upsert"),
            ("POST", "http://127.0.0.2:9000/upsert"),
            ("POST", "http://127.0.0.1:9000/delete"),
            ("POST", "http://127.0.0.1:9000/upsert/../delete"),
            ("POST", "http://127.0.0.1:9000/upsert/%2E%2e/delete"),
            ("POST", "http://127.0.0.1:9000/upsert%2f..%2fdelete"),
        ] {
            assert!(!check(granted(), method, url), "{method} {url}");
        }
    }

    #[test]
    fn a_rule_without_method_or_path_allows_all_of_its_origin() {
        assert!(check(rule("https://api.example.com", None, None), "DELETE", "https://API.example.com:443/x"));
    }

    #[test]
    fn a_wildcard_covers_names_below_its_domain_only() {
        let granted = || rule("https://*.example.com", None, None);
        assert!(check(granted(), "GET", "https://a.b.example.com/"));
        assert!(!check(granted(), "GET", "https://example.com/"));
        assert!(!check(granted(), "GET", "https://evilexample.com/"));
        assert!(check(rule("https://*", None, None), "GET", "https://anything.org/"));
        for bad in ["https://a.*.org", "ftp://a.org", "a.org", "https://user@a.org", "https://a*.org"] {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_wildcard_reaches_private_addresses_only_when_it_says_so() {
        let url: Uri = "https://a.example.com/".parse().unwrap();
        let address_scope = |rule: HttpGrant| Grants { http: vec![rule], ..Grants::default() }.address_scope(&url);
        assert_eq!(address_scope(rule("https://*.example.com", None, None)), AddressScope::Public);
        assert_eq!(
            address_scope(HttpGrant { private: true, ..rule("https://*.example.com", None, None) }),
            AddressScope::Private
        );
        assert_eq!(address_scope(rule("https://a.example.com", None, None)), AddressScope::Private);
        assert_eq!(address_scope(rule("https://b.example.com", None, None)), AddressScope::Nothing);
    }

    #[test]
    fn the_lines_of_a_denial_allow_what_was_denied() {
        let (method, url) = (Method::POST, "http://127.0.0.1:9000/a?b=c".parse::<Uri>().unwrap());
        let lines = http_lines(&method, &url);
        assert_eq!(lines, "[[grant.http]]\norigin = \"http://127.0.0.1:9000\"\nmethods = [\"POST\"]\npath = \"/a\"");
        assert!(check(rule("http://127.0.0.1:9000", Some(&["POST"]), Some("/a")), "POST", &url.to_string()));
    }
}
