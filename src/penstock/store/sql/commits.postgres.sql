-- name: apply
-- Let several attempts commit together, each under its own fence (as in tasks.advance): a stale one
-- gets no row back and leaves nothing behind.
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
)
select id, steps from passed;
