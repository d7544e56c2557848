-- What agents remember across sessions.
create table memories (
  agent       text not null,
  environment text not null,
  namespace   text not null,                -- its parts, each followed by U+001F
  key         text not null,
  value       text not null,                -- JSON object
  words       text not null,                -- of the value, to be searched: ' one two ', lower case
  user_id     text,                         -- whose session wrote it
  ttl_us      bigint,                       -- it lives so long after it was last written or read
  expires_us  bigint,
  created_us  bigint not null,
  updated_us  bigint not null,
  primary key (agent, environment, namespace, key)
);
create index memories_expiring on memories (expires_us) where expires_us is not null;
create index memories_by_user on memories (agent, user_id) where user_id is not null;

-- What a graph's own embedding made of memories.
create table memory_vectors (
  agent       text not null,
  environment text not null,
  namespace   text not null,
  key         text not null,
  number      bigint not null,
  vector      blob not null,                -- float32, little endian
  primary key (agent, environment, namespace, key, number)
);
