-- Also for a database to which a dump of the version before was restored (pg_restore --clean leaves that which the dump
-- does not know).
--
-- Two CAs may give one serial number to two certificates (RFC 5280, section 4.1.2.2): a certificate is known by its
-- fingerprint together with its serial number.

alter table certificates
    add column serial_number text collate "C" check (serial_number ~ '^[0-9A-F]{1,64}$'),
    -- The name of the CA, as RFC 4514 writes it. Null: noted at its first use, and not made or imported here.
    add column issuer        text,
    -- The name of the device that has it, which is also the name of its files. Null: as above.
    add column device        text collate "C",
    drop constraint certificates_pkey,
    -- A server of the version before finds its rows by this.
    add constraint certificates_serial_key unique (serial);
update certificates set serial_number = serial;
alter table certificates
    alter column serial drop not null,
    alter column serial_number set not null,
    -- Bytes are compared, and not words of a language.
    alter column fingerprint type text collate "C",
    add primary key (fingerprint, serial_number);
create index certificates_device on certificates (device);
create index certificates_serial_number on certificates (serial_number);

-- `serial` is for a server of the version before alone, which looks certificates up by it: the rows that such a server
-- or an administrator has made have it, and the revoked. This runs for what such a server writes, and passes over a
-- certificate that a newer one has noted.
create or replace function fill_serial() returns trigger language plpgsql as $$
begin
    if exists (select from certificates as noted
                where noted.fingerprint = new.fingerprint and noted.serial_number = new.serial
                  and noted.serial is distinct from new.serial) then
        return null;
    end if;
    new.serial_number := new.serial;
    return new;
end
$$;
create or replace trigger fill_serial before insert on certificates
    for each row when (new.serial_number is null) execute function fill_serial();

-- Revocations of certificates that no row describes: only a CRL still knows them, as after a restore of an older
-- dump. They refuse every certificate of the number that has no row, which errs on the safe side.
create table if not exists revoked_serials (
    serial_number text collate "C" not null check (serial_number ~ '^[0-9A-F]{1,64}$'),
    issuer        text        not null,
    revoked_at    timestamptz not null default now(),
    primary key (serial_number, issuer)
);
