-- Requests of devices for the certificate after their present one, and the answers of the signer (`rollcall-admin sign`).

create table if not exists renewals (
    -- The certificate that asks.
    fingerprint   text collate "C" not null,
    serial_number text collate "C" not null,
    -- PKCS #10, DER.
    request       bytea       not null check (length(request) <= 8192),
    -- By the database's clock. A device goes on asking for as long as it wants an answer.
    asked_at      timestamptz not null default clock_timestamp(),
    -- PEM: the certificate, then the CAs between it and the root.
    certificate   text,
    -- The reason why there is none.
    refused       text,
    answered_at   timestamptz,
    -- No foreign key: pg_restore --clean could not drop certificates.
    primary key (fingerprint, serial_number),
    -- There is one answer or none.
    check (num_nonnulls(certificate, refused) = num_nonnulls(answered_at))
);
create index if not exists renewals_waiting on renewals (asked_at) where answered_at is null;

-- A new request has no answer yet, whoever writes it: so the server needs no right to write answers.
create or replace function ask_anew() returns trigger language plpgsql as $$
begin
    new.asked_at := clock_timestamp();
    new.certificate := null;
    new.refused := null;
    new.answered_at := null;
    return new;
end
$$;
create or replace trigger ask_anew before insert or update of request on renewals for each row execute function ask_anew();
