-- name: session
-- What a workflow is accounted to; nothing else will happen in it.
insert into sessions (
  id, agent, environment, release, user_id, metadata, state, rollout_id, arm, tasks, failures,
  cost_nanos, busy_us, thumb, judge, score, judged_us, judge_error, created_us, closed_us
) values (
  :id, :agent, :environment, :release, null, '{}', 'closed', null, null, 0, 0,
  0, 0, 0, null, null, null, null, now_us(), now_us()
);

-- name: begin
-- Put a workflow on record as one that its process is running already.
insert into tasks (
  id, session_id, agent, environment, release, state, outcome, input, output, error, epoch, crashes,
  losses, worker_id, run_after_us, due_us, place, close_session, cancel_requested, limit_hit,
  idempotency_key, events, steps, cost_nanos, created_us, started_us, finished_us, waited_us, stream
) values (
  :id, :session_id, :agent, :environment, :release, 'running', null, :input, null, null, 1, 0,
  0, :worker_id, now_us(), now_us(), 2, 0, 0, null, :key,
  0, 0, 0, now_us(), now_us(), null, 0, null
)
returning *;

-- name: claim
-- Take over workflows whose function is known here.
update tasks
set state = 'running', epoch = epoch + 1, worker_id = :worker_id,
    started_us = coalesce(started_us, now_us())
where id in (
  select id from tasks
  where state = 'queued' and place = 2 and environment = :environment
    and agent in (select value from json_each(:names))
  order by run_after_us, id
  limit :limit
)
returning *;
