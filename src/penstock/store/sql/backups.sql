-- name: columns
-- Every column of every table of ours, in the order in which it was declared.
select m.name as "table", c.name as "column", lower(c.type) as type
from sqlite_schema m, pragma_table_info(m.name) c
where m.type = 'table' and substr(m.name, 1, 7) <> 'sqlite_'
order by m.name, c.cid;

-- name: schema
-- The newest migration that was applied.
select coalesce(max(version), 0) as version from migrations;

-- name: create_migrations
-- Where applied migrations are kept, as a server makes it.
create table if not exists migrations (version bigint primary key, name text not null);

-- name: add_migration
-- A migration was applied.
insert into migrations (version, name) values (:version, :name);

-- name: put_secret
-- What all servers of a shared database must agree on.
insert into settings (name, value) values (:name, :value);

-- name: secret
-- A secret of a shared database.
select value from settings where name = :name;

-- name: waiting
-- Tasks that have not ended, by state.
select state, count(*) as count from tasks where state in ('queued', 'running') group by state;

-- name: rollouts
-- Rollouts that are under way.
select agent, environment, phase from rollouts where active = 1 order by agent, environment;
