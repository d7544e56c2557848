-- name: contents
-- Contents by their keys, which come in one piece.
select key, data from checkpoint_contents
where session_id = :session_id and key in (
  select substring(cast(:keys as bytea) from at for 16)
  from generate_series(1, length(cast(:keys as bytea)), 16) at);

-- name: drop_contents
-- Remove contents by their keys, which come in one piece.
delete from checkpoint_contents
where session_id = :session_id and key in (
  select substring(cast(:keys as bytea) from at for 16)
  from generate_series(1, length(cast(:keys as bytea)), 16) at);
