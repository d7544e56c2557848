-- name: get
-- One deployment.
select * from deployments where agent = :agent and environment = :environment;

-- name: lock
-- One deployment, held until the commit.
update deployments set revision = revision
where agent = :agent and environment = :environment
returning *;

-- name: listing
-- Every deployment, or those of one agent.
select * from deployments
where (cast(:agent as text) is null or agent = :agent)
order by agent, environment;

-- name: add
-- Deploy an agent for the first time.
insert into deployments (agent, environment, stable, rollout_id, revision, updated_us)
values (:agent, :environment, :stable, null, 1, now_us())
on conflict (agent, environment) do nothing
returning *;

-- name: change
-- Change a deployment that is still as it was read.
update deployments
set stable = :stable, rollout_id = :rollout_id, revision = revision + 1, updated_us = now_us()
where agent = :agent and environment = :environment and revision = :revision
returning *;
