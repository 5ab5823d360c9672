//! Export and import: rows to and from records, column by column. A record from here is the same, byte for
//! byte, as one that SQLite makes of the same item.

use std::collections::HashMap;

use serde_json::Value;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::ending::EPOCH;
use super::fault::Fault;
use super::step::{Sql, Step, Values, storable};
use crate::item::{ItemId, Status};
use crate::store::transfer::{
    ATTEMPT, ITEM, RUN, STATE, TOTAL, from_bytes, number, refuse_claimed, taken_item, taken_state, to_bytes, word,
};
use crate::store::{Columns, ExportPage, ExportPosition, Imported, Record, Run, StoreError};

/// How a column stands in the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Json,
    Number,
    Flag,
    Bytes,
}

impl Kind {
    fn of(column: &str) -> Self {
        match column {
            "headers" | "metadata" => Self::Json,
            "payload" | "result" | "exchanges" | "key" | "value" => Self::Bytes,
            "maybe_executed" | "blocks_key" => Self::Flag,
            "id" | "item_id" | "delivery" | "attempt" | "attempts" | "deliveries" | "replays" | "effects" | "run"
            | "version" | "total" | "given_back_since" => Self::Number,
            time if time.ends_with("_at") => Self::Number,
            _ => Self::Text,
        }
    }

    /// SQL that reads the column.
    fn read(self, column: &str) -> String {
        match self {
            Self::Text | Self::Json => format!("{column}::text"),
            Self::Number => format!("{column}::bigint"),
            Self::Flag => format!("{column}::integer::bigint"),
            Self::Bytes => column.to_owned(),
        }
    }

    /// SQL that writes the parameter of this number.
    fn write(self, parameter: usize) -> String {
        match self {
            Self::Text => format!("${parameter}::text"),
            Self::Json => format!("${parameter}::text::json"),
            Self::Number => format!("${parameter}::bigint"),
            Self::Flag => format!("(${parameter}::bigint <> 0)"),
            Self::Bytes => format!("${parameter}::bytea"),
        }
    }
}

pub(super) async fn export(sql: &impl Sql, after: ExportPosition, limit: u32) -> Result<ExportPage, Fault> {
    match after {
        ExportPosition::Item(id) => export_items(sql, id, limit).await,
        ExportPosition::State(version) => export_state(sql, version, limit).await,
    }
}

async fn export_items(sql: &impl Sql, after: ItemId, limit: u32) -> Result<ExportPage, Fault> {
    let tail = format!("WHERE id > $1 ORDER BY id LIMIT {limit}");
    let items = rows(sql, "outbox.items", ITEM, &tail, &[&after]).await?;
    let next = items.last().and_then(|item| number(item, "id"));
    let next = Some(next.map_or(ExportPosition::State(0), ExportPosition::Item));
    Ok(ExportPage { records: item_records(sql, items).await?, next })
}

/// The items with their history and the runs of their sagas.
async fn item_records(sql: &impl Sql, items: Vec<Columns>) -> Result<Vec<Record>, Fault> {
    let ids: Vec<_> = items.iter().filter_map(|item| number(item, "id")).collect();
    let tail = "WHERE item_id = ANY($1::bigint[]) ORDER BY item_id, delivery";
    let mut histories: HashMap<i64, Vec<Columns>> = HashMap::new();
    for attempt in rows(sql, "outbox.attempts", ATTEMPT, tail, &[&ids]).await? {
        histories.entry(number(&attempt, "item_id").unwrap_or_default()).or_default().push(attempt);
    }
    let mut records = Vec::new();
    for item in items {
        let attempts = number(&item, "id").and_then(|id| histories.remove(&id)).unwrap_or_default();
        let run = run(sql, &item).await?;
        records.push(Record::Item { item, attempts, run });
    }
    Ok(records)
}

async fn run(sql: &impl Sql, item: &Columns) -> Result<Option<Columns>, Fault> {
    let (saga, cid) = (word(item, "saga"), word(item, "cid"));
    if saga.is_empty() {
        return Ok(None);
    }
    Ok(rows(sql, "outbox.sagas", RUN, "WHERE saga = $1 AND cid = $2", &[&saga, &cid]).await?.pop())
}

/// The state, and with its last page the totals.
async fn export_state(sql: &impl Sql, after: i64, limit: u32) -> Result<ExportPage, Fault> {
    let tail = format!("WHERE version > $1 ORDER BY version LIMIT {limit}");
    let state = rows(sql, "outbox.state", STATE, &tail, &[&after]).await?;
    if let Some(last) = state.last().and_then(|state| number(state, "version")) {
        let records = state.into_iter().map(|state| Record::State { state }).collect();
        return Ok(ExportPage { records, next: Some(ExportPosition::State(last)) });
    }
    let summed = "(SELECT name, saga, type, outcome, sum(total) AS total FROM outbox.counters GROUP BY 1, 2, 3, 4)
                  AS counters";
    let totals = rows(sql, summed, TOTAL, "WHERE name <> 'done' ORDER BY name, saga, type, outcome", &[]).await?;
    Ok(ExportPage { records: totals.into_iter().map(|total| Record::Total { total }).collect(), next: None })
}

