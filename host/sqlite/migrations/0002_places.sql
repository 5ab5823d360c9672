-- From schema 1, where an item's status was in columns of outbox_items, to the places of schema.sql: fills the new
-- tables, which exist already and are empty, while outbox_items still has its old columns. Payloads are not read.
--
-- Numbers that the old schema did not bound are cut to what the new one allows, so that one odd row stops nothing.

INSERT INTO outbox_handlers (digest)
SELECT DISTINCT handler_digest FROM outbox_items WHERE handler_digest IS NOT NULL;

-- The front of a key: the item that is claimed, else the oldest that is unfinished or blocks the key.
INSERT INTO outbox_lanes (ordering_key, id)
SELECT ordering_key, coalesce(min(CASE WHEN status = 'CLAIMED' THEN id END), min(id))
FROM outbox_items
WHERE ordering_key IS NOT NULL AND (status IN ('PENDING', 'CLAIMED') OR blocks_key = 1)
GROUP BY ordering_key;

-- A row for each item that is not as if it had never been claimed (in the queue), or had been claimed once (elsewhere).
-- A dead item always has one.
INSERT INTO outbox_past
    (id, attempts, deliveries, replays, effects, maybe_executed, given_back_since, handler, last_error)
SELECT id, min(attempts, 2147483647), min(deliveries, 2147483647), min(replays, 2147483647), min(effects, 2147483647),
       maybe_executed, given_back_since, (SELECT id FROM outbox_handlers WHERE digest = handler_digest), last_error
FROM outbox_items
WHERE replays > 0 OR effects > 0 OR maybe_executed = 1 OR given_back_since IS NOT NULL OR last_error IS NOT NULL
   OR CASE status
          WHEN 'PENDING' THEN attempts > 0 OR deliveries > 0 OR handler_digest IS NOT NULL
          WHEN 'CLAIMED' THEN attempts <> 1 OR deliveries <> 1 OR handler_digest IS NOT NULL
          WHEN 'DONE' THEN attempts <> 1 OR deliveries <> 1
          ELSE 1
      END;

INSERT INTO outbox_queue (id, type, available_at, held, again, epoch, ordering_key)
SELECT id, type, available_at,
       ordering_key IS NOT NULL AND NOT EXISTS (
           SELECT 1 FROM outbox_lanes AS lane WHERE lane.ordering_key = item.ordering_key AND lane.id = item.id),
       EXISTS (SELECT 1 FROM outbox_past WHERE outbox_past.id = item.id),
       epoch, ordering_key
FROM outbox_items AS item
WHERE status = 'PENDING';

-- Claims become leases that no process can settle, because their tokens are new. They end when they would have ended.
INSERT INTO outbox_leases (token, type, pod, claimed_at, lease_until, epoch, count, ids)
SELECT max(1, random() & 9223372036854775807), type, claimed_by, claimed_at, lease_until, epoch, count(*),
       json_group_array(id ORDER BY id)
FROM outbox_items WHERE status = 'CLAIMED'
GROUP BY type, claimed_by, claimed_at, lease_until, epoch;

INSERT INTO outbox_done (id, done_at, epoch, handler, result)
SELECT id, done_at, epoch, (SELECT id FROM outbox_handlers WHERE digest = handler_digest), result
FROM outbox_items WHERE status = 'DONE';

INSERT INTO outbox_dead (id, dead_at, epoch, handler, type, ordering_key, blocks_key, fingerprint, last_error)
SELECT id, dead_at, epoch, (SELECT id FROM outbox_handlers WHERE digest = handler_digest), type, ordering_key,
       blocks_key, coalesce(fingerprint, ''), coalesce(last_error, '')
FROM outbox_items WHERE status = 'DLQ';

INSERT INTO outbox_saga_open (saga, cid, id)
-- The condition on DONE lets SQLite use an index of the old schema.
SELECT saga, cid, id FROM outbox_items
WHERE saga IS NOT NULL AND status <> 'DONE' AND status IN ('PENDING', 'CLAIMED');

-- A due time that the new schema refuses becomes "at once". That of a PENDING item stays in the queue as it was.
UPDATE outbox_items SET available_at = 0
WHERE available_at <> 0 AND available_at NOT BETWEEN 978307200000 AND 253402300799999;
