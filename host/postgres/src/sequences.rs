//! Sequences that are behind the numbers in their tables, as after a restore that brought rows and no sequences: they
//! would give numbers again. And sequences that somebody set near the end of their range: they would give no number any
//! more. The store notices that when it opens, and when a write fails for it, and moves them.
//!
//! It knows which number comes from which sequence, and nothing of what the numbers mean.

use crate::error::PgError;
use crate::tx::Query;

/// A sequence and the highest number that its rows have.
struct Numbered {
    sequence: &'static str,
    /// SQL for the numbers in use: one column.
    numbers: &'static str,
    /// The largest number that counts as in use.
    most: i64,
}

impl Numbered {
    const fn new(sequence: &'static str, numbers: &'static str) -> Self {
        Self { sequence, numbers, most: NUMBER_MAX }
    }
}

/// The largest number that a sequence is advanced to. A row with a larger one was not written by a host, and does not
/// take the numbers of all others with it.
const NUMBER_MAX: i64 = 4_611_686_018_427_387_903;
/// The same for a column of the type `integer`.
const INTEGER_MAX: i64 = 1_073_741_823;

/// Sequences whose highest number is found by an index. A row with a number that exists is refused by a primary key.
const UNIQUE: [Numbered; 5] = [
    Numbered::new("outbox.items_id_seq", "SELECT id FROM outbox.items"),
    Numbered::new("outbox.signals_seq_seq", "SELECT seq FROM outbox.signals"),
    Numbered::new("outbox.jobs_id_seq", "SELECT id FROM outbox.jobs"),
    Numbered::new("outbox.audit_seq_seq", "SELECT seq FROM outbox.audit"),
    Numbered { sequence: "outbox.handlers_id_seq", numbers: "SELECT id FROM outbox.handlers", most: INTEGER_MAX },
];

/// Sequences whose highest number is found by reading tables. Nothing refuses a number that exists: items would change
/// places in the line of their ordering key, and a write of state would be taken for another.
const OTHERS: [Numbered; 2] = [
    Numbered::new(
        "outbox.turn_seq",
        "SELECT turn FROM outbox.queue UNION ALL SELECT turn FROM outbox.dead
         UNION ALL SELECT turn FROM outbox.done UNION ALL SELECT turn FROM outbox.lanes
         UNION ALL SELECT turn FROM outbox.leases, unnest(turns) AS turn",
    ),
    Numbered::new("outbox.state_version_seq", "SELECT version FROM outbox.state"),
];

/// Numbers that are left out after the highest one: transactions may draw some while a sequence is advanced.
const GAP: i64 = 1_000;

/// A sequence that is behind, or near its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequenceBehind {
    /// Its name.
    pub sequence: String,
    /// The last number that it gave.
    pub last: i64,
    /// The highest number that is in use.
    pub highest: i64,
}

impl std::fmt::Display for SequenceBehind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { sequence, last, highest } = self;
        if last > highest {
            return write!(
                f,
                "the sequence {sequence} is at {last}, near its end, and the highest number in use is {highest}"
            );
        }
        write!(f, "the sequence {sequence} is at {last}, and {highest} is in use, as after a restore without sequences")
    }
}

/// The sequences that are behind, or near their end. Reads whole tables.
pub(crate) async fn find_behind(tx: &impl Query) -> Result<Vec<SequenceBehind>, PgError> {
    let mut behind = find_among(tx, &UNIQUE).await?;
    behind.extend(find_among(tx, &OTHERS).await?);
    Ok(behind)
}

async fn find_among(tx: &impl Query, numbered: &[Numbered]) -> Result<Vec<SequenceBehind>, PgError> {
    let look = |Numbered { sequence, numbers, most }: &Numbered| {
        format!(
            "SELECT '{sequence}' AS sequence, CASE WHEN is_called THEN last_value ELSE last_value - 1 END AS last,
                    coalesce((SELECT max(number)::bigint FROM ({numbers}) AS used (number) WHERE number <= {most}), 0)
                        AS highest, {most}::bigint AS most
             FROM {sequence}"
        )
    };
    let looks: Vec<_> = numbered.iter().map(look).collect();
    let sql = format!(
        "SELECT sequence, last, highest FROM ({}) AS found
             WHERE last < highest OR last > most + {GAP}",
        looks.join(" UNION ALL ")
    );
    let behind = |row: &tokio_postgres::Row| {
        Ok(SequenceBehind { sequence: row.try_get(0)?, last: row.try_get(1)?, highest: row.try_get(2)? })
    };
    tx.rows(&sql, &[]).await?.iter().map(behind).collect()
}

/// Moves the sequences if one of them is behind, or near its end, whose numbers are unique.
pub(crate) async fn advance_if_behind(client: &impl Query) -> Result<(), PgError> {
    if find_among(client, &UNIQUE).await?.is_empty() { Ok(()) } else { advance(client).await }
}

/// Moves every sequence that is behind, or near its end, to the numbers in use.
pub(crate) async fn advance(client: &impl Query) -> Result<(), PgError> {
    for behind in find_behind(client).await? {
        let up_to = behind.highest.saturating_add(GAP);
        client.rows(&format!("SELECT setval('{}', $1)", behind.sequence), &[&up_to]).await?;
        tracing::warn!(up_to, "{behind}: moved");
    }
    Ok(())
}
