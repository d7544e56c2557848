-- name: put_contents
-- Keep contents by their keys; all of them come in one piece, with their lengths.
insert into checkpoint_contents (session_id, key, data)
select :session_id,
       substring(cast(:keys as bytea) from 16 * cast(each.number - 1 as int) + 1 for 16),
       substring(cast(:data as bytea) from cast(each.start as int) for each.length)
from (
  select number, length, 1 + sum(length) over (order by number) - length as start
  from (
    select number, cast(value as int) as length
    from json_array_elements_text(cast(:lengths as json)) with ordinality t (value, number)
  ) lengths
) each
on conflict (session_id, key) do nothing;

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
