-- Where an item is. An item is in exactly one of outbox.queue, the ids of one row of outbox.leases, outbox.done and
-- outbox.dead. Every transition deletes it there and inserts it here, in one transaction; no row that is kept is ever
-- updated by the way of an item.
--
-- The column `epoch` is the number of the newest job when the item came to the place. A job takes only items with a
-- smaller number, which were there before the job began.

-- Numbers for the lines of ordering keys. CACHE 1, the default, because a number that is drawn later must be larger.
CREATE SEQUENCE outbox.turn_seq;

-- The digests of components, so that a finished item refers to its component by a number.
CREATE TABLE outbox.handlers (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    digest text COLLATE "C" NOT NULL UNIQUE
);

-- PENDING: what waits, as narrow as a claim allows.
CREATE TABLE outbox.queue (
    id bigint PRIMARY KEY,
    available_at bigint NOT NULL,
    -- The place in the line of the ordering key; smaller numbers come first.
    turn bigint,
    epoch bigint NOT NULL DEFAULT 0,
    -- The item has a row in outbox.past.
    again boolean NOT NULL DEFAULT false,
    -- The item is queued behind another item of its ordering key. The claim that finds this out sets it, and
    -- outbox.find_front clears it when the item becomes the front. False means that no claim has read the item yet, or
    -- that it is the front.
    held boolean NOT NULL DEFAULT false,
    -- That of outbox.past. An item with losses is a suspect, which claims take before others and in small company.
    losses integer NOT NULL DEFAULT 0 CHECK (losses >= 0),
    type text COLLATE "C" NOT NULL,
    ordering_key text COLLATE "C",
    fairness_key text COLLATE "C",
    CHECK ((turn IS NULL) = (ordering_key IS NULL)),
    CHECK (NOT held OR ordering_key IS NOT NULL),
    CHECK (losses = 0 OR again)
) WITH (
    -- A claim deletes the rows at the start of the ready index, and dead entries there make the next claims slow. So
    -- autovacuum starts after a number of dead rows that grows little with the queue, and does not pause while it runs.
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_threshold = 20000,
    autovacuum_analyze_scale_factor = 0.2
);
-- Items ready to claim, per type and in the order of claims. Those with a fairness key are apart, so that the others
-- are claimed as if there were none: by their keys, for claims that serve each in turn, and by their due times.
CREATE INDEX queue_ready ON outbox.queue (type, available_at, id)
    WHERE NOT held AND losses = 0 AND fairness_key IS NULL;
CREATE INDEX queue_fair ON outbox.queue (type, fairness_key, available_at, id)
    WHERE NOT held AND losses = 0 AND fairness_key IS NOT NULL;
CREATE INDEX queue_fair_due ON outbox.queue (type, available_at, id)
    WHERE NOT held AND losses = 0 AND fairness_key IS NOT NULL;
-- Suspects: no rows, except after a crash.
CREATE INDEX queue_suspects ON outbox.queue (type, losses DESC, available_at, id) WHERE NOT held AND losses > 0;
CREATE INDEX queue_line ON outbox.queue (ordering_key, turn, id) WHERE ordering_key IS NOT NULL;
-- Items that were claimed before: few rows, except during an incident.
CREATE INDEX queue_again ON outbox.queue (id) WHERE again;

-- CLAIMED: one row for each claim and type.
CREATE TABLE outbox.leases (
    -- A random number that the host draws. A sequence would give its numbers again after a failover to a replica that
    -- lags, or a restore, and a process that survived would settle claims of others.
    token bigint PRIMARY KEY CHECK (token > 0),
    type text COLLATE "C" NOT NULL,
    pod text NOT NULL,
    claimed_at bigint NOT NULL,
    lease_until bigint NOT NULL,
    epoch bigint NOT NULL,
    -- The number of its items, for the limit of the type.
    count integer NOT NULL CHECK (count > 0),
    -- Ascending.
    ids bigint[] NOT NULL CHECK (cardinality(ids) = count),
    -- The turn of each item, for its way back into the queue; NULL when no item of the lease has an ordering key.
    turns bigint[] CHECK (turns IS NULL OR cardinality(turns) = count)
) WITH (
    -- A settlement of a part writes the row anew, so pages keep room for its next versions.
    fillfactor = 50,
    autovacuum_vacuum_threshold = 500,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_cost_delay = 0
);
-- Neither compressed nor moved out of the row: a lease lives for milliseconds. A page has room for 500 items.
ALTER TABLE outbox.leases ALTER ids SET STORAGE PLAIN, ALTER turns SET STORAGE PLAIN;

