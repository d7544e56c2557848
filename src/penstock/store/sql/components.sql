-- name: get
-- One component version.
select * from components
where agent = :agent and kind = :kind and name = :name and digest = :digest;

-- name: latest
-- The latest version of a component.
select * from components
where agent = :agent and kind = :kind and name = :name order by number desc limit 1;

-- name: by_label
-- The version that has a label of its own.
select * from components
where agent = :agent and kind = :kind and name = :name and label = :label;

-- name: by_number
-- The version of a number.
select * from components
where agent = :agent and kind = :kind and name = :name and number = :number;

-- name: by_prefix
-- The versions whose digest begins so.
select * from components
where agent = :agent and kind = :kind and name = :name and digest like :prefix
order by number limit 2;

-- name: taken
-- The labels of a component's versions that begin so, also of those that were taken out.
select label from components
where agent = :agent and kind = :kind and name = :name and label like :prefix
union
select label from component_deletions
where agent = :agent and kind = :kind and name = :name and label like :prefix;

-- name: next_number
-- The number of the next version of a component; numbers of deleted versions do not come again.
select coalesce(max(number), 0) + 1 as number from (
  select number from components where agent = :agent and kind = :kind and name = :name
  union all
  select number from component_deletions where agent = :agent and kind = :kind and name = :name
) as known;

-- name: add
-- Publish a component version.
insert into components
  (agent, kind, name, digest, number, label, content, message, tags, created_by, created_us)
values
  (:agent, :kind, :name, :digest, :number, :label, :content, :message, :tags, :created_by, now_us())
returning *;

-- name: listing
-- A component's versions from the newest to the oldest, without their contents.
select agent, kind, name, digest, number, label, message, tags, created_by, created_us
from components
where agent = :agent
  and (cast(:kind as text) is null or kind = :kind)
  and (cast(:name as text) is null or name = :name)
  and (cast(:before as bigint) is null or number < :before)
order by kind, name, number desc limit :limit;

-- name: newest
-- The newest version of every component of a kind that has a name of its own.
select agent, kind, name, digest, number, label, message, tags, created_by, created_us
from components c
where agent = :agent and kind = :kind and name <> ''
  and number = (
    select max(number) from components o
    where o.agent = c.agent and o.kind = c.kind and o.name = c.name
  )
order by name;

-- name: users
-- The releases that are made of a component version.
select r.agent, r.number from release_components c join releases r on r.digest = c.release_digest
where c.kind = :kind and c.name = :name and c.digest = :digest and r.agent = :agent
order by r.number;

-- name: delete
-- Take a version out of the registry.
delete from components
where agent = :agent and kind = :kind and name = :name and digest = :digest;

-- name: note_deletion
-- Remember the number and label of a version that was taken out.
insert into component_deletions (agent, kind, name, number, label, digest, deleted_by, deleted_us)
values (:agent, :kind, :name, :number, :label, :digest, :deleted_by, now_us());
