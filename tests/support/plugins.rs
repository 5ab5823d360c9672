//! Plugins made of WAT, plugin folders for them, and a host that watches such a folder.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use outbox::core::{
    Attempt, AttemptReport, BreakerMode, DeliveryMode, Handler, OwnersError, PluginStatus, PresentPlugin,
    QuarantineEntry, QuarantineError, QuarantineStore, RetryPolicy, StateReadError, StateReader, StateVersion,
    TypeOwner, TypeOwners,
};
use outbox::item::{Item, ItemId, Millis, NewItem, Status};
use outbox::runtime::{PluginSettings, Plugins, Resolver, SystemResolver};
use tempfile::TempDir;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A component that handles items. The fields are the differences from a component that answers `ok`.
pub(crate) struct Wat<'a> {
    pub(crate) types: &'a [&'a str],
    pub(crate) handle: &'a str,
    pub(crate) describe: &'a str,
    pub(crate) imports: &'a str,
    pub(crate) core: &'a str,
    pub(crate) with: &'a str,
    pub(crate) memory: u32,
    pub(crate) version: &'a str,
}

impl Default for Wat<'_> {
    fn default() -> Self {
        Self {
            types: &["t"],
            handle: "(i32.const 1024)",
            describe: "(i32.const 8)",
            imports: "",
            core: "",
            with: "",
            memory: 1,
            version: "0.1.0",
        }
    }
}

impl Wat<'_> {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let count = u8::try_from(self.types.len()).unwrap();
        let text = include_str!("../wat/handler.wat")
            .replace("{types}", &type_list(self.types))
            .replace("{count}", &format!("\\{count:02x}"))
            .replace("{handle}", self.handle)
            .replace("{describe}", self.describe)
            .replace("{imports}", self.imports)
            .replace("{core}", self.core)
            .replace("{with}", self.with)
            .replace("{memory}", &self.memory.to_string())
            .replace("{version}", self.version);
        wat::parse_str(&text).unwrap()
    }
}

/// The pointers, lengths and letters of a list of strings at the address 512.
fn type_list(types: &[&str]) -> String {
    let (mut table, mut letters) = (String::new(), String::new());
    for item_type in types {
        let at = 512 + types.len() * 8 + letters.len();
        for number in [at, item_type.len()] {
            for byte in u32::try_from(number).unwrap().to_le_bytes() {
                write!(table, "\\{byte:02x}").unwrap();
            }
        }
        letters.push_str(item_type);
    }
    table + &letters
}

/// A plugin folder and the host that watches it.
pub(crate) struct PluginHost {
    pub(crate) plugins: Arc<Plugins>,
    home: Arc<TempDir>,
}

impl PluginHost {
    /// Starts a host on a folder that `fill` has filled.
    pub(crate) async fn start(role: Option<&str>, fill: impl FnOnce(&Path)) -> Self {
        Self::with(|settings| settings.role = role.map(str::to_owned), fill).await
    }

    /// The same, with settings that `change` changes.
    pub(crate) async fn with(change: impl FnOnce(&mut PluginSettings), fill: impl FnOnce(&Path)) -> Self {
        let home = Arc::new(tempfile::tempdir().unwrap());
        let dir = home.path().join("plugins.d");
        fs::create_dir(&dir).unwrap();
        fill(&dir);
        Self::open(home, change).await
    }

    /// Starts another host on the same folder and cache, as another process would.
    pub(crate) async fn again(&self, change: impl FnOnce(&mut PluginSettings)) -> Self {
        Self::open(Arc::clone(&self.home), change).await
    }

    /// The same, with a resolver that the test provides.
    pub(crate) async fn start_resolving(resolver: Arc<dyn Resolver>, fill: impl FnOnce(&Path)) -> Self {
        Self::with(|settings| settings.resolver = resolver, fill).await
    }

    async fn open(home: Arc<TempDir>, change: impl FnOnce(&mut PluginSettings)) -> Self {
        let mut settings = settings(&home);
        change(&mut settings);
        let plugins = Plugins::start(settings, &CancellationToken::new()).unwrap();
        plugins.scanned().await;
        assert!(plugins.is_scanned());
        Self { plugins, home }
    }

