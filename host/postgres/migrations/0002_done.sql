-- From schema 1, where an item's status was in columns of outbox.items: copies what is DONE into outbox.done, in
-- batches and without a lock, before 0002_places.sql runs under one. The functions live until the end of the migration.

-- Copies these items, if they are DONE. Payloads are not read.
CREATE OR REPLACE FUNCTION outbox.migrate_done(chosen bigint[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO outbox.handlers (digest)
    SELECT DISTINCT handler_digest FROM outbox.items WHERE id = ANY (chosen) AND handler_digest IS NOT NULL
    ON CONFLICT DO NOTHING;
    DELETE FROM outbox.past WHERE id = ANY (chosen);
    INSERT INTO outbox.past (id, attempts, deliveries, replays, effects, maybe_executed, handler)
    SELECT item.id, attempts, deliveries, replays, effects, maybe_executed, handler.id
    FROM outbox.items AS item LEFT JOIN outbox.handlers AS handler ON handler.digest = handler_digest
    WHERE item.id = ANY (chosen) AND status = 'DONE'
      AND ((attempts, deliveries, replays, effects) <> (1, 1, 0, 0) OR maybe_executed);
    DELETE FROM outbox.done WHERE id = ANY (chosen);
    INSERT INTO outbox.done (id, done_at, epoch, handler, turn, result)
    SELECT item.id, done_at, epoch, handler.id, CASE WHEN ordering_key IS NOT NULL THEN item.id END, result
    FROM outbox.items AS item LEFT JOIN outbox.handlers AS handler ON handler.digest = handler_digest
    WHERE item.id = ANY (chosen) AND status = 'DONE';
END $$;

-- Copies the next batch by ascending id. Returns its last id; NULL when there is none.
CREATE OR REPLACE FUNCTION outbox.migrate_done_after(after bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    chosen bigint[] := ARRAY(
        SELECT id FROM outbox.items WHERE id > after AND status = 'DONE' ORDER BY id LIMIT 10000);
BEGIN
    PERFORM outbox.migrate_done(chosen);
    RETURN chosen[cardinality(chosen)];
END $$;

-- Copies what became DONE at `since` or later and has no copy of this time yet, and removes the copies of what was
-- replayed or deleted meanwhile. The caller holds the lock, so that nothing changes any more.
CREATE OR REPLACE FUNCTION outbox.migrate_done_since(since bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM outbox.migrate_done(ARRAY(
        SELECT item.id FROM outbox.items AS item LEFT JOIN outbox.done AS copy ON copy.id = item.id
        WHERE item.status = 'DONE' AND item.done_at >= since AND copy.done_at IS DISTINCT FROM item.done_at));
    -- Each DONE item has its copy now. Only if there are more copies, it is worth looking at each item.
    IF (SELECT count(*) FROM outbox.done) <> (SELECT count(*) FROM outbox.items WHERE status = 'DONE') THEN
        WITH gone AS (
            DELETE FROM outbox.done
            WHERE NOT EXISTS (SELECT 1 FROM outbox.items AS item WHERE item.id = done.id AND item.status = 'DONE')
            RETURNING id)
        DELETE FROM outbox.past USING gone WHERE past.id = gone.id;
    END IF;
END $$;
