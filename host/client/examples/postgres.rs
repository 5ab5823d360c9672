//! Stores an order and the confirmation to send, in one transaction of a PostgreSQL database.
//!
//! `OUTBOX_DB=postgres://… outbox migrate` creates the schema of the outbox, then
//! `cargo run --example postgres --features tokio-postgres -- postgres://…` runs this.

use outbox_client::{NewItem, postgres::enqueue_in};

async fn place_order(db: &mut tokio_postgres::Client) -> Result<(), Box<dyn std::error::Error>> {
    let tx = db.transaction().await?;
    tx.execute("INSERT INTO orders (id, customer) VALUES (19, 'barbara')", &[]).await?;
    enqueue_in(&tx, &NewItem::new("webhook", "order-19-confirmed", r#"{"order": 19}"#)).await?;
    tx.commit().await?;
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url =
        std::env::args().nth(1).ok_or("give the URL of a PostgreSQL database that has the schema of the outbox")?;
    let (mut db, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    db.batch_execute("CREATE TABLE IF NOT EXISTS orders (id integer PRIMARY KEY, customer text NOT NULL)").await?;
    place_order(&mut db).await
}
