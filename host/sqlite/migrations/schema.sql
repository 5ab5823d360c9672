-- The outbox in a SQLite file: the application's own file, or one for the outbox alone.
--
-- outbox_items is public: applications insert into it inside their own transactions, with their own version of SQLite.
-- The schema needs SQLite 3.38 or newer. Times are Unix milliseconds.
--
-- What was asked for is written once, into outbox_items. Where an item stands is a row in exactly one place:
--
--     outbox_queue      PENDING: a narrow row, in the order of claims
--     outbox_leases     CLAIMED: the item's id among the ids of one lease
--     outbox_done       DONE
--     outbox_dead       DLQ
--
-- A transition deletes a row in one place and inserts a row in another. The view outbox_status joins them for people
-- and scripts.

CREATE TABLE outbox_items (
    id INTEGER PRIMARY KEY AUTOINCREMENT CHECK (id > 0),
    -- The text functions stop at a NUL. The two lengths differ when there is one.
    idem_key TEXT NOT NULL UNIQUE
        CHECK (length(idem_key) BETWEEN 1 AND 255 AND idem_key NOT GLOB '*[^ -~]*'
               AND length(CAST(idem_key AS BLOB)) = length(idem_key)),
    type TEXT NOT NULL
        CHECK (length(type) <= 255 AND type GLOB '[a-z0-9]*' AND type NOT GLOB '*[^a-z0-9._-]*'
               AND length(CAST(type AS BLOB)) = length(type)),
    payload ANY NOT NULL CHECK (typeof(payload) IN ('text', 'blob')),
    -- ON CONFLICT REPLACE: a column that a plain INSERT sets to NULL gets its default.
    content_type TEXT NOT NULL ON CONFLICT REPLACE DEFAULT 'application/json'
        CHECK (content_type = 'application/json' OR length(content_type) BETWEEN 1 AND 255
               AND content_type NOT GLOB '*[^ -~]*' AND length(CAST(content_type AS BLOB)) = length(content_type)),
    headers TEXT NOT NULL ON CONFLICT REPLACE DEFAULT '{}'
        CHECK (headers = '{}' OR CASE WHEN json_valid(headers) THEN json_type(headers) = 'object' ELSE 0 END),
    -- The one column that changes after the insert.
    metadata TEXT NOT NULL ON CONFLICT REPLACE DEFAULT '{}'
        CHECK (metadata = '{}' OR CASE WHEN json_valid(metadata) THEN json_type(metadata) = 'object' ELSE 0 END),
    cid TEXT NOT NULL ON CONFLICT REPLACE DEFAULT (lower(hex(randomblob(16))))
        CHECK (cid = idem_key OR length(cid) BETWEEN 1 AND 255 AND cid NOT GLOB '*[^ -~]*'
               AND length(CAST(cid AS BLOB)) = length(cid)),
    saga TEXT
        CHECK (length(saga) <= 255 AND saga GLOB '[A-Za-z0-9]*' AND saga NOT GLOB '*[^A-Za-z0-9._-]*'
               AND length(CAST(saga AS BLOB)) = length(saga)),
    ordering_key TEXT
        CHECK (length(ordering_key) BETWEEN 1 AND 255 AND ordering_key NOT GLOB '*[^ -~]*'
               AND length(CAST(ordering_key AS BLOB)) = length(ordering_key)),
    -- The first due time. What a retry or an operator makes of it is in outbox_queue.
    available_at INTEGER NOT NULL ON CONFLICT REPLACE
        DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER))
        CHECK (available_at BETWEEN 978307200000 AND 253402300799999 OR available_at = 0),
    created_at INTEGER NOT NULL ON CONFLICT REPLACE
        DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
    -- Who shares a type with others: claims serve each in turn.
    fairness_key TEXT
        CHECK (length(fairness_key) BETWEEN 1 AND 255 AND fairness_key NOT GLOB '*[^ -~]*'
               AND length(CAST(fairness_key AS BLOB)) = length(fairness_key))
) STRICT;

