//! The images that `OUTBOX_PLUGINS` names: the newest component of each is kept in a folder, which the runtime follows.
//!
//! A tag that was moved is a file that was replaced, so generations, canaries, rollbacks and the quarantine are the
//! runtime's. Each update runs in a task of its own: one that panics has failed. Whatever is wrong with a registry or an
//! image, the component that was kept last stays. This file decides when an image is pulled, and what is told about it;
//! `folder.rs` keeps the files.

mod folder;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use outbox_core::{PluginState, PluginStatus};
use outbox_registry::{ImageReference, PulledImage, RegistryClient};
use outbox_runtime::{ImageDir, TrustedKeyError, TrustedKeys};

use crate::config::Config;
use crate::images::folder::ImageFolder;

/// The pause after the first failure in a row. Each further one doubles it, up to the poll.
const RETRY: Duration = Duration::from_secs(1);
/// Doublings after which the pause is longer than any poll that makes sense.
const RETRY_DOUBLINGS_MAX: u32 = 16;

/// The images of a process.
pub(crate) struct Images {
    followed: Vec<FollowedImage>,
    registry: RegistryClient,
    keys: TrustedKeys,
    poll: Duration,
}

struct FollowedImage {
    reference: ImageReference,
    folder: ImageFolder,
    state: Mutex<ImageState>,
}

/// What is known about an image besides its files.
#[derive(Default)]
struct ImageState {
    /// The digest of the image of each component that is kept.
    images: BTreeMap<String, String>,
    /// The digest of the image whose component the runtime sees.
    newest: Option<String>,
    /// Why the newest image is not the one that the registry names, or why that is not known.
    trouble: Option<String>,
    /// The digest of an image that is not tried again, and why.
    refused: Option<(String, String)>,
}

/// What an update has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Update {
    /// The component is the one that the registry names, or the image is refused.
    Same,
    /// There is another component.
    Changed,
    /// The same update may succeed later.
    Failed,
}

/// The folders in which the runtime finds the components, inside the cache folder.
pub(crate) fn folders(config: &Config) -> Vec<ImageDir> {
    let folder = |image: &ImageReference| {
        let (folder, name) = (folder_of(config, image), image.name().to_owned());
        let manifests = folder.manifests().to_vec();
        ImageDir { dir: folder.current(), name, image: image.to_string(), manifests }
    };
    config.plugins.images.iter().map(folder).collect()
}

fn folder_of(config: &Config, image: &ImageReference) -> ImageFolder {
    ImageFolder::new(&config.cache_dir, image, config.manifests(), config.role.as_deref())
}

impl Images {
    /// The images of these settings, as they were left by an earlier run. Writes nothing.
    pub(crate) fn new(config: &Config) -> Result<Self, TrustedKeyError> {
        let image = |reference: &ImageReference| {
            let folder = folder_of(config, reference);
            let state = ImageState { images: folder.images(), newest: folder.newest(), ..ImageState::default() };
            FollowedImage { reference: reference.clone(), folder, state: Mutex::new(state) }
        };
        Ok(Self {
            followed: config.plugins.images.iter().map(image).collect(),
            registry: RegistryClient::new(config.registry.clone()),
            keys: TrustedKeys::read(&config.plugin_keys)?,
            poll: config.registry_poll,
        })
    }

    /// Lets each manifest be the operator's file as it is found now.
    pub(crate) fn link_manifests(&self) {
        self.followed.iter().for_each(FollowedImage::link_manifest);
    }

    /// Pulls what the registries name, now, at each poll and at each change of `hangups`, until `end` is cancelled. Calls
    /// `changed` after each change of a component.
    pub(crate) async fn follow(
        self: Arc<Self>,
        changed: Arc<dyn Fn() + Send + Sync>,
        hangups: watch::Receiver<u64>,
        end: CancellationToken,
    ) {
        let mut following = JoinSet::new();
        for at in 0..self.followed.len() {
            let (images, changed, hangups) = (Arc::clone(&self), Arc::clone(&changed), hangups.clone());
            following.spawn(async move { images.follow_one(at, &*changed, hangups).await });
        }
        loop {
            tokio::select! {
                () = end.cancelled() => return,
                Some(Err(err)) = following.join_next() => tracing::error!(error = %err, "an image is not followed any more"),
            }
        }
    }

