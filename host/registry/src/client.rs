//! What is asked of a registry: which image a tag names, its contents, and a new image under a tag.
//!
//! What is pulled is checked against the digest that names it. Every answer has a limit of bytes, and each question a
//! deadline. It writes no files.

use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder, Response, Url};

use crate::access::{ImageAccess, authorization};
use crate::answer::AskedHost;
use crate::artifact::{
    Blob, Descriptor, ImageLayers, ImageManifest, ImageParts, MANIFEST_TYPE, MANIFEST_TYPES, sha256,
};
use crate::credentials::FoundCredentials;
use crate::error::{RegistryError, RegistryProblem};
use crate::reference::{ImageReference, is_sha256};
use crate::transport::{READ_TIME, RegistrySettings, SEND_TIME};

/// Bytes of a component: the most that a manifest can allow.
const COMPONENT_MAX: u64 = 128 << 20;
/// Bytes of a signature: those of minisign have some hundred.
const SIGNATURE_MAX: u64 = 16 << 10;
/// Bytes of a manifest: the size that every registry must take.
const MANIFEST_MAX: u64 = 4 << 20;
/// The header with the digest of a manifest.
const DIGEST_HEADER: &str = "docker-content-digest";
/// Redirects of a question: from the registry to where its bytes are, and some more.
const REDIRECTS_MAX: usize = 10;
/// Time for the answer which image a tag names, and what it contains.
const LOOK_TIME: Duration = Duration::from_mins(1);
/// Time for the largest component over a slow line.
const PULL_TIME: Duration = Duration::from_mins(10);
/// Time to send the largest component over a slow line, and for the registry to keep it.
const PUSH_TIME: Duration = Duration::from_mins(30);

/// Talks to registries.
#[derive(Clone, Debug)]
pub struct RegistryClient {
    settings: RegistrySettings,
}

/// What an image contains, without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageContents {
    /// The digest of the image: `sha256:…`.
    pub digest: String,
    /// The SHA-256 of its component, in hex.
    pub component: String,
    /// Whether it has a signature.
    pub is_signed: bool,
}

/// An image that was pulled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PulledImage {
    /// The digest of the image: `sha256:…`.
    pub digest: String,
    /// The component. Its bytes have the digest that the image names.
    pub component: Vec<u8>,
    /// The SHA-256 of the component, in hex.
    pub component_digest: String,
    /// The text of its signature, unchecked.
    pub signature: Option<String>,
}

/// An image that was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushedImage {
    /// The digest of the image: `sha256:…`.
    pub digest: String,
    /// The SHA-256 of its component, in hex.
    pub component: String,
}

/// One image, with the way into its registry.
struct ImageSession {
    image: ImageReference,
    /// The address of the registry.
    registry: Url,
    client: Client,
    authorization: Option<HeaderValue>,
    found: FoundCredentials,
}

impl RegistryClient {
    /// A client with these settings.
    pub fn new(settings: RegistrySettings) -> Self {
        Self { settings }
    }

    /// The digest of the image that a reference names now: `sha256:…`.
    pub async fn resolve(&self, image: &ImageReference) -> Result<String, RegistryError> {
        let session = ImageSession::open(&self.settings, image, ImageAccess::Pull);
        answer(image, LOOK_TIME, async { session.await?.resolve().await }).await
    }

    /// What an image contains. Errors where it is none of a plugin.
    pub async fn look(&self, image: &ImageReference) -> Result<ImageContents, RegistryError> {
        let session = ImageSession::open(&self.settings, image, ImageAccess::Pull);
        answer(image, LOOK_TIME, async { session.await?.look().await }).await
    }

    /// Pulls the component of an image and its signature.
    pub async fn pull(&self, image: &ImageReference) -> Result<PulledImage, RegistryError> {
        let session = ImageSession::open(&self.settings, image, ImageAccess::Pull);
        answer(image, PULL_TIME, async { session.await?.pull().await }).await
    }

    /// Pushes a component, with its signature if there is one, and lets the tag name it.
    pub async fn push(
        &self,
        image: &ImageReference,
        component: Vec<u8>,
        signature: Option<String>,
    ) -> Result<PushedImage, RegistryError> {
        if image.pin().is_some() {
            return Err(RegistryProblem::PushToDigest.of(image));
        }
        let parts = ImageParts::new(component, signature).map_err(|problem| problem.of(image))?;
        let session = ImageSession::open(&self.settings, image, ImageAccess::Push);
        answer(image, PUSH_TIME, async { session.await?.push(parts).await }).await
    }
}