-- An item whose correlation id is its own key is found by the key instead.
CREATE INDEX outbox_items_cid ON outbox_items (cid) WHERE cid <> idem_key OR saga IS NOT NULL;
-- What a settlement asks about each item, so that it need not read past a large payload: columns come after it.
CREATE INDEX outbox_items_linked ON outbox_items (id, saga, cid, ordering_key)
    WHERE saga IS NOT NULL OR ordering_key IS NOT NULL;

-- For items that return to the queue, likewise.
CREATE INDEX outbox_items_fair ON outbox_items (id, fairness_key) WHERE fairness_key IS NOT NULL;

-- PENDING items. The table has a rowid, so that an item is found by its id.
CREATE TABLE outbox_queue (
    id INTEGER PRIMARY KEY,
    type TEXT NOT NULL,
    available_at INTEGER NOT NULL,
    -- The item is queued behind another item of its ordering key.
    held INTEGER NOT NULL DEFAULT 0 CHECK (held IN (0, 1)),
    -- The item has a row in outbox_past, which a claim must count.
    again INTEGER NOT NULL DEFAULT 0 CHECK (again IN (0, 1)),
    -- That of outbox_past. An item with losses is a suspect, which claims take before others and in small company.
    losses INTEGER NOT NULL DEFAULT 0 CHECK (losses >= 0),
    -- The number of the newest job when the item came here; each place has one. A job takes only items with a smaller
    -- number, which had their status before the job began.
    epoch INTEGER NOT NULL DEFAULT 0,
    ordering_key TEXT,
    -- That of the item.
    fairness_key TEXT,
    CHECK (held = 0 OR ordering_key IS NOT NULL),
    CHECK (losses = 0 OR again = 1)
) STRICT;

-- Items ready to claim, per type and in the order of claims. Those with a fairness key are apart, so that the others
-- are claimed as if there were none: by their keys, for claims that serve each in turn, and by their due times.
CREATE INDEX outbox_queue_ready ON outbox_queue (type, available_at, id)
    WHERE held = 0 AND losses = 0 AND fairness_key IS NULL;
CREATE INDEX outbox_queue_fair ON outbox_queue (type, fairness_key, available_at, id)
    WHERE held = 0 AND losses = 0 AND fairness_key IS NOT NULL;
CREATE INDEX outbox_queue_fair_due ON outbox_queue (type, available_at, id)
    WHERE held = 0 AND losses = 0 AND fairness_key IS NOT NULL;
-- Suspects: no rows, except after a crash.
CREATE INDEX outbox_queue_suspects ON outbox_queue (type, losses DESC, available_at, id) WHERE held = 0 AND losses > 0;
CREATE INDEX outbox_queue_line ON outbox_queue (ordering_key, id) WHERE ordering_key IS NOT NULL;
-- Items that were claimed before: few rows, except during an incident.
CREATE INDEX outbox_queue_again ON outbox_queue (type) WHERE again = 1;

-- CLAIMED items: one row for each claim and type, a few dozen in all.
CREATE TABLE outbox_leases (
    -- A random number that the host draws for each lease, so that a file restored from a backup repeats none.
    token INTEGER PRIMARY KEY,
    type TEXT NOT NULL,
    pod TEXT NOT NULL,
    claimed_at INTEGER NOT NULL,
    lease_until INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    -- The length of ids, for the limit of the type.
    count INTEGER NOT NULL CHECK (count > 0),
    -- A JSON array of the items' ids, ascending and without spaces.
    ids TEXT NOT NULL CHECK (json_valid(ids))
) STRICT;

-- The front of each ordering key that has an unfinished or a blocking item. Every other PENDING item of the key is
-- held.
CREATE TABLE outbox_lanes (
    ordering_key TEXT PRIMARY KEY,
    id INTEGER NOT NULL,
    -- What follows the front in its lease: a JSON array of ids, ascending and without spaces. NULL where nothing does.
    streak TEXT CHECK (streak IS NULL OR json_valid(streak))
) STRICT, WITHOUT ROWID;

CREATE TABLE outbox_done (
    id INTEGER PRIMARY KEY,
    done_at INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    handler INTEGER,
    result BLOB
) STRICT;

CREATE INDEX outbox_done_at ON outbox_done (done_at);