-- The item in front of each ordering key: the one that is leased, else the first of those that wait and those that
-- block the key dead. A key without a row has had no claim since its last item finished.
CREATE TABLE outbox.lanes (
    ordering_key text COLLATE "C" PRIMARY KEY,
    id bigint NOT NULL,
    turn bigint NOT NULL,
    -- What follows the item in its lease, and the turns of that, in the order of the line. NULL where nothing does.
    streak bigint[],
    streak_turns bigint[],
    CHECK ((streak IS NULL) = (streak_turns IS NULL))
) WITH (
    fillfactor = 50,
    autovacuum_vacuum_threshold = 500,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_cost_delay = 0
);

-- The first items of a long line, as one look at it found them, with their turns, in the order of the line. Claimed rows
-- lie at the start of a line until the server may remove them, which a snapshot that stays open prevents: so the next
-- fronts of the key are taken from here. Whatever must come after an item that became visible later than the look is not
-- in here. A row goes when an item of the key returns to the queue, and with the lane.
CREATE TABLE outbox.line_looks (
    ordering_key text COLLATE "C" PRIMARY KEY,
    ids bigint[] NOT NULL,
    turns bigint[] NOT NULL,
    CHECK (cardinality(ids) = cardinality(turns))
) WITH (autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 0);
-- Neither compressed nor moved out of the row: a page has room for 256 items.
ALTER TABLE outbox.line_looks ALTER ids SET STORAGE PLAIN, ALTER turns SET STORAGE PLAIN;

-- DONE.
CREATE TABLE outbox.done (
    id bigint PRIMARY KEY,
    done_at bigint NOT NULL,
    epoch bigint NOT NULL,
    -- The component that ran the last attempt, in outbox.handlers.
    handler integer,
    turn bigint,
    result bytea
) WITH (autovacuum_vacuum_insert_threshold = 50000, autovacuum_vacuum_insert_scale_factor = 0.05);
CREATE INDEX done_at ON outbox.done (done_at);

-- In the DLQ. `fingerprint` is the group of similar failures. Only an import leaves it or `last_error` NULL.
CREATE TABLE outbox.dead (
    id bigint PRIMARY KEY,
    dead_at bigint NOT NULL,
    epoch bigint NOT NULL,
    handler integer,
    type text COLLATE "C" NOT NULL,
    turn bigint,
    ordering_key text COLLATE "C",
    -- Items with the same ordering key wait for an operator.
    blocks_key boolean NOT NULL DEFAULT false,
    fingerprint text COLLATE "C",
    last_error text,
    CHECK ((turn IS NULL) = (ordering_key IS NULL)),
    CHECK (NOT blocks_key OR ordering_key IS NOT NULL)
);
CREATE INDEX dead_at ON outbox.dead (dead_at);
CREATE INDEX dead_type ON outbox.dead (type, dead_at);
CREATE INDEX dead_failure ON outbox.dead (fingerprint, type, dead_at);
CREATE INDEX dead_line ON outbox.dead (ordering_key, turn, id) WHERE blocks_key;

-- What happened to an item before. Without a row: never claimed, for an item in the queue; claimed once, for any other.
-- An item in the queue has a row if and only if its `again` is true.
CREATE TABLE outbox.past (
    id bigint PRIMARY KEY,
    attempts integer NOT NULL CHECK (attempts >= 0),
    deliveries integer NOT NULL CHECK (deliveries >= attempts),
    losses integer NOT NULL DEFAULT 0 CHECK (losses >= 0),
    replays integer NOT NULL DEFAULT 0 CHECK (replays >= 0),
    effects integer NOT NULL DEFAULT 0 CHECK (effects >= 0),
    give_backs integer NOT NULL DEFAULT 0 CHECK (give_backs >= 0),
    maybe_executed boolean NOT NULL DEFAULT false,
    given_back_since bigint,
    handler integer,
    last_error text,
    -- When the item was due before it last left the queue; NULL where that is the first time of all.
    available_at bigint
) WITH (fillfactor = 70);

