-- name: add
-- Keep a piece of what an attempt printed.
insert into logs (task_id, epoch, number, stream, text, created_us)
values (:task_id, :epoch, :number, :stream, :text, now_us())
on conflict (task_id, epoch, number) do nothing;

-- name: of_task
-- Everything a task printed.
select * from logs where task_id = :task_id order by epoch, number;
