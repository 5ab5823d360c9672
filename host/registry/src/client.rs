//! What is asked of a registry: which image a tag names, its contents, and a new image under a tag.
//!
//! What is pulled is checked against the digest that names it. A component and a signature have a bounded size, and each
//! question has a deadline. A question runs in a task of its own: a panic of the library is an error of this question. It
//! writes no files.

use std::io::Cursor;
use std::time::Duration;

use oci_client::Client;
use oci_client::client::{Config, ImageLayer};
use oci_client::errors::OciDistributionError;
use oci_client::manifest::{OCI_IMAGE_MEDIA_TYPE, OciDescriptor, OciManifest};
use oci_client::secrets::RegistryAuth;
use tokio::task::JoinSet;

use crate::artifact::{ImageLayers, ImageParts};
use crate::error::{RegistryError, RegistryProblem};
use crate::reference::{ImageReference, is_sha256};
use crate::transport::{READ_TIME, RegistrySettings, SEND_TIME};

/// Bytes of a component: the most that a manifest can allow.
const COMPONENT_MAX: u64 = 128 << 20;
/// Bytes of a signature: those of minisign have some hundred.
const SIGNATURE_MAX: u64 = 16 << 10;
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

/// One image, with the way to its registry.
struct ImageSession {
    image: ImageReference,
    client: Client,
    auth: RegistryAuth,
    advice: String,
}

impl RegistryClient {
    /// A client with these settings.
    pub fn new(settings: RegistrySettings) -> Self {
        Self { settings }
    }

    /// The digest of the image that a reference names now: `sha256:…`.
    pub async fn resolve(&self, image: &ImageReference) -> Result<String, RegistryError> {
        let session = ImageSession::open(self.settings.clone(), image.clone(), READ_TIME);
        answer(image, LOOK_TIME, async { session.await?.resolve().await }).await
    }

    /// What an image contains. Errors where it is none of a plugin.
    pub async fn look(&self, image: &ImageReference) -> Result<ImageContents, RegistryError> {
        let session = ImageSession::open(self.settings.clone(), image.clone(), READ_TIME);
        answer(image, LOOK_TIME, async { session.await?.look().await }).await
    }

    /// Pulls the component of an image and its signature.
    pub async fn pull(&self, image: &ImageReference) -> Result<PulledImage, RegistryError> {
        let session = ImageSession::open(self.settings.clone(), image.clone(), READ_TIME);
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
        let session = ImageSession::open(self.settings.clone(), image.clone(), SEND_TIME);
        answer(image, PUSH_TIME, async { session.await?.push(parts).await }).await
    }
}

/// The answer to a question about an image, which runs in a task of its own and ends with the caller or at its deadline.
async fn answer<T: Send + 'static>(
    image: &ImageReference,
    deadline: Duration,
    question: impl Future<Output = Result<T, RegistryProblem>> + Send + 'static,
) -> Result<T, RegistryError> {
    let mut task = JoinSet::new();
    task.spawn(question);
    let host = || image.registry().to_owned();
    let answer = match tokio::time::timeout(deadline, task.join_next()).await {
        Ok(Some(Ok(answer))) => answer,
        Ok(Some(Err(err))) => Err(RegistryProblem::of_panic(host(), err)),
        Ok(None) | Err(_) => Err(RegistryProblem::Late { host: host(), seconds: deadline.as_secs() }),
    };
    answer.map_err(|problem| problem.of(image))
}

impl ImageSession {
    async fn open(
        settings: RegistrySettings,
        image: ImageReference,
        patience: Duration,
    ) -> Result<Self, RegistryProblem> {
        let found = settings.auth_file.find(&image)?;
        let client = settings.client(image.registry(), patience)?;
        client.store_auth_if_needed(image.registry(), &found.auth).await;
        Ok(Self { image, client, auth: found.auth, advice: found.advice })
    }

    fn failed(&self, err: OciDistributionError) -> RegistryProblem {
        RegistryProblem::of_answer(err, &self.image, &self.advice)
    }

    fn digest(&self, named: String) -> Result<String, RegistryProblem> {
        digest_of(self.image.registry(), named)
    }

    async fn resolve(&self) -> Result<String, RegistryProblem> {
        let digest = self.client.fetch_manifest_digest(self.image.inner(), &self.auth).await;
        self.digest(digest.map_err(|err| self.failed(err))?)
    }

