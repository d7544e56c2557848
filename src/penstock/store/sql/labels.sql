-- name: get
-- Where a label points.
select * from labels
where agent = :agent and kind = :kind and name = :name and label = :label;

-- name: listing
-- The labels of a component, or of all of an agent's components of a kind.
select * from labels
where agent = :agent and kind = :kind and (cast(:name as text) is null or name = :name)
order by name, label;

-- name: add
-- Set a label that is not set yet.
insert into labels (agent, kind, name, label, digest, revision, moved_by, moved_us)
values (:agent, :kind, :name, :label, :digest, :revision, :moved_by, now_us())
on conflict (agent, kind, name, label) do nothing
returning *;

-- name: move
-- Move a label that is still where it was seen.
update labels
set digest = :digest, revision = revision + 1, moved_by = :moved_by, moved_us = now_us()
where agent = :agent and kind = :kind and name = :name and label = :label and revision = :revision
returning *;

-- name: remove
-- Take away a label that is still where it was seen.
delete from labels
where agent = :agent and kind = :kind and name = :name and label = :label and revision = :revision;

-- name: last_revision
-- The revision of a label's last move.
select coalesce(max(revision), 0) as revision from label_moves
where agent = :agent and kind = :kind and name = :name and label = :label;

-- name: note
-- Write a move down.
insert into label_moves
  (agent, kind, name, label, revision, before, after, message, moved_by, moved_us)
values
  (:agent, :kind, :name, :label, :revision, :before, :after, :message, :moved_by, now_us());

-- name: moves
-- Everywhere the labels of a component have been, from the newest move to the oldest.
select * from label_moves
where agent = :agent and kind = :kind and name = :name
  and (cast(:label as text) is null or label = :label)
order by moved_us desc, revision desc limit :limit;

-- name: is_protected
-- Whether a label takes an administrator to move.
select 1 as found from protected_labels where agent = :agent and label = :label;

-- name: protect
-- Let only administrators move a label.
insert into protected_labels (agent, label) values (:agent, :label)
on conflict (agent, label) do nothing;

-- name: unprotect
-- Let every operator move a label again.
delete from protected_labels where agent = :agent and label = :label;

-- name: protected
-- The labels that take an administrator to move.
select label from protected_labels where agent = :agent order by label;
