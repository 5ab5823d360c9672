//! Every setting: its variable, the flag and the file that can give it instead, its default, and what it decides.
//!
//! The example of `outbox.toml` and `outbox config show` are made from it. It does not know how a value is parsed.

/// Whether a value may be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// As it is.
    Plain,
    /// A URL, without who connects and with what.
    Url,
    /// Not at all.
    Never,
}

/// A setting.
#[derive(Debug)]
pub(super) struct Setting {
    /// Its environment variable.
    pub(super) variable: &'static str,
    /// The flag that overrides the variable.
    pub(super) flag: Option<&'static str>,
    /// The setting that names a file with the value instead; secrets have one.
    pub(super) file: Option<&'static str>,
    /// The default as an accepted value; empty where no value is given by default.
    pub(super) default: &'static str,
    /// What it decides, in one line.
    pub(super) about: &'static str,
    /// Whether its value may be shown.
    pub(super) shown: Shown,
}

const fn setting(variable: &'static str, default: &'static str, about: &'static str) -> Setting {
    Setting { variable, flag: None, file: None, default, about, shown: Shown::Plain }
}

impl Setting {
    const fn with_flag(self, flag: &'static str) -> Self {
        Self { flag: Some(flag), ..self }
    }

    const fn secret(self, shown: Shown, file: &'static str) -> Self {
        Self { shown, file: Some(file), ..self }
    }
}

/// All settings, in the order of the example.
pub(super) const SETTINGS: &[Setting] = &[
    setting("OUTBOX_ENABLED", "false", "Whether writes are durable; with false, `serve` performs them inline"),
    setting("OUTBOX_DB", "/var/run/outbox.sqlite", "The SQLite file, or the URL of a PostgreSQL database")
        .with_flag("--db")
        .secret(Shown::Url, "OUTBOX_DB_FILE"),
    setting("OUTBOX_DB_FILE", "", "A file that contains the value of OUTBOX_DB"),
    setting("OUTBOX_BACKEND", "", "sqlite or postgres, to confirm what OUTBOX_DB says"),
    setting("OUTBOX_DB_LISTEN", "", "The URL for notifications, where OUTBOX_DB leads through a pooler")
        .secret(Shown::Url, "OUTBOX_DB_LISTEN_FILE"),
    setting("OUTBOX_DB_LISTEN_FILE", "", "A file that contains the value of OUTBOX_DB_LISTEN"),
    setting("OUTBOX_DB_PASSWORD", "", "The password for the URL of the database")
        .secret(Shown::Never, "OUTBOX_DB_PASSWORD_FILE"),
    setting("OUTBOX_DB_PASSWORD_FILE", "", "A file that contains the password"),
    setting(
        "OUTBOX_MIGRATE",
        "auto",
        "auto: the host creates and migrates the schema; never: only `outbox migrate` does",
    ),
    setting("OUTBOX_VISIBILITY_SEC", "60", "Seconds of the lease of a claim, which a host renews"),
    setting("OUTBOX_MAX_RETRIES", "8", "Retries before an item moves to the DLQ"),
    setting("OUTBOX_MAX_CRASHES", "5", "Lost leases of an item before it moves to the DLQ"),
    setting("OUTBOX_BACKOFF_BASE_MS", "1000", "Milliseconds before the first retry"),
    setting("OUTBOX_BACKOFF_CAP_MS", "300000", "The most milliseconds between two retries"),
    setting(
        "OUTBOX_BREAKER",
        "auto",
        "auto: while a receiver is down, failures do not count, unless retries are set; on: also then; off: they count",
    ),
    setting("OUTBOX_ROLE", "", "The role of this process: a folder below that of the plugins").with_flag("--role"),
    setting("OUTBOX_PLUGINS", "./plugins.d", "The folder of the components, images as oci://HOST/NAME:TAG, or both")
        .with_flag("--plugins"),
    setting("OUTBOX_MANIFESTS", "", "The folder of the manifests of images; by default that of the components"),
    setting("OUTBOX_REGISTRY_POLL", "1m", "How often a registry is asked what a tag names"),
    setting("OUTBOX_CACHE_DIR", "", "The folder of compiled code; by default in the user's cache folder"),
    setting("OUTBOX_PLUGIN_KEYS", "", "Keys of minisign; with keys, only signed components are loaded"),
    setting("OUTBOX_CA_FILE", "", "A PEM file with more certificate authorities for receivers and registries"),
    setting(
        "OUTBOX_REGISTRY_AUTH_FILE",
        "",
        "A file with the credentials of registries, as docker login writes it; by default that of the user's docker",
    ),
    setting(
        "OUTBOX_REGISTRY_HTTP",
        "loopback",
        "Registries without TLS: loopback, never, or names such as registry.internal:5000",
    ),
    setting("OUTBOX_CONCURRENCY", "64", "The most attempts that run at a time").with_flag("--concurrency"),
    setting("OUTBOX_PREFETCH", "512", "The most items that are claimed ahead of short attempts; 0 turns this off"),
    setting("OUTBOX_PAYLOAD_MIB", "64", "MiB of payloads in hand, above which a worker claims no more"),
    setting("OUTBOX_DRAIN_SEC", "20", "Seconds that a shutdown waits for attempts"),
    setting("OUTBOX_LISTEN", "127.0.0.1:7070", "The address of the HTTP server").with_flag("--listen"),
    setting("OUTBOX_TOKEN", "", "A bearer token with all rights; it, or [[tokens]], is needed beyond loopback")
        .secret(Shown::Never, "OUTBOX_TOKEN_FILE"),
    setting("OUTBOX_TOKEN_FILE", "", "A file that contains the token; SIGHUP reads it again"),
    setting("OUTBOX_TOKENS_FILE", "", "A file with more [[tokens]], which others must not read; SIGHUP reads it again"),
    setting(
        "OUTBOX_SESSION_KEY",
        "",
        "Signs the cookies of log-ins, the same for all processes; 32 characters or more",
    )
    .secret(Shown::Never, "OUTBOX_SESSION_KEY_FILE"),
    setting("OUTBOX_SESSION_KEY_FILE", "", "A file that contains this key; SIGHUP reads it again"),
    setting("OUTBOX_TRUST_PROXIES", "", "Addresses of proxies whose headers are believed, such as 10.0.0.0/8"),
    setting("OUTBOX_TRUST_PROXY_USER", "", "The header in which these proxies name the user, such as X-Forwarded-User"),
    setting("OUTBOX_TRUST_PROXY_ROLE", "read", "What such users may do: enqueue, read, operate, admin or scrape"),
    setting("OUTBOX_HOSTS", "", "Names that the Host header may have without a token, or for users of a proxy"),
    setting("OUTBOX_ENVIRONMENT", "", "What the cockpit calls this environment, such as production"),
    setting(
        "OUTBOX_ENVIRONMENT_COLOUR",
        "blue",
        "The colour of this name in the cockpit: blue, green, amber, red, violet or grey",
    ),
    setting("OUTBOX_MAX_PENDING", "", "How many items may wait before writes over HTTP are refused"),
    setting("OUTBOX_METRICS_STORE", "false", "Whether /metrics has the metrics of the store too, for a single process"),
    setting("OUTBOX_REDACT", "", "Members of payloads that are not shown, such as card.number, lines.*.note"),
    setting("OUTBOX_RETAIN_DONE", "keep", "How long DONE items stay, such as 30d"),
    setting("OUTBOX_RETAIN_DLQ", "keep", "How long dead items stay"),
    setting("OUTBOX_RETAIN_AUDIT", "keep", "How long the audit trail stays"),
    setting("OUTBOX_RETAIN_SIGNALS", "7d", "How long signals and finished jobs stay"),
    setting(
        "OUTBOX_RETAIN_HISTORY",
        "1d",
        "How long the figures of each minute stay, which `outbox stats --last` shows",
    ),
    setting("OUTBOX_ALERTS", "", "The type of the items that report problems, such as alert"),
    setting("OUTBOX_ALERT_PERIOD", "5m", "The shortest time between two alerts of one kind about one type"),
    setting("OUTBOX_LOG", "text", "The format of the log, text or json").with_flag("--log"),
    setting("GOVERNOR_STRICT_MODE", "false", "Whether writes without both contract headers are refused"),
];

