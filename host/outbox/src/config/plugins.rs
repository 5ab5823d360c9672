//! The settings of where plugins come from: a folder, images in registries, and the folder of the images' manifests.
//!
//! It does not know how an image is pulled or a folder is read.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use outbox_registry::{ImageReference, ReferenceError};

use crate::config::error::ConfigError;
use crate::config::sources::ResolvedSettings;
use crate::config::value::shown_value;

const DEFAULT_FOLDER: &str = "./plugins.d";

/// What a message says instead of an image with a user. A password may have commas, so that the text between two commas
/// may be a part of it.
const WITHOUT_USERS: &str = "images without users and passwords, which belong into OUTBOX_REGISTRY_AUTH_FILE";

/// Characters of URLs, of lists, of patterns and of the shell. A missing folder with one of them is a misspelt setting.
const NOT_IN_FOLDERS: [char; 11] = [':', ';', '|', '*', '?', '<', '>', '"', '\'', '$', '~'];

/// Where plugins come from: at least one of both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PluginPlaces {
    /// The folder of components.
    pub(crate) folder: Option<PathBuf>,
    /// The images. Each has another name.
    pub(crate) images: Vec<ImageReference>,
}

impl PluginPlaces {
    fn parse(text: &str) -> Result<Self, String> {
        if Path::new(text).is_dir() {
            return Ok(Self { folder: Some(text.into()), images: Vec::new() });
        }
        let is_image = |word: &&str| ImageReference::is_written_as_image(word.trim());
        let (images, others): (Vec<_>, Vec<_>) = text.split(',').partition(is_image);
        let folder = folder_of(&others)?;
        let has_user = shown_value(text) != text;
        let images = different_images(&images);
        Ok(Self { folder, images: images.map_err(|err| if has_user { WITHOUT_USERS.to_owned() } else { err })? })
    }

    /// The file of a component in the folder, if there is a folder.
    pub(crate) fn file(&self, name: &str) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(name))
    }

    /// The folder of the manifests of images where no setting names one: that of the components.
    pub(crate) fn default_manifests(&self) -> &Path {
        self.folder.as_deref().unwrap_or(Path::new(DEFAULT_FOLDER))
    }
}

/// The folder that the words besides images name. Commas may be in the name of one that is there.
fn folder_of(words: &[&str]) -> Result<Option<PathBuf>, String> {
    let name = words.join(",");
    if !Path::new(name.trim()).is_dir() && (words.len() > 1 || words.iter().any(|word| word.trim().is_empty())) {
        return Err("one folder at most and any number of images, with a comma between two of them".to_owned());
    }
    if words.is_empty() { Ok(None) } else { folder(name.trim()).map(Some) }
}

/// The folder that a word names. It need not exist, but then nothing else may be meant.
fn folder(word: &str) -> Result<PathBuf, String> {
    let path = Path::new(word);
    if path.is_file() {
        return Err("the folder that the component is in, not the component itself".to_owned());
    }
    if !path.is_dir() && word.contains(NOT_IN_FOLDERS) {
        return Err(format!(
            "a folder, images as oci://HOST/NAME:TAG with oci:// in small letters, or both with commas between them; a \
             folder that is not there yet has none of {} in its name",
            NOT_IN_FOLDERS.map(String::from).join(" ")
        ));
    }
    Ok(path.to_owned())
}

/// The images that words name. Errors if two of them have one name.
fn different_images(words: &[&str]) -> Result<Vec<ImageReference>, String> {
    let parsed: Result<Vec<ImageReference>, _> = words.iter().map(|word| word.trim().parse()).collect();
    let images = parsed.map_err(|err: ReferenceError| format!("the names of images: {err}"))?;
    let mut names = BTreeSet::new();
    match images.iter().find(|image| !names.insert(image.name())) {
        Some(twice) => Err(format!("images of different names: {} is there twice", twice.name())),
        None => Ok(images),
    }
}

impl fmt::Display for PluginPlaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let folder = self.folder.iter().map(|folder| crate::filesystem::shown(folder));
        let all: Vec<_> = folder.chain(self.images.iter().map(ToString::to_string)).collect();
        f.write_str(&all.join(", "))
    }
}

pub(super) fn plugins(settings: &ResolvedSettings) -> Result<PluginPlaces, ConfigError> {
    const VARIABLE: &str = "OUTBOX_PLUGINS";
    let parsed = settings.parsed(VARIABLE, "", |text| Some(PluginPlaces::parse(text)))?;
    let default = || Ok(PluginPlaces { folder: Some(DEFAULT_FOLDER.into()), images: Vec::new() });
    match parsed.unwrap_or_else(default) {
        Ok(places) => Ok(places),
        Err(accepted) => {
            let refused = settings.parsed(VARIABLE, &accepted, |_| None)?;
            Ok(refused.unwrap_or(PluginPlaces { folder: None, images: Vec::new() }))
        }
    }
}