CREATE TABLE outbox_dead (
    id INTEGER PRIMARY KEY,
    dead_at INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    handler INTEGER,
    type TEXT NOT NULL,
    ordering_key TEXT,
    blocks_key INTEGER NOT NULL DEFAULT 0 CHECK (blocks_key IN (0, 1)),
    -- The group of similar failures to which the item belongs.
    fingerprint TEXT NOT NULL,
    last_error TEXT NOT NULL,
    CHECK (blocks_key = 0 OR ordering_key IS NOT NULL)
) STRICT;

CREATE INDEX outbox_dead_type ON outbox_dead (type, dead_at);
CREATE INDEX outbox_dead_failure ON outbox_dead (fingerprint, type, dead_at);
-- For retention.
CREATE INDEX outbox_dead_at ON outbox_dead (dead_at);
CREATE INDEX outbox_dead_blocking ON outbox_dead (ordering_key, id) WHERE blocks_key = 1;

-- What happened to an item before. Most items have no row: one in the queue without a row was never claimed, one
-- elsewhere was claimed once.
CREATE TABLE outbox_past (
    id INTEGER PRIMARY KEY,
    attempts INTEGER NOT NULL CHECK (attempts BETWEEN 0 AND 2147483647),
    deliveries INTEGER NOT NULL CHECK (deliveries BETWEEN attempts AND 2147483647),
    losses INTEGER NOT NULL DEFAULT 0 CHECK (losses BETWEEN 0 AND 2147483647),
    replays INTEGER NOT NULL DEFAULT 0 CHECK (replays BETWEEN 0 AND 2147483647),
    effects INTEGER NOT NULL DEFAULT 0 CHECK (effects BETWEEN 0 AND 2147483647),
    give_backs INTEGER NOT NULL DEFAULT 0 CHECK (give_backs BETWEEN 0 AND 2147483647),
    maybe_executed INTEGER NOT NULL DEFAULT 0 CHECK (maybe_executed IN (0, 1)),
    given_back_since INTEGER,
    handler INTEGER,
    last_error TEXT,
    -- The last due time, where it is not that of the item. For an item in the queue it is there.
    available_at INTEGER
) STRICT;

-- The digests of components, by the numbers that other tables refer to.
CREATE TABLE outbox_handlers (
    id INTEGER PRIMARY KEY,
    digest TEXT NOT NULL UNIQUE
) STRICT;

-- The unfinished items of each saga run, so that what is left of a run is one look.
CREATE TABLE outbox_saga_open (
    saga TEXT NOT NULL,
    cid TEXT NOT NULL,
    id INTEGER NOT NULL,
    PRIMARY KEY (saga, cid, id)
) STRICT, WITHOUT ROWID;

-- Where follow-ups come from. An item without a row here was enqueued by a caller.
CREATE TABLE outbox_descendants (
    id INTEGER PRIMARY KEY,
    -- The item at the beginning, which a caller enqueued. It may be deleted by now.
    root INTEGER NOT NULL,
    -- 1 for a follow-up of the root, 2 for a follow-up of that, and so on.
    depth INTEGER NOT NULL CHECK (depth > 0),
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX outbox_descendants_root ON outbox_descendants (root, created_at);

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
              AND old.content_type = coalesce(NEW.content_type, 'application/json')
              AND old.saga IS NEW.saga
              AND old.ordering_key IS NEW.ordering_key
        ) THEN RAISE(IGNORE)
        ELSE RAISE(ABORT, 'outbox: idem_key is already used by an item with other content')
    END;
END;

-- NEW.id is -1 when the statement gives no id.
CREATE TRIGGER outbox_items_check BEFORE INSERT ON outbox_items
WHEN NEW.id > 0 OR NEW.headers <> '{}'
BEGIN
    INSERT INTO outbox_checking (id, idem_key, headers) VALUES (NEW.id, NEW.idem_key, NEW.headers);
END;

-- Inserting a new item here checks what a CHECK cannot, because it needs a query.
CREATE VIEW outbox_checking AS SELECT id, idem_key, headers FROM outbox_items;

CREATE TRIGGER outbox_checking_id INSTEAD OF INSERT ON outbox_checking
WHEN NEW.id > 0
BEGIN
    -- After the largest id there would be no other: SQLite would refuse every insert.
    SELECT RAISE(ABORT, 'outbox: id is above 4611686018427387903') WHERE NEW.id > 4611686018427387903;
    SELECT RAISE(ABORT, 'outbox: id is already used by another item')
    WHERE EXISTS (SELECT 1 FROM outbox_items WHERE id = NEW.id AND idem_key <> NEW.idem_key);
