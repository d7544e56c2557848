-- name: register
-- A worker begins; it owns what it claims until its lease goes by.
insert into workers (id, host, pid, started_us, heartbeat_us, lease_until_us, draining, capacity)
values (:id, :host, :pid, now_us(), now_us(), now_us() + :lease_us, 0, :capacity);

-- name: beat
-- Renew a worker's lease, unless it has gone by: then somebody else may have its tasks.
update workers
set heartbeat_us = now_us(), lease_until_us = now_us() + :lease_us, draining = :draining
where id = :id and lease_until_us > now_us();

-- name: remove
-- A worker ends.
delete from workers where id = :id;

-- name: remove_all
-- No worker of an embedded database outlives its server.
delete from workers;

-- name: sweep
-- Forget workers that have been silent for long.
delete from workers where lease_until_us < now_us() - :silent_us;

-- name: listing
-- Every worker known.
select * from workers order by started_us;

-- name: wanted_releases
-- What new sessions can begin on: worth having a warm process for.
select stable as digest, environment from deployments
union
select candidate, environment from rollouts where active = 1;
