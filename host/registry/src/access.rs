//! How a client is let into a registry: what the registry asks for, and the header that answers it.
//!
//! A registry asks for a user and a password, or for a token of a token server that it names. Which credentials there
//! are is the business of `credentials.rs`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_auth::ChallengeRef;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Url};
use serde::Deserialize;

use crate::answer::AskedHost;
use crate::credentials::{Credentials, FoundCredentials};
use crate::error::{RegistryProblem, brief};
use crate::reference::ImageReference;
use crate::transport::{READ_TIME, RegistrySettings, host_and_port};

/// Bytes of the answer of a token server: tokens with many rights have some thousand.
const TOKEN_MAX: u64 = 256 << 10;
/// How the host names itself to token servers.
const CLIENT_ID: &str = "outbox";

/// What the client is let in for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ImageAccess {
    /// To pull.
    Pull,
    /// To push.
    Push,
}

/// What a token server needs to know.
struct TokenRequest {
    realm: Url,
    service: Option<String>,
    scope: String,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

/// The header that opens the registry of an image; `None` where the registry asks for nothing, or nothing is known that it
/// takes.
pub(crate) async fn authorization(
    client: &Client,
    settings: &RegistrySettings,
    image: &ImageReference,
    found: &FoundCredentials,
    access: ImageAccess,
) -> Result<Option<HeaderValue>, RegistryProblem> {
    let asked = AskedHost { host: image.registry(), advice: &found.advice };
    let answer = asked.send(client.get(settings.address(image.registry())?)).await?;
    let challenges = challenges(answer.headers());
    let of_scheme = |scheme: &str| challenges.iter().find(|challenge| challenge.scheme.eq_ignore_ascii_case(scheme));
    if let Some(challenge) = of_scheme("bearer") {
        let request = TokenRequest::read(challenge, settings, image, access)?;
        return Ok(header("Bearer", &request.token(settings, found).await?));
    }
    match (&found.credentials, of_scheme("basic")) {
        (Credentials::Password(user, password), Some(_)) => Ok(header("Basic", &encoded(user, password))),
        _ => Ok(None),
    }
}

fn encoded(user: &str, password: &str) -> String {
    STANDARD.encode(format!("{user}:{password}"))
}

/// A header with a secret; `None` where the secret cannot be one.
fn header(scheme: &str, secret: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("{scheme} {secret}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn challenges(headers: &HeaderMap) -> Vec<ChallengeRef<'_>> {
    let texts = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    texts.filter_map(|text| http_auth::parse_challenges(text).ok()).flatten().collect()
}

fn parameter(challenge: &ChallengeRef<'_>, name: &str) -> Option<String> {
    let found = challenge.params.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.to_unescaped())
}

/// What the status of a token server's answer means; `None` where it is that of a token.
fn refusal(host: &str, status: u16, found: &FoundCredentials) -> Option<RegistryProblem> {
    // OAuth answers 400 to an identity token that has ended.
    let is_ended = status == 400 && matches!(found.credentials, Credentials::Identity(_));
    match status {
        200 => None,
        _ if is_ended || matches!(status, 401 | 403) => {
            Some(RegistryProblem::Credentials { host: host.to_owned(), advice: found.advice.clone() })
        }
        _ => Some(RegistryProblem::Answer(format!("the token server {host} answers {status}"))),
    }
}

impl TokenRequest {
    /// Reads what the registry asks for. Errors if its token server would be reached without TLS and the registry is not.
    fn read(
        challenge: &ChallengeRef<'_>,
        settings: &RegistrySettings,
        image: &ImageReference,
        access: ImageAccess,
    ) -> Result<Self, RegistryProblem> {
        let (host, realm) = (image.registry(), parameter(challenge, "realm").unwrap_or_default());
        let told = brief(&realm);
        let Ok(realm) = realm.parse::<Url>() else {
            let reason = format!("the registry {host} names a token server by what is no address: \"{told}\"");
            return Err(RegistryProblem::Answer(reason));
        };
        if !settings.may_send(host, &realm) {
            return Err(RegistryProblem::PlainRealm { host: host.to_owned(), realm: told });
        }
        let rights = match access {
            ImageAccess::Pull => "pull",
            ImageAccess::Push => "pull,push",
        };
        let scope = format!("repository:{}:{rights}", image.repository());
        Ok(Self { realm, service: parameter(challenge, "service"), scope })
    }

    async fn token(self, settings: &RegistrySettings, found: &FoundCredentials) -> Result<String, RegistryProblem> {
        let host = host_and_port(&self.realm);
        let asked = AskedHost { host: &host, advice: &found.advice };
        // A redirect could take an identity token to any host.
        let client = settings.client(&host, READ_TIME, Policy::none())?;
        let answer = asked.send(self.request(&client, &found.credentials)).await?;
        if let Some(problem) = refusal(&host, answer.status().as_u16(), found) {
            return Err(problem);
        }
        let bytes = asked.whole(answer, "a token", TOKEN_MAX).await?;
        let tokens = serde_json::from_slice::<TokenAnswer>(&bytes).ok();
        let token = tokens.and_then(|tokens| tokens.token.or(tokens.access_token)).filter(|token| !token.is_empty());
        token.ok_or_else(|| RegistryProblem::Answer(format!("the token server {host} answers without a token")))
    }

    fn request(mut self, client: &Client, credentials: &Credentials) -> RequestBuilder {
        let service = self.service.as_deref().map(|service| ("service", service));
        let wanted: Vec<_> = service.into_iter().chain([("scope", &*self.scope)]).collect();
        if let Credentials::Identity(token) = credentials {
            let proof = [("grant_type", "refresh_token"), ("client_id", CLIENT_ID), ("refresh_token", token)];
            let form = serde_urlencoded::to_string([&wanted[..], &proof].concat()).unwrap_or_default();
            return client.post(self.realm).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form);
        }
        self.realm.query_pairs_mut().extend_pairs(wanted);
        let request = client.get(self.realm);
        match credentials {
            Credentials::Password(user, password) => match header("Basic", &encoded(user, password)) {
                Some(value) => request.header(AUTHORIZATION, value),
                None => request,
            },
            _ => request,
        }
    }
}
