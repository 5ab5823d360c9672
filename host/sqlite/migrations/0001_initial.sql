-- The outbox in a SQLite file: the application's own file, or one for the outbox alone.
--
-- outbox_items is public: applications insert into it inside their own transactions, with their own version of SQLite.
-- The schema needs SQLite 3.38 or newer. Times are Unix milliseconds.

CREATE TABLE outbox_items (
    id INTEGER PRIMARY KEY AUTOINCREMENT CHECK (id > 0),
    idem_key TEXT NOT NULL UNIQUE
        CHECK (length(idem_key) BETWEEN 1 AND 255 AND idem_key NOT GLOB '*[^ -~]*'),
    type TEXT NOT NULL
        CHECK (length(type) <= 255 AND type GLOB '[a-z0-9]*' AND type NOT GLOB '*[^a-z0-9._-]*'),
    payload ANY NOT NULL CHECK (typeof(payload) IN ('text', 'blob')),
    content_type TEXT NOT NULL DEFAULT 'application/json'
        CHECK (content_type = 'application/json' OR length(content_type) BETWEEN 1 AND 255 AND content_type NOT GLOB '*[^ -~]*'),
    headers TEXT NOT NULL DEFAULT '{}'
        CHECK (headers = '{}' OR CASE WHEN json_valid(headers) THEN json_type(headers) = 'object' ELSE 0 END),
    metadata TEXT NOT NULL DEFAULT '{}'
        CHECK (metadata = '{}' OR CASE WHEN json_valid(metadata) THEN json_type(metadata) = 'object' ELSE 0 END),
    cid TEXT NOT NULL DEFAULT (lower(hex(randomblob(16))))
        CHECK (cid = idem_key OR length(cid) BETWEEN 1 AND 255 AND cid NOT GLOB '*[^ -~]*'),
    saga TEXT
        CHECK (length(saga) <= 255 AND saga GLOB '[A-Za-z0-9]*' AND saga NOT GLOB '*[^A-Za-z0-9._-]*'),
    ordering_key TEXT
        CHECK (length(ordering_key) BETWEEN 1 AND 255 AND ordering_key NOT GLOB '*[^ -~]*'),
    -- Single comparisons: SQLite builds a temporary table for a longer list after IN, for every statement.
    status TEXT NOT NULL DEFAULT 'PENDING'
        CHECK (status = 'PENDING' OR status = 'CLAIMED' OR status = 'DONE' OR status = 'DLQ'),
    attempts INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    deliveries INTEGER NOT NULL DEFAULT 0 CHECK (deliveries >= attempts),
    replays INTEGER NOT NULL DEFAULT 0 CHECK (replays >= 0),
    effects INTEGER NOT NULL DEFAULT 0 CHECK (effects >= 0),
    available_at INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
    claimed_at INTEGER,
    claimed_by TEXT,
    claim_token TEXT,
    lease_until INTEGER,
    given_back_since INTEGER,
    maybe_executed INTEGER NOT NULL DEFAULT 0 CHECK (maybe_executed IN (0, 1)),
    blocks_key INTEGER NOT NULL DEFAULT 0 CHECK (blocks_key IN (0, 1)),
    -- The item is queued behind another item of its ordering key. Triggers keep the value; for finished items it has no
    -- meaning.
    held INTEGER NOT NULL DEFAULT 0 CHECK (held IN (0, 1)),
    -- The number of the newest job when the status last changed. A job takes only items with a smaller number, which
    -- had their status before the job began.
    epoch INTEGER NOT NULL DEFAULT 0,
    -- The group of similar failures to which a dead-lettered item belongs.
    fingerprint TEXT,
    last_error TEXT,
    created_at INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
    done_at INTEGER,
    dead_at INTEGER,
    result BLOB,
    handler_digest TEXT,
    CHECK ((status = 'CLAIMED') = (claim_token IS NOT NULL)),
    CHECK ((claim_token IS NULL) = (claimed_at IS NULL)),
    CHECK ((claim_token IS NULL) = (claimed_by IS NULL)),
    CHECK ((claim_token IS NULL) = (lease_until IS NULL)),
    CHECK ((status = 'DONE') = (done_at IS NOT NULL)),
    CHECK ((status = 'DLQ') = (dead_at IS NOT NULL)),
    CHECK (blocks_key = 0 OR (status = 'DLQ' AND ordering_key IS NOT NULL)),
    CHECK (held = 0 OR ordering_key IS NOT NULL),
    CHECK (fingerprint IS NULL OR status = 'DLQ')
) STRICT;

