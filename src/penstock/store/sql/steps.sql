-- name: add
-- Keep the result of a step.
insert into steps (task_id, key, number, epoch, kind, output, created_us)
values (:task_id, :key, :number, :epoch, :kind, :output, now_us());

-- name: of_task
-- The journal of a task, in order.
select key, output from steps where task_id = :task_id and kind = 'step' order by number;

-- name: number
-- The number of a step, if this epoch has committed it.
select number from steps where task_id = :task_id and key = :key and epoch = :epoch;

-- name: last_checkpoint
-- Where a framework goes on.
select coalesce(max(number), 0) as number from steps
where task_id = :task_id and kind = 'checkpoint';
