-- Enqueueing: the rules for new items, their way into the queue, and the guards of outbox.items. These are the
-- functions and triggers that applications meet. The public functions keep their signatures, and a migration replaces
-- them in place, so that grants on them stay.
--
-- The trigger functions run as the owner, so that a role that may insert items needs no right on the places. Each of
-- them refuses to serve another table: a role could hang it onto a table of its own and so write the queue.

CREATE FUNCTION outbox.refuse_table(relation oid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'outbox: this trigger function is for outbox.items, not for %', relation::regclass
        USING ERRCODE = 'insufficient_privilege';
END $$;

-- Checks a new item. NULL in a column with a default means the default.
--
-- An insert with an existing key does nothing when the content is the same. With other content it fails, whatever
-- conflict clause the statement names. An error ends the transaction. Therefore the client library, which checks by
-- itself what its insert did, sets outbox.conflict to 'silent' while it inserts in an application's transaction.
CREATE OR REPLACE FUNCTION outbox.admit() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    old record;
    broken text;
    given text;
    rule text := '1 to 255 printable ASCII bytes';
BEGIN
    IF TG_RELID <> 'outbox.items'::regclass THEN
        PERFORM outbox.refuse_table(TG_RELID);
    END IF;
    NEW.content_type := coalesce(NEW.content_type, 'application/json');
    NEW.headers := coalesce(NEW.headers, '{}');
    NEW.metadata := coalesce(NEW.metadata, '{}');
    NEW.cid := coalesce(NEW.cid, replace(gen_random_uuid()::text, '-', ''));
    NEW.available_at := coalesce(NEW.available_at, outbox.now());
    NEW.created_at := coalesce(NEW.created_at, outbox.now());
    IF length(NEW.idem_key) NOT BETWEEN 1 AND 255 OR NEW.idem_key ~ '[^ -~]' THEN
        SELECT 'idem_key', NEW.idem_key INTO broken, given;
    ELSIF NEW.cid <> NEW.idem_key AND (length(NEW.cid) NOT BETWEEN 1 AND 255 OR NEW.cid ~ '[^ -~]') THEN
        SELECT 'cid', NEW.cid INTO broken, given;
    ELSIF length(NEW.ordering_key) NOT BETWEEN 1 AND 255 OR NEW.ordering_key ~ '[^ -~]' THEN
        SELECT 'ordering_key', NEW.ordering_key INTO broken, given;
    ELSIF length(NEW.fairness_key) NOT BETWEEN 1 AND 255 OR NEW.fairness_key ~ '[^ -~]' THEN
        SELECT 'fairness_key', NEW.fairness_key INTO broken, given;
    ELSIF NEW.content_type <> 'application/json'
          AND (length(NEW.content_type) NOT BETWEEN 1 AND 255 OR NEW.content_type ~ '[^ -~]') THEN
        SELECT 'content_type', NEW.content_type INTO broken, given;
    ELSIF NEW.available_at <> 0 AND NEW.available_at NOT BETWEEN 978307200000 AND 253402300799999 THEN
        SELECT 'available_at', NEW.available_at::text, 'Unix milliseconds, 0 or in the years 2001 to 9999'
        INTO broken, given, rule;
    ELSIF NEW.headers::text = '{}' THEN
        -- As a rule. What follows costs more than all the checks above.
        broken := NULL;
    ELSIF EXISTS (SELECT FROM json_each(NEW.headers) AS header WHERE json_typeof(header.value) <> 'string') THEN
        SELECT 'headers', NEW.headers::text, 'an object of strings' INTO broken, given, rule;
    ELSIF NEW.headers::text ~* 'webhook-url'
          AND EXISTS (SELECT FROM json_each_text(NEW.headers) AS header
                      WHERE lower(header.key) = 'webhook-url'
                        AND header.value !~ '^https?://[!-"$-.0->A-~]+([/?#][!-~]*)?$') THEN
        SELECT 'headers', 'webhook-url',
               'an absolute URL in webhook-url, such as https://hooks.example.com/path, without a user'
        INTO broken, given, rule;
    END IF;
    IF broken IS NOT NULL THEN
        RAISE EXCEPTION 'outbox: % is %: it must be %', broken, quote_literal(left(given, 80)), rule
            USING ERRCODE = 'check_violation', SCHEMA = 'outbox', TABLE = 'items', COLUMN = broken;
    END IF;
    SELECT id, type = NEW.type AND payload = NEW.payload AND content_type = NEW.content_type
               AND saga IS NOT DISTINCT FROM NEW.saga AND ordering_key IS NOT DISTINCT FROM NEW.ordering_key AS same
    INTO old FROM outbox.items WHERE idem_key = NEW.idem_key;
    IF old.same OR FOUND AND current_setting('outbox.conflict', true) = 'silent' THEN
        RETURN NULL;
    ELSIF FOUND THEN
        RAISE EXCEPTION 'outbox: idem_key % is already used by item % with other content',
            quote_literal(NEW.idem_key), old.id USING ERRCODE = 'unique_violation', CONSTRAINT = 'items_idem_key';
    END IF;
    IF NEW.id IS NULL THEN
        NEW.id := nextval('outbox.items_id_seq');
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER items_insert BEFORE INSERT ON outbox.items FOR EACH ROW EXECUTE FUNCTION outbox.admit();

-- An import or a restore gives ids, and has the rights of a host. This function runs as the caller.
CREATE FUNCTION outbox.check_given_id() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT has_table_privilege(current_user, 'outbox.queue', 'INSERT') THEN
        RAISE EXCEPTION 'outbox: item % cannot be inserted by its id: leave out the id, the outbox gives it', NEW.id
            USING ERRCODE = 'insufficient_privilege';
    ELSIF NEW.id NOT BETWEEN 1 AND 4611686018427387903 THEN
        RAISE EXCEPTION 'outbox: id is %: it must be from 1 to 4611686018427387903', NEW.id
            USING ERRCODE = 'check_violation', SCHEMA = 'outbox', TABLE = 'items', COLUMN = 'id';
    END IF;
    RETURN NEW;
END $$;
-- Its name sorts before items_insert, which gives ids.
CREATE TRIGGER items_given_id BEFORE INSERT ON outbox.items FOR EACH ROW
WHEN (NEW.id IS NOT NULL) EXECUTE FUNCTION outbox.check_given_id();

-- The number of the newest job, for the columns `epoch`. A row that somebody gave a number near the end of the range
-- does not count: no later job could take an item.
CREATE FUNCTION outbox.newest_job() RETURNS bigint STABLE LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT coalesce(max(id), 0) FROM outbox.jobs WHERE id <= 4611686018427387903);
END $$;

