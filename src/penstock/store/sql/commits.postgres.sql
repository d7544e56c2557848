-- name: apply
-- Let several attempts commit together, each under its own fence (as in tasks.advance): a stale one
-- gets no row back and leaves nothing behind.
-- Of one that ends its task, as in tasks.finish; one that somebody wants stopped does not pass.
with given as (
  select * from unnest(
    cast(:tasks as text[]), cast(:epochs as bigint[]), cast(:steps as int[]),
    cast(:events as int[]), cast(:ends as int[]), cast(:task_outputs as text[]),
    cast(:crashes as bigint[]), cast(:losses as bigint[])
  ) as g (task_id, epoch, steps, events, ends, output, crashes, losses)
),
passed as (
  update tasks t
  set steps = t.steps + g.steps, events = t.events + g.events,
      losses = case when g.ends > 0 then g.losses when g.steps > 0 then 0 else t.losses end,
      crashes = case when g.ends > 0 then g.crashes else t.crashes end,
      state = case when g.ends > 0 then 'completed' else t.state end,
      outcome = case when g.ends > 0 then 'ok' else t.outcome end,
      output = case when g.ends > 0 then g.output else t.output end,
      error = case when g.ends > 0 then null else t.error end,
      answers = case when g.ends > 0 then null else t.answers end,
      worker_id = case when g.ends > 0 then null else t.worker_id end,
      place = case when g.ends > 0 then 0 else t.place end,
      finished_us = case when g.ends > 0 then now_us() else t.finished_us end
  from given g
  where t.id = g.task_id and t.epoch = g.epoch and t.state = 'running'
    and (g.ends = 0 or (t.stop is null and t.stateless = 0))
  returning t.id, t.epoch, t.steps, t.events - g.events as before, t.session_id, t.close_session,
    t.cost_nanos, t.finished_us - t.started_us - t.waited_us as busy_us
),
heard as (
  insert into events (task_id, seq, epoch, kind, data, created_us)
  select p.id, p.before + e.place, p.epoch, e.kind, e.data, now_us()
  from unnest(
    cast(:said_by as text[]), cast(:places as int[]), cast(:kinds as text[]), cast(:data as text[])
  ) as e (task_id, place, kind, data)
  join passed p on p.id = e.task_id
),
kept as (
  insert into steps (task_id, key, number, epoch, kind, output, created_us)
  select p.id, s.key, p.steps, p.epoch, s.kind, s.output, now_us()
  from unnest(
    cast(:step_of as text[]), cast(:keys as text[]), cast(:step_kinds as text[]),
    cast(:outputs as text[])
  ) as s (task_id, key, kind, output)
  join passed p on p.id = s.task_id
)
select id, steps, session_id, close_session, cost_nanos, busy_us from passed;

-- name: single
-- What apply does for a commit that is alone and no end, at half of its cost.
with passed as (
  update tasks
  set steps = steps + :steps, events = events + :events,
      losses = case when :steps > 0 then 0 else losses end
  where id = :id and epoch = :epoch and state = 'running'
  returning id, epoch, steps, events - :events as before
),
heard as (
  insert into events (task_id, seq, epoch, kind, data, created_us)
  select p.id, p.before + e.place, p.epoch, e.kind, e.data, now_us()
  from passed p,
    unnest(cast(:kinds as text[]), cast(:data as text[])) with ordinality as e (kind, data, place)
),
kept as (
  insert into steps (task_id, key, number, epoch, kind, output, created_us)
  select id, cast(:key as text), steps, epoch, cast(:step_kind as text), cast(:output as text),
    now_us()
  from passed where :steps > 0
)
select id, steps from passed;

-- name: account
-- Add ended tasks to their sessions, as sessions.account does. No two are of one session: the next
-- of a session cannot run before this commit.
update sessions s
set tasks = s.tasks + 1, cost_nanos = s.cost_nanos + g.cost_nanos, busy_us = s.busy_us + g.busy_us,
    expires_us = now_us() + s.ttl_us
from unnest(
  cast(:sessions as text[]), cast(:costs as bigint[]), cast(:busy as bigint[])
) as g (session_id, cost_nanos, busy_us)
where s.id = g.session_id;

-- name: promote
-- As tasks.promote, for several sessions. A statement of its own, begun when the sessions are held:
-- a task that somebody has just put behind one that ended is seen.
update tasks t
set place = case when t.run_after_us <= now_us() then 2 else 1 end
from (
  select g.session_id, (
    select n.id from tasks n
    where n.session_id = g.session_id and n.place = 0 and n.state in ('queued', 'running', 'waiting')
    order by n.due_us, n.id
    limit 1) as next_id
  from unnest(cast(:sessions as text[])) as g (session_id)
  where not exists (select 1 from tasks f where f.session_id = g.session_id and f.place > 0)
) as free
where t.id = free.next_id;
