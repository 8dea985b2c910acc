-- RECORD_ONE of the version before several servers, word for word but for spaces.
with clock as materialized (
    select now_ns, now_ns + $8 as future_ns from (select (extract(epoch from clock_timestamp()) * 1000000)::bigint * 1000 as now_ns) as clock
),
seen as (
    select email, last_seen_ns, ip::inet, port, serial_number, fingerprint, not_after, heard_ms, every_s, n, now_ns,
           future_ns
      from clock, (select $1::text, $2::bigint, $3::text, $4::integer, $5::text, $6::text, $7::bigint, $9::bigint, $10::integer,
             1::bigint) as given (email, last_seen_ns, ip, port, serial_number, fingerprint, not_after, heard_ms, every_s, n)
),
committed as (
    update users
       set last_seen_ns = case when users.last_seen_ns > case when seen.last_seen_ns > seen.future_ns and users.last_seen_ns > seen.future_ns is not true
              then seen.now_ns else seen.last_seen_ns end and (users.last_seen_ns <= seen.future_ns or seen.last_seen_ns > seen.future_ns) then users.last_seen_ns else case when seen.last_seen_ns > seen.future_ns and users.last_seen_ns > seen.future_ns is not true
              then seen.now_ns else seen.last_seen_ns end end,
           ip = case when users.last_seen_ns > case when seen.last_seen_ns > seen.future_ns and users.last_seen_ns > seen.future_ns is not true
              then seen.now_ns else seen.last_seen_ns end and (users.last_seen_ns <= seen.future_ns or seen.last_seen_ns > seen.future_ns) then users.ip else seen.ip end,
           port = case when users.last_seen_ns > case when seen.last_seen_ns > seen.future_ns and users.last_seen_ns > seen.future_ns is not true
              then seen.now_ns else seen.last_seen_ns end and (users.last_seen_ns <= seen.future_ns or seen.last_seen_ns > seen.future_ns) then users.port else seen.port end,
           server = $11, said_every_s = seen.every_s,
           good_until_ms = greatest(seen.heard_ms + (coalesce(users.every_s, seen.every_s, $12) * 1100::bigint + 2000), case when users.server = $11 then users.good_until_ms else seen.heard_ms + users.good_until_ms - (select heard_ms from servers where name = users.server) end),
           gone_after_ms = greatest(seen.heard_ms + (coalesce(users.every_s, seen.every_s, $12) * 1000::bigint + greatest(2000::bigint * coalesce(users.every_s, seen.every_s, $12), 15000)), case when users.server = $11 then users.gone_after_ms else seen.heard_ms + users.gone_after_ms - (select heard_ms from servers where name = users.server) end)
      from seen seen left join certificates using (fingerprint, serial_number)
     where users.email = seen.email and users.disabled_at is null and not (certificates.revoked_at is not null or (certificates.issuer is null
              and exists (select from revoked_serials where revoked_serials.serial_number = seen.serial_number)))
 returning seen.*, users.last_seen_ns as committed_ns, host(users.ip) as committed_ip,
           users.port as committed_port,
           case when seen.last_seen_ns > seen.future_ns then seen.now_ns else seen.last_seen_ns end as used_ns,
           certificates.last_used_ns between seen.last_seen_ns - 60000000000 and seen.future_ns as fresh
),
used as (
    insert into certificates (serial_number, email, fingerprint, not_after, last_used_ns)
    select distinct on (fingerprint, serial_number) serial_number, email, fingerprint, not_after, used_ns
      from committed where fresh is not true
        on conflict (fingerprint, serial_number) do update set last_used_ns =
           case when certificates.last_used_ns between excluded.last_used_ns and (select future_ns from clock)
                then certificates.last_used_ns else excluded.last_used_ns end
)
select n, committed_ns, committed_ip, committed_port, last_seen_ns > future_ns from committed
