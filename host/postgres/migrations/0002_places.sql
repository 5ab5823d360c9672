-- From schema 1 to the places: what 0002_done.sql has not copied. outbox.items is locked, and keeps its rows: it loses
-- the columns of the host in the catalogue, so that no payload is copied. The bytes of the lost columns stay in old
-- rows until retention deletes them. schema/status.sql, schema/enqueue.sql and schema/work.sql follow.

ALTER DOMAIN outbox.key DROP CONSTRAINT key_check;
ALTER DOMAIN outbox.type RENAME CONSTRAINT type_check TO "type: [a-z0-9][a-z0-9._-]*, at most 255 bytes";
ALTER DOMAIN outbox.saga RENAME CONSTRAINT saga_check TO "saga: [A-Za-z0-9][A-Za-z0-9._-]*, at most 255 bytes";
ALTER DOMAIN outbox.object RENAME CONSTRAINT object_check TO "headers, metadata: a JSON object";

DROP TRIGGER items_insert ON outbox.items;
DROP TRIGGER items_immutable ON outbox.items;
DROP TRIGGER items_delete ON outbox.items;
DROP TRIGGER items_moved ON outbox.items;
DROP TRIGGER items_unblocked ON outbox.items;
DROP TRIGGER items_deleted ON outbox.items;
DROP FUNCTION outbox.after_move();
DROP FUNCTION outbox.free_front(outbox.key);

INSERT INTO outbox.handlers (digest)
SELECT DISTINCT handler_digest FROM outbox.items WHERE status <> 'DONE' AND handler_digest IS NOT NULL
ON CONFLICT DO NOTHING;

-- Ids were given in the order of commits, so they are the places in the lines. New items come after them.
SELECT setval('outbox.turn_seq', last_value, is_called) FROM outbox.items_id_seq;

-- The front of a key: the item that is claimed, else the first that is unfinished or blocks the key.
INSERT INTO outbox.lanes (ordering_key, id, turn)
SELECT DISTINCT ON (ordering_key) ordering_key, id, id FROM outbox.items
WHERE ordering_key IS NOT NULL AND (status IN ('PENDING', 'CLAIMED') OR blocks_key)
ORDER BY ordering_key, status = 'CLAIMED' DESC, id;

INSERT INTO outbox.past (id, attempts, deliveries, replays, effects, maybe_executed, given_back_since, handler,
                         last_error)
SELECT item.id, attempts, deliveries, replays, effects, maybe_executed, given_back_since, handler.id, last_error
FROM outbox.items AS item LEFT JOIN outbox.handlers AS handler ON handler.digest = handler_digest
WHERE status = 'DLQ'
   OR status IN ('PENDING', 'CLAIMED')
      AND (attempts <> CASE status WHEN 'PENDING' THEN 0 ELSE 1 END
           OR deliveries <> CASE status WHEN 'PENDING' THEN 0 ELSE 1 END
           OR replays > 0 OR effects > 0 OR maybe_executed OR given_back_since IS NOT NULL
           OR handler_digest IS NOT NULL OR last_error IS NOT NULL);

INSERT INTO outbox.queue (id, available_at, turn, epoch, again, held, type, ordering_key)
SELECT item.id, item.available_at, CASE WHEN item.ordering_key IS NOT NULL THEN item.id END, epoch, past.id IS NOT NULL,
       coalesce(lane.id <> item.id, false), type, item.ordering_key
FROM outbox.items AS item
     LEFT JOIN outbox.past ON past.id = item.id
     LEFT JOIN outbox.lanes AS lane ON lane.ordering_key = item.ordering_key
WHERE status = 'PENDING' ORDER BY item.id;

-- Claims become leases that no process can settle, because their tokens are new: the first eight bytes of a random UUID
-- without their sign. They end when they would have ended.
INSERT INTO outbox.leases (token, type, pod, claimed_at, lease_until, epoch, count, ids, turns)
SELECT greatest(1, ('x' || left(replace(gen_random_uuid()::text, '-', ''), 16))::bit(64)::bigint & 9223372036854775807),
       type, claimed_by, claimed_at, lease_until, epoch, count(*), array_agg(id ORDER BY id),
       CASE WHEN bool_or(ordering_key IS NOT NULL) THEN
           array_agg(CASE WHEN ordering_key IS NOT NULL THEN id END ORDER BY id) END
