//! The checks themselves, each a few findings about one part.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::{Finding, server};
use crate::cli::output::{size, span};
use crate::cli::{database, filesystem, plugin, shown};
use crate::config::{Config, Database};
use crate::item::Millis;
use crate::store::{Filter, Page, Store, StoreError};

/// A disk with less left is about to stop every write.
const LITTLE_SPACE: u64 = 256 * 1024 * 1024;

/// 2025-01-01: a clock that shows an earlier time was never set.
const CLOCK_MIN: Millis = 1_735_689_600_000;

/// 2100-01-01: nor was one that shows a later time.
const CLOCK_MAX: Millis = 4_102_444_800_000;

/// Clocks of several writers differ by a little; this is more than a little.
const SKEW_MAX: Millis = 5_000;

pub(super) fn configuration(config: &Config) -> Vec<Finding> {
    const CHECK: &str = "configuration";
    let source = config.file.as_deref().map_or_else(|| "no file".to_owned(), shown);
    let mut findings = vec![Finding::ok(CHECK, format!("valid ({source})"))];
    let unknown = config.warnings.iter();
    findings.extend(unknown.map(|warning| Finding::warn(CHECK, warning, "correct the name, or unset it")));
    if !config.enabled {
        let advice = "set OUTBOX_ENABLED=true for durable writes";
        findings.push(Finding::warn(CHECK, "OUTBOX_ENABLED is false: `serve` runs writes inline", advice));
    }
    if let Err(err) = config.require_authentication() {
        findings.push(Finding::warn(CHECK, err.to_string(), "`serve` refuses to start like this"));
    }
    findings
}

/// Where the database lies: whether it survives a restart, and how much it can grow.
pub(super) fn location(config: &Config) -> Vec<Finding> {
    match &config.database {
        Database::Sqlite(path) => vec![writable(path), durable(path), space(path)],
        Database::Postgres { .. } => Vec::new(),
    }
}

/// SQLite writes files beside the database, so its folder must be writable too.
fn writable(database: &Path) -> Finding {
    const CHECK: &str = "folder";
    let absolute = std::path::absolute(database).unwrap_or_else(|_| database.to_owned());
    let folder = absolute.parent().unwrap_or(Path::new("/"));
    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    match rustix::fs::access(folder, access) {
        Ok(()) => Finding::ok(CHECK, format!("{} is writable", folder.display())),
        Err(err) => {
            let advice = "create it, let this user write there, or set OUTBOX_DB to another path";
            Finding::fail(CHECK, format!("{} is not writable: {err}", folder.display()), advice)
        }
    }
}

fn durable(database: &Path) -> Finding {
    const CHECK: &str = "durability";
    match filesystem::in_memory(database) {
        None => Finding::ok(CHECK, "the database lies on a disk"),
        Some(mount) => {
            let message = format!("{} lies in memory ({}): a restart loses it", shown(database), mount.display());
            Finding::warn(CHECK, message, "set OUTBOX_DB to a path on a disk")
        }
    }
}

fn space(database: &Path) -> Finding {
    const CHECK: &str = "space";
    match filesystem::free_bytes(database) {
        Ok(free) if free < LITTLE_SPACE => {
            let message = format!("only {} are free beside the database", size(free));
            Finding::fail(CHECK, message, "make room, or purge: `outbox purge DONE --older-than 7d`")
        }
        Ok(free) => Finding::ok(CHECK, format!("{} are free beside the database", size(free))),
        Err(err) => Finding::warn(CHECK, format!("the free space is not known: {err}"), "look with `df`"),
    }
}

pub(super) async fn database(config: &Config) -> Vec<Finding> {
    const CHECK: &str = "database";
    let store = match database::open_existing(config, "").await {
        Ok(store) => store,
        Err(err) => return vec![Finding::error(CHECK, &err)],
    };
    let mut findings = vec![Finding::ok(CHECK, format!("{} has the schema of this build", config.database))];
    match &config.database {
        Database::Sqlite(path) => findings.push(journal(path)),
        Database::Postgres { .. } => findings.extend(server::findings(config).await),
    }
    findings.extend(contents(&*store).await.unwrap_or_else(|err| vec![Finding::error(CHECK, &err)]));
    findings
}

/// Reads the journal mode where the file format keeps it: the write version, 2 for a write-ahead log.
fn journal(database: &Path) -> Finding {
    const CHECK: &str = "journal";
    const WRITE_VERSION: usize = 18;
    let mut header = [0; WRITE_VERSION + 1];
    match File::open(database).and_then(|mut file| file.read_exact(&mut header)) {
        Ok(()) if header[WRITE_VERSION] == 2 => Finding::ok(CHECK, "the database has a write-ahead log"),
        Ok(()) => {
            let advice = "run `outbox migrate`, and let no other program change the journal mode";
            Finding::fail(CHECK, "the database has no write-ahead log: readers and writers block each other", advice)
        }
        Err(err) => Finding::fail(CHECK, format!("the database's header cannot be read: {err}"), "check the file"),
    }
}

