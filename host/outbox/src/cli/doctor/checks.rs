//! The checks of the configuration, the location of the database, the store and the plugins.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use outbox_core::{PluginState, PluginStatus};
use outbox_item::{Millis, millis};
use outbox_sqlite::Backup;
use outbox_store::{Filter, Inspect, Page, StoreError};

use crate::cli::doctor::result::CheckResult;
use crate::cli::doctor::{alerts, places, server};
use crate::cli::output::{size, span};
use crate::config::{Config, Database};
use crate::filesystem::{self, shown};
use crate::{open_plugins, open_store, plugin_folders};

/// Bytes. With less free space, writes are about to fail.
const LITTLE_SPACE: u64 = 256 * 1024 * 1024;

/// 2025-01-01 in Unix milliseconds: a clock that shows an earlier time was never set.
const CLOCK_MIN: Millis = Millis::new(1_735_689_600_000);

/// 2100-01-01 in Unix milliseconds: a clock that shows a later time is wrong.
const CLOCK_MAX: Millis = Millis::new(4_102_444_800_000);

/// Synchronised clocks of several machines differ by less than this.
const SKEW_MAX: Duration = Duration::from_secs(5);

pub(crate) fn configuration(config: &Config) -> Vec<CheckResult> {
    const CHECK: &str = "configuration";
    let source = config.file.as_deref().map_or_else(|| "no file".to_owned(), shown);
    let mut results = vec![CheckResult::ok(CHECK, format!("valid ({source})")), retries(config)];
    let unknown = config.warnings.iter();
    results.extend(unknown.map(|warning| CheckResult::warn(CHECK, warning, "correct its name, or unset it")));
    if !config.is_enabled {
        let advice = "set OUTBOX_ENABLED=true for durable writes";
        results.push(CheckResult::warn(CHECK, "OUTBOX_ENABLED is false: `serve` runs writes inline", advice));
    }
    if let Err(err) = config.require_authentication() {
        results.push(CheckResult::warn(CHECK, err.to_string(), "`serve` refuses to start like this"));
    }
    results
}

/// How long retries go on, and whether an outage uses them up.
fn retries(config: &Config) -> CheckResult {
    let (most, least) = config.retry.span();
    let retries = config.retry.max_retries;
    let breaker = config.breaker.sentence();
    let message = format!(
        "{retries} retries within {} to {} of the first failure; {breaker}",
        span(millis(least)),
        span(millis(most))
    );
    CheckResult::ok("retries", message)
}

/// The place of a SQLite file: whether it is writable, whether it survives a restart, and how much it can grow.
pub(crate) fn location(config: &Config) -> Vec<CheckResult> {
    match &config.database {
        Database::Sqlite(path) => vec![writable(path), durable(path), space(path)],
        Database::Postgres { .. } => Vec::new(),
    }
}

/// SQLite creates files beside the database, so the folder must be writable.
fn writable(database: &Path) -> CheckResult {
    const CHECK: &str = "folder";
    let absolute = std::path::absolute(database).unwrap_or_else(|_| database.to_owned());
    let folder = absolute.parent().unwrap_or(Path::new("/"));
    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    match rustix::fs::access(folder, access) {
        Ok(()) => CheckResult::ok(CHECK, format!("{} is writable", folder.display())),
        Err(err) => {
            let advice = "create it, let this user write there, or set OUTBOX_DB to another path";
            CheckResult::fail(CHECK, format!("{} is not writable: {err}", folder.display()), advice)
        }
    }
}

fn durable(database: &Path) -> CheckResult {
    const CHECK: &str = "durability";
    match filesystem::in_memory(database) {
        None => CheckResult::ok(CHECK, "the database is on a disk"),
        Some(mount) => {
            let message =
                format!("{} is in memory ({}): a restart of the machine deletes it", shown(database), mount.display());
            CheckResult::warn(CHECK, message, "set OUTBOX_DB to a path on a disk")
        }
    }
}

