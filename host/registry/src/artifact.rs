//! The layout of an image: its config, its layers and their types.
//!
//! It follows the layout of Wasm artifacts in OCI registries, version 0. It sends nothing.

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use wasmparser::{Encoding, Parser, Payload};

use crate::error::{RegistryProblem, brief};
use crate::reference::is_sha256;

/// The type of a manifest as it is pushed.
pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// The types of manifests that a registry may answer with. Those of indexes are there so that the error can name them.
pub(crate) const MANIFEST_TYPES: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json";
/// The version of the form of manifests.
const SCHEMA_VERSION: u32 = 2;
const CONFIG_TYPE: &str = "application/vnd.wasm.config.v0+json";
const COMPONENT_TYPE: &str = "application/wasm";
/// A signature in the format of minisign.
const SIGNATURE_TYPE: &str = "application/vnd.outbox.signature.v1.minisign";
/// The layout wants a time. With a fixed one, the same component has the same digest whenever it is pushed.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// What a manifest says of a layer or of the config.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    media_type: String,
    /// The digest of the bytes, as the manifest writes it.
    pub(crate) digest: String,
    /// Bytes, as the manifest writes it.
    pub(crate) size: u64,
}

/// What a host reads of a manifest.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ImageManifest {
    schema_version: u32,
    #[serde(default)]
    layers: Vec<Descriptor>,
    /// Only an index has them.
    manifests: Option<IgnoredAny>,
}

/// The layers of an image that a host needs.
#[derive(Debug)]
pub(crate) struct ImageLayers<'a> {
    /// The component.
    pub(crate) component: &'a Descriptor,
    /// Its signature, if the image has one.
    pub(crate) signature: Option<&'a Descriptor>,
}

/// Bytes of an image with the digest that names them.
pub(crate) struct Blob {
    /// `sha256:…`
    pub(crate) digest: String,
    /// The bytes.
    pub(crate) bytes: Vec<u8>,
}

/// An image as it is pushed.
pub(crate) struct ImageParts {
    /// The component, the signature if there is one, and the config.
    pub(crate) blobs: Vec<Blob>,
    /// The manifest that names them.
    pub(crate) manifest: Blob,
}

/// A manifest as it is pushed.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PushedManifest {
    schema_version: u32,
    media_type: &'static str,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WasmConfig {
    created: &'static str,
    architecture: &'static str,
    os: &'static str,
    layer_digests: Vec<String>,
    component: ComponentNames,
}

/// What a component exports and imports, by name.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct ComponentNames {
    exports: Vec<String>,
    imports: Vec<String>,
}

impl ImageManifest {
    /// Reads the manifest with this digest. Errors if it is none of an image.
    pub(crate) fn read(bytes: &[u8], digest: &str) -> Result<Self, RegistryProblem> {
        let reason = match serde_json::from_slice::<Self>(bytes) {
            Ok(Self { manifests: Some(_), .. }) => return Err(RegistryProblem::Index { digest: digest.to_owned() }),
            Ok(manifest) if manifest.schema_version == SCHEMA_VERSION => return Ok(manifest),
            Ok(manifest) => format!("its schemaVersion is {}, and {SCHEMA_VERSION} is read", manifest.schema_version),
            Err(err) => err.to_string(),
        };
        Err(RegistryProblem::NotAManifest { digest: digest.to_owned(), reason: brief(&reason) })
    }
}

