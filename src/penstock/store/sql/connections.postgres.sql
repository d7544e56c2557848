-- name: busy
-- Whether a connection's statement is still being worked on.
select state = 'active' as busy from pg_stat_activity where pid = :pid;
