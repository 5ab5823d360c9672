-- The outbox in the schema `outbox` of a PostgreSQL database: the application's own database, or one for the outbox
-- alone.
--
-- outbox.items and outbox.enqueue are public: applications insert inside their own transactions. The schema needs
-- PostgreSQL 14 or newer and no superuser. Times are Unix milliseconds.
--
-- Advisory locks, by their first number: 7206001 the order of inserts with one ordering key, 7206002 the head of an
-- ordering key, 7206003 signals, 7206004 the audit trail, 7206005 migrations, 7206006 the limits of a type. The second
-- number is the hash of the key or type, or 0.

-- Domains, because PostgreSQL checks their rules when a value is written and not at every update of its row. Lengths
-- are compared apart: as a bound inside the regular expression they made an insert four times as expensive.
CREATE DOMAIN outbox.key AS text COLLATE "C" CHECK (length(VALUE) BETWEEN 1 AND 255 AND VALUE !~ '[^ -~]');
CREATE DOMAIN outbox.type AS text COLLATE "C" CHECK (length(VALUE) <= 255 AND VALUE ~ '^[a-z0-9][a-z0-9._-]*$');
CREATE DOMAIN outbox.saga AS text COLLATE "C" CHECK (length(VALUE) <= 255 AND VALUE ~ '^[A-Za-z0-9][A-Za-z0-9._-]*$');
-- Not jsonb, which refuses the character U+0000 that JSON allows.
CREATE DOMAIN outbox.object AS json CHECK (json_typeof(VALUE) = 'object');

CREATE FUNCTION outbox.now() RETURNS bigint LANGUAGE sql
    RETURN (extract(epoch FROM clock_timestamp()) * 1000)::bigint;

CREATE SEQUENCE outbox.items_id_seq;

CREATE TABLE outbox.items (
    -- The insert trigger gives the id after it has the lock that makes ids of one ordering key ascend in commit order.
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
    status text NOT NULL DEFAULT 'PENDING' CHECK (status IN ('PENDING', 'CLAIMED', 'DONE', 'DLQ')),
    attempts integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    deliveries integer NOT NULL DEFAULT 0 CHECK (deliveries >= attempts),
    replays integer NOT NULL DEFAULT 0 CHECK (replays >= 0),
    effects integer NOT NULL DEFAULT 0 CHECK (effects >= 0),
    available_at bigint NOT NULL DEFAULT outbox.now(),
    claimed_at bigint,
    claimed_by text,
    claim_token text,
    lease_until bigint,
    given_back_since bigint,
    maybe_executed boolean NOT NULL DEFAULT false,
    blocks_key boolean NOT NULL DEFAULT false,
    -- The item is queued behind another item of its ordering key. The claim that finds this out sets it, and a trigger
    -- clears it when the item becomes the head. False means that no claim has read the item yet, or that it is the
    -- head.
    held boolean NOT NULL DEFAULT false,
    -- The number of the newest job when the status last changed. A job takes only items with a smaller number, which
    -- had their status before the job began.
    epoch bigint NOT NULL DEFAULT 0,
    -- The group of similar failures to which a dead-lettered item belongs.
    fingerprint text,
    last_error text,
    created_at bigint NOT NULL DEFAULT outbox.now(),
    done_at bigint,
    dead_at bigint,
    result bytea,
    handler_digest text,
    CHECK ((status = 'CLAIMED') = (claim_token IS NOT NULL)),
    CHECK ((claim_token IS NULL) = (claimed_at IS NULL)),
    CHECK ((claim_token IS NULL) = (claimed_by IS NULL)),
    CHECK ((claim_token IS NULL) = (lease_until IS NULL)),
    CHECK ((status = 'DONE') = (done_at IS NOT NULL)),
    CHECK ((status = 'DLQ') = (dead_at IS NOT NULL)),
    CHECK (NOT blocks_key OR (status = 'DLQ' AND ordering_key IS NOT NULL)),
    CHECK (NOT held OR ordering_key IS NOT NULL),
    CHECK (fingerprint IS NULL OR status = 'DLQ')
) WITH (
    -- An item is written three times: by insert, claim and settlement. With room for its next versions on the same
    -- page, PostgreSQL writes one page instead of three, and the next access to the page removes the old versions.
    fillfactor = 70,
    -- Dead entries at the start of the ready index make a queue slow. So autovacuum starts after a number of dead rows
    -- that grows little with the number of finished rows, and does not pause while it runs.
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_scale_factor = 0.005,
    autovacuum_vacuum_insert_threshold = 50000,
    autovacuum_vacuum_insert_scale_factor = 0.02,
    autovacuum_vacuum_cost_delay = 0,
    -- Statistics of an empty queue lead to bad plans once the queue is long, so analyze runs often.
    autovacuum_analyze_threshold = 5000,
    autovacuum_analyze_scale_factor = 0.02
);
ALTER SEQUENCE outbox.items_id_seq OWNED BY outbox.items.id;

