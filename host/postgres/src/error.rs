//! Why a call failed: whether a repetition may help, whether the database is unavailable, and the text for the caller.
//!
//! It knows the server's error codes, and nothing of what was tried.

use std::error::Error;

use deadpool_postgres::PoolError;
use tokio_postgres::error::SqlState;

use outbox_store::StoreError;

/// Why a call failed.
#[derive(Debug)]
pub(crate) enum PgError {
    /// A rule of the store refused the call.
    Rejected(StoreError),
    /// The server refused it, or the connection was lost before the commit was sent.
    Database(tokio_postgres::Error),
    /// The reply to the commit was lost: it is unknown whether the transaction was committed.
    CommitUnknown(tokio_postgres::Error),
    /// The pool had no connection to give.
    NoConnection(PoolError),
    /// Another transaction changed a row that this one had read.
    LostRace,
    /// The server did not reply in time.
    TimedOut,
    /// The server takes no writes, although a statement that only reads was not refused.
    ReadOnlyServer,
}

/// What the driver says when it finds no server that accepts writes.
const NO_SERVER_WRITES: &str = "database does not allow writes";
const READ_ONLY_ADVICE: &str = ": the server is read-only, perhaps a standby: give the primary's address, or several";

impl From<tokio_postgres::Error> for PgError {
    fn from(source: tokio_postgres::Error) -> Self {
        Self::Database(source)
    }
}

impl From<PoolError> for PgError {
    fn from(source: PoolError) -> Self {
        Self::NoConnection(source)
    }
}

impl From<StoreError> for PgError {
    fn from(refused: StoreError) -> Self {
        Self::Rejected(refused)
    }
}

impl PgError {
    /// Whether the same call may succeed in a moment, and has not been committed.
    pub(crate) fn is_retryable(&self) -> bool {
        match self {
            Self::Rejected(_) | Self::CommitUnknown(_) | Self::TimedOut | Self::NoConnection(PoolError::Timeout(_)) => {
                false
            }
            Self::LostRace | Self::ReadOnlyServer => true,
            Self::Database(_) | Self::NoConnection(_) => self.code().is_none_or(|code| {
                let class = code.code().get(..2).unwrap_or_default();
                matches!(class, "40" | "08" | "57") && *code != SqlState::QUERY_CANCELED
                    || [SqlState::TOO_MANY_CONNECTIONS, SqlState::UNIQUE_VIOLATION, SqlState::READ_ONLY_SQL_TRANSACTION]
                        .contains(code)
                    // The store sets the sequence back.
                    || *code == SqlState::SEQUENCE_GENERATOR_LIMIT_EXCEEDED
            }),
        }
    }

    /// Whether the same call may succeed in a moment, whatever it wants to write, and has not been committed.
    pub(crate) fn is_lost_connection(&self) -> bool {
        self.is_retryable() && self.is_outage()
    }

    /// Whether the call waited for a lock for longer than it may.
    pub(crate) fn is_lock_timeout(&self) -> bool {
        self.code() == Some(&SqlState::LOCK_NOT_AVAILABLE)
    }

    /// Whether the call took longer than it may.
    pub(crate) fn is_timeout(&self) -> bool {
        matches!(self, Self::TimedOut) || self.code() == Some(&SqlState::QUERY_CANCELED)
    }

    /// Whether the database refuses what the call wants to write, as opposed to a wait that was too long or a lost race.
    pub(crate) fn is_refusal(&self) -> bool {
        let class = self.code().and_then(|code| code.code().get(..2));
        !self.is_timeout() && class.is_some_and(|class| !["40", "55", "57"].contains(&class))
    }

    /// Whether an item is among the DONE items already that was to become DONE.
    pub(crate) fn is_done_already(&self) -> bool {
        self.violated_key() == Some("done_pkey")
    }

    /// Whether another item has the idempotency key.
    pub(crate) fn is_duplicate_key(&self) -> bool {
        self.violated_key() == Some("items_idem_key")
    }

    /// Whether a sequence gives numbers that are in use already, or none any more.
    pub(crate) fn is_about_numbers(&self) -> bool {
        self.is_duplicate_number() || self.is_end_of_numbers()
    }

    /// Whether a sequence is at the end of its range.
    fn is_end_of_numbers(&self) -> bool {
        self.code() == Some(&SqlState::SEQUENCE_GENERATOR_LIMIT_EXCEEDED)
    }

    /// Whether a number that a sequence gave is in use already.
    fn is_duplicate_number(&self) -> bool {
        const NUMBERS: [&str; 5] = ["items_pkey", "signals_pkey", "jobs_pkey", "audit_pkey", "handlers_pkey"];
        self.violated_key().is_some_and(|key| NUMBERS.contains(&key))
    }

    /// The unique constraint that refused a row.
    fn violated_key(&self) -> Option<&str> {
        let source = self.server_error().filter(|source| source.code() == Some(&SqlState::UNIQUE_VIOLATION))?;
        source.as_db_error()?.constraint()
    }