    async fn follow_one(
        self: Arc<Self>,
        at: usize,
        changed: &(dyn Fn() + Send + Sync),
        mut hangups: watch::Receiver<u64>,
    ) {
        let mut failures = 0;
        loop {
            let update = tokio::select! {
                update = Arc::clone(&self).update(at) => update,
                Ok(()) = hangups.changed() => {
                    // What is given up here may have replaced the component already.
                    changed();
                    continue;
                }
            };
            failures = if update == Update::Failed { failures + 1 } else { 0 };
            if update == Update::Changed {
                changed();
            }
            tokio::select! {
                () = tokio::time::sleep(pause(failures, self.poll)) => {}
                Ok(()) = hangups.changed() => {}
            }
        }
    }

    async fn update(self: Arc<Self>, at: usize) -> Update {
        let (images, mut task) = (Arc::clone(&self), JoinSet::new());
        task.spawn(async move { images.followed[at].update(&images.registry, &images.keys).await });
        match task.join_next().await {
            Some(Ok(update)) => update,
            ended => {
                let reason = ended.and_then(Result::err).map_or_else(String::new, |err| err.to_string());
                self.followed[at].tell(Some(format!("the update of the image broke off: {reason}")));
                Update::Failed
            }
        }
    }

    /// The images of which no version has been loaded in this process, so that nothing handles their items. `plugins` are
    /// the words of the runtime.
    pub(crate) fn without_version(&self, plugins: &[PluginStatus]) -> Vec<String> {
        let was_loaded = |image: &&FollowedImage| {
            let file = image.folder.component();
            plugins.iter().any(|plugin| plugin.file == file && plugin.generation.is_some())
        };
        self.followed.iter().filter(|image| !was_loaded(image)).map(|image| image.reference.to_string()).collect()
    }

    /// The plugins with the images that they are from, what is wrong with these, and the images that gave none yet.
    pub(crate) fn shown(&self, mut plugins: Vec<PluginStatus>) -> Vec<PluginStatus> {
        for image in &self.followed {
            image.show(&mut plugins);
        }
        plugins
    }
}

/// The pause until the next update, after this many failures in a row.
fn pause(failures: u32, poll: Duration) -> Duration {
    match failures {
        0 => poll,
        _ => poll.min(RETRY * (1 << (failures - 1).min(RETRY_DOUBLINGS_MAX))),
    }
}

