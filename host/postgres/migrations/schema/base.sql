-- The outbox in the schema `outbox` of a PostgreSQL database: the application's own database, or one for the outbox
-- alone. A new database runs the files of this folder in the order base, places, status, enqueue, work. A migrated one
-- runs all but this file, which holds the tables that every version has had.
--
-- outbox.items and outbox.enqueue are public: applications insert inside their own transactions. The schema needs
-- PostgreSQL 14 or newer and no superuser. Times are Unix milliseconds.
--
-- Advisory locks, by their first number: 7206002 the line of an ordering key, 7206003 signals, 7206004 the audit trail,
-- 7206005 migrations, 7206006 the limits of a type, 7206007 the folding of totals,
-- 7206008 the counting of the queue. The second number is the hash of the
-- key or type, or 0.

-- Domains, because PostgreSQL checks their rules when a value is written and not at every update of its row. Lengths
-- are compared apart: as a bound inside the regular expression they made an insert four times as expensive. The error
-- of a caller shows the name of the constraint, so each names its column and the rule. Several columns are keys: the
-- trigger items_insert checks these.
CREATE DOMAIN outbox.key AS text COLLATE "C";
CREATE DOMAIN outbox.type AS text COLLATE "C" CONSTRAINT "type: [a-z0-9][a-z0-9._-]*, at most 255 bytes"
    CHECK (length(VALUE) <= 255 AND VALUE ~ '^[a-z0-9][a-z0-9._-]*$');
CREATE DOMAIN outbox.saga AS text COLLATE "C" CONSTRAINT "saga: [A-Za-z0-9][A-Za-z0-9._-]*, at most 255 bytes"
    CHECK (length(VALUE) <= 255 AND VALUE ~ '^[A-Za-z0-9][A-Za-z0-9._-]*$');
-- Not jsonb, which refuses the character U+0000 that JSON allows.
CREATE DOMAIN outbox.object AS json CONSTRAINT "headers, metadata: a JSON object" CHECK (json_typeof(VALUE) = 'object');

CREATE FUNCTION outbox.now() RETURNS bigint LANGUAGE sql
    RETURN (extract(epoch FROM clock_timestamp()) * 1000)::bigint;

CREATE FUNCTION outbox.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'outbox: %', TG_ARGV[0] USING ERRCODE = 'restrict_violation';
END $$;

CREATE SEQUENCE outbox.items_id_seq;

-- What callers said, and nothing else. Rows are inserted and deleted; only `metadata` ever changes. Where an item is,
-- and what happened to it, is in the tables of places.sql, so that a role that may insert can forge neither.
CREATE TABLE outbox.items (
    -- The insert trigger gives the id, so that a role that may insert needs no right on the sequence.
    id bigint PRIMARY KEY,
    idem_key outbox.key NOT NULL CONSTRAINT items_idem_key UNIQUE,
    type outbox.type NOT NULL,
    payload bytea NOT NULL,
    content_type outbox.key NOT NULL DEFAULT 'application/json',
    headers outbox.object NOT NULL DEFAULT '{}',
    metadata outbox.object NOT NULL DEFAULT '{}',
    cid outbox.key NOT NULL DEFAULT replace(gen_random_uuid()::text, '-', ''),
    saga outbox.saga,
    ordering_key outbox.key,
    -- The first time at which the item is due. outbox.queue has the time at which it is due next.
    available_at bigint NOT NULL DEFAULT outbox.now(),
    created_at bigint NOT NULL DEFAULT outbox.now(),
    -- Who shares a type with others: claims serve each in turn. Not of the domain outbox.key, because adding a column of a domain writes the whole table anew.
    fairness_key text COLLATE "C"
        CONSTRAINT items_fairness_key CHECK (length(fairness_key) BETWEEN 1 AND 255 AND fairness_key !~ '[^ -~]')
) WITH (
    -- Autovacuum keeps the visibility map and the statistics of a table that only grows.
    autovacuum_vacuum_insert_threshold = 50000,
    autovacuum_vacuum_insert_scale_factor = 0.05
);
ALTER SEQUENCE outbox.items_id_seq OWNED BY outbox.items.id;
-- An item whose correlation id is its own key is found by the key instead.
CREATE INDEX items_cid ON outbox.items (cid) WHERE cid <> idem_key OR saga IS NOT NULL;

-- One row for each attempt that did not end DONE.
CREATE TABLE outbox.attempts (
    item_id bigint NOT NULL,
    delivery integer NOT NULL,
    attempt integer NOT NULL,
    started_at bigint NOT NULL,
    ended_at bigint NOT NULL,
    pod text NOT NULL,
    class text NOT NULL,
    code text NOT NULL,
    message text NOT NULL,
    stderr text,
    handler_digest text,
    maybe_executed boolean NOT NULL,
    exchanges bytea,
    PRIMARY KEY (item_id, delivery)
);

-- The newest run of each saga and correlation id.
CREATE TABLE outbox.sagas (
    saga outbox.saga NOT NULL,
    cid outbox.key NOT NULL,
    run bigint NOT NULL,
    began_at bigint NOT NULL,
    ended_at bigint,
    -- Items of the saga and correlation id that are in the DLQ: the outcome of the run is read from its row.
    dead integer NOT NULL DEFAULT 0 CHECK (dead >= 0),
    PRIMARY KEY (saga, cid)
) WITH (fillfactor = 70);

-- A transaction that appends holds the lock of the signals until its commit, so that seq ascends in the order of
-- commits.
CREATE TABLE outbox.signals (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pod text NOT NULL,
    signal text NOT NULL,
    ts bigint NOT NULL,
    data json NOT NULL
);