    pub(crate) fn settings(&self) -> PluginSettings {
        settings(&self.home)
    }

    /// The file names of the components that the host keeps as the last good versions.
    pub(crate) fn kept(&self) -> Vec<String> {
        let kept = fs::read_dir(self.home.path().join("cache/good")).unwrap();
        kept.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join("plugins.d").join(name)
    }

    /// Writes a file into the folder atomically: under a temporary name, which is then changed to the final one.
    pub(crate) fn put(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let beside = self.home.path().join("beside");
        fs::write(&beside, bytes).unwrap();
        fs::rename(beside, self.path(name)).unwrap();
    }

    pub(crate) fn types(&self) -> Vec<String> {
        let mut types: Vec<_> =
            self.plugins.served_types().into_iter().map(|served_type| served_type.item_type).collect();
        types.sort();
        types
    }

    pub(crate) fn status(&self, name: &str) -> PluginStatus {
        let mut status = self.plugins.status().into_iter();
        status.find(|status| status.name == name).unwrap_or_else(|| panic!("no plugin {name}"))
    }

    /// Waits until a condition is true; checks it after every change and at least every 50 ms.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let mut changes = self.plugins.changes();
        let deadline = Instant::now() + Duration::from_secs(30);
        while !holds(self) {
            assert!(Instant::now() < deadline, "{what} never came: {:?}", self.plugins.status());
            drop(tokio::time::timeout(Duration::from_millis(50), changes.changed()).await);
        }
    }

    pub(crate) async fn handle(&self, item_type: &str) -> AttemptReport {
        self.plugins.handle(attempt(item_type, Duration::from_secs(30))).await
    }
}

fn settings(home: &TempDir) -> PluginSettings {
    PluginSettings {
        dirs: vec![home.path().join("plugins.d")],
        image_dirs: Vec::new(),
        role: None,
        cache_dir: home.path().join("cache"),
        keeps_in_cache: true,
        attempt_time: Duration::from_mins(1),
        retry: RetryPolicy::default(),
        breaker: BreakerMode::default(),
        slots: 4,
        environment: Arc::new(|_| None),
        keys: Vec::new(),
        ca_files: Vec::new(),
        state: Arc::new(WithoutStore),
        quarantine: Arc::new(WithoutStore),
        owners: Arc::new(WithoutStore),
        resolver: Arc::new(SystemResolver),
    }
}

/// An attempt for a durable item with a deadline after `timeout`.
pub(crate) fn attempt(item_type: &str, timeout: Duration) -> Attempt {
    Attempt {
        item: Arc::new(item(item_type)),
        deadline: Instant::now() + timeout,
        deadline_at: Millis::new(1),
        mode: DeliveryMode::Durable,
        stop: CancellationToken::new(),
        locks: Arc::default(),
        trace: None,
    }
}

fn item(item_type: &str) -> Item {
    let item = NewItem { cid: Some("cid".into()), ..NewItem::new(item_type, "key", "{}") }
        .into_item(ItemId::new(1), Millis::default());
    Item { status: Status::Claimed, attempts: 1, deliveries: 1, ..item }
}

/// The store in tests that need none.
struct WithoutStore;

#[async_trait::async_trait]
impl StateReader for WithoutStore {
    async fn read(&self, _: &str, _: &str) -> Result<(Option<Vec<u8>>, StateVersion), StateReadError> {
        Ok((None, None))
    }
}

#[async_trait::async_trait]
impl QuarantineStore for WithoutStore {
    async fn add(&self, _: &QuarantineEntry) -> Result<(), QuarantineError> {
        Err(QuarantineError::new("this test has no store"))
    }

    async fn pause(&self, _: &str, _: &str) -> Result<(), QuarantineError> {
        Ok(())
    }

    async fn list(&self) -> Result<Vec<QuarantineEntry>, QuarantineError> {
        Err(QuarantineError::new("this test has no store"))
    }
}

#[async_trait::async_trait]
impl TypeOwners for WithoutStore {
    async fn exchange(&self, _: &[PresentPlugin]) -> Result<Vec<TypeOwner>, OwnersError> {
        Ok(Vec::new())
    }
}
