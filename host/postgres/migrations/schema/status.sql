-- What people and scripts read: every item with its status. Each status has a view of its own, because PostgreSQL plans
-- a union before it knows in which order and how many rows are wanted: of outbox.status it sorts all items that match.
--
-- A place that has an item's type or ordering key shows its own, which its indexes begin with. So these columns are
-- text in all views: PostgreSQL uses the indexes below a union only where the types are the same.

CREATE VIEW outbox.status_pending AS
SELECT queued.id, item.idem_key, queued.type, item.payload, item.content_type, item.headers, item.metadata, item.cid,
       item.saga, queued.ordering_key, queued.fairness_key, descent.root, descent.depth,
       item.created_at, 'PENDING'::text AS status,
       coalesce(past.attempts, 0) AS attempts, coalesce(past.deliveries, 0) AS deliveries,
       coalesce(past.replays, 0) AS replays, coalesce(past.effects, 0) AS effects, queued.losses,
       coalesce(past.give_backs, 0) AS give_backs, queued.available_at, NULL::bigint AS claimed_at,
       NULL::text AS claimed_by, NULL::bigint AS claim_token, NULL::bigint AS lease_until, past.given_back_since,
       coalesce(past.maybe_executed, false) AS maybe_executed, false AS blocks_key, queued.held, queued.epoch,
       NULL::text COLLATE "C" AS fingerprint, past.last_error, NULL::bigint AS done_at, NULL::bigint AS dead_at,
       NULL::bytea AS result, handler.digest AS handler_digest, queued.turn
FROM outbox.queue AS queued
     JOIN outbox.items AS item ON item.id = queued.id
     LEFT JOIN outbox.past ON past.id = queued.id
     LEFT JOIN outbox.descendants AS descent ON descent.id = queued.id
     LEFT JOIN outbox.handlers AS handler ON handler.id = past.handler;

CREATE VIEW outbox.status_claimed AS
SELECT leased.id, item.idem_key, lease.type, item.payload, item.content_type, item.headers, item.metadata, item.cid,
       item.saga, item.ordering_key::text AS ordering_key, item.fairness_key, descent.root, descent.depth,
       item.created_at, 'CLAIMED'::text AS status,
       coalesce(past.attempts, 1) AS attempts, coalesce(past.deliveries, 1) AS deliveries,
       coalesce(past.replays, 0) AS replays, coalesce(past.effects, 0) AS effects, coalesce(past.losses, 0) AS losses,
       coalesce(past.give_backs, 0) AS give_backs, coalesce(past.available_at, item.available_at) AS available_at,
       lease.claimed_at, lease.pod AS claimed_by,
       lease.token AS claim_token, lease.lease_until, past.given_back_since,
       coalesce(past.maybe_executed, false) AS maybe_executed, false AS blocks_key, false AS held, lease.epoch,
       NULL::text COLLATE "C" AS fingerprint, past.last_error, NULL::bigint AS done_at, NULL::bigint AS dead_at,
       NULL::bytea AS result, handler.digest AS handler_digest, leased.turn
FROM outbox.leases AS lease
     CROSS JOIN LATERAL unnest(lease.ids, lease.turns) AS leased (id, turn)
     JOIN outbox.items AS item ON item.id = leased.id
     LEFT JOIN outbox.past ON past.id = leased.id
     LEFT JOIN outbox.descendants AS descent ON descent.id = leased.id
     LEFT JOIN outbox.handlers AS handler ON handler.id = past.handler;

CREATE VIEW outbox.status_done AS
SELECT done.id, item.idem_key, item.type::text AS type, item.payload, item.content_type, item.headers, item.metadata,
       item.cid, item.saga, item.ordering_key::text AS ordering_key, item.fairness_key, descent.root, descent.depth,
       item.created_at, 'DONE'::text AS status,
       coalesce(past.attempts, 1) AS attempts, coalesce(past.deliveries, 1) AS deliveries,
       coalesce(past.replays, 0) AS replays, coalesce(past.effects, 0) AS effects, coalesce(past.losses, 0) AS losses,
       coalesce(past.give_backs, 0) AS give_backs, coalesce(past.available_at, item.available_at) AS available_at,
       NULL::bigint AS claimed_at,
       NULL::text AS claimed_by, NULL::bigint AS claim_token, NULL::bigint AS lease_until, past.given_back_since,
       coalesce(past.maybe_executed, false) AS maybe_executed, false AS blocks_key, false AS held, done.epoch,
       NULL::text COLLATE "C" AS fingerprint, NULL::text AS last_error, done.done_at, NULL::bigint AS dead_at,
       done.result, handler.digest AS handler_digest, done.turn
FROM outbox.done
     JOIN outbox.items AS item ON item.id = done.id
     LEFT JOIN outbox.past ON past.id = done.id
     LEFT JOIN outbox.descendants AS descent ON descent.id = done.id
     LEFT JOIN outbox.handlers AS handler ON handler.id = done.handler;

CREATE VIEW outbox.status_dlq AS
SELECT dead.id, item.idem_key, dead.type, item.payload, item.content_type, item.headers, item.metadata, item.cid,
       item.saga, dead.ordering_key, item.fairness_key, descent.root, descent.depth,
       item.created_at, 'DLQ'::text AS status,
       coalesce(past.attempts, 1) AS attempts, coalesce(past.deliveries, 1) AS deliveries,
       coalesce(past.replays, 0) AS replays, coalesce(past.effects, 0) AS effects, coalesce(past.losses, 0) AS losses,
       coalesce(past.give_backs, 0) AS give_backs, coalesce(past.available_at, item.available_at) AS available_at,
       NULL::bigint AS claimed_at, NULL::text AS claimed_by, NULL::bigint AS claim_token, NULL::bigint AS lease_until,
       past.given_back_since, coalesce(past.maybe_executed, false) AS maybe_executed, dead.blocks_key, false AS held,
       dead.epoch, dead.fingerprint, dead.last_error, NULL::bigint AS done_at, dead.dead_at, NULL::bytea AS result,
       handler.digest AS handler_digest, dead.turn
FROM outbox.dead
     JOIN outbox.items AS item ON item.id = dead.id
     LEFT JOIN outbox.past ON past.id = dead.id
     LEFT JOIN outbox.descendants AS descent ON descent.id = dead.id
     LEFT JOIN outbox.handlers AS handler ON handler.id = dead.handler;

CREATE VIEW outbox.status AS
SELECT * FROM outbox.status_pending
UNION ALL SELECT * FROM outbox.status_claimed
UNION ALL SELECT * FROM outbox.status_done
UNION ALL SELECT * FROM outbox.status_dlq;

COMMENT ON VIEW outbox.status IS
    'Every item with its status. available_at is the time at which a PENDING item is due; of any other item it is the '
    'time at which it was due last. An item with an ordering key is here from the commit of its transaction on. '
    'A condition on the status alone reads only the items of that status.';
