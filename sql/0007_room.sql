-- A row is small when it is enrolled, and three times as large after the first heartbeat. A page that is full for a quarter
-- by then has room for the updates that follow, so that they stay heap-only (HOT).
alter table users set (fillfactor = 25);
