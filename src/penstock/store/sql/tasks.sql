-- name: add
-- Put a task into the queue. Its place: behind another of its session, or first of it and due later
-- or now.
insert into tasks (
  id, session_id, agent, environment, release, state, outcome, input, output, error, epoch, crashes,
  losses, worker_id, run_after_us, due_us, place, tenant, priority, stateless, close_session,
  cancel_requested, limit_hit, idempotency_key, request_digest, events, steps, cost_nanos,
  created_us, started_us, finished_us, waited_us, stream
)
select
  :id, :session_id, :agent, :environment, :release, 'queued', null, :input, null, null, 0, 0,
  0, null, due_us, due_us,
  case
    when exists (select 1 from tasks where session_id = :session_id and place > 0) then 0
    when due_us > at_us then 1 else 2
  end,
  coalesce((select user_id from sessions where id = :session_id), ''), :priority, :stateless,
  :close_session, 0, null, :idempotency_key, :request_digest, 0, 0, 0, at_us, null, null,
  0, :stream
from (
  select at_us, case when at_us + :delay_us > :run_at_us then at_us + :delay_us else :run_at_us end
    as due_us
  from (select now_us() as at_us) clock
) clocks
returning *;

-- name: step_behind
-- The first of a session that waits for its time lets one that is due before it go first.
update tasks set place = 0
where session_id = :session_id and place > 0 and place = 1 and state = 'queued' and epoch = 0
  and due_us > now_us() + :delay_us and due_us > :run_at_us;

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

-- name: ripen
-- What has waited for its time may be claimed now.
update tasks set place = 2
where id in (
  select id from tasks
  where state = 'queued' and place = 1 and run_after_us <= (select now_us())
  order by run_after_us
  limit :limit
);

-- name: queues
-- Every queue with its first and its last tenant that has something to be claimed, and whether there
-- is something that has waited for its time.
select a.agent, a.environment,
  (select min(t.tenant) from tasks t
   where t.state = 'queued' and t.place = 2
     and t.agent = a.agent and t.environment = a.environment) as first_tenant,
  (select max(t.tenant) from tasks t
   where t.state = 'queued' and t.place = 2
     and t.agent = a.agent and t.environment = a.environment) as last_tenant,
  (select min(t.run_after_us) from tasks t
   where t.state = 'queued' and t.place = 1) <= now_us() as ripe
from arrivals a
where a.environment <> 'library';

-- name: tenants
-- The tenants of a queue behind a given one that have something to be claimed, in their order: one
-- look into the index for each, however many tasks they have.
with recursive found (tenant) as (
  select min(t.tenant) from tasks t
  where t.state = 'queued' and t.place = 2 and t.agent = :agent and t.environment = :environment
    and t.tenant > :behind
  union all
  select (
    select min(t.tenant) from tasks t
    where t.state = 'queued' and t.place = 2 and t.agent = :agent and t.environment = :environment
      and t.tenant > found.tenant)
  from found where found.tenant is not null
)
select tenant from found where tenant is not null limit :limit;

-- name: claim
-- Take the first tasks of a tenant: those of high priority before others, then those that were due
-- before others. That a task was started is an event, and that a step was restarted another.
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
)
returning *,
  case
    when exists (select 1 from checkpoints c where c.session_id = tasks.session_id) then 0
    else 1
  end as blank;

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
returning steps, events, stop;

-- name: owned
-- Whether an epoch still owns its task.
select 1 as yes from tasks where id = :id and epoch = :epoch and state = 'running';

-- name: finish
-- End a task under the fence.
update tasks
set state = :state, outcome = :outcome, output = :output, error = :error, crashes = :crashes,
    losses = :losses, worker_id = null, place = 0, answers = null, events = events + 1,
    finished_us = now_us()
where id = :id and epoch = :epoch and state = 'running'
returning *;

-- name: requeue
-- Give a task back to the queue under the fence.
update tasks
set state = 'queued', worker_id = null, crashes = :crashes, losses = :losses,
    resource_class = coalesce(cast(:resource_class as text), resource_class),
    run_after_us = now_us() + :delay_us, place = case when :delay_us > 0 then 1 else 2 end,
    events = events + 1
where id = :id and epoch = :epoch and state = 'running'
returning *;

-- name: end_unowned
-- End a task that nobody runs.
update tasks
set state = :state, outcome = :outcome, cancel_requested = 1, stop = :stop, place = 0,
    error = :error, events = events + 1, finished_us = now_us(), waits = null, answers = null,
    wait_until_us = null, waited_us = waited_us + coalesce(now_us() - waiting_since_us, 0), waiting_since_us = null
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

