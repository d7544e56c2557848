-- name: put
-- Keep a checkpoint.
insert into checkpoints (
  session_id, namespace, checkpoint_id, parent_id, task_id, epoch, encoding, data, metadata,
  created_us
) values (
  :session_id, :namespace, :checkpoint_id, :parent_id, :task_id, :epoch, :encoding, :data,
  :metadata, now_us()
)
on conflict (session_id, namespace, checkpoint_id) do update
set parent_id = excluded.parent_id, task_id = excluded.task_id, epoch = excluded.epoch,
    encoding = excluded.encoding, data = excluded.data, metadata = excluded.metadata;

-- name: get
-- One checkpoint.
select * from checkpoints
where session_id = :session_id and namespace = :namespace and checkpoint_id = :checkpoint_id;

-- name: latest
-- The newest checkpoint of a namespace; their ids sort by time.
select * from checkpoints
where session_id = :session_id and namespace = :namespace
order by checkpoint_id desc
limit 1;

-- name: listing
-- Checkpoints from the newest to the oldest.
select * from checkpoints
where session_id = :session_id
  and (cast(:namespace as text) is null or namespace = :namespace)
  and (cast(:before as text) is null or checkpoint_id < :before)
order by checkpoint_id desc
limit :limit;

-- name: write
-- Keep what a node wrote; what is there already stays.
insert into checkpoint_writes (
  session_id, namespace, checkpoint_id, node_task, number, channel, path, encoding, data, task_id,
  epoch
) values (
  :session_id, :namespace, :checkpoint_id, :node_task, :number, :channel, :path, :encoding, :data,
  :task_id, :epoch
)
on conflict (session_id, namespace, checkpoint_id, node_task, number) do nothing;

-- name: overwrite
-- Keep what a node wrote over what was there: an error, an interrupt, a resume.
insert into checkpoint_writes (
  session_id, namespace, checkpoint_id, node_task, number, channel, path, encoding, data, task_id,
  epoch
) values (
  :session_id, :namespace, :checkpoint_id, :node_task, :number, :channel, :path, :encoding, :data,
  :task_id, :epoch
)
on conflict (session_id, namespace, checkpoint_id, node_task, number) do update
set channel = excluded.channel, path = excluded.path, encoding = excluded.encoding,
    data = excluded.data, task_id = excluded.task_id, epoch = excluded.epoch;

-- name: writes
-- What nodes wrote on top of a checkpoint.
select node_task, number, channel, path, encoding, data from checkpoint_writes
where session_id = :session_id and namespace = :namespace and checkpoint_id = :checkpoint_id
order by path, node_task, number;