END;

CREATE TRIGGER outbox_checking_headers INSTEAD OF INSERT ON outbox_checking
WHEN NEW.headers <> '{}' AND json_valid(NEW.headers)
BEGIN
    SELECT RAISE(ABORT, 'outbox: headers is an object of strings')
    WHERE EXISTS (SELECT 1 FROM json_each(NEW.headers) WHERE type <> 'text');
    -- The part between the scheme and the first slash, question mark or hash is the host.
    SELECT RAISE(ABORT, 'outbox: the header webhook-url is an absolute URL such as https://hooks.example.com/path, without a user')
    WHERE EXISTS (
        SELECT 1 FROM (SELECT value AS url, substr(value, instr(value, '://') + 3) AS rest
                       FROM json_each(NEW.headers) WHERE lower(key) = 'webhook-url')
        WHERE NOT ((url GLOB 'http://*' OR url GLOB 'https://*') AND url NOT GLOB '*[^!-~]*')
           OR rest = '' OR rest GLOB '[/?#@]*'
           OR substr(rest, 1, instr(replace(replace(rest, '?', '/'), '#', '/') || '/', '/')) GLOB '*@*');
END;

-- The inserts of these triggers meet no conflict: a statement that says OR REPLACE or OR IGNORE imposes that on the
-- statements of its triggers. SQLite clears memory for the whole program of each trigger that it comes to, also where
-- WHEN is false; so items without a key and a saga come to two short programs, and those without headers to one.
CREATE TRIGGER outbox_items_arrive AFTER INSERT ON outbox_items
WHEN NEW.ordering_key IS NULL AND NEW.saga IS NULL
BEGIN
    INSERT INTO outbox_queue (id, type, available_at, fairness_key)
    VALUES (NEW.id, NEW.type, NEW.available_at, NEW.fairness_key);
END;

CREATE TRIGGER outbox_items_join AFTER INSERT ON outbox_items
WHEN NEW.ordering_key IS NOT NULL OR NEW.saga IS NOT NULL
BEGIN
    INSERT INTO outbox_joining (id, type, available_at, cid, saga, ordering_key, fairness_key)
    VALUES (NEW.id, NEW.type, NEW.available_at, NEW.cid, NEW.saga, NEW.ordering_key, NEW.fairness_key);
END;

-- Inserting a new item here puts it into the line of its ordering key and into its saga.
CREATE VIEW outbox_joining AS
SELECT id, type, available_at, cid, saga, ordering_key, fairness_key FROM outbox_items;

-- One transaction writes at a time, so ids ascend in the order of commits and a new item is the last of its key.
CREATE TRIGGER outbox_joining_line_up INSTEAD OF INSERT ON outbox_joining
BEGIN
    INSERT INTO outbox_queue (id, type, available_at, held, ordering_key, fairness_key)
    VALUES (NEW.id, NEW.type, NEW.available_at,
            NEW.ordering_key IS NOT NULL
                AND EXISTS (SELECT 1 FROM outbox_lanes WHERE ordering_key = NEW.ordering_key),
            NEW.ordering_key, NEW.fairness_key);
    INSERT INTO outbox_lanes (ordering_key, id)
    SELECT NEW.ordering_key, NEW.id
    WHERE NEW.ordering_key IS NOT NULL
      AND NOT EXISTS (SELECT 1 FROM outbox_lanes WHERE ordering_key = NEW.ordering_key);
    INSERT INTO outbox_saga_open (saga, cid, id) SELECT NEW.saga, NEW.cid, NEW.id WHERE NEW.saga IS NOT NULL;
END;

CREATE TRIGGER outbox_items_immutable
BEFORE UPDATE OF id, idem_key, type, payload, content_type, headers, cid, saga, ordering_key, available_at, created_at,
    fairness_key