/// Imports all records, or none when one is in the way of what is there.
pub(super) async fn import(step: &mut Step<'_>, records: &[Record], run: Run) -> Result<Imported, Fault> {
    if run == Run::Real {
        reserve_for(step, records).await?;
    }
    let mut imported = Imported::default();
    for (index, record) in records.iter().enumerate() {
        if is_known(step, index, record).await? {
            imported.present += 1;
            continue;
        }
        imported.created += 1;
        if run == Run::Real {
            create(step, record).await?;
        }
    }
    Ok(imported)
}

async fn is_known(sql: &impl Sql, index: usize, record: &Record) -> Result<bool, Fault> {
    match record {
        Record::Item { item, .. } => is_known_item(sql, index, item, record).await,
        Record::State { state } => is_known_state(sql, state).await,
        Record::Total { total } => is_known_total(sql, total).await,
    }
}

/// Whether the very item is there. Another with its id or its key is a conflict.
async fn is_known_item(sql: &impl Sql, index: usize, item: &Columns, record: &Record) -> Result<bool, Fault> {
    refuse_claimed(item)?;
    let values: Values<'_> = &[&number(item, "id"), &word(item, "idem_key")];
    let found = rows(sql, "outbox.items", ITEM, "WHERE id = $1 OR idem_key = $2 ORDER BY id", values).await?;
    let Some(present) = found.into_iter().next() else { return Ok(false) };
    let first = number(&present, "id").unwrap_or_default();
    if item_records(sql, vec![present]).await?.pop() == Some(storable_record(record)) {
        return Ok(true);
    }
    Err(taken_item(index, item, first).into())
}

/// The record as it can be kept here.
fn storable_record(record: &Record) -> Record {
    let keep = |columns: &Columns| {
        let cell = |(name, value): (&String, &Value)| match value {
            Value::String(text) if Kind::of(name) != Kind::Bytes => (name.clone(), storable(text).into()),
            value => (name.clone(), value.clone()),
        };
        columns.iter().map(cell).collect::<Columns>()
    };
    match record {
        Record::Item { item, attempts, run } => Record::Item {
            item: keep(item),
            attempts: attempts.iter().map(keep).collect(),
            run: run.as_ref().map(keep),
        },
        other => other.clone(),
    }
}

async fn is_known_state(sql: &impl Sql, state: &Columns) -> Result<bool, Fault> {
    let tail = "WHERE version = $1 OR (plugin = $2 AND key = $3)";
    let key = word(state, "key").as_bytes();
    let values: Values<'_> = &[&number(state, "version"), &word(state, "plugin"), &key];
    match rows(sql, "outbox.state", STATE, tail, values).await?.first() {
        None => Ok(false),
        Some(present) if present == state => Ok(true),
        Some(_) => Err(taken_state(state).into()),
    }
}

/// Whether the total is at least that high.
async fn is_known_total(sql: &impl Sql, total: &Columns) -> Result<bool, Fault> {
    let [name, saga, item_type, outcome] = ["name", "saga", "type", "outcome"].map(|name| word(total, name));
    let statement = "SELECT sum(total)::bigint FROM outbox.counters
                     WHERE name = $1 AND saga = $2 AND type = $3 AND outcome = $4";
    let rows = sql.rows(statement, &[&name, &saga, &item_type, &outcome]).await?;
    let present: Option<i64> = rows.first().map_or(Ok(None), |row| row.try_get(0))?;
    Ok(present >= number(total, "total"))
}

async fn create(step: &mut Step<'_>, record: &Record) -> Result<(), Fault> {
    match record {
        Record::Item { item, attempts, run } => {
            insert(step, "outbox.items", ITEM, item, "").await?;
            let date = format!("UPDATE outbox.items SET epoch = {EPOCH} WHERE id = $1");
            step.rows(&date, &[&number(item, "id")]).await?;
            for attempt in attempts {
                insert(step, "outbox.attempts", ATTEMPT, attempt, "").await?;
            }
            if let Some(run) = run {
                let replace = "ON CONFLICT (saga, cid) DO UPDATE
                               SET run = excluded.run, began_at = excluded.began_at, ended_at = excluded.ended_at";
                insert(step, "outbox.sagas", RUN, run, replace).await?;
            }
            if word(item, "status") == Status::Done.as_str() {
                step.tally("done", "", word(item, "type"), "", 1);
            }
            step.makes_work_elsewhere = true;
            Ok(())
        }
        Record::State { state } => insert(step, "outbox.state", STATE, state, "").await,
        Record::Total { total } => {
            let key = ["name", "saga", "type", "outcome"].map(|name| word(total, name));
            let clear = "DELETE FROM outbox.counters WHERE name = $1 AND saga = $2 AND type = $3 AND outcome = $4";
            step.rows(clear, &[&key[0], &key[1], &key[2], &key[3]]).await?;
            insert(step, "outbox.counters", TOTAL, total, "").await
        }
    }
}

