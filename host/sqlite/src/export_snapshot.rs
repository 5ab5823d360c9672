//! One moment of the store, for an export: a read transaction that stays open.
//!
//! It does not know what is exported.

use std::path::Path;

use async_trait::async_trait;
use rusqlite::Connection;

use outbox_store::{ExportPage, ExportPosition, ExportSnapshot, StoreError};

use crate::connection::connect_read_only;
use crate::error::unavailable;
use crate::transfer;

const TRIED: &str = "exporting records";

/// A connection in a read transaction. One transaction writes at a time, so ids ascend in the order of commits and
/// nothing is committed late below an id that was read.
pub(crate) struct SqliteSnapshot {
    /// `None` while a page is read, and after a failure.
    connection: Option<Connection>,
}

impl SqliteSnapshot {
    pub(crate) fn begin(path: &Path) -> Result<Self, StoreError> {
        let begin = || {
            let connection = connect_read_only(path)?;
            connection.execute_batch("BEGIN")?;
            // The first read chooses the moment.
            connection.query_row("SELECT count(*) FROM outbox_pauses", [], |_| Ok(()))?;
            Ok(connection)
        };
        Ok(Self { connection: Some(begin().map_err(unavailable(TRIED))?) })
    }
}

#[async_trait]
impl ExportSnapshot for SqliteSnapshot {
    async fn page(&mut self, after: ExportPosition, limit: u32) -> Result<ExportPage, StoreError> {
        let failed =
            |source: Box<dyn std::error::Error + Send + Sync>| StoreError::Unavailable { tried: TRIED, source };
        let connection = self.connection.take().ok_or_else(|| failed("an earlier page could not be read".into()))?;
        let read = move || transfer::export(&connection, after, limit).map(|page| (connection, page));
        let read = tokio::task::spawn_blocking(read).await.map_err(|err| failed(err.into()))?;
        let (connection, page) = read.map_err(unavailable(TRIED))?;
        self.connection = Some(connection);
        Ok(page)
    }
}
