-- Who is here. Silence counts only while a server could have heard: each server has a clock of its own, which counts the
-- time in which it heard, and the windows of a person are readings of the clock of the server that saw them last.

create table if not exists servers (
    name       text collate "C" primary key check (length(name) between 1 and 253),
    -- Each start takes the next one; only the newest process of a name moves the clock.
    epoch      bigint      not null,
    -- The clock, in milliseconds. It never goes backwards.
    heard_ms   bigint      not null check (heard_ms >= 0),
    -- Its reading when hearing began again after a silence of the server's own.
    resumed_ms bigint      not null check (resumed_ms between 0 and heard_ms),
    -- By the database's clock: the last word of the server, also while it cannot hear.
    told_at    timestamptz not null default clock_timestamp()
)
-- It is rewritten once a second.
with (fillfactor = 50);

alter table users
    -- The server that saw them last, and the readings of its clock until which silence is normal, and tolerated.
    add column if not exists server        text collate "C",
    add column if not exists good_until_ms bigint,
    add column if not exists gone_after_ms bigint,
    -- Seconds between two heartbeats: as an administrator set it, and as the client says.
    add column if not exists every_s       integer check (every_s between 1 and 86400),
    add column if not exists said_every_s  integer check (said_every_s between 1 and 86400),
    -- Whom they may see.
    add column if not exists reads         text not null default 'self' check (reads in ('none', 'self', 'all'));
