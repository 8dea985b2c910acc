-- Several servers on one database: each one's public keys, for the file that listeners get. Also for a database to which a
-- dump of the version before was restored.

alter table servers
    -- Ed25519, by which listeners believe it; the server tells it when it starts. Null: it does not sign, or is of the version
    -- before.
    add column if not exists public_key   bytea   check (length(public_key) = 32),
    -- Those beside it while the key is replaced; an administrator's command on its host tells them.
    add column if not exists further_keys bytea[] not null default '{}',
    -- An administrator took it out. Its people are unknown until another server hears them.
    add column if not exists left_at      timestamptz,
    -- The role that wrote it. Null: a server of the version before.
    add column if not exists role         name        default current_user;

-- A server's role writes the row of its own server and of no other. A role that `just join` has made bears the name.
alter table servers enable row level security;
drop policy if exists read on servers;
drop policy if exists begin on servers;
drop policy if exists tell on servers;
create policy read on servers for select using (true);
create policy begin on servers for insert
    with check (role = current_user
           and (current_user not like 'rollcall\_server\_%' or name = substr(current_user, length('rollcall_server_') + 1)));
create policy tell on servers for update
    using (role is null or role = current_user)
    with check ((role is null or role = current_user)
           and (current_user not like 'rollcall\_server\_%' or name = substr(current_user, length('rollcall_server_') + 1)));