FROM (SELECT *, (row_number() OVER claim - 1) / 250 AS part FROM outbox.items WHERE status = 'CLAIMED'
      WINDOW claim AS (PARTITION BY type, claimed_by, claimed_at, lease_until, epoch ORDER BY id)) AS claimed
GROUP BY type, claimed_by, claimed_at, lease_until, epoch, part;

INSERT INTO outbox.dead (id, dead_at, epoch, handler, type, turn, ordering_key, blocks_key, fingerprint, last_error)
SELECT item.id, dead_at, epoch, handler.id, type, CASE WHEN ordering_key IS NOT NULL THEN item.id END, ordering_key,
       blocks_key, fingerprint, last_error
FROM outbox.items AS item LEFT JOIN outbox.handlers AS handler ON handler.digest = handler_digest
WHERE status = 'DLQ' ORDER BY item.id;

INSERT INTO outbox.saga_open (saga, cid, id)
SELECT saga, cid, id FROM outbox.items WHERE saga IS NOT NULL AND status IN ('PENDING', 'CLAIMED');
ALTER TABLE outbox.jobs DROP CONSTRAINT jobs_state_check,
    ADD CONSTRAINT jobs_state_check CHECK (state IN ('RUNNING', 'DONE', 'CANCELLED', 'STOPPED')),
    ADD COLUMN stop_after integer CHECK (stop_after BETWEEN 0 AND 99);
ALTER TABLE outbox.rates ADD COLUMN per_second double precision;
ALTER TABLE outbox.sagas ADD COLUMN dead integer NOT NULL DEFAULT 0 CHECK (dead >= 0);
UPDATE outbox.sagas SET dead = run.dead
FROM (SELECT saga, cid, count(*) AS dead FROM outbox.items WHERE saga IS NOT NULL AND status = 'DLQ' GROUP BY saga, cid)
         AS run
WHERE sagas.saga = run.saga AND sagas.cid = run.cid;

-- One row for each total instead of one for each slot.
WITH slots AS (DELETE FROM outbox.counters RETURNING *)
INSERT INTO outbox.counters (name, saga, type, outcome, slot, total)
SELECT name, saga, type, outcome, 0, sum(total) FROM slots GROUP BY name, saga, type, outcome;
ALTER TABLE outbox.counters DROP COLUMN slot, ADD PRIMARY KEY (name, saga, type, outcome);

DROP FUNCTION outbox.migrate_done_since(bigint);
DROP FUNCTION outbox.migrate_done_after(bigint);
DROP FUNCTION outbox.migrate_done(bigint[]);
-- Indexes and checks that name one of the columns go with it.
ALTER TABLE outbox.items
    DROP COLUMN status, DROP COLUMN attempts, DROP COLUMN deliveries, DROP COLUMN replays, DROP COLUMN effects,
    DROP COLUMN claimed_at, DROP COLUMN claimed_by, DROP COLUMN claim_token, DROP COLUMN lease_until,
    DROP COLUMN given_back_since, DROP COLUMN maybe_executed, DROP COLUMN blocks_key, DROP COLUMN held,
    DROP COLUMN epoch, DROP COLUMN fingerprint, DROP COLUMN last_error, DROP COLUMN done_at, DROP COLUMN dead_at,
    DROP COLUMN result, DROP COLUMN handler_digest,
    ADD COLUMN fairness_key text COLLATE "C",
    RESET (fillfactor, autovacuum_vacuum_threshold, autovacuum_vacuum_scale_factor, autovacuum_vacuum_cost_delay,
           autovacuum_analyze_threshold, autovacuum_analyze_scale_factor),
    SET (autovacuum_vacuum_insert_threshold = 50000, autovacuum_vacuum_insert_scale_factor = 0.05);
-- A column of a domain with a check, or a check of the rows that are there, would read or copy the whole table under
-- the lock. The migration validates the check after the commit.
ALTER TABLE outbox.items ADD CONSTRAINT items_fairness_key
    CHECK (length(fairness_key) BETWEEN 1 AND 255 AND fairness_key !~ '[^ -~]') NOT VALID;
