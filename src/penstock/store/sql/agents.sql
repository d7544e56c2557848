-- name: ensure
-- Make an agent known.
insert into agents (name, created_us) values (:name, now_us()) on conflict (name) do nothing;

-- name: get
-- One agent.
select * from agents where name = :name;

-- name: listing
-- Every agent.
select * from agents order by name;