/// The answer to a question about an image, which ends at its deadline.
async fn answer<T>(
    image: &ImageReference,
    deadline: Duration,
    question: impl Future<Output = Result<T, RegistryProblem>>,
) -> Result<T, RegistryError> {
    let late = || RegistryProblem::Late { host: image.registry().to_owned(), seconds: deadline.as_secs() };
    let answer = tokio::time::timeout(deadline, question).await;
    answer.unwrap_or_else(|_| Err(late())).map_err(|problem| problem.of(image))
}

impl ImageSession {
    async fn open(
        settings: &RegistrySettings,
        image: &ImageReference,
        access: ImageAccess,
    ) -> Result<Self, RegistryProblem> {
        let patience = match access {
            ImageAccess::Pull => READ_TIME,
            ImageAccess::Push => SEND_TIME,
        };
        let found = settings.auth_file.find(image)?;
        let registry = settings.address(image.registry())?;
        let client = settings.client(image.registry(), patience, Policy::limited(REDIRECTS_MAX))?;
        let authorization = authorization(&client, settings, image, &found, access).await?;
        Ok(Self { image: image.clone(), registry, client, authorization, found })
    }

    fn asked(&self) -> AskedHost<'_> {
        AskedHost { host: self.image.registry(), advice: &self.found.advice }
    }

    /// The address of something in the repository of the image.
    fn address(&self, place: &str) -> Result<Url, RegistryProblem> {
        let path = format!("{}/{place}", self.image.repository());
        self.registry.join(&path).map_err(|err| RegistryProblem::Answer(format!("{path} is no address: {err}")))
    }

    /// A request. Another host than the registry gets no credentials.
    fn request(&self, method: Method, address: Url) -> RequestBuilder {
        let is_registry = address.origin() == self.registry.origin();
        let request = self.client.request(method, address);
        match &self.authorization {
            Some(value) if is_registry => request.header(AUTHORIZATION, value),
            _ => request,
        }
    }

    fn digest(&self, named: String) -> Result<String, RegistryProblem> {
        digest_of(self.image.registry(), named)
    }

    async fn ask_manifest(&self, method: Method) -> Result<Response, RegistryProblem> {
        let address = self.address(&format!("manifests/{}", self.image.manifest()))?;
        self.asked().ask(self.request(method, address).header(ACCEPT, MANIFEST_TYPES)).await
    }

    async fn resolve(&self) -> Result<String, RegistryProblem> {
        let answer = self.ask_manifest(Method::HEAD).await?;
        match answer.headers().get(DIGEST_HEADER) {
            Some(named) => self.digest(String::from_utf8_lossy(named.as_bytes()).into_owned()),
            None => Ok(self.manifest().await?.0),
        }
    }

    /// The digest and the bytes of the manifest.
    async fn manifest(&self) -> Result<(String, Vec<u8>), RegistryProblem> {
        let answer = self.ask_manifest(Method::GET).await?;
        let bytes = self.asked().whole(answer, "a manifest", MANIFEST_MAX).await?;
        let digest = sha256(&bytes);
        match self.image.pin() {
            Some(pin) if pin != digest => {
                Err(RegistryProblem::WrongDigest(format!("the manifest {pin} has the digest {digest}")))
            }
            _ => Ok((digest, bytes)),
        }
    }

    async fn look(&self) -> Result<ImageContents, RegistryProblem> {
        let (digest, bytes) = self.manifest().await?;
        let manifest = ImageManifest::read(&bytes, &digest)?;
        let layers = ImageLayers::of(&manifest, &digest)?;
        let (component, is_signed) = (hex(&layers.component.digest), layers.signature.is_some());
        Ok(ImageContents { digest, component, is_signed })
    }

    async fn pull(&self) -> Result<PulledImage, RegistryProblem> {
        let (digest, bytes) = self.manifest().await?;
        let manifest = ImageManifest::read(&bytes, &digest)?;
        let layers = ImageLayers::of(&manifest, &digest)?;
        let component = self.blob(layers.component, COMPONENT_MAX).await?;
        let signature = match layers.signature {
            Some(layer) => Some(self.blob(layer, SIGNATURE_MAX).await?),
            None => None,
        };
        let signature = signature.map(String::from_utf8).transpose().map_err(|_| RegistryProblem::SignatureNotText)?;
        Ok(PulledImage { digest, component, component_digest: hex(&layers.component.digest), signature })
    }

    /// The bytes of a layer, checked against its digest. They come from this registry only, whatever other places the
    /// image names.
    async fn blob(&self, layer: &Descriptor, limit: u64) -> Result<Vec<u8>, RegistryProblem> {
        let Descriptor { digest, size, .. } = layer;
        if *size > limit {
            return Err(RegistryProblem::TooLarge { digest: digest.clone(), size: *size, limit });
        }
        let request = self.request(Method::GET, self.address(&format!("blobs/{digest}"))?);
        let bytes = self.asked().body(self.asked().ask(request).await?, *size).await?;
        let wrong = |how: &str| Err(RegistryProblem::WrongDigest(format!("{digest} {how}")));
        match bytes {
            None => wrong("is longer than the image says"),
            Some(bytes) if (bytes.len() as u64) < *size => wrong("is shorter than the image says"),
            Some(bytes) if sha256(&bytes) != *digest => wrong("has another digest"),
            Some(bytes) => Ok(bytes),
        }
    }

    async fn push(&self, parts: ImageParts) -> Result<PushedImage, RegistryProblem> {
        let ImageParts { blobs, manifest } = parts;
        let component = hex(&blobs[0].digest);
        for blob in blobs {
            if !self.has(&blob.digest).await? {
                self.push_blob(blob).await?;
            }
        }
        let address = self.address(&format!("manifests/{}", self.image.manifest()))?;
        let request = self.request(Method::PUT, address).header(CONTENT_TYPE, MANIFEST_TYPE);
        self.asked().ask(request.body(manifest.bytes)).await?;
        Ok(PushedImage { digest: manifest.digest, component })
    }

    /// Whether the registry has these bytes. Who may push may perhaps not ask.
    async fn has(&self, digest: &str) -> Result<bool, RegistryProblem> {
        let request = self.request(Method::HEAD, self.address(&format!("blobs/{digest}"))?);
        Ok(self.asked().send(request).await?.status().is_success())
    }

    /// Sends bytes to the place that the registry names for them.
    async fn push_blob(&self, blob: Blob) -> Result<(), RegistryProblem> {
        let request = self.request(Method::POST, self.address("blobs/uploads/")?).body("");
        let opened = self.asked().ask(request).await?;
        let named = opened.headers().get(LOCATION).and_then(|place| place.to_str().ok());
        let Some(mut place) = named.and_then(|place| opened.url().join(place).ok()) else {
            let host = self.image.registry();
            return Err(RegistryProblem::Answer(format!("the registry {host} names no place for what is pushed")));
        };
        place.query_pairs_mut().append_pair("digest", &blob.digest);
        let request = self.request(Method::PUT, place).header(CONTENT_TYPE, "application/octet-stream");
        self.asked().ask(request.body(blob.bytes)).await.map(drop)
    }
}

