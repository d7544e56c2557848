-- name: add
-- Put a task into the queue.
insert into tasks (
  id, session_id, agent, environment, release, state, outcome, input, output, error, epoch, crashes,
  losses, worker_id, run_after_us, close_session, cancel_requested, limit_hit, idempotency_key,
  events, steps, cost_nanos, created_us, started_us, finished_us, waited_us, stream
) values (
  :id, :session_id, :agent, :environment, :release, 'queued', null, :input, null, null, 0, 0,
  0, null, now_us() + :delay_us, :close_session, 0, null, :idempotency_key,
  0, 0, 0, now_us(), null, null, 0, :stream
)
returning *;

-- name: get
-- One task.
select * from tasks where id = :id;

-- name: pulse
-- How far tasks are, for those who follow them; their ids are a JSON array.
select id, state, outcome, events, stream from tasks
where id in (select value from json_each(:ids));

-- name: by_key
-- The task that an idempotency key stands for.
select * from tasks where agent = :agent and idempotency_key = :idempotency_key;

-- name: listing
-- Tasks from the newest to the oldest.
select * from tasks
where (cast(:agent as text) is null or agent = :agent)
  and (cast(:session_id as text) is null or session_id = :session_id)
  and (cast(:state as text) is null or state = :state)
  and (cast(:before as text) is null or id < :before)
order by id desc
limit :limit;

-- name: claim
-- Take the oldest tasks that are due, no two of one session: a session's tasks run in their order,
-- and one that was begun already is not overtaken while it waits for its next attempt.
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
)
returning *;

-- name: expose
-- Note that a session which a rollout has assigned is now really served by its release.
insert into exposures (rollout_id, unit, task_id, exposed_us)
select s.rollout_id, s.id, cast(:task_id as text), now_us()
from sessions s
where s.id = :session_id and s.rollout_id is not null
on conflict (rollout_id, unit) do nothing;

-- name: advance
-- The fence: only the owner of the present epoch raises the counters, and so may write.
update tasks
set steps = steps + :steps, events = events + :events,
    losses = case when :steps > 0 then 0 else losses end
where id = :id and epoch = :epoch and state = 'running'
returning steps, events;

-- name: owned
-- Whether an epoch still owns its task.
select 1 as yes from tasks where id = :id and epoch = :epoch and state = 'running';

-- name: finish
-- End a task under the fence.
update tasks
set state = :state, outcome = :outcome, output = :output, error = :error, crashes = :crashes,
    losses = :losses, worker_id = null, answers = null, events = events + 1,
    finished_us = now_us()
where id = :id and epoch = :epoch and state = 'running'
returning *;

-- name: requeue
-- Give a task back to the queue under the fence.
update tasks
set state = 'queued', worker_id = null, crashes = :crashes, losses = :losses,
    resource_class = coalesce(cast(:resource_class as text), resource_class),
    run_after_us = now_us() + :delay_us, events = events + 1
where id = :id and epoch = :epoch and state = 'running'
returning *;

-- name: cancel_queued
-- End a task that nobody runs.
update tasks
set state = 'cancelled', outcome = 'cancelled', cancel_requested = 1, events = events + 1,
    finished_us = now_us(), waits = null, answers = null, wait_until_us = null,
    waited_us = waited_us + coalesce(now_us() - waiting_since_us, 0), waiting_since_us = null
where id = :id and state in ('queued', 'waiting')
returning *;

-- name: wait
-- Let a task wait for a person under the fence.
update tasks
set state = 'waiting', waits = :waits, answers = null, worker_id = null, losses = 0,
    waiting_since_us = now_us(), wait_until_us = now_us() + cast(:wait_us as bigint),
    events = events + 1
where id = :id and epoch = :epoch and state = 'running'
returning *;

-- name: resume
-- Queue a waiting task again; the epoch says which of its waits was answered.
update tasks
set state = 'queued', answers = :answers, waits = null, wait_until_us = null,
    run_after_us = now_us(), waited_us = waited_us + now_us() - waiting_since_us,
    waiting_since_us = null, events = events + 1
where id = :id and epoch = :epoch and state = 'waiting'
returning *;

-- name: waited_out
-- Tasks that have waited for a person as long as they may.
select id from tasks where state = 'waiting' and wait_until_us <= now_us()
order by wait_until_us limit :limit;

-- name: expire_wait
-- End a task that nobody has answered, unless somebody just did.
update tasks
set state = 'failed', outcome = 'timeout', error = :error, waits = null, wait_until_us = null,
    waited_us = waited_us + now_us() - waiting_since_us, waiting_since_us = null,
    events = events + 1, finished_us = now_us()
where id = :id and state = 'waiting' and wait_until_us <= now_us()
returning *;

-- name: request_cancel
-- Ask the owner of a task to stop it.
update tasks set cancel_requested = 1 where id = :id and state = 'running' returning *;

-- name: orphaned
-- Running tasks whose worker is gone.
select t.* from tasks t
where t.state = 'running' and not exists (select 1 from workers w where w.id = t.worker_id)
order by t.id
limit :limit;

-- name: next_due
-- How long until the next task that waits for its time, in microseconds.
select min(run_after_us) - now_us() as wait_us from tasks where state = 'queued' and run_after_us > now_us();

-- name: load
-- What waits and is due, and what runs; counted only as far as it matters to whoever scales.
select
  (select count(*) from (
    select 1 from tasks q where q.state = 'queued' and q.run_after_us <= now_us()
      and not exists (
        select 1 from tasks w where w.session_id = q.session_id and w.state = 'waiting')
    limit :most
  ) waiting) as backlog,
  (select count(*) from (
    select 1 from tasks where state = 'running' limit :most
  ) running) as in_flight;

-- name: hold
-- The tasks of a session that have not ended, held until the commit: nobody claims one meanwhile.
update tasks set state = state
where session_id = :session_id and state in ('queued', 'running', 'waiting')
returning *;

-- name: live_in_session
-- Tasks of a session that have not ended, and how many of them end it.
select count(*) as live, coalesce(sum(close_session), 0) as closing
from tasks where session_id = :session_id and state in ('queued', 'running', 'waiting');

-- name: close_after
-- Let the tasks of a session that have not ended be its last.
update tasks set close_session = 1
where session_id = :session_id and state in ('queued', 'running', 'waiting');

-- name: limit_hit
-- Which limit the gateway saw a task reach.
select limit_hit from tasks where id = :id;

-- name: counts
-- How many tasks of each agent are in which state.
select agent, environment, state, count(*) as count from tasks group by agent, environment, state;

-- name: of_session
-- What an evaluator sees of a session: its tasks in order.
select * from tasks where session_id = :session_id order by created_us, id;

-- name: of_worker
-- What a worker owns.
select * from tasks where worker_id = :worker_id and state = 'running' order by id;