-- New items go into the queue: those without an ordering key at once, and all that are steps of a saga become
-- unfinished items of it. A restore table by table writes the rows of finished items in outbox.done
-- and outbox.dead first, and those of earlier attempts in outbox.past. They are looked up by scalar subqueries, because
-- a join can get a plan that reads a whole table, and the plan stays in the cache.
CREATE FUNCTION outbox.arrive() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off SET enable_seqscan = off AS $$
DECLARE
    newest bigint := outbox.newest_job();
BEGIN
    IF TG_RELID <> 'outbox.items'::regclass THEN
        PERFORM outbox.refuse_table(TG_RELID);
    END IF;
    INSERT INTO outbox.queue (id, available_at, epoch, again, losses, type, fairness_key)
    SELECT item.id, item.available_at, newest, item.known IS NOT NULL, coalesce(item.known, 0), item.type,
           item.fairness_key
    -- OFFSET 0, so that each past is looked up once.
    FROM (SELECT *, (SELECT losses FROM outbox.past WHERE id = arrived.id) AS known FROM arrived OFFSET 0) AS item
    WHERE item.ordering_key IS NULL
      AND coalesce((SELECT id FROM outbox.done WHERE id = item.id), (SELECT id FROM outbox.dead WHERE id = item.id))
          IS NULL;
    INSERT INTO outbox.saga_open (saga, cid, id)
    SELECT item.saga, item.cid, item.id FROM arrived AS item
    WHERE item.saga IS NOT NULL
      AND coalesce((SELECT id FROM outbox.done WHERE id = item.id), (SELECT id FROM outbox.dead WHERE id = item.id))
          IS NULL;
    RETURN NULL;
END $$;
CREATE TRIGGER items_arrive AFTER INSERT ON outbox.items REFERENCING NEW TABLE AS arrived
FOR EACH STATEMENT EXECUTE FUNCTION outbox.arrive();

