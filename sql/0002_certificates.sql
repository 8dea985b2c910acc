-- Every certificate that was enrolled here or that the server has seen prove somebody.

create table certificates (
    -- As nginx writes it: upper-case hex. Two CAs in one chain could give the same serial to two
    -- certificates; revoking one then refuses both, which errs on the safe side.
    serial       text collate "C" primary key check (serial ~ '^[0-9A-F]{1,64}$'),
    email        text collate "C" not null references users (email),
    -- SHA-1 of the certificate, lower-case hex, as nginx computes it: a name for it, never a proof.
    fingerprint  text    not null check (fingerprint ~ '^[0-9a-f]{40}$'),
    -- Seconds since the Unix epoch.
    not_after    bigint  not null,
    -- Nanoseconds since the Unix epoch, a minute coarse, so that a heartbeat rarely writes it. Null: never used.
    last_used_ns bigint  check (last_used_ns >= 0),
    -- Refused since then, by the server, on the very next request.
    revoked_at   timestamptz
);

create index certificates_email on certificates (email);