-- Items ready to claim, per type and in the order of claims. Finished items and held items are not in it.
CREATE INDEX outbox_items_ready ON outbox_items (type, available_at) WHERE status = 'PENDING' AND held = 0;
CREATE INDEX outbox_items_held ON outbox_items (type, available_at) WHERE held = 1 AND status = 'PENDING';
-- Claimed items: a few rows, read for expired leases and for the number of claims per type.
CREATE INDEX outbox_items_claimed ON outbox_items (lease_until, type) WHERE status = 'CLAIMED';
CREATE INDEX outbox_items_dead ON outbox_items (type, dead_at) WHERE status = 'DLQ';
-- Dead items in the order of ids, for jobs.
CREATE INDEX outbox_items_dlq ON outbox_items (status) WHERE status = 'DLQ';
CREATE INDEX outbox_items_failure ON outbox_items (fingerprint, type, dead_at) WHERE status = 'DLQ';
-- Items with several failed attempts: few rows, except during an incident.
CREATE INDEX outbox_items_failing ON outbox_items (attempts) WHERE attempts > 2 AND status = 'PENDING';
CREATE INDEX outbox_items_done ON outbox_items (done_at) WHERE status = 'DONE';
-- Items of an ordering key that can be its head.
CREATE INDEX outbox_items_order ON outbox_items (ordering_key)
    WHERE ordering_key IS NOT NULL AND (status IN ('PENDING', 'CLAIMED') OR blocks_key = 1);
CREATE INDEX outbox_items_front ON outbox_items (ordering_key)
    WHERE ordering_key IS NOT NULL AND held = 0 AND status = 'PENDING';
CREATE INDEX outbox_items_busy ON outbox_items (ordering_key)
    WHERE ordering_key IS NOT NULL AND status = 'CLAIMED';
CREATE INDEX outbox_items_blocked ON outbox_items (ordering_key) WHERE blocks_key = 1;
-- Unfinished and failed items of a saga run.
CREATE INDEX outbox_items_saga ON outbox_items (saga, cid, status)
    WHERE saga IS NOT NULL AND status <> 'DONE';
-- An item whose correlation id is its own key is found by the key instead.
CREATE INDEX outbox_items_cid ON outbox_items (cid) WHERE cid <> idem_key OR saga IS NOT NULL;

-- An insert with an existing key does nothing when the content is the same. With other content it fails, whatever
-- conflict clause the statement names, so that INSERT OR REPLACE cannot destroy an item.
CREATE TRIGGER outbox_items_insert BEFORE INSERT ON outbox_items
WHEN EXISTS (SELECT 1 FROM outbox_items WHERE idem_key = NEW.idem_key)
BEGIN
    SELECT CASE
        WHEN EXISTS (
            SELECT 1 FROM outbox_items AS old
            WHERE old.idem_key = NEW.idem_key
              AND old.type = NEW.type
              AND CAST(old.payload AS BLOB) = CAST(NEW.payload AS BLOB)
              AND old.content_type = NEW.content_type
              AND old.saga IS NEW.saga
              AND old.ordering_key IS NEW.ordering_key
        ) THEN RAISE(IGNORE)
        ELSE RAISE(ABORT, 'outbox: idem_key is already used by an item with other content')
    END;
END;

-- NEW.id is -1 when the statement gives no id.
CREATE TRIGGER outbox_items_insert_id BEFORE INSERT ON outbox_items
WHEN NEW.id > 0 AND EXISTS (SELECT 1 FROM outbox_items WHERE id = NEW.id AND idem_key <> NEW.idem_key)
BEGIN
    SELECT RAISE(ABORT, 'outbox: id is already used by another item');
END;

CREATE TRIGGER outbox_items_immutable
BEFORE UPDATE OF id, idem_key, type, payload, content_type, headers, cid, saga, ordering_key, created_at
ON outbox_items
WHEN OLD.id IS NOT NEW.id OR OLD.idem_key IS NOT NEW.idem_key OR OLD.type IS NOT NEW.type
  OR OLD.payload IS NOT NEW.payload OR OLD.content_type IS NOT NEW.content_type
  OR OLD.headers IS NOT NEW.headers OR OLD.cid IS NOT NEW.cid OR OLD.saga IS NOT NEW.saga
  OR OLD.ordering_key IS NOT NEW.ordering_key OR OLD.created_at IS NOT NEW.created_at
BEGIN
    SELECT RAISE(ABORT, 'outbox: this column never changes after the item was enqueued');
END;

CREATE TRIGGER outbox_items_delete BEFORE DELETE ON outbox_items
WHEN OLD.status IN ('PENDING', 'CLAIMED')
BEGIN
    SELECT RAISE(ABORT, 'outbox: an item that is not finished cannot be deleted');
END;

-- Of each ordering key one item is the head: the item that is CLAIMED, else the oldest item that is not finished or
-- blocks the key. Every other PENDING item of the key is held. So a long queue behind one item costs a claim nothing,
-- also when an application inserted it.
CREATE VIEW outbox_fronts AS SELECT ordering_key FROM outbox_items WHERE ordering_key IS NOT NULL;

