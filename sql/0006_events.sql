-- Also for a database to which a dump of the version before was restored (pg_restore --clean leaves that which the dump
-- does not know).
--
-- The history: one row a transition, and never one a heartbeat. `rollcall-admin maintain` makes a partition for each month
-- (UTC) and drops the old ones; what no month takes is in events_default, so that no insert fails.

create table if not exists events (
    -- In the order in which they were written. A hook is served in it.
    id     bigint      not null generated always as identity,
    -- The board noticed it then.
    at     timestamptz not null,
    -- Null: it is about a server. No foreign key: pg_restore --clean could not drop users.
    email  text collate "C",
    -- A person turned online, late or offline; a server turned deaf, or hears again.
    kind   text        not null check (kind in ('online', 'late', 'offline', 'deaf', 'hears')),
    -- It came to pass between then and `at`: the last sighting; or, of whoever came while no board looked, when the last one did.
    since  timestamptz,
    -- The client's end of the connection.
    ip     inet,
    -- The server that saw the person last, or that turned.
    server text collate "C",
    check ((email is null) = (kind in ('deaf', 'hears'))),
    check (num_nonnulls(email, server) > 0)
)
partition by range (at);
create table if not exists events_default partition of events default;
-- Indexes, and no primary key: pg_dump --clean could not drop that of a partition.
create index if not exists events_id on events (id);
-- The history of a person, and of a server. The order is that of the writing: a clock may step.
create index if not exists events_email on events (email, id);
create index if not exists events_server on events (server, id) where email is null;

-- When a board that writes events last looked. It has no row until the first one did.
create table if not exists journal (
    is_here       boolean     primary key default true check (is_here),
    -- The random name of its run.
    board         text        not null,
    watched_until timestamptz not null
)
with (fillfactor = 50);

-- The last event that each hook has been served.
create table if not exists hooks (
    name       text collate "C" primary key,
    event      bigint not null,
    -- It was told of a mass that left until then, so of no single one of them.
    mass_until timestamptz
)
with (fillfactor = 50);