impl FollowedImage {
    fn state(&self) -> MutexGuard<'_, ImageState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link_manifest(&self) {
        if let Err(reason) = self.folder.link_manifest() {
            tracing::warn!(plugin.image = %self.reference, %reason, "the manifest could not be linked");
        }
    }

    /// Makes the component the one that the registry names.
    async fn update(&self, registry: &RegistryClient, keys: &TrustedKeys) -> Update {
        self.link_manifest();
        let (update, trouble) = match self.newest(registry).await {
            Ok(digest) if self.runs(&digest).await => (Update::Same, None),
            Ok(digest) => match self.refusal(&digest) {
                Some(reason) => (Update::Same, Some(reason)),
                None => self.pull(&digest, registry, keys).await,
            },
            Err(reason) => (Update::Failed, Some(reason)),
        };
        self.tell(trouble);
        update
    }

    /// Whether the runtime sees the component of this image, whole.
    async fn runs(&self, digest: &str) -> bool {
        let is_newest = self.state().newest.as_deref() == Some(digest);
        is_newest && self.folder.newest().as_deref() == Some(digest) && self.has(digest).await
    }

    async fn has(&self, digest: &str) -> bool {
        let (folder, digest) = (self.folder.clone(), digest.to_owned());
        tokio::task::spawn_blocking(move || folder.has(&digest)).await.unwrap_or(false)
    }

    /// The digest of the image that should run. Errors while what is kept cannot be trusted.
    async fn newest(&self, registry: &RegistryClient) -> Result<String, String> {
        self.folder.check_cache()?;
        match self.reference.pin() {
            Some(pin) => Ok(pin.to_owned()),
            None => registry.resolve(&self.reference).await.map_err(|err| err.to_string()),
        }
    }

    fn refusal(&self, digest: &str) -> Option<String> {
        let state = self.state();
        state.refused.as_ref().filter(|(refused, _)| refused == digest).map(|(_, reason)| reason.clone())
    }

    async fn pull(&self, digest: &str, registry: &RegistryClient, keys: &TrustedKeys) -> (Update, Option<String>) {
        let image = self.reference.at(digest);
        let kept = if self.has(digest).await {
            self.folder.select(digest)
        } else {
            let pulled = match registry.pull(&image).await {
                Ok(pulled) => pulled,
                Err(err) if err.is_about_image() => return self.refuse(digest, err.to_string()),
                Err(err) => return (Update::Failed, Some(err.to_string())),
            };
            let signature = pulled.signature.as_deref();
            if let Err(reason) = keys.check(self.reference.name(), &pulled.component, signature) {
                return self.refuse(digest, format!("{image}: {reason}"));
            }
            self.keep(pulled).await
        };
        match kept {
            Ok(()) => {
                let images = self.folder.images();
                *self.state() = ImageState { images, newest: Some(digest.to_owned()), ..ImageState::default() };
                tracing::info!(plugin.name = self.reference.name(), plugin.image = %image, "image pulled");
                (Update::Changed, None)
            }
            Err(reason) => (Update::Failed, Some(format!("{image}: its component could not be kept: {reason}"))),
        }
    }

    async fn keep(&self, pulled: PulledImage) -> Result<(), String> {
        let folder = self.folder.clone();
        tokio::task::spawn_blocking(move || folder.keep(&pulled)).await.map_err(|err| err.to_string())?
    }

    fn refuse(&self, digest: &str, reason: String) -> (Update, Option<String>) {
        self.state().refused = Some((digest.to_owned(), reason.clone()));
        (Update::Same, Some(reason))
    }

    /// Logs what is wrong once, and that it has passed.
    fn tell(&self, trouble: Option<String>) {
        let before = std::mem::replace(&mut self.state().trouble, trouble.clone());
        match (before, trouble) {
            (before, Some(reason)) if before.as_ref() != Some(&reason) => {
                tracing::warn!(
                    plugin.name = self.reference.name(),
                    reason,
                    "an image was not pulled; a version that runs stays"
                );
            }
            (Some(_), None) => {
                tracing::info!(plugin.name = self.reference.name(), plugin.image = %self.reference, "the registry names the image that runs again");
            }
            _ => {}
        }
    }

    fn show(&self, plugins: &mut Vec<PluginStatus>) {
        let (state, file) = (self.state(), self.folder.component());
        let named = |digest: Option<&String>| {
            let of_component = digest.and_then(|digest| state.images.get(digest));
            let image = if digest.is_none() { state.newest.as_ref() } else { of_component };
            Some(image.map_or(self.reference.clone(), |image| self.reference.at(image)).to_string())
        };
        let mut trouble = state.trouble.clone();
        let mut is_there = false;
        for plugin in plugins.iter_mut().filter(|plugin| plugin.file == file) {
            is_there = true;
            plugin.image = named(plugin.digest.as_ref());
            if plugin.error.is_none() {
                plugin.error = trouble.take();
            }
        }
        if !is_there {
            plugins.push(PluginStatus {
                name: self.reference.name().to_owned(),
                state: if trouble.is_some() { PluginState::Failed } else { PluginState::Loading },
                error: trouble,
                image: named(None),
                file,
                ..PluginStatus::default()
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_tried_again_soon_and_never_later_than_at_the_poll() {
        let poll = Duration::from_mins(1);
        let pauses = [0, 1, 2, 6, 7, 100].map(|failures| pause(failures, poll).as_secs());
        assert_eq!(pauses, [60, 1, 2, 32, 60, 60]);
        assert_eq!(pause(9, RETRY), RETRY);
    }
}