/// Keeps the numbers of the records from being given again.
async fn reserve_for(step: &Step<'_>, records: &[Record]) -> Result<(), Fault> {
    if let Some(last) = records.iter().filter_map(Record::item_id).max() {
        reserve(step, last).await?;
    }
    let version = |record: &Record| match record {
        Record::State { state } => number(state, "version"),
        _ => None,
    };
    match records.iter().filter_map(version).max() {
        Some(last) => raise(step, "outbox.state", "outbox.state_version_seq", last).await,
        None => Ok(()),
    }
}

/// Ids up to this one are never given by this store.
pub(super) async fn reserve(step: &Step<'_>, up_to: ItemId) -> Result<(), Fault> {
    raise(step, "outbox.items", "outbox.items_id_seq", up_to).await
}

/// The highest id that was given or reserved.
pub(super) async fn reserved(sql: &impl Sql) -> Result<ItemId, Fault> {
    given(sql, "outbox.items_id_seq").await
}

async fn given(sql: &impl Sql, sequence: &str) -> Result<i64, Fault> {
    let statement = format!("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {sequence}");
    Ok(sql.rows(&statement, &[]).await?.first().ok_or(Fault::Overtaken)?.try_get(0)?)
}

/// Lets a sequence go on after a number, unless it is past it. Whoever inserts waits meanwhile, so that
/// none of them is given a number that this takes back.
async fn raise(step: &Step<'_>, table: &str, sequence: &str, up_to: i64) -> Result<(), Fault> {
    if given(step, sequence).await? >= up_to {
        return Ok(());
    }
    step.rows(&format!("LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE"), &[]).await?;
    let raise = format!("SELECT setval('{sequence}', greatest(last_value, $1)) FROM {sequence}");
    step.rows(&raise, &[&up_to]).await.map(drop)
}

async fn rows(
    sql: &impl Sql,
    table: &str,
    columns: &[&str],
    tail: &str,
    values: Values<'_>,
) -> Result<Vec<Columns>, Fault> {
    let list: Vec<_> = columns.iter().map(|column| Kind::of(column).read(column)).collect();
    let statement = format!("SELECT {} FROM {table} {tail}", list.join(", "));
    let read = |row: &Row| {
        let cell = |(index, name): (usize, &&str)| Ok(((*name).to_owned(), to_json(row, index, Kind::of(name))?));
        columns.iter().enumerate().map(cell).collect()
    };
    sql.rows(&statement, values).await?.iter().map(read).collect()
}

fn to_json(row: &Row, index: usize, kind: Kind) -> Result<Value, Fault> {
    Ok(match kind {
        Kind::Text | Kind::Json => row.try_get::<_, Option<String>>(index)?.map_or(Value::Null, Value::from),
        Kind::Number | Kind::Flag => row.try_get::<_, Option<i64>>(index)?.map_or(Value::Null, Value::from),
        Kind::Bytes => row.try_get::<_, Option<&[u8]>>(index)?.map_or(Value::Null, from_bytes),
    })
}

async fn insert(step: &Step<'_>, into: &str, columns: &[&str], row: &Columns, tail: &str) -> Result<(), Fault> {
    let marks: Vec<_> = columns.iter().enumerate().map(|(index, name)| Kind::of(name).write(index + 1)).collect();
    let statement = format!("INSERT INTO {into} ({}) VALUES ({}) {tail}", columns.join(", "), marks.join(", "));
    let cells: Vec<_> =
        columns.iter().map(|name| cell(name, row.get(*name).unwrap_or(&Value::Null))).collect::<Result<_, _>>()?;
    let values: Vec<&(dyn ToSql + Sync)> = cells.iter().map(|cell| &**cell as &(dyn ToSql + Sync)).collect();
    step.rows(&statement, &values).await.map(drop)
}

/// The value of a record's column, as its kind of parameter.
fn cell(name: &str, value: &Value) -> Result<Box<dyn ToSql + Sync + Send>, StoreError> {
    let unfit = || StoreError::Unusable(format!("{name} cannot be {value}"));
    Ok(match (Kind::of(name), value) {
        (Kind::Text | Kind::Json, value) => Box::new(match value {
            Value::Null => None,
            value => Some(storable(value.as_str().ok_or_else(unfit)?)),
        }),
        (Kind::Number | Kind::Flag, value) => Box::new(match value {
            Value::Null => None,
            value => Some(value.as_i64().ok_or_else(unfit)?),
        }),
        (Kind::Bytes, value) => Box::new(match value {
            Value::Null => None,
            value => Some(to_bytes(value).map_err(|_| unfit())?),
        }),
    })
}