    /// Whether this connection, and every other one to the same server, should not be used again: the server became
    /// read-only, or shuts down. Another may have taken over.
    pub(crate) fn is_about_the_server(&self) -> bool {
        const LEAVING: [SqlState; 4] = [
            SqlState::READ_ONLY_SQL_TRANSACTION,
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
        ];
        matches!(self, Self::ReadOnlyServer) || self.code().is_some_and(|code| LEAVING.contains(code))
    }

    /// Whether the server's disk is full. Reads and small writes go on.
    pub(crate) fn is_disk_full(&self) -> bool {
        self.code() == Some(&SqlState::DISK_FULL)
    }

    /// Whether the database is unavailable, as opposed to a failure of this call alone.
    pub(crate) fn is_outage(&self) -> bool {
        match self {
            Self::Rejected(_) | Self::LostRace => false,
            Self::TimedOut | Self::NoConnection(_) | Self::ReadOnlyServer => true,
            Self::Database(_) | Self::CommitUnknown(_) => self.code().is_none_or(|code| {
                let class = code.code().get(..2).unwrap_or_default();
                // Others of class 53 tell that this call wants too much: memory, locks, parameters.
                matches!(class, "08" | "57" | "58") && *code != SqlState::QUERY_CANCELED
                    || [SqlState::READ_ONLY_SQL_TRANSACTION, SqlState::DISK_FULL, SqlState::TOO_MANY_CONNECTIONS]
                        .contains(code)
            }),
        }
    }

    /// Whether the failure says nothing about what the call wanted to write: the database is unavailable, or it is
    /// unknown whether the call was committed.
    pub(crate) fn is_about_the_database(&self) -> bool {
        self.is_outage() || matches!(self, Self::CommitUnknown(_))
    }

    /// The error for the caller that was doing `tried`.
    pub(crate) fn into_store_error(self, tried: &'static str) -> StoreError {
        match self {
            Self::Rejected(refused) => refused,
            err if err.is_unusable() => StoreError::Unusable(format!("{tried}: {}{}", err.message(), err.advice())),
            err => {
                let message = format!("{}{}", err.message(), err.advice());
                StoreError::Unavailable { tried, source: message.into() }
            }
        }
    }

    /// What happened, without advice.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::Rejected(refused) => refused.to_string(),
            Self::LostRace => "other transactions were faster again and again".into(),
            Self::TimedOut => "the database did not answer in time".into(),
            Self::ReadOnlyServer => "the server refuses writes".into(),
            Self::CommitUnknown(source) => format!("it is unknown whether this was committed: {}", error_chain(source)),
            Self::Database(source) | Self::NoConnection(PoolError::Backend(source)) => error_chain(source),
            Self::NoConnection(PoolError::Timeout(_)) => "no connection became free in time".into(),
            Self::NoConnection(source) => error_chain(source),
        }
    }

    fn is_unusable(&self) -> bool {
        let given_up = [
            SqlState::INVALID_SCHEMA_NAME,
            SqlState::UNDEFINED_TABLE,
            SqlState::INSUFFICIENT_PRIVILEGE,
            SqlState::INVALID_PASSWORD,
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            SqlState::INVALID_CATALOG_NAME,
        ];
        self.code().is_some_and(|code| given_up.contains(code))
    }

    fn advice(&self) -> &'static str {
        match self.code() {
            Some(code) if [SqlState::INVALID_SCHEMA_NAME, SqlState::UNDEFINED_TABLE].contains(code) => {
                ": create the outbox with `outbox migrate`"
            }
            Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => ": grant the role what docs/operations.md lists",
            Some(code) if *code == SqlState::READ_ONLY_SQL_TRANSACTION => READ_ONLY_ADVICE,
            None if matches!(self, Self::ReadOnlyServer) || self.message().contains(NO_SERVER_WRITES) => {
                READ_ONLY_ADVICE
            }
            Some(code) if *code == SqlState::DISK_FULL => ": the server's disk is full",
            _ if self.is_about_numbers() => {
                ": a sequence is behind the numbers in use, or at its end; `outbox doctor` names it"
            }
            Some(code) if *code == SqlState::INVALID_CATALOG_NAME => ": create the database, or give another's name",
            _ => "",
        }
    }

    fn code(&self) -> Option<&SqlState> {
        self.server_error()?.code()
    }

    fn server_error(&self) -> Option<&tokio_postgres::Error> {
        match self {
            Self::Database(source) | Self::CommitUnknown(source) | Self::NoConnection(PoolError::Backend(source)) => {
                Some(source)
            }
            _ => None,
        }
    }
}

/// The error with its causes. When the server reported an error, its message and code replace the rest.
fn error_chain(error: &(dyn Error + 'static)) -> String {
    let mut message = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        message = match source.downcast_ref::<tokio_postgres::error::DbError>() {
            Some(said) => format!("{} ({})", said.message(), said.code().code()),
            None => format!("{message}: {source}"),
        };
        next = source.source();
    }
    message
}
