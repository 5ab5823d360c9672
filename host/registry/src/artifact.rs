//! The layout of an image: its config, its layers and their types.
//!
//! It follows the layout of Wasm artifacts in OCI registries, version 0. It sends nothing.

use oci_client::client::{Config, ImageLayer};
use oci_client::manifest::{OCI_IMAGE_MEDIA_TYPE, OciDescriptor, OciImageManifest};
use serde::Serialize;
use wasmparser::{Encoding, Parser, Payload};

use crate::error::{RegistryProblem, brief};
use crate::reference::is_sha256;

const CONFIG_TYPE: &str = "application/vnd.wasm.config.v0+json";
const COMPONENT_TYPE: &str = "application/wasm";
/// A signature in the format of minisign.
const SIGNATURE_TYPE: &str = "application/vnd.outbox.signature.v1.minisign";
/// The layout wants a time. With a fixed one, the same component has the same digest whenever it is pushed.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// The layers of an image that a host needs.
#[derive(Debug)]
pub(crate) struct ImageLayers<'a> {
    /// The component.
    pub(crate) component: &'a OciDescriptor,
    /// Its signature, if the image has one.
    pub(crate) signature: Option<&'a OciDescriptor>,
}

/// An image as it is pushed.
pub(crate) struct ImageParts {
    /// The component, and the signature if there is one.
    pub(crate) layers: Vec<ImageLayer>,
    /// The config.
    pub(crate) config: Config,
    /// The manifest that names both.
    pub(crate) manifest: OciImageManifest,
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

impl<'a> ImageLayers<'a> {
    /// Finds the layers of an image with this digest. Errors without a component, with several, and if a layer is not
    /// named by its SHA-256.
    pub(crate) fn of(manifest: &'a OciImageManifest, digest: &str) -> Result<Self, RegistryProblem> {
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
fn types(manifest: &OciImageManifest) -> String {
    let types: Vec<_> = manifest.layers.iter().map(|layer| layer.media_type.as_str()).collect();
    if types.is_empty() { "no layer".to_owned() } else { brief(&types.join(", ")) }
}

impl ImageParts {
    /// The image of a component. Errors if the bytes are none.
    pub(crate) fn new(component: Vec<u8>, signature: Option<String>) -> Result<Self, RegistryProblem> {
        let names = ComponentNames::of(&component).map_err(RegistryProblem::NotAComponent)?;
        let component = ImageLayer::new(component, COMPONENT_TYPE.to_owned(), None);
        let signature = signature.map(|text| ImageLayer::new(text.into_bytes(), SIGNATURE_TYPE.to_owned(), None));
        let layers: Vec<_> = [component].into_iter().chain(signature).collect();
        let config = WasmConfig {
            created: CREATED,
            architecture: "wasm",
            os: "wasip2",
            layer_digests: layers.iter().map(ImageLayer::sha256_digest).collect(),
            component: names,
        };
        let config = serde_json::to_vec(&config).map_err(|err| RegistryProblem::Answer(err.to_string()))?;
        let config = Config::new(config, CONFIG_TYPE.to_owned(), None);
        let mut manifest = OciImageManifest::build(&layers, &config, None);
        manifest.media_type = Some(OCI_IMAGE_MEDIA_TYPE.to_owned());
        Ok(Self { layers, config, manifest })
    }
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
        let config: serde_json::Value = serde_json::from_slice(&parts.config.data).unwrap();
        assert_eq!(config["component"], serde_json::json!({"exports": ["d:e/f"], "imports": ["a:b/c"]}));
        assert_eq!((&config["os"], &config["architecture"]), (&"wasip2".into(), &"wasm".into()));
        let digests: Vec<_> = parts.manifest.layers.iter().map(|layer| layer.digest.as_str().into()).collect();
        assert_eq!(config["layerDigests"], serde_json::Value::Array(digests));
        let types: Vec<_> = parts.manifest.layers.iter().map(|layer| layer.media_type.as_str()).collect();
        assert_eq!((parts.manifest.config.media_type.as_str(), types[0]), (CONFIG_TYPE, COMPONENT_TYPE));
        assert_eq!(types.len(), 2);
        let unsigned = ImageParts::new(bytes.clone(), None).unwrap();
        assert_eq!(unsigned.manifest.layers.len(), 1);
        let text = |parts: &ImageParts| serde_json::to_string(&parts.manifest).unwrap();
        assert_eq!(text(&parts), text(&image()));
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
        let refusal = |layers: &[usize]| {
            let mut manifest = parts.manifest.clone();
            manifest.layers = layers.iter().map(|at| parts.manifest.layers[*at].clone()).collect();
            ImageLayers::of(&manifest, "sha256:ab").err().map(|err| err.to_string()).unwrap_or_default()
        };
        assert_eq!([refusal(&[0]), refusal(&[0, 1])], ["", ""]);
        assert!(refusal(&[]).contains("sha256:ab has no component") && refusal(&[]).contains("no layer"));
        assert!(refusal(&[1]).contains("minisign"), "{}", refusal(&[1]));
        assert!(refusal(&[0, 0, 1]).contains("2 components"));
        assert!(refusal(&[0, 1, 1]).contains("2 signatures"));
        let mut manifest = parts.manifest.clone();
        manifest.layers[0].digest = "sha256:../..".to_owned();
        let err = ImageLayers::of(&manifest, "sha256:ab").unwrap_err().to_string();
        assert!(err.contains("sha256:../.."), "{err}");
    }
}
