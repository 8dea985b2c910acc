-- The roles and the database of rollcall, for the superuser; stack/furnish runs it. Running it again changes nothing.
\set ON_ERROR_STOP on
-- \gexec runs the result of the query: nothing, if it is there already.
select 'create role rollcall login' where not exists (select from pg_roles where rolname = 'rollcall') \gexec
select 'create role rollcall_server login' where not exists (select from pg_roles where rolname = 'rollcall_server') \gexec
select 'create role rollcall_reader login' where not exists (select from pg_roles where rolname = 'rollcall_reader') \gexec
select 'create database rollcall owner rollcall' where not exists (select from pg_database where datname = 'rollcall') \gexec
revoke temporary on database rollcall from public;
-- The server needs three. A backend that waits for a standby outlives the server's patience, with its locks.
alter role rollcall_server connection limit 8;
alter role rollcall_reader connection limit 8;
