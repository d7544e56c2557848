-- Files of a session; their contents are blobs, each kept once.
create table attachments (
  id           text primary key,
  session_id   text not null references sessions (id),
  digest       text not null references blobs (digest),
  size         bigint not null,             -- bytes
  content_type text not null,
  filename     text not null,
  created_us   bigint not null
);
create index attachments_by_session on attachments (session_id, id);
create index attachments_by_digest on attachments (digest);
