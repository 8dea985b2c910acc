-- One row per enrolled person or device. A row exists before the first heartbeat: enrolment makes it.

create table users (
    -- Normalised by status::Email; the check keeps a hand-written insert from making a second spelling.
    -- Bytes are compared, not words of a language: an update looks at this check too.
    email        text collate "C" primary key check (email = lower(email) and length(email) between 3 and 254),
    -- Refused while set, and since when. An update, not a delete: the last sighting stays readable.
    disabled_at  timestamptz,
    enrolled_at  timestamptz not null default now(),
    -- Nanoseconds since the Unix epoch, from the server's clock. Null: enrolled, never seen.
    last_seen_ns bigint  check (last_seen_ns >= 0),
    -- The client's end of the connection, one host and never a network.
    ip           inet    check (masklen(ip) = case family(ip) when 4 then 32 else 128 end),
    port         integer check (port between 0 and 65535),
    -- A sighting is whole or absent.
    check (num_nulls(last_seen_ns, ip, port) in (0, 3))
)
-- Each heartbeat rewrites its row. Room on the page, and no index on what changes, keep that a
-- heap-only update (HOT): no index is touched and the old version is pruned in passing.
with (fillfactor = 50);
