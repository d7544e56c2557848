-- name: ripen
-- As in the general file; servers that look at the same time step around each other's rows.
update tasks set place = 2
where id in (
  select id from tasks
  where state = 'queued' and place = 1 and run_after_us <= (select now_us())
  order by run_after_us
  limit :limit
  for update skip locked
);

-- name: claim
-- As in the general file; servers that claim at the same time step around each other's rows.
update tasks
set state = 'running', epoch = epoch + 1, worker_id = :worker_id,
    started_us = coalesce(started_us, now_us()),
    events = events + case when epoch > 0 then 2 else 1 end
where id in (
  select id from tasks
  where state = 'queued' and place = 2 and agent = :agent and environment = :environment
    and tenant = :tenant
  order by priority desc, run_after_us, id
  limit :limit
  for update skip locked
)
returning *,
  case
    when exists (select 1 from checkpoints c where c.session_id = tasks.session_id) then 0
    else 1
  end as blank;

-- name: orphaned
-- As in the general file; servers that take over at the same time step around each other's rows.
select t.* from tasks t
where t.state = 'running' and not exists (select 1 from workers w where w.id = t.worker_id)
order by t.worker_id
limit :limit
for update of t skip locked;

-- name: pulse
-- As in the general file.
select id, state, outcome, events, stream from tasks
where id in (select json_array_elements_text(cast(:ids as json)));
