//! What SIGHUP does: the settings are read again. Those that can change are applied, and the others are named.
//!
//! The environment and the flags of a process do not change, so changes come from `outbox.toml`. This file does not
//! know what the settings mean.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use outbox_http::{AccessSettings, HttpSettings, SessionKey};
use outbox_runtime::Plugins;
use outbox_store::{Inspect, Retention};

use crate::config::{Config, Flags};

/// The settings of a running host that can change.
pub(crate) struct LiveSettings {
    flags: Flags,
    instance: String,
    current: Mutex<Config>,
    http: watch::Sender<Arc<HttpSettings>>,
    retention: watch::Sender<Retention>,
}

impl LiveSettings {
    /// The settings at the start.
    pub(crate) fn new(config: &Config, flags: Flags, instance: &str) -> Arc<Self> {
        let http = watch::Sender::new(Arc::new(http_settings(config, instance)));
        let retention = watch::Sender::new(retention(config));
        let current = Mutex::new(config.clone());
        Arc::new(Self { flags, instance: instance.to_owned(), current, http, retention })
    }

    pub(crate) fn http(&self) -> watch::Receiver<Arc<HttpSettings>> {
        self.http.subscribe()
    }

    pub(crate) fn retention(&self) -> watch::Receiver<Retention> {
        self.retention.subscribe()
    }

    /// Reloads at each change of `hangups`, until that ends.
    pub(crate) async fn follow(
        self: Arc<Self>,
        mut hangups: watch::Receiver<u64>,
        plugins: Arc<Plugins>,
        store: Arc<dyn Inspect>,
    ) {
        while hangups.changed().await.is_ok() {
            tracing::info!("SIGHUP: reading the settings and the plugin folder again");
            plugins.rescan();
            self.reload();
            self.warn_of_expired_tokens(&*store).await;
        }
    }

    /// Logs which tokens are refused because their time is over. A store that does not answer says so elsewhere.
    pub(crate) async fn warn_of_expired_tokens(&self, store: &dyn Inspect) {
        let access = self.http.borrow().access.clone();
        let Ok(now) = store.now().await else { return };
        for token in access.expired(now) {
            tracing::warn!(token = token.name, "a token has expired and is refused: `outbox token new` makes another");
        }
    }

    fn reload(&self) {
        match Config::load(self.flags.clone()) {
            Ok(read) => self.apply(&read),
            Err(err) => tracing::error!(error = %err, "the settings stay as they are: those that were read are wrong"),
        }
    }

    fn apply(&self, read: &Config) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = current.changed_settings(read);
        let new = current.with_reloadable(read);
        if let (Ok(()), Err(err)) = (current.require_authentication(), new.require_authentication()) {
            tracing::error!(error = %err, "the settings stay as they are");
            return;
        }
        if access(&current).is_closed() && !access(&new).is_closed() {
            let error = "no token is left, which would open the host to everybody: remove the last one with a restart";
            tracing::error!(error, "the settings stay as they are");
            return;
        }
        let fixed = new.changed_settings(read);
        let applied: Vec<_> = changed.into_iter().filter(|name| !fixed.contains(name)).collect();
        self.http.send_replace(Arc::new(http_settings(&new, &self.instance)));
        self.retention.send_replace(retention(&new));
        *current = new;
        tracing::info!(applied = applied.join(", "), "the settings were read again");
        if !fixed.is_empty() {
            tracing::warn!(settings = fixed.join(", "), "changed settings apply after a restart only");
        }
    }
}

fn http_settings(config: &Config, instance: &str) -> HttpSettings {
    HttpSettings {
        is_durable: config.is_enabled,
        is_strict: config.is_strict,
        sagas: config.sagas.clone(),
        access: access(config),
        hosts: config.hosts.clone(),
        environment: config.environment_name.clone(),
        environment_colour: config.environment_colour,
        max_pending: config.max_pending,
        metrics_store: config.metrics_store,
        redaction: config.redaction.clone(),
        pod: instance.to_owned(),
        ..HttpSettings::default()
    }
}

fn access(config: &Config) -> AccessSettings {
    AccessSettings {
        tokens: config.all_tokens(),
        proxies: config.trusted_proxies.clone(),
        proxy_users: config.proxy_users.clone(),
        session_key: config.session_key.as_ref().map(|key| SessionKey::new(key.expose())),
    }
}

fn retention(config: &Config) -> Retention {
    Retention {
        done: config.retain_done,
        dead: config.retain_dlq,
        signals: config.retain_signals,
        audit: config.retain_audit,
        history: config.retain_history,
    }
}
