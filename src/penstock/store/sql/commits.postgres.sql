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

-- name: keep
-- What apply does for commits that hold checkpoints and what nodes wrote, and for no end: with the
-- rows of checkpoints.put_content, write, overwrite and put of those that pass their fence.
with given as (
  select * from unnest(
    cast(:tasks as text[]), cast(:epochs as bigint[]), cast(:steps as int[]), cast(:events as int[])
  ) as g (task_id, epoch, steps, events)
),
passed as (
  update tasks t
  set steps = t.steps + g.steps, events = t.events + g.events,
      losses = case when g.steps > 0 then 0 else t.losses end
  from given g
  where t.id = g.task_id and t.epoch = g.epoch and t.state = 'running'
  returning t.id, t.epoch, t.steps, t.events - g.events as before
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
),
stored as (
  insert into checkpoint_contents (session_id, key, data)
  select c.session_id, c.key, c.data
  from unnest(
    cast(:content_task_id as text[]), cast(:content_session_id as text[]),
    cast(:content_key as bytea[]), cast(:content_data as bytea[])
  ) as c (task_id, session_id, key, data)
  join passed p on p.id = c.task_id
  on conflict (session_id, key) do nothing
),
written as (
  insert into checkpoint_writes (
    session_id, namespace, checkpoint_id, node_task, number, channel, path, encoding, format, data,
    task_id, epoch, seal
  )
  select w.session_id, w.namespace, w.checkpoint_id, w.node_task, w.number, w.channel, w.path,
    w.encoding, w.format, w.data, w.task_id, w.epoch, w.seal
  from unnest(
    cast(:write_task_id as text[]), cast(:write_epoch as bigint[]),
    cast(:write_session_id as text[]), cast(:write_namespace as text[]),
    cast(:write_checkpoint_id as text[]), cast(:write_node_task as text[]),
    cast(:write_number as bigint[]), cast(:write_channel as text[]), cast(:write_path as text[]),
    cast(:write_encoding as text[]), cast(:write_format as bigint[]),
    cast(:write_data as bytea[]), cast(:write_seal as bytea[])
  ) as w (
    task_id, epoch, session_id, namespace, checkpoint_id, node_task, number, channel, path,
    encoding, format, data, seal
  )
  join passed p on p.id = w.task_id
  on conflict (session_id, namespace, checkpoint_id, node_task, number) do nothing
),
placed as (
  insert into checkpoints (
    session_id, namespace, checkpoint_id, parent_id, task_id, epoch, release, encoding, format,
    depth, data, metadata, seal, created_us
  )
  select c.session_id, c.namespace, c.checkpoint_id, c.parent_id, c.task_id, c.epoch, c.release,
    c.encoding,
    case
      when c.base is null or exists (
        select 1 from checkpoints b
        where b.session_id = c.session_id and b.namespace = c.namespace
          and b.checkpoint_id = c.parent_id and b.seal = c.base)
      then c.format
    end,
    c.depth, c.data, c.metadata, c.seal, now_us()
  from unnest(
    cast(:put_task_id as text[]), cast(:put_epoch as bigint[]), cast(:put_session_id as text[]),
    cast(:put_namespace as text[]), cast(:put_checkpoint_id as text[]),
    cast(:put_parent_id as text[]), cast(:put_release as text[]), cast(:put_encoding as text[]),
    cast(:put_format as bigint[]), cast(:put_depth as bigint[]), cast(:put_data as bytea[]),
    cast(:put_metadata as bytea[]), cast(:put_seal as bytea[]), cast(:put_base as bytea[])
  ) as c (
    task_id, epoch, session_id, namespace, checkpoint_id, parent_id, release, encoding, format,
    depth, data, metadata, seal, base
  )
  join passed p on p.id = c.task_id
  on conflict (session_id, namespace, checkpoint_id) do update
  set parent_id = excluded.parent_id, task_id = excluded.task_id, epoch = excluded.epoch,
      release = excluded.release, encoding = excluded.encoding, depth = excluded.depth,
      data = excluded.data, metadata = excluded.metadata, seal = excluded.seal,
      format = case
        when checkpoints.seal = excluded.seal or not exists (
          select 1 from checkpoints c
          where c.session_id = checkpoints.session_id and c.namespace = checkpoints.namespace
            and c.parent_id = checkpoints.checkpoint_id and c.depth > 0)
        then excluded.format
      end
)
select id, steps from passed;