-- Items ready to claim, per type and in the order of claims. Finished items and held items are not in it.
CREATE INDEX items_ready ON outbox.items (type, available_at, id) WHERE status = 'PENDING' AND NOT held;
CREATE INDEX items_held ON outbox.items (type, available_at) WHERE status = 'PENDING' AND held;
-- Claimed items: a few rows, read for expired leases and for the number of claims per type.
CREATE INDEX items_claimed ON outbox.items (lease_until, type) WHERE status = 'CLAIMED';
CREATE INDEX items_dead ON outbox.items (type, dead_at) WHERE status = 'DLQ';
-- Dead items in the order of ids, for jobs.
CREATE INDEX items_dlq ON outbox.items (id) WHERE status = 'DLQ';
CREATE INDEX items_failure ON outbox.items (fingerprint, type, dead_at) WHERE status = 'DLQ';
-- Items with several failed attempts: few rows, except during an incident.
CREATE INDEX items_failing ON outbox.items (attempts) WHERE status = 'PENDING' AND attempts > 2;
CREATE INDEX items_done ON outbox.items (done_at) WHERE status = 'DONE';
-- Items of an ordering key that can be its head.
CREATE INDEX items_order ON outbox.items (ordering_key, id)
    WHERE ordering_key IS NOT NULL AND (status IN ('PENDING', 'CLAIMED') OR blocks_key);
CREATE INDEX items_busy ON outbox.items (ordering_key) WHERE ordering_key IS NOT NULL AND status = 'CLAIMED';
CREATE INDEX items_blocked ON outbox.items (ordering_key) WHERE blocks_key;
-- Unfinished and failed items of a saga run.
CREATE INDEX items_saga ON outbox.items (saga, cid, status)
    WHERE saga IS NOT NULL AND status IN ('PENDING', 'CLAIMED', 'DLQ');
-- An item whose correlation id is its own key is found by the key instead.
CREATE INDEX items_cid ON outbox.items (cid) WHERE cid <> idem_key OR saga IS NOT NULL;

-- An insert with an existing key does nothing when the content is the same. With other content it fails, whatever
-- conflict clause the statement names. An error ends the transaction. Therefore the client library, which checks by
-- itself what its insert did, sets outbox.conflict to 'silent' while it inserts in an application's transaction. The
-- function runs as the owner, so that a role that may insert needs no other grant.
CREATE FUNCTION outbox.admit() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    old record;
BEGIN
    SELECT id, type = NEW.type AND payload = NEW.payload AND content_type = NEW.content_type
               AND saga IS NOT DISTINCT FROM NEW.saga AND ordering_key IS NOT DISTINCT FROM NEW.ordering_key AS same
    INTO old FROM outbox.items WHERE idem_key = NEW.idem_key;
    IF old.same OR FOUND AND current_setting('outbox.conflict', true) = 'silent' THEN
        RETURN NULL;
    ELSIF FOUND THEN
        RAISE EXCEPTION 'outbox: idem_key % is already used by item % with other content',
            quote_literal(NEW.idem_key), old.id USING ERRCODE = 'unique_violation', CONSTRAINT = 'items_idem_key';
    END IF;
    IF NEW.ordering_key IS NOT NULL THEN
        PERFORM pg_advisory_xact_lock(7206001, hashtext(NEW.ordering_key));
    END IF;
    IF NEW.id IS NULL THEN
        NEW.id := nextval('outbox.items_id_seq');
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER items_insert BEFORE INSERT ON outbox.items FOR EACH ROW EXECUTE FUNCTION outbox.admit();

