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

const DEFAULT_FOLDER: &str = "./plugins.d";

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
        let words: Vec<_> = text.split(',').map(str::trim).collect();
        if !words.iter().any(|word| ImageReference::is_written_as_image(word)) {
            return Ok(Self { folder: Some(text.into()), images: Vec::new() });
        }
        let (images, folders): (Vec<_>, Vec<_>) =
            words.into_iter().partition(|word| ImageReference::is_written_as_image(word));
        if folders.len() > 1 || folders.contains(&"") {
            return Err("one folder at most beside the images, with commas between them".to_owned());
        }
        let parsed: Result<Vec<ImageReference>, _> = images.iter().map(|word| word.parse()).collect();
        let images = parsed.map_err(|err: ReferenceError| format!("the names of images: {err}"))?;
        let mut names = BTreeSet::new();
        if let Some(twice) = images.iter().find(|image| !names.insert(image.name())) {
            return Err(format!("images of different names: {} is there twice", twice.name()));
        }
        Ok(Self { folder: folders.first().map(PathBuf::from), images })
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
    match parsed.unwrap_or_else(|| PluginPlaces::parse(DEFAULT_FOLDER)) {
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
        assert_eq!(read("/a, b/c"), Ok((folder("/a, b/c"), vec![])), "a path may have a comma");
        assert_eq!(read("oci://r.example/a:1"), Ok((None, vec!["a".into()])));
        let both = read("oci://r.example/a:1, /plugins ,oci://r.example/t/b:1");
        assert_eq!(both, Ok((folder("/plugins"), vec!["a".into(), "b".into()])));
        for (text, why) in [
            ("oci://r.example/a", "a tag or a digest"),
            ("oci://a:1", "the host of a registry"),
            ("oci://r.example/a:1,/b,/c", "one folder at most"),
            ("oci://r.example/a:1,", "one folder at most"),
            ("oci://r.example/t/a:1,oci://r.example/a:2", "a is there twice"),
        ] {
            let err = read(text).unwrap_err();
            assert!(err.contains(why), "{text}: {err}");
        }
    }
}
