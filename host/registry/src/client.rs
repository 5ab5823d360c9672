//! What is asked of a registry: which image a tag names, its contents, and a new image under a tag.
//!
//! Everything that is pulled is checked against the digest that names it, and has a bounded size. It writes no files.

use std::io::Cursor;
use std::time::Duration;

use oci_client::Client;
use oci_client::client::{Config, ImageLayer};
use oci_client::errors::OciDistributionError;
use oci_client::manifest::{OCI_IMAGE_MEDIA_TYPE, OciDescriptor, OciManifest};
use oci_client::secrets::RegistryAuth;

use crate::artifact::{ImageLayers, ImageParts};
use crate::error::{RegistryError, RegistryProblem};
use crate::reference::ImageReference;
use crate::transport::{READ_TIME, RegistrySettings, SEND_TIME};

/// Bytes of a component: the largest that a host loads, and room for those that a manifest cannot allow either.
const COMPONENT_MAX: u64 = 128 << 20;
/// Bytes of a signature: those of minisign have some hundred.
const SIGNATURE_MAX: u64 = 16 << 10;

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
struct ImageSession<'a> {
    image: &'a ImageReference,
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
        let resolved = async { self.session(image, READ_TIME).await?.resolve().await };
        resolved.await.map_err(|problem| problem.of(image))
    }

    /// What an image contains. Errors where it is none of a plugin.
    pub async fn look(&self, image: &ImageReference) -> Result<ImageContents, RegistryError> {
        let looked = async { self.session(image, READ_TIME).await?.look().await };
        looked.await.map_err(|problem| problem.of(image))
    }

    /// Pulls the component of an image and its signature.
    pub async fn pull(&self, image: &ImageReference) -> Result<PulledImage, RegistryError> {
        let pulled = async { self.session(image, READ_TIME).await?.pull().await };
        pulled.await.map_err(|problem| problem.of(image))
    }

    /// Pushes a component, with its signature if there is one, and lets the tag name it.
    pub async fn push(
        &self,
        image: &ImageReference,
        component: Vec<u8>,
        signature: Option<String>,
    ) -> Result<PushedImage, RegistryError> {
        let pushed = async {
            if image.pin().is_some() {
                return Err(RegistryProblem::PushToDigest);
            }
            let parts = ImageParts::new(component, signature)?;
            self.session(image, SEND_TIME).await?.push(parts).await
        };
        pushed.await.map_err(|problem| problem.of(image))
    }

    async fn session<'a>(
        &self,
        image: &'a ImageReference,
        patience: Duration,
    ) -> Result<ImageSession<'a>, RegistryProblem> {
        let found = self.settings.auth_file.find(image)?;
        let client = self.settings.client(image.registry(), patience)?;
        client.store_auth_if_needed(image.registry(), &found.auth).await;
        Ok(ImageSession { image, client, auth: found.auth, advice: found.advice })
    }
}

impl ImageSession<'_> {
    fn failed(&self, err: OciDistributionError) -> RegistryProblem {
        RegistryProblem::of_answer(err, self.image, &self.advice)
    }

    async fn resolve(&self) -> Result<String, RegistryProblem> {
        let digest = self.client.fetch_manifest_digest(self.image.inner(), &self.auth).await;
        digest.map_err(|err| self.failed(err))
    }

    async fn manifest(&self) -> Result<(oci_client::manifest::OciImageManifest, String), RegistryProblem> {
        let pulled = self.client.pull_manifest(self.image.inner(), &self.auth).await;
        match pulled.map_err(|err| self.failed(err))? {
            (OciManifest::Image(manifest), digest) => Ok((manifest, digest)),
            (OciManifest::ImageIndex(_), digest) => Err(RegistryProblem::Index { digest }),
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

/// The digits of a digest.
fn hex(digest: &str) -> String {
    digest.strip_prefix("sha256:").unwrap_or(digest).to_owned()
}
