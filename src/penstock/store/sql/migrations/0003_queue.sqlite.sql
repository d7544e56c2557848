-- The queue: a task's place in its session, whose share of the machine it takes, what somebody wants
-- it stopped for, and how full each queue is.

alter table tasks add column tenant text not null default '';            -- the user of its session; '' when it has none
alter table tasks add column priority bigint not null default 0;         -- higher first, among the tasks of one tenant
alter table tasks add column due_us bigint not null default 0;           -- its order in its session; a later attempt changes nothing
alter table tasks add column place bigint not null default 0;            -- 0 behind another of its session, 1 first and not due yet, 2 first
alter table tasks add column stop text;                                  -- cancel | interrupt | rollback: what it is to be stopped for
alter table tasks add column stateless bigint not null default 0;        -- 1: what its session holds goes with it
alter table tasks add column request_digest text;                        -- of what was asked under its idempotency key

update tasks set tenant = coalesce(
  (select s.user_id from sessions s where s.id = tasks.session_id), '');
update tasks set due_us = case when epoch = 0 and run_after_us > created_us then run_after_us else created_us end;
update tasks set stop = 'cancel' where state = 'running' and cancel_requested = 1;
update tasks set place = 2 where state = 'running';
update tasks set place = 1
where state = 'queued' and id = (
  select q.id from tasks q
  where q.session_id = tasks.session_id and q.state in ('queued', 'running')
  order by q.state desc, case when q.epoch > 0 then 0 else 1 end, q.due_us, q.id
  limit 1);

drop index tasks_queue;
create unique index tasks_one_first on tasks (session_id) where place > 0;
create index tasks_ready on tasks (agent, environment, tenant, priority desc, run_after_us, id)
  where state = 'queued' and place = 2;
create index tasks_timed on tasks (run_after_us, id) where state = 'queued' and place = 1;
create index tasks_live on tasks (session_id, due_us, id)
  where state in ('queued', 'running', 'waiting');
create index tasks_last on tasks (session_id)
  where close_session = 1 and state in ('queued', 'running', 'waiting');

-- What came into each queue, and what has left it by beginning or by ending before that. Two tables,
-- so that whoever submits does not wait for whoever claims. The queue '' is all of them together.
create table arrivals (
  agent       text not null,
  environment text not null,
  number      bigint not null,
  primary key (agent, environment)
);
create table departures (
  agent         text not null,
  environment   text not null,
  number        bigint not null,
  since_us      bigint not null,            -- when the present window of the drain rate began
  since_number  bigint not null,
  before_us     bigint not null,            -- … and the one before it
  before_number bigint not null,
  primary key (agent, environment)
);
insert into arrivals (agent, environment, number)
select agent, environment, count(*) from tasks group by agent, environment;
insert into arrivals (agent, environment, number) select '', '', count(*) from tasks having count(*) > 0;
insert into departures
  (agent, environment, number, since_us, since_number, before_us, before_number)
select agent, environment, n, 0, n, 0, n from (
  select agent, environment, sum(case when state = 'queued' and epoch = 0 then 0 else 1 end) as n
  from tasks group by agent, environment) as left_already;
insert into departures
  (agent, environment, number, since_us, since_number, before_us, before_number)
select '', '', n, 0, n, 0, n from (
  select sum(case when state = 'queued' and epoch = 0 then 0 else 1 end) as n
  from tasks having count(*) > 0) as left_already;
