-- name: claim
-- As in the general file; servers that claim at the same time step around each other's rows.
update tasks
set state = 'running', epoch = epoch + 1, worker_id = :worker_id,
    started_us = coalesce(started_us, now_us())
where id in (
  select t.id from tasks t
  where t.state = 'queued' and t.run_after_us <= now_us()
    and not exists (
      select 1 from tasks r where r.session_id = t.session_id and r.state in ('running', 'waiting'))
    and not exists (
      select 1 from tasks q
      where q.session_id = t.session_id and q.state = 'queued'
        and (q.epoch > 0 or q.run_after_us <= now_us())
        and (q.created_us < t.created_us or (q.created_us = t.created_us and q.id < t.id)))
  order by t.run_after_us, t.id
  limit :limit
  for update skip locked
)
returning *;

-- name: orphaned
-- As in the general file; servers that take over at the same time step around each other's rows.
select t.* from tasks t
where t.state = 'running' and not exists (select 1 from workers w where w.id = t.worker_id)
order by t.id
limit :limit
for update of t skip locked;

-- name: pulse
-- As in the general file.
select id, state, outcome, events, stream from tasks
where id in (select json_array_elements_text(cast(:ids as json)));
