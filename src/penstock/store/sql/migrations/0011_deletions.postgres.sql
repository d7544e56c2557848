-- Sessions and tasks can be deleted, by hand or when their time is over. What is counted stays.
alter table sessions add column ttl_us bigint;        -- it lives so long after it was last used; null: for ever
alter table sessions add column expires_us bigint;
alter table sessions add column delete_requested bigint not null default 0;
alter table sessions add column deleted_us bigint;    -- nothing but numbers is left of it
create index sessions_expiring on sessions (expires_us)
  where deleted_us is null and expires_us is not null;
create index sessions_to_delete on sessions (id) where deleted_us is null and delete_requested = 1;
alter table tasks add column delete_requested bigint not null default 0;
create index tasks_to_delete on tasks (id) where delete_requested = 1;
create index exchanges_by_session on exchanges (session_id);

-- How deleted tasks ended, for rollouts that were active then.
create table retired_tasks (
  id          text primary key,
  session_id  text not null,
  state       text not null,
  outcome     text,
  finished_us bigint not null
);
create index retired_tasks_by_session on retired_tasks (session_id);

-- What the model calls of deleted tasks came to.
create table retired_exchanges (
  agent         text not null,
  provider      text not null,
  model         text not null,
  outcome       text not null,
  count         bigint not null,
  input_tokens  bigint not null,
  output_tokens bigint not null,
  cost_nanos    bigint not null,
  primary key (agent, provider, model, outcome)
);

-- Contents that a deleted record referred to, to be looked at: another one may need them.
create table doomed_blobs (
  digest text primary key
);
