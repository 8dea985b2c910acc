-- That which the host with the CA and those of further servers tell each other. Also for a database to which a dump of the
-- version before was restored.

-- The newest CRL of each of our CAs. The host with the CA's key makes it from the rows; each other host hands it to its nginx,
-- if its signature verifies and its number is greater than that of the one before.
create table if not exists crls (
    -- The name of the CA, as RFC 4514 writes it.
    issuer       text        primary key,
    -- Upper-case hex without leading zeros.
    number       text collate "C" not null check (number ~ '^[1-9A-F][0-9A-F]{0,63}$'),
    der          bytea       not null,
    published_at timestamptz not null default clock_timestamp()
);

-- Requests of hosts that join, and the answers of the host with the CA. Both have a MAC by the secret of the invitation, which
-- is in neither: the database can change nothing of them.
create table if not exists joins (
    name        text collate "C" primary key check (length(name) between 1 and 253),
    request     text        not null check (length(request) <= 65536),
    asked_at    timestamptz not null default clock_timestamp(),
    answer      text,
    answered_at timestamptz,
    check (num_nonnulls(answer, answered_at) in (0, 2))
);
