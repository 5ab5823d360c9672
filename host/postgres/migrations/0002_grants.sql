-- From schema 1 to the places: a role that might change items may do the same with the places, and a role that might
-- read items may read their status. Functions and tables that were there keep their grants.
DO $$
DECLARE
    role record;
BEGIN
    FOR role IN
        SELECT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END AS name,
               bool_or(privilege_type = 'UPDATE') AS is_host
        FROM pg_class CROSS JOIN LATERAL aclexplode(relacl)
        WHERE oid = 'outbox.items'::regclass AND grantee <> relowner AND privilege_type IN ('SELECT', 'UPDATE')
        GROUP BY grantee
    LOOP
        EXECUTE format('GRANT SELECT ON outbox.status, outbox.status_pending, outbox.status_claimed, outbox.status_done,
                        outbox.status_dlq TO %s', role.name);
        IF role.is_host THEN
            EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON outbox.queue, outbox.leases, outbox.lanes,
                            outbox.line_looks, outbox.done, outbox.dead, outbox.past, outbox.handlers,
                            outbox.saga_open, outbox.deltas, outbox.backlog, outbox.breakers, outbox.descendants,
                            outbox.owners, outbox.audit_kept, outbox.key_rates, outbox.key_pauses,
                            outbox.history_minutes,
                            outbox.totals TO %s', role.name);
            EXECUTE format('GRANT USAGE, SELECT, UPDATE ON ALL SEQUENCES IN SCHEMA outbox TO %s', role.name);
            EXECUTE format('GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA outbox TO %s', role.name);
        END IF;
    END LOOP;
END $$;

-- outbox.enqueue has a further parameter. The functions without it go, and who might call them may call the new ones: a
-- call without the parameter would have two meanings. The one for bytes goes last, because the others call it.
DO $$
DECLARE
    old record;
    role text;
BEGIN
    FOR old IN
        SELECT before.oid::regprocedure AS name, after.oid::regprocedure AS successor, before.proacl AS rights,
               before.proowner AS owner
        FROM pg_proc AS before JOIN pg_proc AS after
             ON after.pronamespace = before.pronamespace AND after.proname = before.proname AND after.pronargs = 11
                AND after.proargtypes[2] = before.proargtypes[2]
        WHERE before.pronamespace = 'outbox'::regnamespace AND before.proname = 'enqueue' AND before.pronargs = 10
        ORDER BY before.proargtypes[2] = 'bytea'::regtype
    LOOP
        IF old.rights IS NOT NULL THEN
            EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', old.successor);
            FOR role IN
                SELECT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END
                FROM aclexplode(old.rights) WHERE grantee <> old.owner AND privilege_type = 'EXECUTE'
            LOOP
                EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', old.successor, role);
            END LOOP;
        END IF;
        BEGIN
            EXECUTE format('DROP FUNCTION %s', old.name);
        EXCEPTION WHEN dependent_objects_still_exist THEN
            RAISE EXCEPTION 'outbox: a function or a view of the application is built on %: drop it before the migration, and create it anew afterwards (%)',
                old.name, SQLERRM USING ERRCODE = 'dependent_objects_still_exist';
        END;
    END LOOP;
END $$;