ON outbox_items
WHEN OLD.id IS NOT NEW.id OR OLD.idem_key IS NOT NEW.idem_key OR OLD.type IS NOT NEW.type
  OR OLD.payload IS NOT NEW.payload OR OLD.content_type IS NOT NEW.content_type
  OR OLD.headers IS NOT NEW.headers OR OLD.cid IS NOT NEW.cid OR OLD.saga IS NOT NEW.saga
  OR OLD.ordering_key IS NOT NEW.ordering_key OR OLD.available_at IS NOT NEW.available_at
  OR OLD.created_at IS NOT NEW.created_at OR OLD.fairness_key IS NOT NEW.fairness_key
BEGIN
    SELECT RAISE(ABORT, 'outbox: this column never changes after the item was enqueued');
END;

CREATE TRIGGER outbox_items_delete BEFORE DELETE ON outbox_items
WHEN NOT EXISTS (SELECT 1 FROM outbox_done WHERE id = OLD.id)
 AND NOT EXISTS (SELECT 1 FROM outbox_dead WHERE id = OLD.id)
BEGIN
    SELECT RAISE(ABORT, 'outbox: an item that is not finished cannot be deleted');
END;

-- Inserting a key here finds the front of the key anew: the oldest of its PENDING items and of its dead items that
-- block it. An item in a lease stays the front of its key until the lease ends. A transaction that takes an item out
-- of a place or changes blocks_key inserts the item's key here.
CREATE VIEW outbox_fronts AS SELECT ordering_key, id FROM outbox_lanes;

CREATE TRIGGER outbox_fronts_moved INSTEAD OF INSERT ON outbox_fronts
WHEN NOT EXISTS (
    SELECT 1 FROM outbox_lanes AS lane JOIN outbox_items AS item ON item.id = lane.id
    WHERE lane.ordering_key = NEW.ordering_key
      AND NOT EXISTS (SELECT 1 FROM outbox_queue WHERE id = lane.id)
      AND NOT EXISTS (SELECT 1 FROM outbox_done WHERE id = lane.id)
      AND NOT EXISTS (SELECT 1 FROM outbox_dead WHERE id = lane.id))
BEGIN
    UPDATE outbox_queue SET held = 1
    WHERE held = 0 AND id = (SELECT id FROM outbox_lanes WHERE ordering_key = NEW.ordering_key);
    DELETE FROM outbox_lanes WHERE ordering_key = NEW.ordering_key;
    INSERT INTO outbox_lanes (ordering_key, id)
    SELECT NEW.ordering_key, id FROM (
        SELECT id FROM (
            SELECT id FROM outbox_queue
            WHERE ordering_key = NEW.ordering_key AND ordering_key IS NOT NULL ORDER BY id LIMIT 1)
        UNION ALL
        SELECT id FROM (
            SELECT id FROM outbox_dead
            WHERE ordering_key = NEW.ordering_key AND blocks_key = 1 ORDER BY id LIMIT 1))
    ORDER BY id LIMIT 1;
    UPDATE outbox_queue SET held = 0
    WHERE held = 1 AND id = (SELECT id FROM outbox_lanes WHERE ordering_key = NEW.ordering_key);
END;

-- Every item with its status; an item in no place is in no row. WHERE status = 'DLQ' reads outbox_dead and its items
-- only, likewise for the other statuses, and WHERE id = ? is a look-up in each place. SQLite uses conditions inside the
-- four parts only where a column has the same affinity in all of them, hence the casts. CROSS JOIN keeps the few leases
-- in front. The conditions with likelihood() hold for every row: they tell SQLite to read a place and look its items
-- up, and not the other way round, unless a key or a correlation id names the item.
CREATE VIEW outbox_status AS
SELECT
    queue.id, item.idem_key, queue.type, item.payload, item.content_type, item.headers, item.metadata, item.cid,
    item.saga, queue.ordering_key, queue.fairness_key, descent.root, descent.depth, item.created_at, 'PENDING' AS status,
    coalesce(past.attempts, 0) AS attempts, coalesce(past.deliveries, 0) AS deliveries,
    coalesce(past.replays, 0) AS replays, coalesce(past.effects, 0) AS effects, coalesce(past.losses, 0) AS losses,
    coalesce(past.give_backs, 0) AS give_backs, queue.available_at, CAST(NULL AS INTEGER) AS claimed_at,
    CAST(NULL AS TEXT) AS claimed_by, CAST(NULL AS INTEGER) AS claim_token, CAST(NULL AS INTEGER) AS lease_until,
    past.given_back_since, coalesce(past.maybe_executed, 0) AS maybe_executed, CAST(0 AS INTEGER) AS blocks_key,
    queue.held, queue.epoch, CAST(NULL AS TEXT) AS fingerprint, past.last_error, CAST(NULL AS INTEGER) AS done_at,
    CAST(NULL AS INTEGER) AS dead_at, CAST(NULL AS BLOB) AS result, handler.digest AS handler_digest
