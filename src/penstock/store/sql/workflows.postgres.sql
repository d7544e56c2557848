-- name: claim
-- As in the general file; processes that claim at the same time step around each other's rows.
update tasks
set state = 'running', epoch = epoch + 1, worker_id = :worker_id,
    started_us = coalesce(started_us, now_us())
where id in (
  select id from tasks
  where state = 'queued' and place = 2 and environment = :environment
    and agent in (select json_array_elements_text(cast(:names as json)))
  order by run_after_us, id
  limit :limit
  for update skip locked
)
returning *;
