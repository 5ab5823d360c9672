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
                            outbox.done, outbox.dead, outbox.past, outbox.handlers, outbox.saga_open, outbox.deltas,
                            outbox.backlog, outbox.breakers, outbox.descendants, outbox.owners, outbox.audit_kept,
                            outbox.totals TO %s', role.name);
            EXECUTE format('GRANT USAGE, SELECT, UPDATE ON ALL SEQUENCES IN SCHEMA outbox TO %s', role.name);
            EXECUTE format('GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA outbox TO %s', role.name);
        END IF;
    END LOOP;
END $$;
