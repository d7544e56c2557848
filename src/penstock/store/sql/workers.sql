-- name: register
-- A worker begins; it owns what it claims for as long as its row is there.
insert into workers (
  id, host, pid, process, kind, started_us, heartbeat_us, lease_until_us, draining, capacity
) values (
  :id, :host, :pid, :process, :kind, now_us(), now_us(), now_us() + :lease_us, 0, :capacity
);

-- name: beat
-- Renew a worker's lease. Nobody has its tasks for as long as its row is there, so a lease that
-- has gone by while the database was away is renewed, too.
update workers
set heartbeat_us = now_us(), lease_until_us = now_us() + :lease_us,
    draining = case when draining = 1 then 1 else :draining end
where id = :id;

-- name: kind
-- What a worker is.
select kind from workers where id = :id;

-- name: ask_to_drain
-- Somebody wants a worker to leave; it finds out when it is told, or when it looks.
update workers set draining = 1 where id = :id;

-- name: is_draining
-- Whether a worker leaves, or should.
select draining from workers where id = :id;

-- name: remove
-- A worker ends.
delete from workers where id = :id;

-- name: remove_all
-- No worker of an embedded database outlives its server.
delete from workers;

-- name: registered
-- What a reaper looks at: every worker, and the database's time now.
select id, host, process, lease_until_us, now_us() as as_of_us from workers order by id;

-- name: bury
-- End a worker whose lease had gone by at a moment, and has not been renewed since.
delete from workers
where id = :id
  and (cast(:as_of_us as bigint) is null or lease_until_us < cast(:as_of_us as bigint));

-- name: listing
-- Every worker known, with the number of tasks it owns.
select w.*, (
  select count(*) from tasks t where t.worker_id = w.id and t.state = 'running') as running
from workers w
order by w.started_us, w.id;

-- name: wanted_releases
-- What new sessions can begin on: worth having a warm process for.
select stable as digest, environment from deployments
union
select candidate, environment from rollouts where active = 1;
