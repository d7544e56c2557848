-- name: add
-- Keep one event.
insert into events (task_id, seq, epoch, kind, data, created_us)
values (:task_id, :seq, :epoch, :kind, :data, now_us());

-- name: last
-- The last event of a kind.
select data from events where task_id = :task_id and kind = :kind order by seq desc limit 1;

-- name: after
-- The events of a task behind a sequence number.
select * from (
  select *, sum(length(data)) over (order by seq) - length(data) as bytes_before
  from (select * from events where task_id = :task_id and seq > :after order by seq limit :limit)
    as found
) as measured
where bytes_before < :most_bytes
order by seq;
