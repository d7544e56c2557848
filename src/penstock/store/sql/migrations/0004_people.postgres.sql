-- A task may wait for a person, and keeps its place in its session meanwhile.
alter table tasks add column waits text;             -- JSON: what it waits for, while it does
alter table tasks add column answers text;           -- JSON: what its next attempt is told
alter table tasks add column waiting_since_us bigint;
alter table tasks add column wait_until_us bigint;   -- null: it waits for as long as it takes
alter table tasks add column waited_us bigint not null default 0; -- for people, so far
drop index tasks_one_running;
create unique index tasks_one_begun on tasks (session_id) where state in ('running', 'waiting');
create index tasks_waiting on tasks (wait_until_us) where state = 'waiting';