-- Inserting a key here determines anew which of its items are held. This is a trigger of its own because SQLite
-- prepares the whole program of a trigger each time, also for items without a key.
CREATE TRIGGER outbox_fronts_moved INSTEAD OF INSERT ON outbox_fronts
BEGIN
    UPDATE outbox_items SET held = 1
    WHERE ordering_key = NEW.ordering_key AND ordering_key IS NOT NULL AND held = 0 AND status = 'PENDING'
      AND id <> coalesce(
        (SELECT id FROM outbox_items
         WHERE ordering_key = NEW.ordering_key AND ordering_key IS NOT NULL AND status = 'CLAIMED' LIMIT 1),
        (SELECT id FROM outbox_items
         WHERE ordering_key = NEW.ordering_key AND ordering_key IS NOT NULL
           AND (status IN ('PENDING', 'CLAIMED') OR blocks_key = 1) ORDER BY id LIMIT 1));
    UPDATE outbox_items SET held = 0
    WHERE held = 1 AND id = coalesce(
        (SELECT id FROM outbox_items
         WHERE ordering_key = NEW.ordering_key AND ordering_key IS NOT NULL AND status = 'CLAIMED' LIMIT 1),
        (SELECT id FROM outbox_items
         WHERE ordering_key = NEW.ordering_key AND ordering_key IS NOT NULL
           AND (status IN ('PENDING', 'CLAIMED') OR blocks_key = 1) ORDER BY id LIMIT 1));
END;

CREATE TRIGGER outbox_items_front_insert AFTER INSERT ON outbox_items
WHEN NEW.ordering_key IS NOT NULL
BEGIN
    INSERT INTO outbox_fronts (ordering_key) VALUES (NEW.ordering_key);
END;

CREATE TRIGGER outbox_items_front_update AFTER UPDATE OF status, blocks_key ON outbox_items
WHEN NEW.ordering_key IS NOT NULL AND NEW.status <> 'CLAIMED'
BEGIN
    INSERT INTO outbox_fronts (ordering_key) VALUES (NEW.ordering_key);
END;

CREATE TRIGGER outbox_items_front_delete AFTER DELETE ON outbox_items
WHEN OLD.blocks_key = 1
BEGIN
    INSERT INTO outbox_fronts (ordering_key) VALUES (OLD.ordering_key);
END;

-- One row for each attempt that did not end DONE.
CREATE TABLE outbox_attempts (
    item_id INTEGER NOT NULL,
    delivery INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    ended_at INTEGER NOT NULL,
    pod TEXT NOT NULL,
    class TEXT NOT NULL,
    code TEXT NOT NULL,
    message TEXT NOT NULL,
    stderr TEXT,
    handler_digest TEXT,
    maybe_executed INTEGER NOT NULL CHECK (maybe_executed IN (0, 1)),
    exchanges BLOB,
    PRIMARY KEY (item_id, delivery)
) STRICT;

CREATE TABLE outbox_sagas (
    saga TEXT NOT NULL,
    cid TEXT NOT NULL,
    run INTEGER NOT NULL,
    began_at INTEGER NOT NULL,
    ended_at INTEGER,
    PRIMARY KEY (saga, cid)
) STRICT, WITHOUT ROWID;

CREATE TABLE outbox_signals (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    pod TEXT NOT NULL,
    signal TEXT NOT NULL,
    ts INTEGER NOT NULL,
    data TEXT NOT NULL
) STRICT;