CREATE FUNCTION outbox.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'outbox: %', TG_ARGV[0] USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER items_immutable
BEFORE UPDATE OF id, idem_key, type, payload, content_type, headers, cid, saga, ordering_key, created_at
ON outbox.items FOR EACH ROW
WHEN (OLD.id <> NEW.id OR OLD.idem_key <> NEW.idem_key OR OLD.type <> NEW.type OR OLD.payload <> NEW.payload
   OR OLD.content_type <> NEW.content_type OR OLD.headers::text <> NEW.headers::text OR OLD.cid <> NEW.cid
   OR OLD.saga IS DISTINCT FROM NEW.saga OR OLD.ordering_key IS DISTINCT FROM NEW.ordering_key
   OR OLD.created_at <> NEW.created_at)
EXECUTE FUNCTION outbox.refuse('this column never changes after the item was enqueued');

CREATE TRIGGER items_delete BEFORE DELETE ON outbox.items FOR EACH ROW
WHEN (OLD.status IN ('PENDING', 'CLAIMED'))
EXECUTE FUNCTION outbox.refuse('an item that is not finished cannot be deleted');

-- Of each ordering key one item is the head: the item that is CLAIMED, else the oldest item that is not finished or
-- blocks the key. A claim takes the head only, and marks the items queued behind it as held, so that claims read a long
-- queue once. Every change that can move the head calls this function, which releases the new head from being held.
CREATE FUNCTION outbox.free_front(freed outbox.key) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    front record;
BEGIN
    PERFORM pg_advisory_xact_lock(7206002, hashtext(freed));
    IF EXISTS (SELECT 1 FROM outbox.items WHERE ordering_key = freed AND status = 'CLAIMED') THEN
        RETURN;
    END IF;
    SELECT id, held INTO front FROM outbox.items
    WHERE ordering_key = freed AND (status IN ('PENDING', 'CLAIMED') OR blocks_key)
    ORDER BY ordering_key, id LIMIT 1;
    -- By the id alone, because many items of the key can be held.
    IF front.held THEN
        UPDATE outbox.items SET held = false WHERE id = front.id;
    END IF;
END $$;

CREATE FUNCTION outbox.after_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM outbox.free_front(OLD.ordering_key);
    RETURN NULL;
END $$;
CREATE TRIGGER items_moved AFTER UPDATE OF status, blocks_key ON outbox.items FOR EACH ROW
WHEN (NEW.ordering_key IS NOT NULL AND NEW.status <> 'CLAIMED') EXECUTE FUNCTION outbox.after_move();
CREATE TRIGGER items_unblocked AFTER DELETE ON outbox.items FOR EACH ROW
WHEN (OLD.blocks_key) EXECUTE FUNCTION outbox.after_move();

-- Enqueue from any language; the payload is bytes, text or JSON.
CREATE FUNCTION outbox.enqueue(
    type text, idem_key text, payload bytea, content_type text DEFAULT 'application/json',
    headers jsonb DEFAULT '{}', metadata jsonb DEFAULT '{}', cid text DEFAULT NULL, saga text DEFAULT NULL,
    ordering_key text DEFAULT NULL, delay interval DEFAULT '0'
) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    given bigint;
    arrived bigint := outbox.now();
BEGIN
    LOOP
        INSERT INTO outbox.items AS item (type, idem_key, payload, content_type, headers, metadata, cid, saga,
                                          ordering_key, created_at, available_at)
        VALUES (enqueue.type, enqueue.idem_key, enqueue.payload, enqueue.content_type, enqueue.headers::json,
                enqueue.metadata::json, coalesce(enqueue.cid, enqueue.idem_key),
                enqueue.saga, enqueue.ordering_key, arrived, arrived + (extract(epoch FROM delay) * 1000)::bigint)
        ON CONFLICT ON CONSTRAINT items_idem_key DO NOTHING RETURNING item.id INTO given;
        IF given IS NOT NULL THEN
            RETURN given;
        END IF;
        SELECT item.id INTO given FROM outbox.items AS item
        WHERE item.idem_key = enqueue.idem_key AND item.type = enqueue.type AND item.payload = enqueue.payload
          AND item.content_type = enqueue.content_type AND item.saga IS NOT DISTINCT FROM enqueue.saga
          AND item.ordering_key IS NOT DISTINCT FROM enqueue.ordering_key;
        IF given IS NOT NULL THEN
            RETURN given;
        END IF;
        -- Another transaction has taken the key with other content: the trigger raises the error in the next round.
    END LOOP;
