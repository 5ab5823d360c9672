//! The checks of a PostgreSQL server.

use outbox_item::millis;
use outbox_postgres::{LongTransaction, SequenceBehind, ServerDiagnostics};

use crate::cli::doctor::result::CheckResult;
use crate::cli::output::span;
use crate::config::Config;
use crate::open_store;

/// Rows. More dead rows than this, if they also outnumber the live ones, slow claims down.
const MANY_DEAD: u64 = 50_000;

pub(crate) async fn results(config: &Config) -> Vec<CheckResult> {
    match open_store::diagnose_server(config).await {
        Ok(Some(found)) => server_results(&found),
        Ok(None) => Vec::new(),
        Err(err) => vec![CheckResult::error("server", &err)],
    }
}

fn server_results(found: &ServerDiagnostics) -> Vec<CheckResult> {
    let mut results = vec![server(found), privileges(&found.missing), autovacuum(found), wake(found)];
    results.extend(found.sequences_behind.iter().map(sequence));
    results.extend(found.transactions.iter().map(transaction));
    results
}

fn server(found: &ServerDiagnostics) -> CheckResult {
    const CHECK: &str = "server";
    let version = &found.version;
    if found.is_read_only {
        let advice = "give the primary's address in OUTBOX_DB, or several: postgres://a,b/database";
        return CheckResult::fail(CHECK, format!("PostgreSQL {version} refuses writes"), advice);
    }
    if !found.is_durable {
        let advice = "set fsync = on, and synchronous_commit to anything but off";
        return CheckResult::warn(CHECK, format!("PostgreSQL {version} loses acknowledged commits in a crash"), advice);
    }
    CheckResult::ok(CHECK, format!("PostgreSQL {version}"))
}

fn privileges(missing: &[String]) -> CheckResult {
    const CHECK: &str = "privileges";
    if missing.is_empty() {
        return CheckResult::ok(CHECK, "the role may do what a host does");
    }
    let message = format!("the role lacks {}", missing.join(", "));
    CheckResult::fail(CHECK, message, "grant it, or connect as the role that ran `outbox migrate`")
}

fn autovacuum(found: &ServerDiagnostics) -> CheckResult {
    const CHECK: &str = "autovacuum";
    let (dead, live) = found.rows;
    if !found.has_autovacuum {
        let advice = "set autovacuum = on for the server and for every table of the schema outbox";
        return CheckResult::fail(CHECK, "dead rows are not removed, so claims become slower and slower", advice);
    }
    if dead > MANY_DEAD.max(live) {
        let message = format!("{dead} dead rows beside {live} live ones in outbox.queue");
        return CheckResult::warn(CHECK, message, "look for long transactions and replication slots that keep them");
    }
    CheckResult::ok(CHECK, format!("dead rows are removed ({dead} now)"))
}

fn wake(found: &ServerDiagnostics) -> CheckResult {
    const CHECK: &str = "notify";
    let Some(why) = &found.polls_because else { return CheckResult::ok(CHECK, "inserts wake workers") };
    let message = format!("workers look for items, four times a second while there are none: {why}");
    if found.notifies {
        let advice = "let OUTBOX_DB_LISTEN be the URL of the server itself, or leave it: items wait 250 ms longer";
        return CheckResult::warn(CHECK, message, advice);
    }
    CheckResult::ok(CHECK, message)
}

fn sequence(found: &SequenceBehind) -> CheckResult {
    let SequenceBehind { sequence, highest, .. } = found;
    let advice = format!(
        "start a host, or run SELECT setval('{sequence}', {highest}); until then inserts can fail, and items of an \
         ordering key can change places"
    );
    CheckResult::fail("sequences", found.to_string(), advice)
}

fn transaction(found: &LongTransaction) -> CheckResult {
    let LongTransaction { pid, who, what, age } = found;
    let age = span(millis(*age));
    let message = format!("process {pid} ({who}) has had a transaction open for {age}: {what}");
    let advice = format!(
        "it keeps dead rows of every table: let it end, or SELECT pg_terminate_backend({pid}), and set \
         idle_in_transaction_session_timeout"
    );
    CheckResult::warn("transactions", message, advice)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::doctor::result::Severity;

    fn sound() -> ServerDiagnostics {
        ServerDiagnostics {
            version: "16.2".into(),
            has_autovacuum: true,
            is_durable: true,
            ..ServerDiagnostics::default()
        }
    }

    #[test]
    fn what_is_wrong_with_a_server_is_told_with_what_to_do() {
        let worst = |found: &ServerDiagnostics| {
            server_results(found).into_iter().find(|result| result.severity != Severity::Ok)
        };
        assert_eq!(worst(&sound()), None);
        let idle = LongTransaction {
            pid: 77,
            who: "ada psql 10.0.0.7".into(),
            what: "idle in transaction".into(),
            age: Duration::from_mins(90),
        };
        let behind = SequenceBehind { sequence: "outbox.items_id_seq".into(), last: 1, highest: 300 };
        for (found, check, message) in [
            (
                ServerDiagnostics { sequences_behind: vec![behind], ..sound() },
                "sequences",
                "outbox.items_id_seq is at 1, and 300 is in use",
            ),
            (ServerDiagnostics { is_read_only: true, ..sound() }, "server", "refuses writes"),
            (ServerDiagnostics { is_durable: false, ..sound() }, "server", "loses"),
            (
                ServerDiagnostics { missing: vec!["INSERT on outbox.items".into()], ..sound() },
                "privileges",
                "INSERT on",
            ),
            (ServerDiagnostics { has_autovacuum: false, ..sound() }, "autovacuum", "not removed"),
            (ServerDiagnostics { rows: (60_000, 10), ..sound() }, "autovacuum", "60000 dead rows"),
            (
                ServerDiagnostics { notifies: true, polls_because: Some("a pooler".into()), ..sound() },
                "notify",
                "a pooler",
            ),
            (
                ServerDiagnostics { transactions: vec![idle], ..sound() },
                "transactions",
                "process 77 (ada psql 10.0.0.7)",
            ),
        ] {
            let result = worst(&found).unwrap();
            assert_eq!(result.check, check);
            assert!(result.message.contains(message) && result.advice.is_some(), "{result:?}");
        }
    }
}