fn space(database: &Path) -> CheckResult {
    const CHECK: &str = "space";
    match filesystem::free_bytes(database) {
        Ok(free) if free < LITTLE_SPACE => {
            let message = format!("only {} are free beside the database", size(free));
            CheckResult::fail(
                CHECK,
                message,
                "free some MiB outside of the outbox first: a purge needs room too. Then `outbox purge DONE --older-than 7d`",
            )
        }
        Ok(free) => CheckResult::ok(CHECK, format!("{} are free beside the database", size(free))),
        Err(err) => CheckResult::warn(CHECK, format!("the free space is not known: {err}"), "look with `df`"),
    }
}

pub(crate) async fn database(config: &Config) -> Vec<CheckResult> {
    const CHECK: &str = "database";
    let store = match open_store::open_existing(config, "").await {
        Ok(store) => store,
        Err(err) => return vec![before_the_start(config).await.unwrap_or_else(|| CheckResult::error(CHECK, &err))],
    };
    let mut results = vec![CheckResult::ok(CHECK, format!("{} has the schema of this build", config.database))];
    match &config.database {
        Database::Sqlite(path) => results.push(journal(path)),
        Database::Postgres { .. } => results.extend(server::results(config).await),
    }
    results.extend(contents(&*store).await.unwrap_or_else(|err| vec![CheckResult::error(CHECK, &err)]));
    results
}

/// What the next host does with a database that is not there yet or has an older schema; `None` when it does nothing,
/// because it may not or cannot.
async fn before_the_start(config: &Config) -> Option<CheckResult> {
    const CHECK: &str = "database";
    let plan = open_store::plan_migration(config, Backup::BesideFile).await.ok()?;
    let database = &config.database;
    match plan {
        plan if !config.migrates || plan.from == plan.to || !plan.refusals.is_empty() => None,
        plan if plan.from == 0 => {
            let message = format!("there is no outbox in {database} yet: `outbox serve` creates it");
            Some(CheckResult::ok(CHECK, message))
        }
        plan => {
            let message = format!("{database} has schema {}, and this program needs {}", plan.from, plan.to);
            let advice = "`outbox serve` migrates it at its start; `outbox migrate --dry-run` says what that does";
            Some(CheckResult::warn(CHECK, message, advice))
        }
    }
}

/// Reads the journal mode from the header of the file: the write version is 2 for a write-ahead log.
fn journal(database: &Path) -> CheckResult {
    const CHECK: &str = "journal";
    const WRITE_VERSION: usize = 18;
    let mut header = [0; WRITE_VERSION + 1];
    match File::open(database).and_then(|mut file| file.read_exact(&mut header)) {
        Ok(()) if header[WRITE_VERSION] == 2 => CheckResult::ok(CHECK, "the database has a write-ahead log"),
        Ok(()) => {
            let advice = "run `outbox migrate`, and let no other program change the journal mode";
            CheckResult::fail(
                CHECK,
                "the database has no write-ahead log: readers and writers block each other",
                advice,
            )
        }
        Err(err) => CheckResult::fail(CHECK, format!("the database's header cannot be read: {err}"), "check the file"),
    }
}

async fn contents(store: &dyn Inspect) -> Result<Vec<CheckResult>, StoreError> {
    let overview = store.overview().await?;
    let newest = store.list(&Filter::default(), &Page { limit: 1, before: None }).await?.items;
    let mut results = vec![clock(SystemTime::now().into(), newest.first().map(|newest| newest.item.created_at))];
    if overview.expired_claims > 0 {
        let message = format!("{} claims have outlived their lease", overview.expired_claims);
        results.push(CheckResult::warn(
            "claims",
            message,
            "start `outbox serve` or `outbox worker`: they end such claims",
        ));
    }
    let dead = overview.by_status.get("DLQ").copied().unwrap_or(0);
    if dead > 0 {
        let advice = "look with `outbox list DLQ`, then `outbox replay` or `outbox purge`";
        results.push(CheckResult::warn("dlq", format!("{dead} items wait for an operator"), advice));
    }
    results.extend(pauses(store).await?);
    results.push(places::check(store).await?);
    Ok(results)
}

