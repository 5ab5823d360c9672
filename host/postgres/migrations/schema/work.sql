-- The hot path of workers: functions, so that the server caches their plans and no client needs a statement that a
-- session has prepared. They run as their caller. What becomes of an item is decided by the host, which also writes the
-- rarer moves.
--
-- The settings of the functions make every plan look rows up by index. A table that was empty when it was analysed is
-- otherwise planned for as if it still were, and such a plan stays in the cache. Where a table has no index for a look,
-- such a plan seems so dear that the server would compile it at each call, which takes longer than the call: hence
-- `jit = off`.
--
-- Locks are waited for in one order: lines of ordering keys, by hash; leases, by token. A claim waits for neither.

-- Waits for the lines of the keys. The transaction must hold no lease and no row of outbox.queue yet.
CREATE FUNCTION outbox.lock_keys(keys text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(7206002, hash)
    FROM (SELECT DISTINCT hashtext(key) AS hash FROM unnest(keys) AS key WHERE key IS NOT NULL ORDER BY hash) AS lines;
END $$;

-- Lanes whose items have left a lease move on to the first item of their streak that is still there. What has left is no
-- longer in the streak. An item is leased when it exists and is in no other place.
CREATE FUNCTION outbox.advance_streaks(keys text[]) RETURNS void LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
    UPDATE outbox.lanes AS lane
    SET id = coalesce(leased.ids[1], lane.id), turn = coalesce(leased.turns[1], lane.turn),
        streak = nullif(leased.ids[2:], '{}'), streak_turns = nullif(leased.turns[2:], '{}')
    FROM outbox.lanes AS known CROSS JOIN LATERAL (
             SELECT array_agg(member.id ORDER BY member.place) AS ids,
                    array_agg(member.turn ORDER BY member.place) AS turns
             FROM unnest(known.id || known.streak, known.turn || known.streak_turns)
                      WITH ORDINALITY AS member (id, turn, place)
             WHERE coalesce((SELECT id FROM outbox.queue WHERE id = member.id),
                            (SELECT id FROM outbox.done WHERE id = member.id),
                            (SELECT id FROM outbox.dead WHERE id = member.id)) IS NULL
               AND (SELECT id FROM outbox.items WHERE id = member.id) IS NOT NULL) AS leased
    WHERE lane.ordering_key = known.ordering_key AND known.ordering_key = ANY (keys) AND known.streak IS NOT NULL;
END $$;

-- The first items of the key that wait behind this turn, up to `most`, as the last look at its line found them. What has
-- been claimed since is left out.
CREATE FUNCTION outbox.seen_in_line(line text, behind bigint, most bigint) RETURNS TABLE (id bigint) LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
    look outbox.line_looks;
BEGIN
    SELECT known.* INTO look FROM outbox.line_looks AS known WHERE known.ordering_key = line;
    -- One by one: a statement for all of them would look all of them up.
    FOR place IN 1..coalesce(cardinality(look.ids), 0) LOOP
        CONTINUE WHEN look.turns[place] <= behind;
        SELECT waiting.id INTO id FROM outbox.queue AS waiting
        WHERE waiting.id = look.ids[place] AND waiting.turn = look.turns[place] AND waiting.ordering_key = line;
        CONTINUE WHEN NOT FOUND;
        RETURN NEXT;
        most := most - 1;
        EXIT WHEN most <= 0;
    END LOOP;
END $$;

-- Looks at long lines and keeps what it finds: their first 256 items. The caller has the locks of the keys.
CREATE FUNCTION outbox.look_at_lines(keys text[]) RETURNS void LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
    INSERT INTO outbox.line_looks AS look (ordering_key, ids, turns)
    SELECT key, array_agg(id ORDER BY turn, id), array_agg(turn ORDER BY turn, id)
    FROM unnest(keys) AS key
         CROSS JOIN LATERAL (SELECT id, turn FROM outbox.queue WHERE ordering_key = key
                             ORDER BY ordering_key, queue.turn, queue.id LIMIT 256) AS waiting
    GROUP BY key ORDER BY key
    ON CONFLICT (ordering_key) DO UPDATE SET ids = excluded.ids, turns = excluded.turns;
END $$;

-- Finds the front of each key anew: its first item of those that wait and those that block it dead. It gets the lane,
-- and is no longer held. An item that is leased keeps the lane, and after it what follows in its streak. The caller has
-- the locks of the keys, and took them in an earlier statement: so this one sees what others did under them. `are_done`
-- says that the items of the keys that the caller has moved became DONE: then what an earlier look at a long line found
-- still holds. Whether a line is long is asked where several of its items were claimed together, and otherwise for one
-- front in eight: the question reads 64 rows.
CREATE FUNCTION outbox.find_front(keys text[], are_done boolean DEFAULT false) RETURNS void LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    had_streaks boolean :=
        EXISTS (SELECT 1 FROM outbox.lanes WHERE ordering_key = ANY (keys) AND streak IS NOT NULL);
    long_lines text[];
BEGIN
    IF had_streaks THEN
        PERFORM outbox.advance_streaks(keys);
    END IF;
    IF NOT are_done THEN
        DELETE FROM outbox.line_looks WHERE ordering_key = ANY (keys);
    END IF;
    WITH line AS (
        SELECT known.key, (SELECT id FROM outbox.lanes WHERE ordering_key = known.key) AS owner,
               CASE WHEN are_done AND (SELECT ordering_key FROM outbox.line_looks WHERE ordering_key = known.key)
                                      IS NOT NULL
                    THEN (SELECT turn FROM outbox.lanes WHERE ordering_key = known.key) END AS behind
        FROM (SELECT DISTINCT key FROM unnest(keys) AS key WHERE key IS NOT NULL) AS known
    ), next AS MATERIALIZED (
        SELECT line.*, (SELECT seen.id FROM outbox.seen_in_line(line.key, line.behind, 1) AS seen
                        WHERE line.behind IS NOT NULL) AS seen
        FROM line
    ), front AS MATERIALIZED (
        SELECT line.key, first.id, first.turn,
               CASE WHEN line.seen IS NULL AND (had_streaks OR hashint8(first.id) % 8 = 0) THEN
                   (SELECT id FROM outbox.queue WHERE ordering_key = line.key
                    ORDER BY ordering_key, queue.turn, queue.id OFFSET 63 LIMIT 1) IS NOT NULL END AS is_long
        FROM next AS line LEFT JOIN LATERAL (
                 (SELECT id, turn FROM outbox.queue WHERE id = line.seen)
                 UNION ALL
                 (SELECT id, turn FROM outbox.queue WHERE line.seen IS NULL AND ordering_key = line.key
                  ORDER BY ordering_key, queue.turn, queue.id LIMIT 1)
                 UNION ALL
                 (SELECT id, turn FROM outbox.dead WHERE ordering_key = line.key AND blocks_key
                  ORDER BY ordering_key, dead.turn, dead.id LIMIT 1)
                 ORDER BY turn, id LIMIT 1) AS first ON true
        WHERE coalesce((SELECT id FROM outbox.queue WHERE id = line.owner),
                       (SELECT id FROM outbox.done WHERE id = line.owner),
                       (SELECT id FROM outbox.dead WHERE id = line.owner)) IS NOT NULL
           OR (SELECT id FROM outbox.items WHERE id = line.owner) IS NULL
    ), emptied AS (
        DELETE FROM outbox.lanes AS lane USING front WHERE lane.ordering_key = front.key AND front.id IS NULL
    ), forgotten AS (
        DELETE FROM outbox.line_looks AS look USING front WHERE look.ordering_key = front.key AND front.id IS NULL
    ), given AS (
        INSERT INTO outbox.lanes AS lane (ordering_key, id, turn)
        SELECT key, id, turn FROM front WHERE id IS NOT NULL
        ON CONFLICT (ordering_key) DO UPDATE SET id = excluded.id, turn = excluded.turn WHERE lane.id <> excluded.id
    ), freed AS (
        UPDATE outbox.queue AS waiting SET held = false FROM front WHERE waiting.id = front.id AND waiting.held
    )
    SELECT array_agg(key) FILTER (WHERE is_long) INTO long_lines FROM front;
    -- A few in one call. The other lines are looked at when their next fronts are found.
    IF long_lines IS NOT NULL THEN
        PERFORM outbox.look_at_lines(long_lines[:16]);
    END IF;
END $$;

-- Locks types with limits until the commit, so that one transaction at a time counts their claims and adds to them.
-- Returns those that no other transaction has locked. Never waits.
CREATE FUNCTION outbox.lock_limits(kinds text[]) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT kind FROM unnest(kinds) AS kind WHERE pg_try_advisory_xact_lock(7206006, hashtext(kind));
END $$;

-- What limits the claims of each type, in the order of `kinds`, when its next item is due, whether items with a fairness
-- key are due, and the losses of its most suspect item that is due. `claimed` is NULL unless counted[n]: it reads all leases, dead rows included, so that only
-- types with a limit of claims ask for it.
CREATE FUNCTION outbox.claim_limits(kinds text[], counted boolean[], at bigint)
RETURNS TABLE (next_at bigint, most_losses integer, claimed bigint, is_paused boolean, tokens double precision,
               filled_at bigint, are_shared boolean)
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT least((SELECT available_at FROM outbox.queue
                  WHERE type = wanted.kind AND NOT held AND losses = 0 AND fairness_key IS NULL AND available_at > at
                  ORDER BY type, available_at, id LIMIT 1),
                 CASE WHEN shared.first_at > at THEN shared.first_at
                      WHEN shared.first_at IS NOT NULL THEN
                          (SELECT available_at FROM outbox.queue
                           WHERE type = wanted.kind AND NOT held AND losses = 0 AND fairness_key IS NOT NULL
                             AND available_at > at
                           ORDER BY type, available_at, id LIMIT 1) END,
                 (SELECT min(available_at) FROM outbox.queue
                  WHERE type = wanted.kind AND NOT held AND losses > 0 AND available_at > at)),
           (SELECT losses FROM outbox.queue
            WHERE type = wanted.kind AND NOT held AND losses > 0 AND available_at <= at
              AND (fairness_key IS NULL OR NOT EXISTS (
                  SELECT FROM outbox.key_pauses AS pause
                  WHERE pause.fairness_key = queue.fairness_key AND pause.type IN ('', wanted.kind)))
            ORDER BY type, losses DESC, available_at, id LIMIT 1),
           CASE WHEN wanted.counted THEN (SELECT sum(count) FROM outbox.leases WHERE type = wanted.kind) END,
           (SELECT paused_at FROM outbox.pauses WHERE type = wanted.kind) IS NOT NULL, rate.tokens, rate.filled_at,
           coalesce(shared.first_at <= at, false)
    FROM unnest(kinds, counted) WITH ORDINALITY AS wanted (kind, counted, place)
         CROSS JOIN LATERAL (
             SELECT (SELECT available_at FROM outbox.queue
                     WHERE type = wanted.kind AND NOT held AND losses = 0 AND fairness_key IS NOT NULL
                     ORDER BY type, available_at, id LIMIT 1) AS first_at OFFSET 0) AS shared
         LEFT JOIN outbox.rates AS rate ON rate.type = wanted.kind
    ORDER BY wanted.place;
END $$;

-- Whether a fairness key of the type has used up its rate of so many items in each second. The host computes its wait with
-- another rounding: where this finds no token, the host must find none either. The settings of outbox.due_keys hold here.
CREATE FUNCTION outbox.is_spent(kind text, key text, rate double precision, at bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    RETURN EXISTS (
        SELECT FROM outbox.key_rates
        WHERE type = kind AND fairness_key = key AND filled_at <= at + 1000
          AND greatest(tokens, -greatest(rate, 1)) + rate * greatest(at - filled_at, 0) / 1000 < 1 - 1e-9);
END $$;

-- Fairness keys of the type with items that are due, in the order in which they are served: those after the key `last`,
-- the items without a key, which have the key '', then those up to `last`. Their `state` is 'due', or 'spent' where they
-- have used up the rate. Keys in `left_out` and paused ones are left out. Looks for `most` keys that are not spent, and at
-- `looked_at` at most. A look that ends there has in addition the keys of the `due_most` items that are due for the longest
-- time, items without a key, and a last row with the state 'cut': the key at which it ended.
CREATE FUNCTION outbox.due_keys(
    kind text, last text, left_out jsonb, rate double precision, at bigint, most integer, looked_at integer,
    due_most integer
)
RETURNS TABLE (key text, state text) LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
    -- In the order of the index, whatever the collation of the database is.
    place text COLLATE "C" := last;
    due bigint;
    next_key text COLLATE "C";
    found_keys text[] := '{}';
    spent_keys text[] := '{}';
    is_second_lap boolean := false;
BEGIN
    FOR step IN 1..looked_at LOOP
        IF cardinality(found_keys) = most THEN
            RETURN;
        END IF;
        SELECT fairness_key, available_at INTO next_key, due FROM outbox.queue
        WHERE type = kind AND NOT held AND losses = 0 AND fairness_key IS NOT NULL AND fairness_key > place
        ORDER BY type, fairness_key, available_at, id LIMIT 1;
        IF next_key IS NULL OR is_second_lap AND next_key > last COLLATE "C" THEN
            IF is_second_lap THEN
                RETURN;
            END IF;
            is_second_lap := true;
            place := '';
            IF EXISTS (SELECT FROM outbox.queue
                       WHERE type = kind AND NOT held AND losses = 0 AND fairness_key IS NULL AND available_at <= at) THEN
                found_keys := array_append(found_keys, '');
                RETURN QUERY SELECT '', 'due';
            END IF;
        ELSE
            place := next_key;
            IF due <= at AND NOT left_out ? next_key AND NOT EXISTS (
                SELECT FROM outbox.key_pauses AS pause WHERE pause.fairness_key = next_key AND pause.type IN ('', kind)) THEN
                IF rate IS NOT NULL AND outbox.is_spent(kind, next_key, rate, at) THEN
                    spent_keys := array_append(spent_keys, next_key);
                    RETURN QUERY SELECT next_key, 'spent';
                ELSE
                    found_keys := array_append(found_keys, next_key);
                    RETURN QUERY SELECT next_key, 'due';
                END IF;
            END IF;
        END IF;
    END LOOP;
    RETURN QUERY
    SELECT '', 'due' WHERE '' <> ALL (found_keys) AND EXISTS (
        SELECT FROM outbox.queue
        WHERE type = kind AND NOT held AND losses = 0 AND fairness_key IS NULL AND available_at <= at);
    RETURN QUERY
    SELECT longest.fairness_key,
           CASE WHEN rate IS NOT NULL AND outbox.is_spent(kind, longest.fairness_key, rate, at) THEN 'spent' ELSE 'due' END
    FROM (SELECT fairness_key, min(available_at) AS since
          FROM (SELECT fairness_key, available_at FROM outbox.queue
                WHERE type = kind AND NOT held AND losses = 0 AND fairness_key IS NOT NULL AND available_at <= at
                ORDER BY type, available_at, id LIMIT due_most) AS due_items
          GROUP BY fairness_key) AS longest
    WHERE longest.fairness_key <> ALL (found_keys || spent_keys) AND NOT left_out ? longest.fairness_key
      AND NOT EXISTS (SELECT FROM outbox.key_pauses AS pause
                      WHERE pause.fairness_key = longest.fairness_key AND pause.type IN ('', kind))
    ORDER BY longest.since;
    RETURN QUERY SELECT place, 'cut';
END $$;

-- Those of these fairness keys of the type of which items are due.
CREATE FUNCTION outbox.still_due(kind text, keys text[], at bigint) RETURNS SETOF text LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
    RETURN QUERY
    SELECT wanted FROM unnest(keys) AS wanted WHERE (
        SELECT id FROM outbox.queue
        WHERE type = kind AND NOT held AND losses = 0 AND fairness_key IS NOT NULL AND fairness_key = wanted
          AND available_at <= at
        ORDER BY type, fairness_key, available_at, id LIMIT 1) IS NOT NULL;
END $$;

-- The number of claimed items of each fairness key, of these types.
CREATE FUNCTION outbox.claimed_of_keys(kinds text[]) RETURNS TABLE (kind text, key text, claimed bigint)
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
    RETURN QUERY
    SELECT lease.type, item.fairness_key, count(*)
    FROM outbox.leases AS lease CROSS JOIN LATERAL unnest(lease.ids) AS leased (id)
         JOIN outbox.items AS item ON item.id = leased.id
    WHERE lease.type = ANY (kinds) AND item.fairness_key IS NOT NULL GROUP BY 1, 2;
END $$;

-- Of queue rows that this transaction has locked, those that are in front of their ordering keys. The keys of the
-- others come back as `passed`: of a key that another transaction is working on nothing is known, and the others are
-- held from now on. So are the items of the key behind them, so that claims read a long line once: up to `most`, shared
-- out among the keys, but one of each. `marked` says how many. `ahead` has the items in front of those that are held.
-- `is_busy` says that keys were passed over for their locks. Never waits.
CREATE FUNCTION outbox.in_front(
    locked bigint[], most bigint, OUT first bigint[], OUT passed text[], OUT ahead bigint[], OUT is_busy boolean,
    OUT marked bigint
) LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    wanted text[] := ARRAY(SELECT DISTINCT ordering_key FROM outbox.queue WHERE id = ANY (locked));
    lines text[] := ARRAY(SELECT key FROM unnest(wanted) AS key
                          WHERE pg_try_advisory_xact_lock(7206002, hashtext(key)));
    behind text[];
    turns bigint[];
BEGIN
    -- Statements of their own: they see what the earlier holders of the locks committed.
    PERFORM outbox.find_front(ARRAY(
        SELECT key FROM unnest(lines) AS key WHERE (SELECT id FROM outbox.lanes WHERE ordering_key = key) IS NULL));
    is_busy := cardinality(lines) < cardinality(wanted);
    WITH looked AS MATERIALIZED (
        SELECT waiting.id, ordering_key AS key, waiting.turn,
               waiting.id = (SELECT lane.id FROM outbox.lanes AS lane
                             WHERE lane.ordering_key = waiting.ordering_key) AS is_first
        FROM outbox.queue AS waiting
        WHERE waiting.id = ANY (locked) AND (NOT is_busy OR ordering_key = ANY (lines))
    )
    SELECT ARRAY(SELECT id FROM looked WHERE is_first), array_agg(late.key), array_agg(late.turn)
    INTO first, behind, turns
    FROM (SELECT key, min(turn) AS turn FROM looked WHERE is_first IS NOT TRUE GROUP BY key) AS late;
    passed := CASE WHEN is_busy THEN behind || ARRAY(SELECT key FROM unnest(wanted) AS key WHERE key <> ALL (lines))
                   ELSE behind END;
    ahead := ARRAY(SELECT id FROM outbox.lanes WHERE ordering_key = ANY (behind));
    marked := 0;
    IF behind IS NULL THEN
        RETURN;
    END IF;
    UPDATE outbox.queue AS waiting SET held = true
    FROM unnest(behind, turns) AS late (key, turn)
         JOIN outbox.lanes AS lane ON lane.ordering_key = late.key
         CROSS JOIN LATERAL (SELECT id FROM outbox.queue AS line
                             WHERE line.ordering_key = late.key AND line.turn >= late.turn AND NOT line.held
                               AND line.id <> lane.id
                             ORDER BY line.ordering_key, line.turn, line.id
                             LIMIT greatest(most / cardinality(behind), 1)
                             FOR UPDATE SKIP LOCKED) AS queued
    WHERE waiting.id = queued.id;
    GET DIAGNOSTICS marked = ROW_COUNT;
END $$;

-- Takes items out of the queue that follow fronts of ordering keys at once, and writes them into the fronts' lanes:
-- mosts[n] items at most behind fronts[n], whose key is keys[n], whose type is kinds[n] and whose fairness key is
-- sharers[n], '' for none. They are of its type and its fairness key, due, and never claimed before. A streak ends before an item that another transaction has locked, and before one that blocks
-- the key dead. There is none while an item with a smaller turn than the front's waits: it was committed before the front
-- and became visible after the front got the lane. The caller has the lines of the keys. Never waits.
CREATE FUNCTION outbox.take_streaks(
    fronts bigint[], keys text[], kinds text[], sharers text[], mosts bigint[], at bigint
)
RETURNS TABLE (front bigint, id bigint, turn bigint) LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH behind AS MATERIALIZED (
        SELECT wanted.front, wanted.key, line.id, line.turn, line.place, line.fits
        FROM (SELECT asked.*, (SELECT lane.turn FROM outbox.lanes AS lane JOIN outbox.line_looks AS look USING (ordering_key)
                               WHERE lane.ordering_key = asked.key) AS behind
              FROM unnest(fronts, keys, kinds, sharers, mosts) AS asked (front, key, kind, sharer, most) OFFSET 0
             ) AS wanted
             CROSS JOIN LATERAL (
                 SELECT waiting.id, waiting.turn, row_number() OVER (ORDER BY waiting.turn, waiting.id) AS place,
                        waiting.type = wanted.kind AND coalesce(waiting.fairness_key, '') = wanted.sharer
                        AND waiting.available_at <= at AND NOT waiting.again
                        AND (waiting.turn, waiting.id) > (
                            SELECT lane.turn, lane.id FROM outbox.lanes AS lane WHERE lane.ordering_key = wanted.key)
                        AND NOT EXISTS (
                            SELECT 1 FROM outbox.dead WHERE dead.ordering_key = wanted.key AND dead.blocks_key
                            AND (dead.turn, dead.id) < (waiting.turn, waiting.id)) AS fits
                 FROM ((SELECT queue.* FROM outbox.queue
                        WHERE wanted.behind IS NULL AND ordering_key = wanted.key
                        ORDER BY ordering_key, queue.turn, queue.id LIMIT wanted.most)
                       UNION ALL
                       (SELECT queue.* FROM outbox.seen_in_line(wanted.key, wanted.behind, wanted.most) AS seen
                                            JOIN outbox.queue ON queue.id = seen.id
                        WHERE wanted.behind IS NOT NULL)) AS waiting) AS line
    ), locked AS MATERIALIZED (
        SELECT id FROM outbox.queue WHERE id = ANY (ARRAY(SELECT id FROM behind WHERE fits)) FOR UPDATE SKIP LOCKED
    ), streak AS MATERIALIZED (
        SELECT *, bool_and(fits AND id = ANY (ARRAY(SELECT id FROM locked)))
                      OVER (PARTITION BY front ORDER BY place) AS follows
        FROM behind
    ), gone AS (
        DELETE FROM outbox.queue WHERE id = ANY (ARRAY(SELECT id FROM streak WHERE follows))
    ), listed AS (
        UPDATE outbox.lanes AS lane SET streak = line.ids, streak_turns = line.turns
        FROM (SELECT key, array_agg(id ORDER BY place) AS ids, array_agg(turn ORDER BY place) AS turns
              FROM streak WHERE follows GROUP BY key) AS line
        WHERE lane.ordering_key = line.key
    )
    SELECT front, id, turn FROM streak WHERE follows;
END $$;

-- Claims up to shares[n] items of the type kinds[n], under the lease tokens[n], which ends at ends[n]: suspects with
-- losses in this range, those with the most first, of every fairness key where sharers[n] is NULL; or, where most_losses
-- is 0, items without losses. They have the fairness key sharers[n], '' for none, and are due between lowest[n] and `at`. A type occurs once for each of its
-- fairness keys. What is left of a share is for items that follow claimed fronts: up to streaks[n] items of a key,
-- the front included. A call with the tokens of an earlier one adds to its leases. Returns what it claimed of each type.
-- `is_more` says that every look found items that cannot be claimed now, so that a further call may find others.
-- `is_busy` says that items were passed over because another transaction was working on their ordering keys. `took` is
-- the time in microseconds that the looks at all types took.
CREATE FUNCTION outbox.claim(
    kinds text[], sharers text[], shares integer[], lowest bigint[], streaks integer[], tokens bigint[], ends bigint[],
    claimed_by text, at bigint, least_losses integer, most_losses integer
) RETURNS TABLE (place integer, claimed bigint[], is_more boolean, is_busy boolean, took bigint) LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
    newest bigint := outbox.newest_job();
    looks integer := 8;
    -- How many items behind others of their keys this call may still mark as held: each takes 10 to 40
    -- microseconds.
    markable bigint := 300;
    marked bigint;
    began timestamptz;
    looked interval := '0';
    are_shared boolean := '' <> ANY (sharers);
    marks text[] := CASE WHEN are_shared THEN ARRAY(
        SELECT kind || '/' || sharer FROM unnest(kinds, sharers) WITH ORDINALITY AS wanted (kind, sharer, place)
        ORDER BY place) END;
    shared_rows tid[];
    has_busy_keys boolean := false;
    are_busy boolean;
    -- By their places in the table. No other transaction moves rows that this one has locked, and a row that
    -- outbox.in_front marks is not deleted.
    found_rows tid[];
    keyed_ids bigint[];
    front_ids bigint[];
    passed_keys text[];
    skipped_keys text[] := '{}';
    ahead_ids bigint[];
    skipped_fronts bigint[] := '{}';
    taken_ids bigint[] := '{}';
    taken_turns bigint[] := '{}';
    taken_places integer[] := '{}';
    returning_ids bigint[] := '{}';
    returning_dues bigint[] := '{}';
    keyed_fronts bigint[] := '{}';
    keyed_keys text[] := '{}';
BEGIN
    LOOP
        began := clock_timestamp();
        IF most_losses > 0 THEN
            SELECT array_agg(ready.ctid), array_agg(ready.id) FILTER (WHERE ready.ordering_key IS NOT NULL)
            INTO found_rows, keyed_ids
            FROM unnest(kinds, sharers, shares) WITH ORDINALITY AS wanted (kind, sharer, share, place)
                 CROSS JOIN LATERAL (
                     SELECT ctid, id, ordering_key FROM outbox.queue
                     WHERE type = wanted.kind AND NOT held AND losses > 0 AND available_at <= at
                       AND losses BETWEEN least_losses AND most_losses
                       AND (wanted.sharer IS NULL OR coalesce(fairness_key, '') = wanted.sharer)
                       AND (fairness_key IS NULL OR NOT EXISTS (
                           SELECT FROM outbox.key_pauses AS pause
                           WHERE pause.fairness_key = queue.fairness_key AND pause.type IN ('', wanted.kind)))
                       AND (ordering_key IS NULL OR ordering_key <> ALL (skipped_keys) OR id = ANY (skipped_fronts))
                     ORDER BY type, losses DESC, available_at, id
                     LIMIT wanted.share - (SELECT count(*) FROM unnest(taken_places) AS taken WHERE taken = wanted.place)
                     FOR UPDATE SKIP LOCKED) AS ready;
        ELSE
            SELECT array_agg(ready.ctid), array_agg(ready.id) FILTER (WHERE ready.ordering_key IS NOT NULL)
            INTO found_rows, keyed_ids
            FROM unnest(kinds, sharers, shares, lowest) WITH ORDINALITY AS wanted (kind, sharer, share, lowest, place)
                 CROSS JOIN LATERAL (
                     SELECT ctid, id, ordering_key FROM outbox.queue
                     WHERE wanted.sharer = '' AND type = wanted.kind AND NOT held AND losses = 0
                       AND fairness_key IS NULL AND available_at BETWEEN wanted.lowest AND at
                       AND (ordering_key IS NULL OR ordering_key <> ALL (skipped_keys) OR id = ANY (skipped_fronts))
                     ORDER BY type, available_at, id
                     LIMIT wanted.share - (SELECT count(*) FROM unnest(taken_places) AS taken WHERE taken = wanted.place)
                     FOR UPDATE SKIP LOCKED) AS ready;
        END IF;
        IF are_shared AND most_losses = 0 THEN
            SELECT array_agg(ready.ctid), keyed_ids || array_agg(ready.id) FILTER (WHERE ready.ordering_key IS NOT NULL)
            INTO shared_rows, keyed_ids
            FROM unnest(kinds, sharers, shares) WITH ORDINALITY AS wanted (kind, sharer, share, place)
                 CROSS JOIN LATERAL (
                     SELECT ctid, id, ordering_key FROM outbox.queue
                     WHERE type = wanted.kind AND NOT held AND losses = 0 AND fairness_key IS NOT NULL
                       AND fairness_key = wanted.sharer AND available_at <= at
                       AND (ordering_key IS NULL OR ordering_key <> ALL (skipped_keys) OR id = ANY (skipped_fronts))
                     ORDER BY type, fairness_key, available_at, id
                     LIMIT wanted.share - (SELECT count(*) FROM unnest(taken_places) AS taken WHERE taken = wanted.place)
                     FOR UPDATE SKIP LOCKED) AS ready;
            found_rows := found_rows || shared_rows;
        END IF;
        looked := looked + (clock_timestamp() - began);
        EXIT WHEN found_rows IS NULL;
        passed_keys := NULL;
        front_ids := NULL;
        IF keyed_ids IS NOT NULL THEN
            SELECT front.first, front.passed, front.ahead, front.is_busy, front.marked
            INTO front_ids, passed_keys, ahead_ids, are_busy, marked
            FROM outbox.in_front(keyed_ids, markable) AS front;
            has_busy_keys := has_busy_keys OR are_busy;
            markable := greatest(markable - marked, 0);
        END IF;
        WITH gone AS (
            DELETE FROM outbox.queue
            WHERE ctid = ANY (found_rows) AND (ordering_key IS NULL OR id = ANY (front_ids))
            RETURNING id, turn, type, again, available_at, ordering_key, fairness_key
        )
        SELECT taken_ids || array_agg(id), taken_turns || array_agg(turn),
               taken_places || array_agg(CASE WHEN are_shared AND most_losses = 0
                   THEN array_position(marks, type || '/' || coalesce(fairness_key, ''))
                   ELSE array_position(kinds, type) END),
               returning_ids || array_agg(id) FILTER (WHERE again),
               returning_dues || array_agg(available_at) FILTER (WHERE again),
               keyed_fronts || array_agg(id) FILTER (WHERE ordering_key IS NOT NULL AND NOT again),
               keyed_keys || array_agg(ordering_key) FILTER (WHERE ordering_key IS NOT NULL AND NOT again)
        INTO taken_ids, taken_turns, taken_places, returning_ids, returning_dues, keyed_fronts, keyed_keys FROM gone;
        EXIT WHEN coalesce(cardinality(passed_keys), 0) = 0;
        -- Of a key that has been looked at, only the front can still be claimed: it can be due after those behind it.
        skipped_keys := skipped_keys || passed_keys;
        skipped_fronts := skipped_fronts || ahead_ids;
        looks := looks - 1;
        EXIT WHEN looks = 0;
    END LOOP;
    -- Where fronts have used up the shares, nothing is left for what follows them.
    IF cardinality(keyed_fronts) > 0 AND 1 < ANY (streaks)
       AND cardinality(taken_ids) < (SELECT sum(share) FROM unnest(shares) AS share) THEN
        WITH front AS (
            SELECT known.id, known.key, array_position(taken_ids, known.id) AS taken
            FROM unnest(keyed_fronts, keyed_keys) AS known (id, key)
        ), share AS (
            SELECT front.*, taken_places[front.taken] AS place,
                   row_number() OVER (PARTITION BY taken_places[front.taken]) AS nth,
                   count(*) OVER (PARTITION BY taken_places[front.taken]) AS fronts
            FROM front
        ), used AS (
            SELECT place, count(*) AS items FROM unnest(taken_places) AS place GROUP BY place
        ), room AS (
            SELECT share.*, shares[share.place] - used.items AS left_over FROM share JOIN used USING (place)
        ), most AS (
            SELECT room.id, room.key, room.place,
                   least(streaks[room.place] - 1,
                         room.left_over / room.fronts + (room.nth <= room.left_over % room.fronts)::integer) AS most
            FROM room
        )
        SELECT taken_ids || array_agg(follower.id), taken_turns || array_agg(follower.turn),
               taken_places || array_agg(taken_places[array_position(taken_ids, follower.front)])
        INTO taken_ids, taken_turns, taken_places
        FROM (SELECT array_agg(id) AS ids, array_agg(key) AS keys, array_agg(kinds[place]) AS kinds,
                     array_agg(sharers[place]) AS sharers, array_agg(most) AS mosts FROM most WHERE most > 0) AS wanted
             CROSS JOIN LATERAL outbox.take_streaks(
                 wanted.ids, wanted.keys, wanted.kinds, wanted.sharers, wanted.mosts, at) AS follower;
    END IF;
    IF cardinality(returning_ids) > 0 THEN
        -- Saturating: a row at the end of the range must not stop the claims of its type.
        UPDATE outbox.past AS known
        SET attempts = least(known.attempts, 2147483646) + 1, deliveries = least(known.deliveries, 2147483646) + 1,
            available_at = returning_item.due
        FROM unnest(returning_ids, returning_dues) AS returning_item (id, due) WHERE known.id = returning_item.id;
    END IF;
    INSERT INTO outbox.leases AS lease (token, type, pod, claimed_at, lease_until, epoch, count, ids, turns)
    SELECT taken.token, kinds[min(taken.place)], claimed_by, at, ends[min(taken.place)], newest, count(*),
           array_agg(taken.id), CASE WHEN count(taken.turn) > 0 THEN array_agg(taken.turn) END
    -- Sorted once, not for each array.
    FROM (SELECT tokens[place] AS token, place, id, turn
          FROM unnest(taken_ids, taken_turns, taken_places) AS each (id, turn, place) ORDER BY token, id) AS taken
    GROUP BY taken.token
    ON CONFLICT (token) DO UPDATE
    SET (count, ids, turns) = (
        SELECT count(*), array_agg(leased.id ORDER BY leased.id),
               CASE WHEN count(leased.turn) > 0 THEN array_agg(leased.turn ORDER BY leased.id) END
        FROM (SELECT * FROM unnest(lease.ids, lease.turns)
              UNION ALL SELECT * FROM unnest(excluded.ids, excluded.turns)) AS leased (id, turn));
    RETURN QUERY
    SELECT wanted.place::integer,
           ARRAY(SELECT taken.id FROM unnest(taken_ids, taken_places) AS taken (id, place)
                 WHERE taken.place = wanted.place), looks = 0, has_busy_keys,
           (extract(epoch FROM looked) * 1000000)::bigint
    FROM unnest(kinds) WITH ORDINALITY AS wanted (kind, place);
END $$;

-- The columns of a leased item that the end of its claim needs: not its payload.
CREATE TYPE outbox.leased_item AS (
    token bigint, id bigint, type text, pod text, claimed_at bigint, turn bigint, idem_key text, saga text, cid text,
    ordering_key text, attempts integer, deliveries integer, replays integer, effects integer, losses integer,
    give_backs integer, maybe_executed boolean, given_back_since bigint, last_error text, handler_digest text,
    ahead integer
);

-- The items of leases that the caller has locked. Where an item is missing, its `idem_key` is NULL. `ahead` is the number
-- of items in front of it in its streak; NULL where it has no ordering key.
CREATE FUNCTION outbox.leased_items(tokens bigint[], wanted bigint[]) RETURNS SETOF outbox.leased_item LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
    RETURN QUERY
    SELECT lease.token, leased.id, lease.type, lease.pod, lease.claimed_at, leased.turn, item.idem_key::text,
           item.saga::text, item.cid::text, item.ordering_key::text, coalesce(past.attempts, 1),
           coalesce(past.deliveries, 1), coalesce(past.replays, 0), coalesce(past.effects, 0),
           coalesce(past.losses, 0), coalesce(past.give_backs, 0), coalesce(past.maybe_executed, false),
           past.given_back_since, past.last_error, handler.digest,
           CASE WHEN leased.turn IS NOT NULL THEN (
               SELECT CASE WHEN lane.id = leased.id THEN 0 ELSE array_position(lane.streak, leased.id) END
               FROM outbox.lanes AS lane WHERE lane.ordering_key = item.ordering_key) END
    FROM outbox.leases AS lease
         CROSS JOIN LATERAL unnest(lease.ids, lease.turns) AS leased (id, turn)
         LEFT JOIN outbox.items AS item ON item.id = leased.id
         LEFT JOIN outbox.past ON past.id = leased.id
         LEFT JOIN outbox.handlers AS handler ON handler.id = past.handler
    WHERE lease.token = ANY (tokens) AND leased.id = ANY (wanted);
END $$;

-- What follows items in their streaks, in leases that the caller has locked, and is not among the items itself.
CREATE FUNCTION outbox.items_behind(tokens bigint[], leaving bigint[]) RETURNS SETOF outbox.leased_item
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
    RETURN QUERY SELECT * FROM outbox.leased_items(tokens, ARRAY(
        SELECT DISTINCT behind.id
        FROM outbox.items AS item
             JOIN outbox.lanes AS lane ON lane.ordering_key = item.ordering_key
             CROSS JOIN LATERAL unnest(lane.streak) WITH ORDINALITY AS behind (id, place)
        WHERE item.id = ANY (leaving) AND behind.id <> ALL (leaving)
          AND behind.place > CASE WHEN lane.id = item.id THEN 0 ELSE array_position(lane.streak, item.id) END));
END $$;

-- Waits for the lines of the items' ordering keys, then for the leases.
CREATE FUNCTION outbox.lock_leases(tokens bigint[], wanted bigint[]) RETURNS void LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM outbox.leases WHERE token = ANY (tokens) AND turns IS NOT NULL) THEN
        PERFORM outbox.lock_keys(ARRAY(SELECT ordering_key::text FROM outbox.items WHERE id = ANY (wanted)));
    END IF;
    PERFORM 1 FROM outbox.leases WHERE token = ANY (tokens) ORDER BY token FOR UPDATE;
END $$;

-- Locks as outbox.lock_leases does, and returns those of the items that the leases hold.
CREATE FUNCTION outbox.lock_claims(tokens bigint[], wanted bigint[]) RETURNS SETOF outbox.leased_item
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
    PERFORM outbox.lock_leases(tokens, wanted);
    RETURN QUERY SELECT * FROM outbox.leased_items(tokens, wanted);
END $$;

-- Waits for the lines of the candidates' ordering keys, locks those leases that have ended by `at`, and returns the items
-- of one, or of several that have `most` items together. A lease that another transaction holds is left to it.
CREATE FUNCTION outbox.lock_ended(at bigint, candidates bigint[], most integer) RETURNS SETOF outbox.leased_item
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    wanted bigint[] := ARRAY(SELECT unnest(ids) FROM outbox.leases WHERE token = ANY (candidates));
    tokens bigint[];
BEGIN
    IF EXISTS (SELECT 1 FROM outbox.leases WHERE token = ANY (candidates) AND turns IS NOT NULL) THEN
        PERFORM outbox.lock_keys(ARRAY(SELECT ordering_key::text FROM outbox.items WHERE id = ANY (wanted)));
    END IF;
    tokens := ARRAY(SELECT token FROM outbox.leases WHERE token = ANY (candidates) AND lease_until <= at
                    ORDER BY token FOR UPDATE SKIP LOCKED);
    tokens := ARRAY(SELECT token
                    FROM (SELECT token, count, sum(count) OVER (ORDER BY token) AS up_to
                          FROM outbox.leases WHERE token = ANY (tokens)) AS lease
                    WHERE up_to <= greatest(most, count));
    RETURN QUERY SELECT * FROM outbox.leased_items(tokens, wanted);
END $$;

-- Locks the places of items for an operator, so that none of them moves before the end of the transaction. The caller
-- has the lines of their ordering keys, and waits for no row of outbox.items: whoever deletes an item locks that first.
CREATE FUNCTION outbox.lock_places(wanted bigint[]) RETURNS void LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    present bigint;
    locked bigint;
    rows bigint;
BEGIN
    SELECT count(*) INTO present FROM outbox.items WHERE id = ANY (wanted);
    -- An item that moved while a lock was waited for can be in a place that was looked at before. An item that is in no
    -- place is never found.
    FOR look IN 1..5 LOOP
        SELECT count(*) INTO locked
        FROM (SELECT ids FROM outbox.leases WHERE ids && wanted ORDER BY token FOR UPDATE) AS lease
             CROSS JOIN LATERAL unnest(lease.ids) AS id WHERE id = ANY (wanted);
        PERFORM 1 FROM outbox.queue WHERE id = ANY (wanted) ORDER BY id FOR UPDATE;
        GET DIAGNOSTICS rows = ROW_COUNT;
        locked := locked + rows;
        PERFORM 1 FROM outbox.done WHERE id = ANY (wanted) ORDER BY id FOR UPDATE;
        GET DIAGNOSTICS rows = ROW_COUNT;
        locked := locked + rows;
        PERFORM 1 FROM outbox.dead WHERE id = ANY (wanted) ORDER BY id FOR UPDATE;
        GET DIAGNOSTICS rows = ROW_COUNT;
        locked := locked + rows;
        EXIT WHEN locked >= present;
    END LOOP;
END $$;

-- Takes items out of leases that the caller has locked. A lease without items is deleted.
CREATE FUNCTION outbox.leave_leases(tokens bigint[], gone bigint[]) RETURNS void LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
    -- As a rule a claim ends as a whole.
    DELETE FROM outbox.leases AS lease
    USING (SELECT token, count(*) FROM unnest(tokens) AS token GROUP BY token) AS ended
    WHERE lease.token = ended.token AND lease.count = ended.count;
    UPDATE outbox.leases AS lease SET count = kept.count, ids = kept.ids, turns = kept.turns
    FROM (SELECT part.token, count(*), array_agg(leased.id ORDER BY leased.id) AS ids,
                 CASE WHEN count(leased.turn) > 0 THEN array_agg(leased.turn ORDER BY leased.id) END AS turns
          FROM outbox.leases AS part CROSS JOIN LATERAL unnest(part.ids, part.turns) AS leased (id, turn)
          WHERE part.token = ANY (tokens) AND leased.id <> ALL (gone) GROUP BY part.token) AS kept
    WHERE lease.token = kept.token;
END $$;

-- Numbers for digests that have none yet.
CREATE FUNCTION outbox.know_handlers(digests text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO outbox.handlers (digest)
    SELECT DISTINCT new.digest FROM unnest(digests) AS new (digest)
    WHERE new.digest IS NOT NULL AND NOT EXISTS (SELECT 1 FROM outbox.handlers AS known WHERE known.digest = new.digest)
    ORDER BY new.digest ON CONFLICT (digest) DO NOTHING;
END $$;

-- The numbers of the digests, in their order. Digests that have none yet get one.
CREATE FUNCTION outbox.handler_ids(digests text[]) RETURNS integer[] LANGUAGE plpgsql AS $$
DECLARE
    found integer[];
BEGIN
    FOR look IN 1..2 LOOP
        found := ARRAY(SELECT (SELECT id FROM outbox.handlers AS known WHERE known.digest = wanted.digest)
                       FROM unnest(digests) WITH ORDINALITY AS wanted (digest, place) ORDER BY wanted.place);
        EXIT WHEN array_position(found, NULL) IS NULL;
        PERFORM outbox.know_handlers(digests);
    END LOOP;
    RETURN found;
END $$;

-- Makes items DONE that have left their place.
CREATE FUNCTION outbox.into_done(
    finished bigint[], turns bigint[], digests text[], results bytea[], times bigint[]
) RETURNS void LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    newest bigint := outbox.newest_job();
BEGIN
    PERFORM outbox.know_handlers(digests);
    INSERT INTO outbox.done (id, done_at, epoch, handler, turn, result)
    SELECT new.id, new.done_at, newest, (SELECT id FROM outbox.handlers WHERE digest = new.digest), new.turn,
           new.result
    FROM unnest(finished, turns, digests, results, times) AS new (id, turn, digest, result, done_at);
END $$;

-- Completes claims, each item in finished[n] by the lease tokens[n]: items that have no saga, no row in outbox.past and
-- no other item of a streak in front of them or behind them become DONE, which is all that changes for them. No item
-- occurs twice. `plain[n]` says that the caller knows this of the item; otherwise it is looked up. `digests` has the
-- components that ran, and digest_places[n] the place of the item's among them. Returns for each lease what became DONE,
-- and what the lease holds and only the caller can complete (`unsettled`). What is in neither was not in the lease. `at`
-- is the time; NULL is that of the database.
CREATE FUNCTION outbox.complete(
    tokens bigint[], finished bigint[], plain boolean[], results bytea[], digest_places integer[], digests text[],
    at bigint
) RETURNS TABLE (lease bigint, kind text, is_ordered boolean, settled bigint[], unsettled bigint[]) LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    newest bigint := outbox.newest_job();
    time bigint;
    done_by integer[];
    ended record;
    held outbox.leases;
    keys text[] := '{}';
BEGIN
    PERFORM outbox.lock_leases(tokens, finished);
    time := coalesce(at, outbox.now());
    done_by := outbox.handler_ids(digests);
    FOR ended IN
        SELECT claim.token, array_agg(claim.id) AS ids, array_agg(claim.id) FILTER (WHERE NOT claim.is_plain) AS unsure,
               array_agg(claim.result) AS results, array_agg(claim.digest) AS digests
        -- Sorted once, not for each array.
        FROM (SELECT *
              FROM unnest(tokens, finished, plain, results, digest_places) AS ended (token, id, is_plain, result, digest)
              ORDER BY token, id) AS claim
        GROUP BY claim.token
    LOOP
        SELECT known.* INTO held FROM outbox.leases AS known WHERE known.token = ended.token;
        CONTINUE WHEN NOT FOUND;
        unsettled := '{}';
        IF ended.unsure IS NOT NULL THEN
            unsettled := ARRAY(
                SELECT unsure.id FROM unnest(ended.unsure) AS unsure (id)
                WHERE unsure.id = ANY (held.ids)
                  AND ((SELECT past.id FROM outbox.past WHERE past.id = unsure.id) IS NOT NULL
                       OR (SELECT item.saga IS NULL FROM outbox.items AS item WHERE item.id = unsure.id) IS NOT TRUE
                       OR held.turns IS NOT NULL AND EXISTS (
                           SELECT 1 FROM outbox.items AS item
                                    JOIN outbox.lanes AS lane ON lane.ordering_key = item.ordering_key
                           WHERE item.id = unsure.id AND (lane.id <> item.id OR lane.streak IS NOT NULL))));
        END IF;
        -- As a rule a claim ends as a whole. Then the arrays of both have the same order.
        IF ended.ids = held.ids AND unsettled = '{}' THEN
            settled := held.ids;
            DELETE FROM outbox.leases AS known WHERE known.token = held.token;
            INSERT INTO outbox.done (id, done_at, epoch, handler, turn, result)
            SELECT new.id, time, newest, done_by[new.digest], new.turn, new.result
            FROM unnest(ended.ids, held.turns, ended.results, ended.digests) AS new (id, turn, result, digest);
        ELSE
            settled := ARRAY(SELECT id FROM unnest(ended.ids) AS id
                             WHERE id = ANY (held.ids) AND id <> ALL (unsettled) ORDER BY id);
            PERFORM outbox.leave_leases(array_fill(held.token, ARRAY[cardinality(settled)]), settled);
            INSERT INTO outbox.done (id, done_at, epoch, handler, turn, result)
            SELECT new.id, time, newest, done_by[new.digest],
                   held.turns[array_position(held.ids, new.id)], new.result
            FROM unnest(ended.ids, ended.results, ended.digests) AS new (id, result, digest)
            WHERE new.id = ANY (settled);
        END IF;
        IF held.turns IS NOT NULL THEN
            keys := keys || ARRAY(SELECT item.ordering_key::text FROM outbox.items AS item
                                  WHERE item.id = ANY (settled) AND item.ordering_key IS NOT NULL);
        END IF;
        lease := held.token;
        kind := held.type;
        is_ordered := held.turns IS NOT NULL;
        RETURN NEXT;
    END LOOP;
    IF cardinality(keys) > 0 THEN
        PERFORM outbox.find_front(keys, true);
    END IF;
END $$;

-- What was enqueued of each item in the leases, for the claim that made them, except for those that it has read before.
-- The claim knows the rest of a lease.
CREATE FUNCTION outbox.claimed_content(tokens bigint[], read_before bigint[]) RETURNS TABLE (
    token bigint, kind text, turn bigint, id bigint, idem_key text, payload bytea, content_type text, headers text,
    metadata text, cid text, saga text, ordering_key text, fairness_key text, created_at bigint, available_at bigint
) LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
    RETURN QUERY
    SELECT lease.token, lease.type, leased.turn, item.id, item.idem_key::text, item.payload, item.content_type::text,
           item.headers::text, item.metadata::text, item.cid::text, item.saga::text, item.ordering_key::text,
           item.fairness_key, item.created_at, item.available_at
    FROM outbox.leases AS lease
         CROSS JOIN LATERAL unnest(lease.ids, lease.turns) AS leased (id, turn)
         JOIN outbox.items AS item ON item.id = leased.id
    WHERE lease.token = ANY (tokens) AND leased.id <> ALL (read_before);
END $$;

-- What happened to the same items before. Most have no past.
CREATE FUNCTION outbox.claimed_pasts(tokens bigint[], read_before bigint[]) RETURNS TABLE (
    id bigint, attempts integer, deliveries integer, losses integer, replays integer, effects integer,
    give_backs integer, maybe_executed boolean, given_back_since bigint, last_error text, available_at bigint,
    handler_digest text
) LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
    RETURN QUERY
    SELECT known.id, known.attempts, known.deliveries, known.losses, known.replays, known.effects, known.give_backs,
           known.maybe_executed, known.given_back_since, known.last_error, known.available_at, handler.digest
    FROM outbox.leases AS lease
         CROSS JOIN LATERAL unnest(lease.ids) AS leased (id)
         JOIN outbox.past AS known ON known.id = leased.id
         LEFT JOIN outbox.handlers AS handler ON handler.id = known.handler
    WHERE lease.token = ANY (tokens) AND leased.id <> ALL (read_before);
END $$;

-- The items of leases, as outbox.status shows them.
CREATE FUNCTION outbox.claimed_items(tokens bigint[]) RETURNS SETOF outbox.status_claimed LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
    RETURN QUERY SELECT * FROM outbox.status_claimed WHERE claim_token = ANY (tokens);
END $$;

-- Items by their ids, as outbox.status shows them. Its statements are planned once for each session: the view is a union
-- of four joins, and planning takes longer than reading two hundred items. Leases have no index by item: they are looked
-- through once.
CREATE FUNCTION outbox.items_of(wanted bigint[]) RETURNS SETOF outbox.status LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    tokens bigint[] := ARRAY(SELECT token FROM outbox.leases WHERE ids && wanted);
BEGIN
    RETURN QUERY
    SELECT * FROM outbox.status_pending WHERE id = ANY (wanted)
    UNION ALL SELECT * FROM outbox.status_done WHERE id = ANY (wanted)
    UNION ALL SELECT * FROM outbox.status_dlq WHERE id = ANY (wanted);
    RETURN QUERY SELECT * FROM outbox.claimed_items(tokens) WHERE id = ANY (wanted);
END $$;

-- PostgreSQL lets everybody call a new function. Of those of the outbox only two are for everybody; a role that calls
-- others can hold up hosts by their locks. Grants to roles stay.
DO $$
DECLARE
    worker regprocedure;
BEGIN
    FOR worker IN
        SELECT oid FROM pg_proc WHERE pronamespace = 'outbox'::regnamespace AND proname NOT IN ('now', 'enqueue')
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', worker);
    END LOOP;
END $$;