-- Totals, so that no reader counts rows. A transaction that changes a total appends to outbox.deltas; outbox.fold()
-- adds the deltas up here. Readers read outbox.totals.
CREATE TABLE outbox.counters (
    name text COLLATE "C" NOT NULL,
    saga text COLLATE "C" NOT NULL DEFAULT '',
    type text COLLATE "C" NOT NULL DEFAULT '',
    outcome text COLLATE "C" NOT NULL DEFAULT '',
    total bigint NOT NULL,
    PRIMARY KEY (name, saga, type, outcome)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0);

-- The key-value state of plugins. Every write gets a new version; no version is used twice. Keys are stored as the
-- bytes of their text, because they may contain U+0000, which the type text refuses.
CREATE TABLE outbox.state (
    plugin text COLLATE "C" NOT NULL,
    key bytea NOT NULL,
    version bigint NOT NULL GENERATED BY DEFAULT AS IDENTITY,
    value bytea NOT NULL,
    PRIMARY KEY (plugin, key)
);

-- The size of each plugin's state, so that the check of a quota reads one row. Bytes are those of keys and values.
CREATE TABLE outbox.state_totals (
    plugin text COLLATE "C" PRIMARY KEY,
    keys bigint NOT NULL CHECK (keys >= 0),
    bytes bigint NOT NULL CHECK (bytes >= 0)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0);

CREATE FUNCTION outbox.count_state() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        UPDATE outbox.state_totals
        SET keys = keys - 1, bytes = bytes - octet_length(OLD.key) - octet_length(OLD.value)
        WHERE plugin = OLD.plugin;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO outbox.state_totals AS total (plugin, keys, bytes)
        VALUES (NEW.plugin, 1, octet_length(NEW.key) + octet_length(NEW.value))
        ON CONFLICT (plugin) DO UPDATE SET keys = total.keys + 1, bytes = total.bytes + excluded.bytes;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER state_counted AFTER INSERT OR UPDATE OR DELETE ON outbox.state
FOR EACH ROW EXECUTE FUNCTION outbox.count_state();

-- Token buckets of types with a rate limit.
CREATE TABLE outbox.rates (
    type outbox.type PRIMARY KEY,
    tokens double precision NOT NULL,
    filled_at bigint NOT NULL,
    -- The tokens that flow in each second; NULL where a version before wrote the row.
    per_second double precision
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0);

CREATE TABLE outbox.pods (
    instance text PRIMARY KEY,
    role text,
    ready boolean NOT NULL,
    heartbeat_at bigint NOT NULL,
    plugins json NOT NULL
) WITH (fillfactor = 50);

-- Paused types: no worker claims their items until an operator resumes them.
CREATE TABLE outbox.pauses (
    type text COLLATE "C" PRIMARY KEY,
    paused_at bigint NOT NULL,
    actor text NOT NULL,
    reason text
);

-- Bulk jobs: an action on all items that matched a filter when the job began, in batches that any process may run. The
-- newest row is never deleted, because the columns `epoch` refer to its number.
CREATE TABLE outbox.jobs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    action json NOT NULL,
    filter json NOT NULL,
    actor text NOT NULL,
    reason text,
    per_second integer CHECK (per_second > 0),
    state text NOT NULL DEFAULT 'RUNNING' CHECK (state IN ('RUNNING', 'DONE', 'CANCELLED', 'STOPPED')),
    began_at bigint NOT NULL,
    ended_at bigint,
    next_at bigint NOT NULL,
    position bigint NOT NULL DEFAULT 0,
    last_id bigint NOT NULL,
    matched bigint NOT NULL,
    changed bigint NOT NULL DEFAULT 0,
    refused bigint NOT NULL DEFAULT 0,
    sample json NOT NULL DEFAULT '[]',
    refusals json NOT NULL DEFAULT '[]',
    stop_after integer CHECK (stop_after BETWEEN 0 AND 99),
    CHECK ((state = 'RUNNING') = (ended_at IS NULL))
);
CREATE INDEX jobs_running ON outbox.jobs (next_at) WHERE state = 'RUNNING';

-- When each kind of alert about each subject was last sent, and how many were suppressed since.
CREATE TABLE outbox.alerts (
    kind text NOT NULL,
    subject text NOT NULL,
    sent_at bigint NOT NULL,
    suppressed bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (kind, subject)
) WITH (fillfactor = 50);

-- Quarantined components, which no process runs, by the SHA-256 of their bytes.
CREATE TABLE outbox.quarantine (
    digest text PRIMARY KEY,
    plugin text NOT NULL,
    reason text NOT NULL,
    at bigint NOT NULL,
    pod text NOT NULL
);

-- The audit trail: what operators did, written in the same transaction. A job has a row for each of its batches. A
-- transaction that appends holds the lock of the audit trail until its commit, so that seq ascends in the order of
-- commits.
CREATE TABLE outbox.audit (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at bigint NOT NULL,
    actor text NOT NULL,
    action text NOT NULL,
    selection json NOT NULL,
    reason text,
    job bigint,
    count bigint NOT NULL,
    changes json NOT NULL
);

-- The audit entries of each item. They outlive the item.
CREATE TABLE outbox.audit_items (
    item_id bigint NOT NULL,
    seq bigint NOT NULL,
    PRIMARY KEY (item_id, seq)
);

-- Wakes workers: one notification without payload per transaction, whatever the number of statements. The migration
-- adds the trigger that calls it, unless the operator turns notifications off, because they serialise the commits of
-- the whole database.
CREATE FUNCTION outbox.wake() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('outbox', '');
    RETURN NULL;
END $$;
