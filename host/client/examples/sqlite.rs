//! Stores an order and the confirmation to send, in one transaction of a SQLite file.
//!
//! `OUTBOX_DB=app.sqlite outbox migrate` creates the file with the schema of the outbox, then
//! `cargo run --example sqlite --features rusqlite -- app.sqlite` runs this.

use outbox_client::{NewItem, sqlite::enqueue_in};

fn place_order(db: &mut rusqlite::Connection) -> Result<(), Box<dyn std::error::Error>> {
    let tx = db.transaction()?;
    tx.execute("INSERT INTO orders (id, customer) VALUES (19, 'barbara')", [])?;
    enqueue_in(&tx, &NewItem::new("webhook", "order-19-confirmed", r#"{"order": 19}"#))?;
    tx.commit()?;
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("give the path of a SQLite file that has the schema of the outbox")?;
    let mut db = rusqlite::Connection::open(path)?;
    db.execute_batch("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, customer TEXT NOT NULL)")?;
    place_order(&mut db)
}
