-- A fork has the files of the session it came from, under the ids that its state names.
create table attachments_of_sessions (
  id           text not null,
  session_id   text not null references sessions (id),
  digest       text not null references blobs (digest),
  size         bigint not null,             -- bytes
  content_type text not null,
  filename     text not null,
  created_us   bigint not null,
  primary key (session_id, id)
);
insert into attachments_of_sessions
select id, session_id, digest, size, content_type, filename, created_us from attachments;
drop table attachments;
alter table attachments_of_sessions rename to attachments;
create index attachments_by_digest on attachments (digest);