-- Items with an ordering key go into the queue while their transaction commits, in the order of their inserts. So a
-- turn is drawn after everything that the transaction waited for has committed: of two items of a key, the one whose
-- transaction had committed before the other's began to commit has the smaller turn. No lock is taken.
CREATE FUNCTION outbox.line_up() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off SET enable_seqscan = off AS $$
BEGIN
    IF TG_RELID <> 'outbox.items'::regclass THEN
        PERFORM outbox.refuse_table(TG_RELID);
    END IF;
    INSERT INTO outbox.queue (id, available_at, turn, epoch, again, losses, type, ordering_key, fairness_key)
    SELECT NEW.id, NEW.available_at, nextval('outbox.turn_seq'), outbox.newest_job(), item.known IS NOT NULL,
           coalesce(item.known, 0), NEW.type, NEW.ordering_key, NEW.fairness_key
    FROM (SELECT (SELECT losses FROM outbox.past WHERE id = NEW.id) AS known OFFSET 0) AS item
    WHERE coalesce((SELECT id FROM outbox.done WHERE id = NEW.id), (SELECT id FROM outbox.dead WHERE id = NEW.id))
          IS NULL;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER items_line_up AFTER INSERT ON outbox.items DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW WHEN (NEW.ordering_key IS NOT NULL) EXECUTE FUNCTION outbox.line_up();

CREATE TRIGGER items_immutable
BEFORE UPDATE OF id, idem_key, type, payload, content_type, headers, cid, saga, ordering_key, available_at, created_at,
                 fairness_key
ON outbox.items FOR EACH ROW
WHEN (OLD.id <> NEW.id OR OLD.idem_key <> NEW.idem_key OR OLD.type <> NEW.type OR OLD.payload <> NEW.payload
   OR OLD.content_type <> NEW.content_type OR OLD.headers::text <> NEW.headers::text OR OLD.cid <> NEW.cid
   OR OLD.saga IS DISTINCT FROM NEW.saga OR OLD.ordering_key IS DISTINCT FROM NEW.ordering_key
   OR OLD.available_at <> NEW.available_at OR OLD.created_at <> NEW.created_at
   OR OLD.fairness_key IS DISTINCT FROM NEW.fairness_key)
EXECUTE FUNCTION outbox.refuse('this column never changes after the item was enqueued');

-- Only a finished item can be deleted, and all that belongs to it goes with it. What tells that an item is finished is
-- the deletion of its place: it waits for a transaction that is moving the item, and then finds that it is gone.
CREATE OR REPLACE FUNCTION outbox.after_delete() RETURNS trigger LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    finished bigint;
    freed text[];
BEGIN
    -- In the order of all locks: lines, places, sagas. Nothing that holds one of them waits for a row of outbox.items.
    freed := ARRAY(SELECT item.ordering_key::text FROM deleted AS item
                   WHERE item.ordering_key IS NOT NULL
                     AND (SELECT place.blocks_key FROM outbox.dead AS place WHERE place.id = item.id));
    IF cardinality(freed) > 0 THEN
        PERFORM outbox.lock_keys(freed);
    END IF;
    PERFORM 1 FROM outbox.done AS place WHERE place.id IN (SELECT id FROM deleted) ORDER BY place.id FOR UPDATE;
    PERFORM 1 FROM outbox.dead AS place WHERE place.id IN (SELECT id FROM deleted) ORDER BY place.id FOR UPDATE;
    PERFORM 1 FROM outbox.sagas AS run
    WHERE (run.saga, run.cid) IN (SELECT saga, cid FROM deleted WHERE saga IS NOT NULL)
    ORDER BY run.saga, run.cid FOR UPDATE;
    WITH done AS (
        DELETE FROM outbox.done AS place USING deleted AS item WHERE place.id = item.id RETURNING item.type
    ), dead AS (
        DELETE FROM outbox.dead AS place USING deleted AS item WHERE place.id = item.id
        RETURNING CASE WHEN place.blocks_key THEN place.ordering_key END AS blocked, item.saga, item.cid
    ), outcome AS (
        UPDATE outbox.sagas AS run SET dead = greatest(run.dead - died.count, 0)
        FROM (SELECT saga, cid, count(*) FROM dead WHERE saga IS NOT NULL GROUP BY saga, cid) AS died
        WHERE run.saga = died.saga AND run.cid = died.cid
    ), total AS (
        INSERT INTO outbox.deltas (name, type, by) SELECT 'done', type, -count(*) FROM done GROUP BY type
    )
    SELECT (SELECT count(*) FROM done) + count(*), array_agg(DISTINCT blocked) FILTER (WHERE blocked IS NOT NULL)
    INTO finished, freed FROM dead;
    IF finished < (SELECT count(*) FROM deleted) THEN
        RAISE EXCEPTION 'outbox: an item that is not finished cannot be deleted' USING ERRCODE = 'restrict_violation';
    END IF;
    DELETE FROM outbox.past USING deleted AS item WHERE past.id = item.id;
    DELETE FROM outbox.descendants USING deleted AS item WHERE descendants.id = item.id;
    DELETE FROM outbox.attempts USING deleted AS item WHERE attempts.item_id = item.id;
    DELETE FROM outbox.sagas AS run USING (SELECT DISTINCT saga, cid FROM deleted WHERE saga IS NOT NULL) AS item
    WHERE run.saga = item.saga AND run.cid = item.cid AND run.ended_at IS NOT NULL
      AND (SELECT id FROM outbox.items WHERE cid = item.cid AND saga = item.saga LIMIT 1) IS NULL;
    IF freed IS NOT NULL THEN
        PERFORM outbox.lock_keys(freed);
        PERFORM outbox.find_front(freed);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER items_deleted AFTER DELETE ON outbox.items REFERENCING OLD TABLE AS deleted