-- The unfinished items of sagas. What is left of a run is one look-up, however many items it had.
CREATE TABLE outbox.saga_open (
    saga text COLLATE "C" NOT NULL,
    cid text COLLATE "C" NOT NULL,
    id bigint NOT NULL,
    PRIMARY KEY (saga, cid, id)
) WITH (autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_scale_factor = 0.01);

-- Where follow-ups come from. An item without a row here was enqueued by a caller.
CREATE TABLE outbox.descendants (
    id bigint PRIMARY KEY,
    -- The item at the beginning, which a caller enqueued. It may be deleted by now.
    root bigint NOT NULL,
    -- 1 for a follow-up of the root, 2 for a follow-up of that, and so on.
    depth integer NOT NULL CHECK (depth > 0),
    created_at bigint NOT NULL
);
CREATE INDEX descendants_root ON outbox.descendants (root, created_at);

-- Changes of totals. They are appended, so that transactions do not wait for each other's counters.
CREATE TABLE outbox.deltas (
    name text COLLATE "C" NOT NULL,
    saga text COLLATE "C" NOT NULL DEFAULT '',
    type text COLLATE "C" NOT NULL DEFAULT '',
    outcome text COLLATE "C" NOT NULL DEFAULT '',
    by bigint NOT NULL
) WITH (autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_scale_factor = 0);

-- Adds up to 3,000 deltas to the counters, so that a call stays short. Returns whether more may be left. One process at
-- a time does this.
CREATE FUNCTION outbox.fold() RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    most CONSTANT bigint := 3000;
    parts tid[];
BEGIN
    IF NOT pg_try_advisory_xact_lock(7206007, 0) THEN
        RETURN false;
    END IF;
    parts := ARRAY(SELECT ctid FROM outbox.deltas LIMIT most);
    WITH folded AS (DELETE FROM outbox.deltas WHERE ctid = ANY (parts) RETURNING *)
    INSERT INTO outbox.counters AS counter (name, saga, type, outcome, total)
    SELECT name, saga, type, outcome, sum(by) FROM folded GROUP BY 1, 2, 3, 4
    ON CONFLICT (name, saga, type, outcome) DO UPDATE SET total = counter.total + excluded.total;
    RETURN cardinality(parts) = most;
END $$;

-- The numbers of waiting items, while the queue is too long to be counted at each question. The upkeep of the hosts
-- counts it, and again when `next_at` has come.
CREATE TABLE outbox.backlog (
    type text COLLATE "C" PRIMARY KEY,
    waiting bigint NOT NULL,
    retrying bigint NOT NULL,
    -- When the oldest of them was enqueued.
    oldest_at bigint NOT NULL,
    next_at bigint NOT NULL
) WITH (autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0);

-- Token buckets of fairness keys, of types with a rate for each key. Claims delete the rows
-- of buckets that are full by now.
CREATE TABLE outbox.key_rates (
    type text COLLATE "C" NOT NULL,
    fairness_key text COLLATE "C" NOT NULL,
    tokens double precision NOT NULL,
    filled_at bigint NOT NULL,
    PRIMARY KEY (type, fairness_key)
) WITH (autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0);
CREATE INDEX key_rates_filled ON outbox.key_rates (type, filled_at);

-- Paused fairness keys: no worker claims their items of the type. The type is '' for those of every type.
CREATE TABLE outbox.key_pauses (
    fairness_key text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    paused_at bigint NOT NULL,
    actor text NOT NULL,
    reason text,
    PRIMARY KEY (fairness_key, type)
);

