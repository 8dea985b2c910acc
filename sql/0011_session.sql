-- The role of a server is the one that it logged in as. A role of a further server is a member of rollcall_server, and could
-- pass for it with `set role`; 0008 asked for that role. Also for a database to which a dump of the version before was restored.

alter table servers alter column role set default session_user;
drop policy if exists begin on servers;
drop policy if exists tell on servers;
create policy begin on servers for insert
    with check (role = session_user
           and (session_user not like 'rollcall\_server\_%' or name = substr(session_user, length('rollcall_server_') + 1)));
create policy tell on servers for update
    using (role is null or role = session_user)
    with check ((role is null or role = session_user)
           and (session_user not like 'rollcall\_server\_%' or name = substr(session_user, length('rollcall_server_') + 1)));