-- name: ask_instead
-- Let a waiting task wait for something else.
update tasks set waits = :waits, events = events + 1
where id = :id and epoch = :epoch and state = 'waiting'
returning *;

-- name: resume
-- Queue a waiting task again; the epoch says which of its waits was answered.
update tasks
set state = 'queued', place = 2, answers = :answers, waits = null, wait_until_us = null,
    run_after_us = now_us(), waited_us = waited_us + now_us() - waiting_since_us,
    waiting_since_us = null, events = events + 1
where id = :id and epoch = :epoch and state = 'waiting'
returning *;

-- name: waited_out
-- Tasks that have waited for a person as long as they may.
select id from tasks where state = 'waiting' and wait_until_us <= (select now_us())
order by wait_until_us limit :limit;

-- name: expire_wait
-- End a task that nobody has answered, unless somebody just did.
update tasks
set state = 'failed', outcome = 'timeout', error = :error, waits = null, wait_until_us = null,
    waited_us = waited_us + now_us() - waiting_since_us, waiting_since_us = null,
    place = 0, events = events + 1, finished_us = now_us()
where id = :id and state = 'waiting' and wait_until_us <= now_us()
returning *;

-- name: request_stop
-- Ask the owner of a task to stop it. Who asked for less does not take back what was asked before.
update tasks
set cancel_requested = 1,
    stop = case
      when stop = 'rollback' or (stop = 'interrupt' and :stop = 'cancel') then stop
      else :stop
    end
where id = :id and state = 'running'
returning *;

-- name: in_the_way
-- What a new task of a session would have to wait for, in order.
select * from tasks
where session_id = :session_id and state in ('queued', 'running', 'waiting')
  and (epoch > 0 or due_us <= now_us())
order by place desc, due_us, id
limit :limit;

-- name: hold_first
-- The first of a session, held until the commit, so that it does not end meanwhile.
update tasks set place = place where session_id = :session_id and place > 0;

-- name: promote
-- The next of a session takes the first place, if it is free.
update tasks
set place = case when run_after_us <= now_us() then 2 else 1 end
where id = (
    select id from tasks
    where session_id = :session_id and place = 0 and state in ('queued', 'running', 'waiting')
    order by due_us, id
    limit 1)
  and not exists (select 1 from tasks where session_id = :session_id and place > 0);

-- name: orphaned
-- Running tasks whose worker is gone.
select t.* from tasks t
where t.state = 'running' and not exists (select 1 from workers w where w.id = t.worker_id)
order by t.worker_id
limit :limit;

-- name: load
-- What could be claimed, and what runs; counted only as far as it matters to whoever scales. What
-- waits behind another of its session would keep no further replica busy.
select
  (select count(*) from (
    select 1 from tasks where state = 'queued' and place = 2 and environment <> 'library'
    limit :most
  ) waiting) + (select count(*) from (
    select 1 from tasks
    where state = 'queued' and place = 1 and run_after_us <= (select now_us()) and environment <> 'library'
    limit :most
  ) ripe) as backlog,
  (select count(*) from (
    select 1 from tasks where state = 'running' and environment <> 'library' limit :most
  ) running) as in_flight;

-- name: hold
-- The tasks of a session that have not ended, held until the commit: nobody claims one meanwhile.
update tasks set state = state
where session_id = :session_id and state in ('queued', 'running', 'waiting')
returning *;

-- name: live_in_session
-- Whether a session has tasks that have not ended, and whether one of them ends it.
select
  (select count(*) from (
    select 1 from tasks where session_id = :session_id and place > 0 limit 1) one) as live,
  (select count(*) from (
    select 1 from tasks
    where session_id = :session_id and close_session = 1
      and state in ('queued', 'running', 'waiting') limit 1) one) as closing;

-- name: close_after
-- Let the tasks of a session that have not ended be its last.
update tasks set close_session = 1
where session_id = :session_id and state in ('queued', 'running', 'waiting');

-- name: limit_hit
-- Which limit the gateway saw a task reach.
select limit_hit from tasks where id = :id;

-- name: counts
-- How many tasks of each agent are in which state: each half has an index of its own. The order of
-- another index must not tempt SQLite to look at every task for the few that have not ended.
select coalesce(agent, '') as agent, environment, state, count(*) as count from tasks
where state in ('queued', 'running', 'waiting')
group by coalesce(agent, ''), environment, state
union all
select agent, environment, state, count(*) as count from tasks
where state not in ('queued', 'running', 'waiting')
group by agent, environment, state;

-- name: of_session
-- What an evaluator sees of a session: its tasks in order.
select * from tasks where session_id = :session_id order by created_us, id;

-- name: of_worker
-- What a worker owns.
select * from tasks where worker_id = :worker_id and state = 'running' order by id;
