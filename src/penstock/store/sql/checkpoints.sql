-- name: put
-- Keep a checkpoint; again, if nothing stands on it. A form is demanded of every row: there is none
-- for one whose base is not there, or that would change what others stand on.
insert into checkpoints (
  session_id, namespace, checkpoint_id, parent_id, task_id, epoch, release, encoding, format, depth,
  data, metadata, seal, created_us
) values (
  :session_id, :namespace, :checkpoint_id, :parent_id, :task_id, :epoch, :release, :encoding,
  case
    when exists (
      select 1 from checkpoints b
      where b.session_id = :session_id and b.namespace = :namespace
        and b.checkpoint_id = :parent_id and b.seal = :base)
      or :base is null
    then cast(:format as bigint)
  end,
  :depth, :data, :metadata, :seal, now_us()
)
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
    end;

-- name: change
-- Let a checkpoint stand on another one, or alone.
update checkpoints set depth = :depth, data = :data, seal = :seal
where session_id = :session_id and namespace = :namespace and checkpoint_id = :checkpoint_id;

-- name: base
-- What a checkpoint is to stand on.
select format, depth, seal from checkpoints
where session_id = :session_id and namespace = :namespace and checkpoint_id = :checkpoint_id;

-- name: newest
-- The latest checkpoint of a session's own thread.
select checkpoint_id from checkpoints
where session_id = :session_id and namespace = ''
order by checkpoint_id desc limit 1;

-- name: chain
-- A checkpoint (the newest of its namespace, when no id is given) and all that it stands on.
with recursive chain as (
  select * from checkpoints
  where session_id = :session_id and namespace = :namespace
    and checkpoint_id = coalesce(cast(:checkpoint_id as text), (
      select max(checkpoint_id) from checkpoints
      where session_id = :session_id and namespace = :namespace))
  union all
  select p.* from checkpoints p
  join chain c on p.session_id = c.session_id and p.namespace = c.namespace
    and p.checkpoint_id = c.parent_id
  where c.depth > 0 and p.depth = c.depth - 1
)
select * from chain order by depth desc;

-- name: listing
-- Checkpoints from the newest to the oldest; ids sort by time. `within` begins the names of the
-- namespaces that are meant; when it is empty, those that begin with no other thread's mark are.
select * from checkpoints
where session_id = :session_id
  and (cast(:namespace as text) is null or namespace = :namespace)
  and (cast(:within as text) is null
       or (:within = '' and substr(namespace, 1, 1) <> :mark)
       or (:within <> '' and substr(namespace, 1, length(:within)) = :within))
  and (cast(:checkpoint_id as text) is null or checkpoint_id = :checkpoint_id)
  and (cast(:before as text) is null or checkpoint_id < :before)
order by checkpoint_id desc, namespace
limit :limit;

-- name: of_session
-- Every checkpoint of a session, what stands on others behind them.
select * from checkpoints where session_id = :session_id order by depth, checkpoint_id;

-- name: write
-- Keep what a node wrote; what is there already stays.
insert into checkpoint_writes (
  session_id, namespace, checkpoint_id, node_task, number, channel, path, encoding, format, data,
  task_id, epoch, seal
) values (
  :session_id, :namespace, :checkpoint_id, :node_task, :number, :channel, :path, :encoding,
  :format, :data, :task_id, :epoch, :seal
)
on conflict (session_id, namespace, checkpoint_id, node_task, number) do nothing;

-- name: overwrite
-- Keep what a node wrote over what was there: an error, an interrupt, a resume.
insert into checkpoint_writes (
  session_id, namespace, checkpoint_id, node_task, number, channel, path, encoding, format, data,
  task_id, epoch, seal
) values (
  :session_id, :namespace, :checkpoint_id, :node_task, :number, :channel, :path, :encoding,
  :format, :data, :task_id, :epoch, :seal
)
on conflict (session_id, namespace, checkpoint_id, node_task, number) do update
set channel = excluded.channel, path = excluded.path, encoding = excluded.encoding,
    format = excluded.format, data = excluded.data, task_id = excluded.task_id,
    epoch = excluded.epoch, seal = excluded.seal;

-- name: writes
-- What nodes wrote on top of a checkpoint, in the order in which a run applies it.
select * from checkpoint_writes
where session_id = :session_id and namespace = :namespace and checkpoint_id = :checkpoint_id
order by path, node_task, number;

-- name: writes_between
-- What nodes wrote on top of the checkpoints of a listing.
select * from checkpoint_writes
where session_id = :session_id and checkpoint_id >= :first and checkpoint_id <= :last
order by path, node_task, number;

-- name: writes_of_session
-- What nodes wrote on top of any checkpoint of a session.
select * from checkpoint_writes where session_id = :session_id;

-- name: put_content
-- Keep a content by its key; what is there already stays.
insert into checkpoint_contents (session_id, key, data) values (:session_id, :key, :data)
on conflict (session_id, key) do nothing;

-- name: contents
-- Contents by their keys, which come in one piece.
with recursive wanted (at, key) as (
  select 17, substr(:keys, 1, 16)
  union all
  select at + 16, substr(:keys, at, 16) from wanted where at <= length(:keys)
)
select c.key, c.data from wanted w
join checkpoint_contents c on c.session_id = :session_id and c.key = w.key;

-- name: keys
-- The keys of all contents of a session.
select key from checkpoint_contents where session_id = :session_id;

-- name: drop_contents
-- Remove contents by their keys, which come in one piece.
with recursive wanted (at, key) as (
  select 17, substr(:keys, 1, 16)
  union all
  select at + 16, substr(:keys, at, 16) from wanted where at <= length(:keys)
)
delete from checkpoint_contents
where session_id = :session_id and key in (select key from wanted);

-- name: remove
-- Remove a checkpoint.
delete from checkpoints
where session_id = :session_id and namespace = :namespace and checkpoint_id = :checkpoint_id;

-- name: remove_writes
-- Remove what nodes wrote on top of a checkpoint.
delete from checkpoint_writes
where session_id = :session_id and namespace = :namespace and checkpoint_id = :checkpoint_id;

-- name: remove_writes_of_task
-- Remove what a task wrote, also on top of checkpoints of earlier ones.
delete from checkpoint_writes where session_id = :session_id and task_id = :task_id;

-- name: remove_session
-- Remove the checkpoints of a session.
delete from checkpoints where session_id = :session_id;

-- name: remove_session_writes
-- Remove what nodes wrote in a session.
delete from checkpoint_writes where session_id = :session_id;

-- name: remove_session_contents
-- Remove the contents of a session.
delete from checkpoint_contents where session_id = :session_id;

-- name: unsealed
-- Checkpoints that were written before there were seals.
select * from checkpoints where seal is null order by session_id limit :limit;

-- name: unsealed_writes
-- What nodes wrote before there were seals.
select * from checkpoint_writes where seal is null order by session_id limit :limit;

-- name: seal
-- Seal a checkpoint as it is.
update checkpoints set seal = :seal
where session_id = :session_id and namespace = :namespace and checkpoint_id = :checkpoint_id;

-- name: seal_write
-- Seal what a node wrote as it is.
update checkpoint_writes set seal = :seal
where session_id = :session_id and namespace = :namespace and checkpoint_id = :checkpoint_id
  and node_task = :node_task and number = :number;