-- Totals. The transaction that changes a total writes it, so that no reader counts rows.
CREATE TABLE outbox_counters (
    name TEXT NOT NULL,
    saga TEXT NOT NULL DEFAULT '',
    type TEXT NOT NULL DEFAULT '',
    outcome TEXT NOT NULL DEFAULT '',
    total INTEGER NOT NULL,
    PRIMARY KEY (name, saga, type, outcome)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER outbox_items_deleted AFTER DELETE ON outbox_items
BEGIN
    DELETE FROM outbox_attempts WHERE item_id = OLD.id;
    UPDATE outbox_counters SET total = total - 1
    WHERE OLD.status = 'DONE' AND name = 'done' AND saga = '' AND type = OLD.type AND outcome = '';
    DELETE FROM outbox_sagas
    WHERE saga = OLD.saga AND cid = OLD.cid AND ended_at IS NOT NULL
      AND NOT EXISTS (SELECT 1 FROM outbox_items WHERE cid = OLD.cid AND saga = OLD.saga);
END;

-- The key-value state of plugins. Every write gets a new version; no version is used twice.
CREATE TABLE outbox_state (
    version INTEGER PRIMARY KEY AUTOINCREMENT,
    plugin TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    UNIQUE (plugin, key)
) STRICT;

-- The size of each plugin's state, so that the check of a quota reads one row. Bytes are those of keys and values.
CREATE TABLE outbox_state_totals (
    plugin TEXT PRIMARY KEY,
    keys INTEGER NOT NULL CHECK (keys >= 0),
    bytes INTEGER NOT NULL CHECK (bytes >= 0)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER outbox_state_inserted AFTER INSERT ON outbox_state
BEGIN
    INSERT INTO outbox_state_totals (plugin, keys, bytes)
    SELECT NEW.plugin, 0, 0 WHERE NOT EXISTS (SELECT 1 FROM outbox_state_totals WHERE plugin = NEW.plugin);
    UPDATE outbox_state_totals
    SET keys = keys + 1, bytes = bytes + length(CAST(NEW.key AS BLOB)) + length(NEW.value)
    WHERE plugin = NEW.plugin;
END;

CREATE TRIGGER outbox_state_deleted AFTER DELETE ON outbox_state
BEGIN
    UPDATE outbox_state_totals
    SET keys = keys - 1, bytes = bytes - length(CAST(OLD.key AS BLOB)) - length(OLD.value)
    WHERE plugin = OLD.plugin;
END;

-- Token buckets of types with a rate limit.
CREATE TABLE outbox_rates (
    type TEXT PRIMARY KEY,
    tokens REAL NOT NULL,
    filled_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE outbox_pods (
    instance TEXT PRIMARY KEY,
    role TEXT,
    ready INTEGER NOT NULL CHECK (ready IN (0, 1)),
    heartbeat_at INTEGER NOT NULL,
    plugins TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Paused types: no worker claims their items until an operator resumes them.
CREATE TABLE outbox_pauses (
    type TEXT PRIMARY KEY,
    paused_at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT
) STRICT, WITHOUT ROWID;

-- Bulk jobs: an action on all items that matched a filter when the job began, in batches that any process may run. The
-- newest row is never deleted, because outbox_items.epoch refers to its number.
CREATE TABLE outbox_jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    action TEXT NOT NULL,
    filter TEXT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT,
    per_second INTEGER CHECK (per_second > 0),
    state TEXT NOT NULL DEFAULT 'RUNNING' CHECK (state IN ('RUNNING', 'DONE', 'CANCELLED')),
    began_at INTEGER NOT NULL,
    ended_at INTEGER,
    next_at INTEGER NOT NULL,
    position INTEGER NOT NULL DEFAULT 0,
    last_id INTEGER NOT NULL,
    matched INTEGER NOT NULL,
    changed INTEGER NOT NULL DEFAULT 0,
    refused INTEGER NOT NULL DEFAULT 0,
    sample TEXT NOT NULL DEFAULT '[]',
    refusals TEXT NOT NULL DEFAULT '[]',
    CHECK ((state = 'RUNNING') = (ended_at IS NULL))
) STRICT;
CREATE INDEX outbox_jobs_running ON outbox_jobs (next_at) WHERE state = 'RUNNING';

-- When each kind of alert about each subject was last sent, and how many were suppressed since.
CREATE TABLE outbox_alerts (
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    sent_at INTEGER NOT NULL,
    suppressed INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (kind, subject)
) STRICT, WITHOUT ROWID;

-- Quarantined components, which no process runs, by the SHA-256 of their bytes.
CREATE TABLE outbox_quarantine (
    digest TEXT PRIMARY KEY,
    plugin TEXT NOT NULL,
    reason TEXT NOT NULL,
    at INTEGER NOT NULL,
    pod TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- The audit trail: what operators did, written in the same transaction. A job has a row for each of its batches.
CREATE TABLE outbox_audit (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    selection TEXT NOT NULL,
    reason TEXT,
    job INTEGER,
    count INTEGER NOT NULL,
    changes TEXT NOT NULL
) STRICT;

-- The audit entries of each item. They outlive the item.
CREATE TABLE outbox_audit_items (
    item_id INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (item_id, seq)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER outbox_audit_update BEFORE UPDATE ON outbox_audit
BEGIN
    SELECT RAISE(ABORT, 'outbox: the audit trail is append-only');
END;

CREATE TRIGGER outbox_audit_delete BEFORE DELETE ON outbox_audit
BEGIN
    SELECT RAISE(ABORT, 'outbox: the audit trail is append-only');
END;

CREATE TRIGGER outbox_audit_items_update BEFORE UPDATE ON outbox_audit_items
BEGIN
    SELECT RAISE(ABORT, 'outbox: the audit trail is append-only');
END;

CREATE TRIGGER outbox_audit_items_delete BEFORE DELETE ON outbox_audit_items
BEGIN
    SELECT RAISE(ABORT, 'outbox: the audit trail is append-only');
END;