-- The first due time of each type among the items that no claim knows to be held: one look-up in queue_ready and one in
-- queue_fair_due for each, and all suspects, which are few.
CREATE FUNCTION outbox.oldest_ready() RETURNS TABLE (type text, available_at bigint) LANGUAGE plpgsql STABLE
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH RECURSIVE first AS (
        (SELECT type, available_at FROM outbox.queue WHERE NOT held AND losses = 0 AND fairness_key IS NULL
         ORDER BY type, available_at, id LIMIT 1)
        UNION ALL
        SELECT next.type, next.available_at
        FROM first CROSS JOIN LATERAL (
            SELECT type, available_at FROM outbox.queue
            WHERE NOT held AND losses = 0 AND fairness_key IS NULL AND queue.type > first.type
            ORDER BY type, available_at, id LIMIT 1) AS next
    ), shared AS (
        (SELECT type, available_at FROM outbox.queue WHERE NOT held AND losses = 0 AND fairness_key IS NOT NULL
         ORDER BY type, available_at, id LIMIT 1)
        UNION ALL
        SELECT next.type, next.available_at
        FROM shared CROSS JOIN LATERAL (
            SELECT type, available_at FROM outbox.queue
            WHERE NOT held AND losses = 0 AND fairness_key IS NOT NULL AND queue.type > shared.type
            ORDER BY type, available_at, id LIMIT 1) AS next
    )
    SELECT ready.type, min(ready.available_at)
    FROM (SELECT * FROM first
          UNION ALL SELECT * FROM shared
          UNION ALL SELECT type, available_at FROM outbox.queue WHERE NOT held AND losses > 0) AS ready
    GROUP BY ready.type;
END $$;

-- The totals as they are.
CREATE VIEW outbox.totals AS
SELECT name, saga, type, outcome, sum(total)::bigint AS total
FROM (SELECT name, saga, type, outcome, total FROM outbox.counters
      UNION ALL SELECT name, saga, type, outcome, by FROM outbox.deltas) AS parts
GROUP BY name, saga, type, outcome;

-- The first entry of the audit trail that is kept: retention deletes those before it. No row before the first deletion.
CREATE TABLE outbox.audit_kept (
    id integer PRIMARY KEY CHECK (id = 1),
    from_seq bigint NOT NULL
);
CREATE INDEX audit_items_seq ON outbox.audit_items (seq);
-- For readers of what one person did, or of one action: the trail can be long.
CREATE INDEX audit_actor ON outbox.audit (actor, seq);
CREATE INDEX audit_action ON outbox.audit (action, seq);

CREATE FUNCTION outbox.keep_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND OLD.seq < (SELECT from_seq FROM outbox.audit_kept) THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'outbox: the audit trail is append-only' USING ERRCODE = 'restrict_violation';
END $$;
CREATE OR REPLACE TRIGGER audit_guard BEFORE UPDATE OR DELETE ON outbox.audit FOR EACH ROW
EXECUTE FUNCTION outbox.keep_audit();
CREATE OR REPLACE TRIGGER audit_items_guard BEFORE UPDATE OR DELETE ON outbox.audit_items FOR EACH ROW
EXECUTE FUNCTION outbox.keep_audit();

-- The breakers of processes that are not closed. A process without any has no row.
CREATE TABLE outbox.breakers (
    instance text PRIMARY KEY,
    breakers json NOT NULL
) WITH (fillfactor = 50);

-- The figures of each minute and type, added up over all processes. The minute is the time at which it began; the
-- latencies are counts, by the bins of outbox_store::LatencyBins.
CREATE TABLE outbox.history_minutes (
    minute bigint NOT NULL,
    type text COLLATE "C" NOT NULL,
    done bigint NOT NULL DEFAULT 0,
    failed bigint NOT NULL DEFAULT 0,
    dead bigint NOT NULL DEFAULT 0,
    given_back bigint NOT NULL DEFAULT 0,
    waiting bigint NOT NULL DEFAULT 0,
    latency bigint[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (minute, type)
) WITH (fillfactor = 50);

-- The plugin that owns each type in each role: it alone gets items of the type. The role is '' for processes without one.
CREATE TABLE outbox.owners (
    role text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    plugin text NOT NULL,
    since bigint NOT NULL,
    -- Since when no process has the file of the plugin.
    gone_since bigint,
    PRIMARY KEY (role, type)
);
