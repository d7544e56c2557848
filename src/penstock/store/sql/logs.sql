-- name: add
-- Keep a piece of what an attempt printed, unless its task was deleted.
insert into logs (task_id, epoch, number, stream, text, created_us)
select t.id, cast(:epoch as bigint), cast(:number as bigint), cast(:stream as text),
       cast(:text as text), now_us()
from tasks t where t.id = :task_id
on conflict (task_id, epoch, number) do nothing;

-- name: of_task
-- What a task printed behind a line.
select * from logs
where task_id = :task_id and (epoch > :epoch or (epoch = :epoch and number > :number))
order by epoch, number;