/// What no worker claims until an operator resumes it.
async fn pauses(store: &dyn Inspect) -> Result<Option<CheckResult>, StoreError> {
    let (types, keys) = (store.pauses().await?, store.key_pauses().await?);
    let of_type = |item_type: Option<String>| item_type.map(|name| format!(" of {name}")).unwrap_or_default();
    let keys = keys.into_iter().map(|pause| format!("key {}{}", pause.fairness_key, of_type(pause.r#type)));
    let paused: Vec<_> = types.into_iter().map(|pause| format!("type {}", pause.r#type)).chain(keys).collect();
    let message = format!("{} paused: {}", paused.len(), paused.join(", "));
    let advice = "`outbox stats` says since when and why; `outbox resume` ends a pause";
    Ok((!paused.is_empty()).then(|| CheckResult::warn("pauses", message, advice)))
}

/// Compares the clock of this machine with the calendar, and with the newest item, which another machine may have
/// written.
fn clock(now: Millis, newest: Option<Millis>) -> CheckResult {
    const CHECK: &str = "clock";
    let ahead = newest.unwrap_or(now).since(now);
    if !(CLOCK_MIN..CLOCK_MAX).contains(&now) {
        return CheckResult::fail(CHECK, format!("the clock shows {now} ms since 1970"), "set the clock");
    }
    if ahead > SKEW_MAX {
        let message = format!("the newest item was enqueued {} in the future", span(millis(ahead)));
        return CheckResult::fail(CHECK, message, "set the clocks of all machines: claims and delays go by them");
    }
    CheckResult::ok(CHECK, "the clock is plausible")
}

pub(crate) async fn plugins(config: &Config) -> Vec<CheckResult> {
    let missing = missing_folder(config);
    let is_somewhere = config.plugins.folder.as_ref().is_some_and(|folder| folder.is_dir());
    if !is_somewhere && config.plugins.images.is_empty() {
        return missing.into_iter().collect();
    }
    let mut results = loaded(config).await;
    results.extend(missing);
    results
}

/// A folder that is missing: that of all plugins, that of the role or that of manifests.
fn missing_folder(config: &Config) -> Option<CheckResult> {
    let missing = plugin_folders::missing(config)?;
    let advice = "see OUTBOX_PLUGINS, OUTBOX_MANIFESTS and OUTBOX_ROLE with `outbox config show`";
    Some(CheckResult::warn("plugins", missing, advice))
}

async fn loaded(config: &Config) -> Vec<CheckResult> {
    match open_plugins::scan(config).await {
        Ok(found) => {
            let mut results: Vec<_> = found.iter().map(plugin_result).collect();
            results.extend(empty_folder(config.plugins.folder.as_deref(), &found));
            if !found.is_empty() {
                results.push(alerts::check(config.alerts.as_deref(), &found));
            }
            results
        }
        Err(err) => vec![CheckResult::error("plugins", &err)],
    }
}

/// The folder of the settings, if it is there and none of these plugins is in it.
fn empty_folder(folder: Option<&Path>, found: &[PluginStatus]) -> Option<CheckResult> {
    let folder = folder.filter(|folder| folder.is_dir())?;
    if found.iter().any(|plugin| plugin.file.starts_with(folder)) {
        return None;
    }
    let is_handled = found.iter().any(|plugin| plugin.state == PluginState::Active);
    let handled = match (found.is_empty(), is_handled) {
        (true, _) => "a host with these settings handles no item",
        (false, true) => "only those of images handle items",
        (false, false) => "no item is handled before one of the images is loaded",
    };
    let advice = "put a component there: `make plugins` builds those of the repository";
    Some(CheckResult::warn("plugins", format!("{} has no plugins: {handled}", shown(folder)), advice))
}

fn plugin_result(plugin: &PluginStatus) -> CheckResult {
    const CHECK: &str = "plugins";
    let name = &plugin.name;
    let advice = if plugin.refused.is_empty() {
        "correct the component or its manifest"
    } else {
        "remove the file, or let it have the type: `outbox plugin switch TYPE NAME`"
    };
    match plugin.trouble() {
        None if plugin.state == PluginState::Loading => {
            let advice = "a host pulls an image when it starts, and loads a file that it can read";
            CheckResult::warn(CHECK, format!("{name} is not loaded yet"), advice)
        }
        None => match &plugin.image {
            Some(image) => CheckResult::ok(CHECK, format!("{name} loads, from {image}")),
            None => CheckResult::ok(CHECK, format!("{name} loads")),
        },
        Some(trouble) => CheckResult::fail(CHECK, format!("{name}: {trouble}"), advice),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::cli::doctor::result::Severity;

    #[test]
    fn a_clock_is_judged_by_the_calendar_and_by_the_newest_item() {
        let now = CLOCK_MIN.saturating_add(Duration::from_secs(1_000));
        assert_eq!(clock(now, None).severity, Severity::Ok);
        assert_eq!(clock(now, Some(now.saturating_add(SKEW_MAX))).severity, Severity::Ok);
        assert_eq!(clock(now, Some(now.saturating_add(SKEW_MAX + Duration::from_millis(1)))).severity, Severity::Fail);
        assert_eq!(clock(Millis::new(1_000), None).severity, Severity::Fail);
        assert_eq!(clock(CLOCK_MAX, None).severity, Severity::Fail);
    }

    #[test]
    fn a_plugin_that_does_not_load_fails_with_its_error() {
        let loaded = PluginStatus { name: "webhook".into(), ..PluginStatus::default() };
        let broken = PluginStatus { error: Some("no such import".into()), ..loaded.clone() };
        assert_eq!(plugin_result(&broken).severity, Severity::Fail);
        assert_eq!(plugin_result(&broken).message, "webhook: no such import");
        assert_eq!(plugin_result(&loaded).severity, Severity::Ok);
        let unpulled = PluginStatus { state: PluginState::Loading, ..loaded };
        assert_eq!(plugin_result(&unpulled).message, "webhook is not loaded yet");
    }

    #[test]
    fn a_folder_without_plugins_is_named_and_what_handles_items_without_it() {
        let dir = tempfile::tempdir().unwrap();
        let plugin = |file: PathBuf| PluginStatus { file, state: PluginState::Active, ..PluginStatus::default() };
        let told = |found: &[PluginStatus]| empty_folder(Some(dir.path()), found).map(|result| result.message);
        assert!(told(&[]).unwrap().ends_with("has no plugins: a host with these settings handles no item"));
        let of_image = plugin("cache/images/p/current/p.wasm".into());
        assert!(told(std::slice::from_ref(&of_image)).unwrap().ends_with("only those of images handle items"));
        let unpulled = PluginStatus { state: PluginState::Loading, ..of_image.clone() };
        assert!(told(&[unpulled]).unwrap().ends_with("no item is handled before one of the images is loaded"));
        assert_eq!(told(&[of_image, plugin(dir.path().join("role/q.wasm"))]), None);
        assert!(empty_folder(None, &[]).is_none() && empty_folder(Some(Path::new("/no/such")), &[]).is_none());
    }

    #[test]
    fn a_database_without_a_write_ahead_log_is_found_by_its_header() {
        let dir = tempfile::tempdir().unwrap();
        let check = |version: u8, severity: Severity| {
            let path = dir.path().join("outbox.sqlite");
            let mut header = b"SQLite format 3\0".to_vec();
            header.extend([16, 0, version, version]);
            std::fs::write(&path, header).unwrap();
            assert_eq!(journal(&path).severity, severity);
        };
        check(2, Severity::Ok);
        check(1, Severity::Fail);
        assert_eq!(journal(&dir.path().join("none")).severity, Severity::Fail);
    }
}
