//! What `enqueue_in` promises, written once and run for every driver.
//!
//! The databases come from `tests/sql/client.rs`, which starts a server, creates the schemas and runs this program.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod applications;
mod promise;

use applications::{Rusqlite, SqlxPostgres, TokioPostgres};

/// An address that `tests/sql/client.rs` gives.
fn address(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is missing: `tests/sql/client.rs` runs this"))
}

#[tokio::test]
#[ignore = "needs the databases of tests/sql/client.rs"]
async fn rusqlite_keeps_the_promise() {
    promise::keep(&mut Rusqlite::connect(&address("OUTBOX_RUSQLITE"))).await;
}

#[tokio::test]
#[ignore = "needs the databases of tests/sql/client.rs"]
async fn tokio_postgres_keeps_the_promise() {
    let url = address("OUTBOX_TOKIO_POSTGRES");
    let mut application = TokioPostgres::connect(&url).await;
    promise::keep(&mut application).await;
    promise::keep_during_a_race(&mut application, &url).await;
}

#[tokio::test]
#[ignore = "needs the databases of tests/sql/client.rs"]
async fn sqlx_postgres_keeps_the_promise() {
    let url = address("OUTBOX_SQLX_POSTGRES");
    let mut application = SqlxPostgres::connect(&url).await;
    promise::keep(&mut application).await;
    promise::keep_during_a_race(&mut application, &url).await;
}
