-- Checkpoints as differences to their parents. Rows of format 0 hold a checkpoint whole, as they
-- always did; a seal is missing from rows that were written before there were any.
alter table checkpoints add column format bigint not null default 0;   -- 0 whole | 1 table
alter table checkpoints add column depth bigint not null default 0;    -- tables down to the snapshot
alter table checkpoints add column release text not null default '';   -- that wrote it
alter table checkpoints add column seal bytea;
alter table checkpoint_writes add column format bigint not null default 0;
alter table checkpoint_writes add column seal bytea;

create index checkpoints_unsealed on checkpoints (session_id) where seal is null;
create index checkpoint_writes_unsealed on checkpoint_writes (session_id) where seal is null;

-- What the tables of a session refer to, each once: messages, large values.
create table checkpoint_contents (
  session_id text not null,
  key        bytea not null,                -- BLAKE2b of data
  data       bytea not null,                -- one byte that says how it is compressed, then the value
  primary key (session_id, key)
);