    async fn manifest(&self) -> Result<(oci_client::manifest::OciImageManifest, String), RegistryProblem> {
        let pulled = self.client.pull_manifest(self.image.inner(), &self.auth).await;
        let (manifest, digest) = pulled.map_err(|err| self.failed(err))?;
        let digest = self.digest(digest)?;
        match manifest {
            OciManifest::Image(manifest) => Ok((manifest, digest)),
            OciManifest::ImageIndex(_) => Err(RegistryProblem::Index { digest }),
        }
    }

    async fn look(&self) -> Result<ImageContents, RegistryProblem> {
        let (manifest, digest) = self.manifest().await?;
        let layers = ImageLayers::of(&manifest, &digest)?;
        let (component, is_signed) = (hex(&layers.component.digest), layers.signature.is_some());
        Ok(ImageContents { digest, component, is_signed })
    }

    async fn pull(&self) -> Result<PulledImage, RegistryProblem> {
        let (manifest, digest) = self.manifest().await?;
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
    async fn blob(&self, layer: &OciDescriptor, limit: u64) -> Result<Vec<u8>, RegistryProblem> {
        let size = u64::try_from(layer.size).ok().filter(|size| *size <= limit);
        let size = size.and_then(|size| usize::try_from(size).ok());
        let too_large = || RegistryProblem::TooLarge { digest: layer.digest.clone(), size: layer.size, limit };
        let mut bytes = vec![0; size.ok_or_else(too_large)?];
        let mut room = Cursor::new(&mut bytes[..]);
        let pulled = self.client.pull_blob(self.image.inner(), layer.digest.as_str(), &mut room).await;
        let is_whole = room.position() == room.get_ref().len() as u64;
        match pulled {
            Ok(()) if is_whole => Ok(bytes),
            Ok(()) => Err(RegistryProblem::WrongDigest(format!("{} is shorter than the image says", layer.digest))),
            Err(OciDistributionError::IoError(err)) if err.kind() == std::io::ErrorKind::WriteZero => {
                Err(RegistryProblem::WrongDigest(format!("{} is longer than the image says", layer.digest)))
            }
            Err(err) => Err(self.failed(err)),
        }
    }

    async fn push(&self, parts: ImageParts) -> Result<PushedImage, RegistryProblem> {
        let ImageParts { layers, config: Config { data: config, .. }, manifest } = parts;
        let component = hex(&manifest.layers[0].digest);
        let blobs = layers.into_iter().map(|ImageLayer { data, .. }| data).chain([config]);
        let descriptors = manifest.layers.iter().chain([&manifest.config]);
        for (data, descriptor) in blobs.zip(descriptors) {
            // Who may push may perhaps not ask.
            if !self.client.blob_exists(self.image.inner(), &descriptor.digest).await.unwrap_or(false) {
                let pushed = self.client.push_blob(self.image.inner(), data, &descriptor.digest).await;
                pushed.map_err(|err| self.failed(err))?;
            }
        }
        let bytes = serde_json::to_vec(&manifest).map_err(|err| RegistryProblem::Answer(err.to_string()))?;
        let manifest = ImageLayer::new(bytes, OCI_IMAGE_MEDIA_TYPE.to_owned(), None);
        let digest = manifest.sha256_digest();
        let content_type = OCI_IMAGE_MEDIA_TYPE.parse().map_err(|_| RegistryProblem::Answer("no header".to_owned()))?;
        let pushed = self.client.push_manifest_raw(self.image.inner(), manifest.data, content_type).await;
        pushed.map_err(|err| self.failed(err))?;
        Ok(PushedImage { digest, component })
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

    async fn fails(
        deadline: Duration,
        question: impl Future<Output = Result<(), RegistryProblem>> + Send + 'static,
    ) -> String {
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
    async fn a_panic_and_a_silence_are_errors_of_the_question() {
        let panics = std::future::poll_fn(|_| panic!("No CA certificates were loaded from the system"));
        let err = fails(LOOK_TIME, panics).await;
        assert!(err.contains("No CA") && err.contains("ca-certificates") && err.contains("SSL_CERT_FILE"), "{err}");
        let err = fails(Duration::ZERO, std::future::pending()).await;
        assert!(err.contains("localhost:5000") && err.contains("deadline"), "{err}");
    }
}