impl<'a> ImageLayers<'a> {
    /// Finds the layers of an image with this digest. Errors without a component, with several, and if a layer is not
    /// named by its SHA-256.
    pub(crate) fn of(manifest: &'a ImageManifest, digest: &str) -> Result<Self, RegistryProblem> {
        let of_type = |wanted: &str| manifest.layers.iter().filter(|layer| layer.media_type == wanted).collect();
        let (components, signatures): (Vec<_>, Vec<_>) = (of_type(COMPONENT_TYPE), of_type(SIGNATURE_TYPE));
        let digest = digest.to_owned();
        let [component] = components[..] else {
            return Err(match components.len() {
                0 => RegistryProblem::NoComponent { digest, types: types(manifest) },
                count => RegistryProblem::SeveralComponents { digest, count },
            });
        };
        if signatures.len() > 1 {
            return Err(RegistryProblem::SeveralSignatures { digest, count: signatures.len() });
        }
        if let Some(layer) = components.iter().chain(&signatures).find(|layer| !is_sha256(&layer.digest)) {
            return Err(RegistryProblem::LayerDigest { digest, layer: brief(&layer.digest) });
        }
        Ok(Self { component, signature: signatures.first().copied() })
    }
}

/// The types of an image's layers, in words.
fn types(manifest: &ImageManifest) -> String {
    let types: Vec<_> = manifest.layers.iter().map(|layer| layer.media_type.as_str()).collect();
    if types.is_empty() { "no layer".to_owned() } else { brief(&types.join(", ")) }
}

impl ImageParts {
    /// The image of a component. Errors if the bytes are none.
    pub(crate) fn new(component: Vec<u8>, signature: Option<String>) -> Result<Self, RegistryProblem> {
        let names = ComponentNames::of(&component).map_err(RegistryProblem::NotAComponent)?;
        let signature = signature.map(|text| (SIGNATURE_TYPE, text.into_bytes()));
        let layers = [(COMPONENT_TYPE, component)].into_iter().chain(signature);
        let (layers, mut blobs): (Vec<_>, Vec<_>) =
            layers.map(|(media_type, bytes)| described(media_type, bytes)).unzip();
        let config = WasmConfig {
            created: CREATED,
            architecture: "wasm",
            os: "wasip2",
            layer_digests: layers.iter().map(|layer| layer.digest.clone()).collect(),
            component: names,
        };
        let (config, blob) = described(CONFIG_TYPE, json(&config)?);
        blobs.push(blob);
        let manifest = PushedManifest { schema_version: SCHEMA_VERSION, media_type: MANIFEST_TYPE, config, layers };
        Ok(Self { blobs, manifest: Blob::new(json(&manifest)?) })
    }
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        Self { digest: sha256(&bytes), bytes }
    }
}

