-- Several servers on one database: each one's public keys, for the file that listeners get. Also for a database to which a
-- dump of the version before was restored.

alter table servers
    -- Ed25519, by which listeners believe it; the server tells it when it starts. Null: it does not sign, or is of the version
    -- before.
    add column if not exists public_key   bytea   check (length(public_key) = 32),
    -- Those beside it while the key is replaced; an administrator's command on its host tells them.
    add column if not exists further_keys bytea[] not null default '{}',
    -- An administrator took it out. Its people are unknown until another server hears them.
    add column if not exists left_at      timestamptz;
