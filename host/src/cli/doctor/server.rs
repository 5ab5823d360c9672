//! The checks of a PostgreSQL server.

use super::Finding;
use crate::cli::database;
use crate::cli::output::span;
use crate::config::Config;
use crate::item::Millis;
use crate::store::postgres::{Examination, LongTransaction};

/// More dead rows than this, and more than live ones, slow claims down.
const MANY_DEAD: u64 = 50_000;

pub(super) async fn findings(config: &Config) -> Vec<Finding> {
    match database::examine(config).await {
        Ok(Some(found)) => judged(&found),
        Ok(None) => Vec::new(),
        Err(err) => vec![Finding::error("server", &err)],
    }
}

fn judged(found: &Examination) -> Vec<Finding> {
    let mut findings = vec![server(found), privileges(&found.missing), autovacuum(found), wake(found)];
    findings.extend(found.transactions.iter().map(transaction));
    findings
}

fn server(found: &Examination) -> Finding {
    const CHECK: &str = "server";
    let version = &found.version;
    if found.is_read_only {
        let advice = "give the primary's address in OUTBOX_DB, or several: postgres://a,b/database";
        return Finding::fail(CHECK, format!("PostgreSQL {version} refuses writes"), advice);
    }
    if !found.is_durable {
        let advice = "set fsync = on, and synchronous_commit to anything but off";
        return Finding::warn(CHECK, format!("PostgreSQL {version} loses acknowledged commits in a crash"), advice);
    }
    Finding::ok(CHECK, format!("PostgreSQL {version}"))
}

fn privileges(missing: &[String]) -> Finding {
    const CHECK: &str = "privileges";
    if missing.is_empty() {
        return Finding::ok(CHECK, "the role may do what a host does");
    }
    let message = format!("the role lacks {}", missing.join(", "));
    Finding::fail(CHECK, message, "grant it, or connect as the role that ran `outbox migrate`")
}

fn autovacuum(found: &Examination) -> Finding {
    const CHECK: &str = "autovacuum";
    let (dead, live) = found.rows;
    if !found.has_autovacuum {
        let advice = "set autovacuum = on for the server and for outbox.items";
        return Finding::fail(CHECK, "dead rows are not removed, so claims become slower and slower", advice);
    }
    if dead > MANY_DEAD.max(live) {
        let message = format!("{dead} dead rows beside {live} live ones in outbox.items");
        return Finding::warn(CHECK, message, "look for long transactions and replication slots that keep them");
    }
    Finding::ok(CHECK, format!("dead rows are removed ({dead} now)"))
}

fn wake(found: &Examination) -> Finding {
    let says = if found.notifies {
        "inserts wake workers"
    } else {
        "inserts wake nobody, workers look for them: `outbox migrate --notify` changes it"
    };
    Finding::ok("notify", says)
}

fn transaction(found: &LongTransaction) -> Finding {
    let LongTransaction { pid, who, what, age } = found;
    let age = span(Millis::try_from(age.as_millis()).unwrap_or(Millis::MAX));
    let message = format!("process {pid} ({who}) has had a transaction open for {age}: {what}");
    let advice = format!(
        "it keeps dead rows of every table: let it end, or SELECT pg_terminate_backend({pid}), and set \
         idle_in_transaction_session_timeout"
    );
    Finding::warn("transactions", message, advice)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Verdict;
    use super::*;

    fn sound() -> Examination {
        Examination { version: "16.2".into(), has_autovacuum: true, is_durable: true, ..Examination::default() }
    }

    #[test]
    fn what_is_wrong_with_a_server_is_told_with_what_to_do() {
        let worst = |found: &Examination| judged(found).into_iter().find(|finding| finding.result != Verdict::Ok);
        assert_eq!(worst(&sound()), None);
        let idle = LongTransaction {
            pid: 77,
            who: "ada psql 10.0.0.7".into(),
            what: "idle in transaction".into(),
            age: Duration::from_mins(90),
        };
        for (found, check, says) in [
            (Examination { is_read_only: true, ..sound() }, "server", "refuses writes"),
            (Examination { is_durable: false, ..sound() }, "server", "loses"),
            (Examination { missing: vec!["INSERT on outbox.items".into()], ..sound() }, "privileges", "INSERT on"),
            (Examination { has_autovacuum: false, ..sound() }, "autovacuum", "not removed"),
            (Examination { rows: (60_000, 10), ..sound() }, "autovacuum", "60000 dead rows"),
            (Examination { transactions: vec![idle], ..sound() }, "transactions", "process 77 (ada psql 10.0.0.7)"),
        ] {
            let finding = worst(&found).unwrap();
            assert_eq!(finding.check, check);
            assert!(finding.message.contains(says) && finding.advice.is_some(), "{finding:?}");
        }
    }
}
