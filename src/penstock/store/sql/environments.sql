-- name: get
-- What an environment adds to an agent's releases.
select * from environments where agent = :agent and environment = :environment;

-- name: listing
-- The environments of an agent that add something.
select * from environments where agent = :agent order by environment;

-- name: add
-- Add something for the first time.
insert into environments
  (agent, environment, overlay, variables, revision, updated_by, updated_us)
values (:agent, :environment, :overlay, :variables, 1, :updated_by, now_us())
on conflict (agent, environment) do nothing
returning *;

-- name: change
-- Change what is still as it was seen.
update environments
set overlay = :overlay, variables = :variables, revision = revision + 1,
    updated_by = :updated_by, updated_us = now_us()
where agent = :agent and environment = :environment and revision = :revision
returning *;