/// The folder of the manifests of images; `None` where it is that of the components.
pub(super) fn manifests(settings: &ResolvedSettings) -> Result<Option<PathBuf>, ConfigError> {
    settings.path("OUTBOX_MANIFESTS")
}

/// Soon enough for a deployment that somebody watches, and rare enough for a registry with hundreds of hosts.
const POLL: Duration = Duration::from_mins(1);

/// A registry that is asked more often may refuse to answer.
const POLL_LEAST: Duration = Duration::from_secs(1);

pub(super) fn registry_poll(settings: &ResolvedSettings) -> Result<Duration, ConfigError> {
    let parse = |text: &str| humantime::parse_duration(text).ok().filter(|poll| *poll >= POLL_LEAST);
    Ok(settings.parsed("OUTBOX_REGISTRY_POLL", "a duration from 1s, such as 30s or 5m", parse)?.unwrap_or(POLL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_are_in_a_folder_in_images_or_in_both() {
        let read = |text: &str| {
            PluginPlaces::parse(text).map(|places| {
                let images: Vec<_> = places.images.iter().map(|image| image.name().to_owned()).collect();
                (places.folder.map(|folder| folder.display().to_string()), images)
            })
        };
        let folder = |name: &str| Some(name.to_owned());
        assert_eq!(read("./plugins.d"), Ok((folder("./plugins.d"), vec![])));
        assert_eq!(read("oci://r.example/a:1"), Ok((None, vec!["a".into()])));
        let both = read("oci://r.example/a:1, /plugins ,oci://r.example/t/b:1");
        assert_eq!(both, Ok((folder("/plugins"), vec!["a".into(), "b".into()])));
        for (text, why) in [
            ("oci://r.example/a", "a tag or a digest"),
            ("oci://a:1", "the host of a registry"),
            ("oci://r.example/a:1,/b,/c", "one folder at most"),
            ("oci://r.example/a:1,", "one folder at most"),
            ("oci://r.example/t/a:1,oci://r.example/a:2", "a is there twice"),
            ("oci://r.example:99999/a:1", "a port from 1 to 65535"),
            ("oci://r.example/a:1,OCI://r.example/b:1", "small letters"),
        ] {
            let err = read(text).unwrap_err();
            assert!(err.contains(why), "{text}: {err}");
        }
    }

    #[test]
    fn a_text_that_names_neither_a_folder_nor_an_image_is_refused() {
        let refused = |text: &str, why: &str| {
            let err = PluginPlaces::parse(text).unwrap_err();
            assert!(err.contains(why), "{text}: {err}");
        };
        for text in ["https://r.example/p", "OCI://r.example/p:1", "r.example/p:1", "/a:/b", "|", "~/p", "$HOME/p"] {
            refused(text, "images as oci://HOST/NAME:TAG with oci:// in small letters");
        }
        for text in ["/a,/b", "/a, b", "/a,", ","] {
            refused(text, "one folder at most");
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("p.wasm");
        std::fs::write(&file, "").unwrap();
        refused(file.to_str().unwrap(), "the folder that the component is in");
    }

    #[test]
    fn no_part_of_a_password_is_in_what_is_said_to_be_accepted() {
        for secret in [
            "oci://ada:hunter7@r.example",
            "oci://ada:hunter7@r.example:5000",
            "oci://ada:hunter,7@r.example",
            "oci://r.example/p:1,oci://ada:hunter/7@r.example",
            "oci://ada:hunter7@r.example/p:1",
        ] {
            let err = PluginPlaces::parse(secret).unwrap_err();
            assert!(err.contains("OUTBOX_REGISTRY_AUTH_FILE") && !err.contains("hunter"), "{err}");
        }
    }

    #[test]
    fn a_folder_need_not_be_there_and_one_that_is_may_have_any_name() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("a, b: c");
        let folder = |text: &str| PluginPlaces::parse(text).map(|places| places.folder);
        folder(place.to_str().unwrap()).unwrap_err();
        std::fs::create_dir(&place).unwrap();
        let beside_images = format!("oci://r.example/p:1, {} ,oci://r.example/q:1", place.display());
        assert_eq!(folder(&beside_images), Ok(Some(place.clone())));
        assert_eq!(folder(place.to_str().unwrap()), Ok(Some(place)));
        assert_eq!(folder("/no/such/plugins.d"), Ok(Some("/no/such/plugins.d".into())));
    }
}