async fn contents(store: &dyn Store) -> Result<Vec<Finding>, StoreError> {
    let overview = store.overview().await?;
    let newest = store.list(&Filter::default(), &Page { limit: 1, before: None }).await?;
    let mut findings = vec![clock(now(), newest.first().map(|item| item.created_at))];
    if overview.expired_claims > 0 {
        let message = format!("{} claims have outlived their lease", overview.expired_claims);
        findings.push(Finding::warn(
            "claims",
            message,
            "start `outbox serve` or `outbox worker`: they end such claims",
        ));
    }
    let dead = overview.by_status.get("DLQ").copied().unwrap_or(0);
    if dead > 0 {
        let advice = "look with `outbox list DLQ`, then `outbox replay` or `outbox purge`";
        findings.push(Finding::warn("dlq", format!("{dead} items wait for an operator"), advice));
    }
    Ok(findings)
}

fn now() -> Millis {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(since_epoch.as_millis()).unwrap_or(Millis::MAX)
}

/// Judges this machine's clock by the calendar and by the newest item, which another may have written.
fn clock(now: Millis, newest: Option<Millis>) -> Finding {
    const CHECK: &str = "clock";
    let ahead = newest.unwrap_or(now).saturating_sub(now);
    if !(CLOCK_MIN..CLOCK_MAX).contains(&now) {
        return Finding::fail(CHECK, format!("the clock shows {now} ms since 1970"), "set the clock");
    }
    if ahead > SKEW_MAX {
        let message = format!("the newest item was enqueued {} in the future", span(ahead));
        return Finding::fail(CHECK, message, "set the clocks of all machines: claims and delays go by them");
    }
    Finding::ok(CHECK, "the clock is plausible")
}

pub(super) async fn plugins(config: &Config) -> Vec<Finding> {
    const CHECK: &str = "plugins";
    let folder = shown(&config.plugins);
    if !config.plugins.is_dir() {
        let advice = "create it, or set OUTBOX_PLUGINS";
        return vec![Finding::warn(CHECK, format!("there is no folder {folder}: no item is handled"), advice)];
    }
    match plugin::scan(config).await {
        Ok(found) if found.is_empty() => {
            let advice = "put a component there: `make plugins` builds those of the repository";
            vec![Finding::warn(CHECK, format!("{folder} has no plugins: no item is handled"), advice)]
        }
        Ok(found) => found.iter().map(judged).collect(),
        Err(err) => vec![Finding::error(CHECK, &err)],
    }
}

fn judged(plugin: &Value) -> Finding {
    const CHECK: &str = "plugins";
    let name = plugin["name"].as_str().unwrap_or("(unnamed)");
    match plugin["error"].as_str() {
        None => Finding::ok(CHECK, format!("{name} loads")),
        Some(error) => Finding::fail(CHECK, format!("{name}: {error}"), "correct the component or its manifest"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_clock_is_judged_by_the_calendar_and_by_the_newest_item() {
        let now = CLOCK_MIN + 1_000_000;
        assert_eq!(clock(now, None).result, Verdict::Ok);
        assert_eq!(clock(now, Some(now + SKEW_MAX)).result, Verdict::Ok);
        assert_eq!(clock(now, Some(now + SKEW_MAX + 1)).result, Verdict::Fail);
        assert_eq!(clock(1_000, None).result, Verdict::Fail);
        assert_eq!(clock(CLOCK_MAX, None).result, Verdict::Fail);
    }

    #[test]
    fn a_plugin_that_does_not_load_fails_with_its_error() {
        let broken = serde_json::json!({ "name": "webhook", "error": "no such import" });
        assert_eq!(judged(&broken).result, Verdict::Fail);
        assert_eq!(judged(&broken).message, "webhook: no such import");
        assert_eq!(judged(&serde_json::json!({ "name": "webhook", "error": null })).result, Verdict::Ok);
    }

    #[test]
    fn a_database_without_a_write_ahead_log_is_found_by_its_header() {
        let dir = tempfile::tempdir().unwrap();
        let check = |version: u8, verdict: Verdict| {
            let path = dir.path().join("outbox.sqlite");
            let mut header = b"SQLite format 3\0".to_vec();
            header.extend([16, 0, version, version]);
            std::fs::write(&path, header).unwrap();
            assert_eq!(journal(&path).result, verdict);
        };
        check(2, Verdict::Ok);
        check(1, Verdict::Fail);
        assert_eq!(journal(&dir.path().join("none")).result, Verdict::Fail);
    }
}