FOR EACH STATEMENT EXECUTE FUNCTION outbox.after_delete();

-- Inserts an item for a host. Returns its key and its id if the key is new, and no row if another transaction inserted
-- the key meanwhile or the item is stored with the same content. A function, because its INSERT is planned once for each
-- session: planning the insert of one item takes longer than making it.
CREATE FUNCTION outbox.insert_item(
    new_key text, kind text, body bytea, media text, heads text, notes text, correlation text, run text, line text,
    tenant text, delay bigint, at bigint
) RETURNS TABLE (known_key text, given bigint) LANGUAGE plpgsql AS $$
DECLARE
    arrived bigint := coalesce(at, outbox.now());
BEGIN
    RETURN QUERY
    INSERT INTO outbox.items AS item (idem_key, type, payload, content_type, headers, metadata, cid, saga,
                                      ordering_key, fairness_key, created_at, available_at)
    VALUES (new_key, kind, body, media, heads::json, notes::json, correlation, run, line, tenant, arrived,
            arrived + delay)
    ON CONFLICT ON CONSTRAINT items_idem_key DO NOTHING RETURNING item.idem_key::text, item.id;
END $$;

-- Enqueue from any language; the payload is bytes, text or JSON.
CREATE OR REPLACE FUNCTION outbox.enqueue(
    type text, idem_key text, payload bytea, content_type text DEFAULT 'application/json',
    headers jsonb DEFAULT '{}', metadata jsonb DEFAULT '{}', cid text DEFAULT NULL, saga text DEFAULT NULL,
    ordering_key text DEFAULT NULL, delay interval DEFAULT '0', fairness_key text DEFAULT NULL
) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    given bigint;
    arrived bigint := outbox.now();
BEGIN
    LOOP
        INSERT INTO outbox.items AS item (type, idem_key, payload, content_type, headers, metadata, cid, saga,
                                          ordering_key, fairness_key, created_at, available_at)
        VALUES (enqueue.type, enqueue.idem_key, enqueue.payload, enqueue.content_type, enqueue.headers::json,
                enqueue.metadata::json, coalesce(enqueue.cid, enqueue.idem_key),
                enqueue.saga, enqueue.ordering_key, enqueue.fairness_key, arrived,
                arrived + (extract(epoch FROM delay) * 1000)::bigint)
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

CREATE OR REPLACE FUNCTION outbox.enqueue(
    type text, idem_key text, payload text, content_type text DEFAULT 'application/json',
    headers jsonb DEFAULT '{}', metadata jsonb DEFAULT '{}', cid text DEFAULT NULL, saga text DEFAULT NULL,
    ordering_key text DEFAULT NULL, delay interval DEFAULT '0', fairness_key text DEFAULT NULL
) RETURNS bigint LANGUAGE sql
    RETURN outbox.enqueue(type, idem_key, convert_to(payload, 'UTF8'), content_type, headers, metadata, cid, saga,
                          ordering_key, delay, fairness_key);

CREATE OR REPLACE FUNCTION outbox.enqueue(
    type text, idem_key text, payload jsonb, content_type text DEFAULT 'application/json',
    headers jsonb DEFAULT '{}', metadata jsonb DEFAULT '{}', cid text DEFAULT NULL, saga text DEFAULT NULL,
    ordering_key text DEFAULT NULL, delay interval DEFAULT '0', fairness_key text DEFAULT NULL
) RETURNS bigint LANGUAGE sql
    RETURN outbox.enqueue(type, idem_key, convert_to(payload::text, 'UTF8'), content_type, headers, metadata, cid,
                          saga, ordering_key, delay, fairness_key);

REVOKE ALL ON FUNCTION outbox.admit(), outbox.arrive(), outbox.line_up() FROM PUBLIC;
