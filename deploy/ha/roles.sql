-- The roles and the database of rollcall, once, on the primary, as the superuser:
--   psql -f deploy/ha/roles.sql -v owner=PASSWORD -v server=PASSWORD -v reader=PASSWORD
-- The tables come from `rollcall-admin migrate`, their rights from deploy/grants.sql.
\set ON_ERROR_STOP on
create role rollcall login password :'owner';
create role rollcall_server login password :'server';
create role rollcall_reader login password :'reader';
-- The server needs three. A backend that waits for a standby outlives the server's patience, with its locks.
alter role rollcall_server connection limit 8;
alter role rollcall_reader connection limit 8;
create database rollcall owner rollcall;
revoke temporary on database rollcall from public;