fn described(media_type: &str, bytes: Vec<u8>) -> (Descriptor, Blob) {
    let blob = Blob::new(bytes);
    let (digest, size) = (blob.digest.clone(), blob.bytes.len() as u64);
    (Descriptor { media_type: media_type.to_owned(), digest, size }, blob)
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, RegistryProblem> {
    serde_json::to_vec(value).map_err(|err| RegistryProblem::Answer(err.to_string()))
}

/// The digest of bytes, as registries write it.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

impl ComponentNames {
    /// Reads the outermost component. Errors with the reason why the bytes are none.
    fn of(bytes: &[u8]) -> Result<Self, String> {
        let (mut names, mut depth) = (Self::default(), 0);
        for payload in Parser::new(0).parse_all(bytes) {
            match payload.map_err(|err| err.to_string())? {
                Payload::Version { encoding, .. } => {
                    if depth == 0 && encoding != Encoding::Component {
                        return Err("it is a core module".to_owned());
                    }
                    depth += 1;
                }
                Payload::End(_) => depth -= 1,
                Payload::ComponentImportSection(section) if depth == 1 => {
                    for import in section {
                        names.imports.push(import.map_err(|err| err.to_string())?.name.name.to_owned());
                    }
                }
                Payload::ComponentExportSection(section) if depth == 1 => {
                    for export in section {
                        names.exports.push(export.map_err(|err| err.to_string())?.name.name.to_owned());
                    }
                }
                _ => {}
            }
        }
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(text: &str) -> Vec<u8> {
        wat::parse_str(text).unwrap()
    }

    #[test]
    fn an_image_has_the_layout_of_wasm_artifacts_and_always_the_same_bytes() {
        let bytes = component("(component (import \"a:b/c\" (instance)) (export \"d:e/f\" (instance 0)))");
        let image = || ImageParts::new(bytes.clone(), Some("signed".into())).unwrap();
        let parts = image();
        let read = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
        let (config, manifest) = (read(&parts.blobs[2].bytes), read(&parts.manifest.bytes));
        assert_eq!(config["component"], serde_json::json!({"exports": ["d:e/f"], "imports": ["a:b/c"]}));
        assert_eq!((&config["os"], &config["architecture"]), (&"wasip2".into(), &"wasm".into()));
        let layers = manifest["layers"].as_array().unwrap();
        let digests = layers.iter().map(|layer| layer["digest"].clone()).collect();
        assert_eq!(config["layerDigests"], serde_json::Value::Array(digests));
        assert_eq!(
            (&manifest["config"]["mediaType"], &layers[0]["mediaType"]),
            (&CONFIG_TYPE.into(), &COMPONENT_TYPE.into())
        );
        assert_eq!((layers.len(), &layers[0]["size"]), (2, &bytes.len().into()));
        let unsigned = ImageParts::new(bytes.clone(), None).unwrap();
        assert_eq!(unsigned.blobs.len(), 2);
        assert_eq!(parts.manifest.digest, image().manifest.digest);
    }

    #[test]
    fn what_is_no_component_is_not_pushed() {
        for (bytes, why) in [(component("(module)"), "core module"), (b"text".to_vec(), "magic")] {
            let err = ImageParts::new(bytes, None).map(|_| ()).unwrap_err().to_string();
            assert!(err.contains(why), "{err}");
        }
        let nested = component("(component (component) (core module))");
        assert_eq!(ComponentNames::of(&nested), Ok(ComponentNames::default()));
    }

    #[test]
    fn an_image_with_no_component_or_several_is_refused() {
        let parts = ImageParts::new(component("(component)"), Some("signed".into())).unwrap();
        let manifest = || ImageManifest::read(&parts.manifest.bytes, "sha256:ab").unwrap();
        let refusal = |layers: &[usize]| {
            let layers = layers.iter().map(|at| manifest().layers[*at].clone()).collect();
            let manifest = ImageManifest { layers, ..manifest() };
            ImageLayers::of(&manifest, "sha256:ab").err().map(|err| err.to_string()).unwrap_or_default()
        };
        assert_eq!([refusal(&[0]), refusal(&[0, 1])], ["", ""]);
        assert!(refusal(&[]).contains("sha256:ab has no component") && refusal(&[]).contains("no layer"));
        assert!(refusal(&[1]).contains("minisign"), "{}", refusal(&[1]));
        assert!(refusal(&[0, 0, 1]).contains("2 components"));
        assert!(refusal(&[0, 1, 1]).contains("2 signatures"));
        let mut manifest = manifest();
        manifest.layers[0].digest = "sha256:../..".to_owned();
        let err = ImageLayers::of(&manifest, "sha256:ab").unwrap_err().to_string();
        assert!(err.contains("sha256:../.."), "{err}");
    }

    #[test]
    fn what_is_no_manifest_of_an_image_is_refused_with_the_reason() {
        for (text, reason) in [
            ("{}", "schemaVersion"),
            (r#"{"schemaVersion": 1}"#, "schemaVersion is 1"),
            (r#"{"schemaVersion": 2, "layers": [{"mediaType": "a", "digest": "b", "size": -1}]}"#, "-1"),
            (r#"{"schemaVersion": 2, "manifests": []}"#, "an index of several images"),
            ("<html>", "expected value"),
        ] {
            let err = ImageManifest::read(text.as_bytes(), "sha256:ab").unwrap_err().to_string();
            assert!(err.contains("sha256:ab") && err.contains(reason), "{text}: {err}");
        }
    }
}
