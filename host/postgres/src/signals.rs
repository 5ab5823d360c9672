//! Reading the signals. Their numbers ascend in the order of commits, so nothing is missed by reading on.

use crate::error::PgError;
use crate::tx::Query;
use outbox_core::saga::Signal;

pub(crate) async fn list(tx: &impl Query, after: i64, limit: u32) -> Result<Vec<Signal>, PgError> {
    let statement = "SELECT seq, pod, signal, ts, data::text FROM outbox.signals WHERE seq > $1 ORDER BY seq LIMIT $2";
    let rows = tx.rows(statement, &[&after, &i64::from(limit)]).await?;
    let signal = |row: &tokio_postgres::Row| {
        Ok(Signal {
            seq: row.try_get(0)?,
            pod: row.try_get(1)?,
            signal: row.try_get(2)?,
            ts: row.try_get(3)?,
            data: serde_json::from_str(row.try_get(4)?).unwrap_or_default(),
        })
    };
    rows.iter().map(signal).collect()
}