/// A digest that a registry names. It becomes a part of paths, so it is nothing else.
fn digest_of(registry: &str, named: String) -> Result<String, RegistryProblem> {
    if is_sha256(&named) { Ok(named) } else { Err(RegistryProblem::no_digest(registry, &named)) }
}

/// The digits of a digest.
fn hex(digest: &str) -> String {
    digest.strip_prefix("sha256:").unwrap_or(digest).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn fails(deadline: Duration, question: impl Future<Output = Result<(), RegistryProblem>>) -> String {
        let image = "localhost:5000/p:1".parse().unwrap();
        answer(&image, deadline, question).await.unwrap_err().to_string()
    }

    #[test]
    fn a_digest_that_could_be_another_path_is_refused() {
        let digest = format!("sha256:{}", "a".repeat(64));
        assert_eq!(digest_of("localhost:5000", digest.clone()).ok(), Some(digest));
        for named in ["sha256:../../x", "sha256:ab", &format!("sha256:{}", "A".repeat(64)), "", "sha512:\u{1b}["] {
            let err = digest_of("localhost:5000", named.to_owned()).unwrap_err().to_string();
            assert!(err.contains("localhost:5000") && !err.contains('\u{1b}'), "{err}");
        }
    }

    #[tokio::test]
    async fn a_silence_is_an_error_of_the_question() {
        let err = fails(Duration::ZERO, std::future::pending()).await;
        assert!(err.contains("localhost:5000") && err.contains("deadline"), "{err}");
    }
}
