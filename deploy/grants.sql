-- The rights of rollcall-server, and no others: it cannot enrol, revoke, delete, or change the schema.
-- And those of rollcall-board, which writes the history, and the places of the hooks in it.
-- Run as the owner of the tables, after `rollcall-admin migrate`. Running it again changes nothing.

grant select on _sqlx_migrations to rollcall_server;
grant select, update (last_seen_ns, ip, port, server, good_until_ms, gone_after_ms, said_every_s) on users to rollcall_server;
grant select, insert, update on servers to rollcall_server;
-- `serial` is for a server of the version before.
grant select, insert (serial_number, serial, email, fingerprint, not_after, last_used_ns), update (last_used_ns)
   on certificates to rollcall_server;
grant select on revoked_serials, crls to rollcall_server;
-- It hands requests to the signer, and reads the answers; a trigger forgets the answer to an older request.
grant select, insert (fingerprint, serial_number, request), update (request) on renewals to rollcall_server;

grant select on _sqlx_migrations, users, certificates, servers, revoked_serials to rollcall_reader;

-- The history. It adds to it and can change nothing there; partitions need no rights of their own.
grant select, insert on events to rollcall_reader;
grant select, insert, update on journal, hooks to rollcall_reader;
