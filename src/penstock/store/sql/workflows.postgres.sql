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

-- name: begin_all
-- What session and begin do, for several workflows.
with given as (
  select * from unnest(
    cast(:ids as text[]), cast(:sessions as text[]), cast(:functions as text[]),
    cast(:releases as text[]), cast(:inputs as text[]), cast(:keys as text[]),
    cast(:workers as text[])
  ) as g (id, session_id, agent, release, input, key, worker_id)
),
held as (
  insert into sessions (
    id, agent, environment, release, user_id, metadata, state, rollout_id, arm, tasks, failures,
    cost_nanos, busy_us, thumb, judge, score, judged_us, judge_error, created_us, closed_us
  )
  select session_id, agent, :environment, release, null, '{}', 'closed', null, null, 0, 0,
    0, 0, 0, null, null, null, null, now_us(), now_us()
  from given
)
insert into tasks (
  id, session_id, agent, environment, release, state, outcome, input, output, error, epoch, crashes,
  losses, worker_id, run_after_us, due_us, place, close_session, cancel_requested, limit_hit,
  idempotency_key, events, steps, cost_nanos, created_us, started_us, finished_us, waited_us, stream
)
select id, session_id, agent, :environment, release, 'running', null, input, null, null, 1, 0,
  0, worker_id, now_us(), now_us(), 2, 0, 0, null, key,
  0, 0, 0, now_us(), now_us(), null, 0, null
from given
returning *;
