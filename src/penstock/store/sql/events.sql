-- name: add
-- Keep one event.
insert into events (task_id, seq, epoch, kind, data, created_us)
values (:task_id, :seq, :epoch, :kind, :data, now_us());

-- name: after
-- The events of a task behind a sequence number.
select * from events where task_id = :task_id and seq > :after order by seq limit :limit;
