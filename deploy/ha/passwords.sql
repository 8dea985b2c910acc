-- The passwords of the roles that deploy/roles.sql makes, for the superuser, on the primary.
alter role rollcall password :'owner';
alter role rollcall_server password :'server';
alter role rollcall_reader password :'reader';