END $$;

CREATE FUNCTION outbox.enqueue(
    type text, idem_key text, payload text, content_type text DEFAULT 'application/json',
    headers jsonb DEFAULT '{}', metadata jsonb DEFAULT '{}', cid text DEFAULT NULL, saga text DEFAULT NULL,
    ordering_key text DEFAULT NULL, delay interval DEFAULT '0'
) RETURNS bigint LANGUAGE sql
    RETURN outbox.enqueue(type, idem_key, convert_to(payload, 'UTF8'), content_type, headers, metadata, cid, saga,
                          ordering_key, delay);

CREATE FUNCTION outbox.enqueue(
    type text, idem_key text, payload jsonb, content_type text DEFAULT 'application/json',
    headers jsonb DEFAULT '{}', metadata jsonb DEFAULT '{}', cid text DEFAULT NULL, saga text DEFAULT NULL,
    ordering_key text DEFAULT NULL, delay interval DEFAULT '0'
) RETURNS bigint LANGUAGE sql
    RETURN outbox.enqueue(type, idem_key, convert_to(payload::text, 'UTF8'), content_type, headers, metadata, cid,
                          saga, ordering_key, delay);

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

CREATE TABLE outbox.sagas (
    saga outbox.saga NOT NULL,
    cid outbox.key NOT NULL,
    run bigint NOT NULL,
    began_at bigint NOT NULL,
    ended_at bigint,
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

-- Totals. The transaction that changes a total writes it, so that no reader counts rows. A total is the sum over its
-- slots; connections write to different slots, so that they do not wait for each other.
CREATE TABLE outbox.counters (
    name text COLLATE "C" NOT NULL,
    saga text COLLATE "C" NOT NULL DEFAULT '',
    type text COLLATE "C" NOT NULL DEFAULT '',
    outcome text COLLATE "C" NOT NULL DEFAULT '',
    slot smallint NOT NULL DEFAULT pg_backend_pid() % 16,
    total bigint NOT NULL,
    PRIMARY KEY (name, saga, type, outcome, slot)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0);

CREATE FUNCTION outbox.after_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM outbox.attempts WHERE item_id = OLD.id;
    IF OLD.status = 'DONE' THEN
        INSERT INTO outbox.counters AS counter (name, type, total) VALUES ('done', OLD.type, -1)
        ON CONFLICT (name, saga, type, outcome, slot) DO UPDATE SET total = counter.total - 1;
    END IF;
    IF OLD.saga IS NOT NULL THEN
        DELETE FROM outbox.sagas
        WHERE saga = OLD.saga AND cid = OLD.cid AND ended_at IS NOT NULL
          AND NOT EXISTS (SELECT 1 FROM outbox.items WHERE cid = OLD.cid AND saga = OLD.saga);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER items_deleted AFTER DELETE ON outbox.items FOR EACH ROW EXECUTE FUNCTION outbox.after_delete();

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
    filled_at bigint NOT NULL
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
-- newest row is never deleted, because outbox.items.epoch refers to its number.
CREATE TABLE outbox.jobs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    action json NOT NULL,
    filter json NOT NULL,
    actor text NOT NULL,
    reason text,
    per_second integer CHECK (per_second > 0),
    state text NOT NULL DEFAULT 'RUNNING' CHECK (state IN ('RUNNING', 'DONE', 'CANCELLED')),
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

CREATE TRIGGER audit_guard BEFORE UPDATE OR DELETE ON outbox.audit FOR EACH ROW
EXECUTE FUNCTION outbox.refuse('the audit trail is append-only');
CREATE TRIGGER audit_items_guard BEFORE UPDATE OR DELETE ON outbox.audit_items FOR EACH ROW
EXECUTE FUNCTION outbox.refuse('the audit trail is append-only');

-- Wakes workers: one notification without payload per transaction, whatever the number of statements. The migration
-- adds the trigger that calls it, unless the operator turns notifications off, because they serialise the commits of
-- the whole database.
CREATE FUNCTION outbox.wake() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('outbox', '');
    RETURN NULL;
END $$;