FROM outbox_queue AS queue JOIN outbox_items AS item ON item.id = queue.id
LEFT JOIN outbox_past AS past ON past.id = item.id
LEFT JOIN outbox_descendants AS descent ON descent.id = item.id
LEFT JOIN outbox_handlers AS handler ON handler.id = past.handler
WHERE likelihood(queue.epoch >= 0, 0.001)
UNION ALL
SELECT
    item.id, item.idem_key, lease.type, item.payload, item.content_type, item.headers, item.metadata, item.cid,
    item.saga, item.ordering_key, item.fairness_key, descent.root, descent.depth,
    item.created_at, 'CLAIMED', coalesce(past.attempts, 1),
    coalesce(past.deliveries, 1), coalesce(past.replays, 0), coalesce(past.effects, 0), coalesce(past.losses, 0),
    coalesce(past.give_backs, 0), CAST(coalesce(past.available_at, item.available_at) AS INTEGER), lease.claimed_at,
    lease.pod, lease.token, lease.lease_until, past.given_back_since, coalesce(past.maybe_executed, 0),
    CAST(0 AS INTEGER), CAST(0 AS INTEGER), lease.epoch, CAST(NULL AS TEXT), past.last_error, CAST(NULL AS INTEGER),
    CAST(NULL AS INTEGER), CAST(NULL AS BLOB), handler.digest
FROM outbox_leases AS lease CROSS JOIN json_each(lease.ids) AS leased
CROSS JOIN outbox_items AS item ON item.id = leased.value
LEFT JOIN outbox_past AS past ON past.id = item.id
LEFT JOIN outbox_descendants AS descent ON descent.id = item.id
LEFT JOIN outbox_handlers AS handler ON handler.id = past.handler
UNION ALL
SELECT
    done.id, item.idem_key, item.type, item.payload, item.content_type, item.headers, item.metadata, item.cid,
    item.saga, item.ordering_key, item.fairness_key, descent.root, descent.depth,
    item.created_at, 'DONE', coalesce(past.attempts, 1),
    coalesce(past.deliveries, 1), coalesce(past.replays, 0), coalesce(past.effects, 0), coalesce(past.losses, 0),
    coalesce(past.give_backs, 0), CAST(coalesce(past.available_at, item.available_at) AS INTEGER),
    CAST(NULL AS INTEGER), CAST(NULL AS TEXT), CAST(NULL AS INTEGER), CAST(NULL AS INTEGER), past.given_back_since,
    coalesce(past.maybe_executed, 0), CAST(0 AS INTEGER), CAST(0 AS INTEGER), done.epoch, CAST(NULL AS TEXT),
    CAST(NULL AS TEXT), done.done_at, CAST(NULL AS INTEGER), done.result, handler.digest
FROM outbox_done AS done JOIN outbox_items AS item ON item.id = done.id
LEFT JOIN outbox_past AS past ON past.id = item.id
LEFT JOIN outbox_descendants AS descent ON descent.id = item.id
LEFT JOIN outbox_handlers AS handler ON handler.id = done.handler
WHERE likelihood(done.epoch >= 0, 0.001)
UNION ALL
SELECT
    dead.id, item.idem_key, dead.type, item.payload, item.content_type, item.headers, item.metadata, item.cid,
    item.saga, dead.ordering_key, item.fairness_key, descent.root, descent.depth,
    item.created_at, 'DLQ', coalesce(past.attempts, 1),
    coalesce(past.deliveries, 1), coalesce(past.replays, 0), coalesce(past.effects, 0), coalesce(past.losses, 0),
    coalesce(past.give_backs, 0), CAST(coalesce(past.available_at, item.available_at) AS INTEGER),
    CAST(NULL AS INTEGER), CAST(NULL AS TEXT), CAST(NULL AS INTEGER), CAST(NULL AS INTEGER), past.given_back_since,
    coalesce(past.maybe_executed, 0), dead.blocks_key, CAST(0 AS INTEGER), dead.epoch, dead.fingerprint,
    dead.last_error, CAST(NULL AS INTEGER), dead.dead_at, CAST(NULL AS BLOB), handler.digest
