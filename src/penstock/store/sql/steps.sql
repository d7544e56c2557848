-- name: add
-- Keep the result of a step.
insert into steps (task_id, key, number, epoch, kind, output, created_us)
values (:task_id, :key, :number, :epoch, :kind, :output, now_us());

-- name: of_task
-- The journal of a task, in order.
select key, output from steps where task_id = :task_id and kind = 'step' order by number;

-- name: count
-- How many steps of a task are on record, by epoch.
select key, number, epoch, kind from steps where task_id = :task_id order by number;
