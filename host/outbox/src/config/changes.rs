//! Which settings differ between two configurations, and which of them a running process can take over.
//!
//! This file does not know how a setting is read or applied.

use crate::config::Config;

impl Config {
    /// The variables of the settings that differ in `other`. A part of `OUTBOX_DB` counts as `OUTBOX_DB`, and the sagas
    /// and tokens of files have the names `sagas` and `tokens`. Roles of users of proxies count as the users.
    pub(crate) fn changed_settings(&self, other: &Self) -> Vec<&'static str> {
        let differs = [
            ("OUTBOX_ENABLED", self.is_enabled != other.is_enabled),
            ("OUTBOX_DB", self.database != other.database),
            ("OUTBOX_DB_LISTEN", self.listen_database != other.listen_database),
            ("OUTBOX_MIGRATE", self.migrates != other.migrates),
            ("OUTBOX_VISIBILITY_SEC", self.lease != other.lease),
            ("OUTBOX_MAX_RETRIES", self.retry.max_retries != other.retry.max_retries),
            ("OUTBOX_MAX_CRASHES", self.crash_budget.max_crashes != other.crash_budget.max_crashes),
            ("OUTBOX_BACKOFF_BASE_MS", self.retry.base != other.retry.base),
            ("OUTBOX_BACKOFF_CAP_MS", self.retry.cap != other.retry.cap),
            ("OUTBOX_BREAKER", self.breaker.mode != other.breaker.mode),
            ("OUTBOX_ROLE", self.role != other.role),
            ("OUTBOX_PLUGINS", self.plugins != other.plugins),
            ("OUTBOX_MANIFESTS", self.manifests != other.manifests),
            ("OUTBOX_REGISTRY_POLL", self.registry_poll != other.registry_poll),
            ("OUTBOX_CACHE_DIR", self.cache_dir != other.cache_dir),
            ("OUTBOX_PLUGIN_KEYS", self.plugin_keys != other.plugin_keys),
            ("OUTBOX_CONCURRENCY", self.concurrency != other.concurrency),
            ("OUTBOX_PREFETCH", self.prefetch != other.prefetch),
            ("OUTBOX_PAYLOAD_MIB", self.payload_bytes != other.payload_bytes),
            ("OUTBOX_CA_FILE", self.ca_files != other.ca_files),
            ("OUTBOX_REGISTRY_AUTH_FILE", self.registry.auth_file != other.registry.auth_file),
            ("OUTBOX_REGISTRY_HTTP", self.registry.plain_http != other.registry.plain_http),
            ("OUTBOX_DRAIN_SEC", self.drain != other.drain),
            ("OUTBOX_LISTEN", self.listen != other.listen),
            ("OUTBOX_TOKEN", self.token != other.token),
            ("tokens", self.tokens != other.tokens),
            ("OUTBOX_SESSION_KEY", self.session_key != other.session_key),
            ("OUTBOX_TRUST_PROXIES", self.trusted_proxies != other.trusted_proxies),
            ("OUTBOX_TRUST_PROXY_USER", self.proxy_users != other.proxy_users),
            ("OUTBOX_HOSTS", self.hosts != other.hosts),
            ("OUTBOX_ENVIRONMENT", self.environment_name != other.environment_name),
            ("OUTBOX_ENVIRONMENT_COLOUR", self.environment_colour != other.environment_colour),
            ("OUTBOX_MAX_PENDING", self.max_pending != other.max_pending),
            ("OUTBOX_METRICS_STORE", self.metrics_store != other.metrics_store),
            ("OUTBOX_REDACT", self.redaction != other.redaction),
            ("OUTBOX_RETAIN_DONE", self.retain_done != other.retain_done),
            ("OUTBOX_RETAIN_DLQ", self.retain_dlq != other.retain_dlq),
            ("OUTBOX_RETAIN_SIGNALS", self.retain_signals != other.retain_signals),
            ("OUTBOX_RETAIN_AUDIT", self.retain_audit != other.retain_audit),
            ("OUTBOX_RETAIN_HISTORY", self.retain_history != other.retain_history),
            ("OUTBOX_ALERTS", self.alerts != other.alerts),
            ("OUTBOX_ALERT_PERIOD", self.alert_period != other.alert_period),
            ("OUTBOX_LOG", self.log != other.log),
            ("GOVERNOR_STRICT_MODE", self.is_strict != other.is_strict),
            ("sagas", self.sagas != other.sagas),
        ];
        differs.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
    }

    /// This configuration with the settings of `other` that a running process can take over.
    pub(crate) fn with_reloadable(&self, other: &Self) -> Self {
        Self {
            token: other.token.clone(),
            tokens: other.tokens.clone(),
            session_key: other.session_key.clone(),
            trusted_proxies: other.trusted_proxies.clone(),
            proxy_users: other.proxy_users.clone(),
            hosts: other.hosts.clone(),
            environment_name: other.environment_name.clone(),
            environment_colour: other.environment_colour,
            max_pending: other.max_pending,
            is_strict: other.is_strict,
            sagas: other.sagas.clone(),
            metrics_store: other.metrics_store,
            redaction: other.redaction.clone(),
            retain_done: other.retain_done,
            retain_dlq: other.retain_dlq,
            retain_signals: other.retain_signals,
            retain_audit: other.retain_audit,
            retain_history: other.retain_history,
            ..self.clone()
        }
    }
}