FROM outbox_dead AS dead JOIN outbox_items AS item ON item.id = dead.id
LEFT JOIN outbox_past AS past ON past.id = item.id
LEFT JOIN outbox_descendants AS descent ON descent.id = item.id
LEFT JOIN outbox_handlers AS handler ON handler.id = dead.handler
WHERE likelihood(dead.epoch >= 0, 0.001);

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
    -- The items of the run in outbox_dead.
    dead INTEGER NOT NULL DEFAULT 0 CHECK (dead >= 0),
    PRIMARY KEY (saga, cid)
) STRICT, WITHOUT ROWID;

CREATE TABLE outbox_signals (
    -- After the largest number there would be no other: SQLite would refuse every insert. So it is with each number that
    -- SQLite gives.
    seq INTEGER PRIMARY KEY AUTOINCREMENT CHECK (seq <= 4611686018427387903),
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

-- The numbers of waiting items, while the queue is too long to be counted at each question. The upkeep of the hosts
-- counts it, and again when `next_at` has come.
CREATE TABLE outbox_backlog (
    type TEXT PRIMARY KEY,
    waiting INTEGER NOT NULL,
    retrying INTEGER NOT NULL,
    -- When the oldest of them was enqueued.
    oldest_at INTEGER NOT NULL,
    next_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What belongs to an item goes with it.
CREATE TRIGGER outbox_items_deleted AFTER DELETE ON outbox_items
BEGIN
    UPDATE outbox_counters SET total = total - 1
    WHERE name = 'done' AND saga = '' AND type = OLD.type AND outcome = ''
      AND EXISTS (SELECT 1 FROM outbox_done WHERE id = OLD.id);
    UPDATE outbox_sagas SET dead = dead - 1
    WHERE saga = OLD.saga AND cid = OLD.cid AND dead > 0 AND EXISTS (SELECT 1 FROM outbox_dead WHERE id = OLD.id);
    DELETE FROM outbox_done WHERE id = OLD.id;
    DELETE FROM outbox_dead WHERE id = OLD.id;
    DELETE FROM outbox_past WHERE id = OLD.id;
    DELETE FROM outbox_descendants WHERE id = OLD.id;
    DELETE FROM outbox_attempts WHERE item_id = OLD.id;
    DELETE FROM outbox_sagas
    WHERE saga = OLD.saga AND cid = OLD.cid AND ended_at IS NOT NULL
      AND NOT EXISTS (SELECT 1 FROM outbox_items WHERE cid = OLD.cid AND saga = OLD.saga);
    INSERT INTO outbox_fronts (ordering_key)
    SELECT ordering_key FROM outbox_lanes WHERE ordering_key = OLD.ordering_key AND id = OLD.id;
END;

-- The key-value state of plugins. Every write gets a new version; no version is used twice.
CREATE TABLE outbox_state (
    version INTEGER PRIMARY KEY AUTOINCREMENT CHECK (version <= 4611686018427387903),
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
    filled_at INTEGER NOT NULL,
    -- The tokens that flow in each second; NULL where a version before wrote the row.
    per_second REAL
) STRICT, WITHOUT ROWID;

-- Token buckets of fairness keys, of types with a rate for each key. Claims delete the rows
-- of buckets that are full by now.
CREATE TABLE outbox_key_rates (
    type TEXT NOT NULL,
    fairness_key TEXT NOT NULL,
    tokens REAL NOT NULL,
    filled_at INTEGER NOT NULL,
    PRIMARY KEY (type, fairness_key)
) STRICT, WITHOUT ROWID;

CREATE INDEX outbox_key_rates_filled ON outbox_key_rates (type, filled_at);

CREATE TABLE outbox_pods (
    instance TEXT PRIMARY KEY,
    role TEXT,
    ready INTEGER NOT NULL CHECK (ready IN (0, 1)),
    heartbeat_at INTEGER NOT NULL,
    plugins TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- The breakers of processes that are not closed, as JSON. A process without any has no row.
CREATE TABLE outbox_breakers (
    instance TEXT PRIMARY KEY,
    breakers TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- The plugin that owns each type in each role: it alone gets items of the type. The role is '' for processes without one.
CREATE TABLE outbox_owners (
    role TEXT NOT NULL,
    type TEXT NOT NULL,
    plugin TEXT NOT NULL,
    since INTEGER NOT NULL,
    -- Since when no process has the file of the plugin.
    gone_since INTEGER,
    PRIMARY KEY (role, type)
) STRICT, WITHOUT ROWID;

-- The figures of each minute and type, added up over all processes. The minute is the time at which it began; the
-- latencies are a JSON array of counts, by the bins of outbox_store::LatencyBins.
CREATE TABLE outbox_history_minutes (
    minute INTEGER NOT NULL,
    type TEXT NOT NULL,
    done INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    dead INTEGER NOT NULL DEFAULT 0,
    given_back INTEGER NOT NULL DEFAULT 0,
    waiting INTEGER NOT NULL DEFAULT 0,
    latency TEXT NOT NULL DEFAULT '[]',
    PRIMARY KEY (minute, type)
) STRICT, WITHOUT ROWID;

-- Paused types: no worker claims their items until an operator resumes them.
CREATE TABLE outbox_pauses (
    type TEXT PRIMARY KEY,
    paused_at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT
) STRICT, WITHOUT ROWID;

-- Paused fairness keys: no worker claims their items of the type. The type is '' for those of every type.
CREATE TABLE outbox_key_pauses (
    fairness_key TEXT NOT NULL,
    type TEXT NOT NULL,
    paused_at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT,
    PRIMARY KEY (fairness_key, type)
) STRICT, WITHOUT ROWID;

-- Bulk jobs: an action on all items that matched a filter when the job began, in batches that any process may run. The
-- newest row is never deleted, because the column epoch of each place refers to its number.
CREATE TABLE outbox_jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT CHECK (id <= 4611686018427387903),
    action TEXT NOT NULL,
    filter TEXT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT,
    per_second INTEGER CHECK (per_second > 0),
    state TEXT NOT NULL DEFAULT 'RUNNING' CHECK (state IN ('RUNNING', 'DONE', 'CANCELLED', 'STOPPED')),
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
    stop_after INTEGER CHECK (stop_after BETWEEN 0 AND 99),
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
    seq INTEGER PRIMARY KEY AUTOINCREMENT CHECK (seq <= 4611686018427387903),
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

CREATE INDEX outbox_audit_items_seq ON outbox_audit_items (seq);
-- For readers of what one person did, or of one action: the trail can be long.
CREATE INDEX outbox_audit_actor ON outbox_audit (actor, seq);
CREATE INDEX outbox_audit_action ON outbox_audit (action, seq);

-- The first entry that is kept: retention deletes those before it. No row before the first deletion.
CREATE TABLE outbox_audit_kept (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    from_seq INTEGER NOT NULL
) STRICT;

CREATE TRIGGER outbox_audit_update BEFORE UPDATE ON outbox_audit
BEGIN
    SELECT RAISE(ABORT, 'outbox: the audit trail is append-only');
END;

CREATE TRIGGER outbox_audit_delete BEFORE DELETE ON outbox_audit
WHEN OLD.seq >= coalesce((SELECT from_seq FROM outbox_audit_kept), -9223372036854775808)
BEGIN
    SELECT RAISE(ABORT, 'outbox: the audit trail is append-only');
END;

CREATE TRIGGER outbox_audit_items_update BEFORE UPDATE ON outbox_audit_items
BEGIN
    SELECT RAISE(ABORT, 'outbox: the audit trail is append-only');
END;

CREATE TRIGGER outbox_audit_items_delete BEFORE DELETE ON outbox_audit_items
WHEN OLD.seq >= coalesce((SELECT from_seq FROM outbox_audit_kept), -9223372036854775808)
BEGIN
    SELECT RAISE(ABORT, 'outbox: the audit trail is append-only');
END;