impl Setting {
    /// The setting of this variable.
    pub(super) fn of(variable: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.variable == variable)
    }

    /// The key of the file with the same meaning.
    pub(super) fn key(&self) -> String {
        key_of(self.variable)
    }
}

/// The key of the file with the same meaning as a variable.
pub(super) fn key_of(variable: &str) -> String {
    variable.trim_start_matches("OUTBOX_").to_ascii_lowercase()
}

/// A setting as people read of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DescribedSetting {
    /// Its environment variable.
    pub(crate) variable: &'static str,
    /// The default; empty where no value is given by default.
    pub(crate) default: &'static str,
    /// What it decides, in one line without a full stop.
    pub(crate) about: &'static str,
}

/// Every setting, as people read of it.
pub(super) fn described() -> impl Iterator<Item = DescribedSetting> {
    SETTINGS.iter().map(|&Setting { variable, default, about, .. }| DescribedSetting { variable, default, about })
}

/// An `outbox.toml` with every key, its default and its meaning. All keys are comments, so it changes nothing.
pub(super) fn example() -> String {
    let entry = |setting: &Setting| {
        let Setting { about, default, .. } = setting;
        let is_bare = default.parse::<i64>().is_ok() || default.parse::<bool>().is_ok();
        let value = if is_bare { (*default).to_owned() } else { format!("{default:?}") };
        format!("# {about}.\n#{} = {value}\n", setting.key())
    };
    let entries: Vec<_> = SETTINGS.iter().map(entry).collect();
    format!("{EXAMPLE_HEAD}\n{}\n{EXAMPLE_SAGA}\n{EXAMPLE_TOKEN}", entries.join("\n"))
}

const EXAMPLE_HEAD: &str = "\
# The settings of an outbox. Every key is here with its default; an empty value counts as not given.
# A flag wins over the variable OUTBOX_<KEY>, a variable over this file. `outbox config show` says where each
# value comes from.
";

const EXAMPLE_SAGA: &str = "\
# The types of a saga's items: POST /sagas/Onboarding enqueues one of each.
#[sagas.Onboarding]
#steps = [\"mail\", \"crm\"]
";

const EXAMPLE_TOKEN: &str = "\
# A caller of the HTTP server, as `outbox token new` prints it. More rights and an end may be left out.
#[[tokens]]
#name = \"ada\"
#role = \"operate\"
#rights = [\"read-payload\"]
#sha256 = \"(64 digits, which outbox token new prints)\"
#expires = 2030-01-31T00:00:00Z
";
