-- name: add
-- Keep what is known of a file; its content is a blob.
insert into attachments (id, session_id, digest, size, content_type, filename, created_us)
values (:id, :session_id, :digest, :size, :content_type, :filename, now_us())
returning *;

-- name: get
-- One file of a session.
select * from attachments where session_id = :session_id and id = :id;

-- name: of_session
-- The files of a session in the order in which they came.
select * from attachments where session_id = :session_id order by created_us, id;

-- name: copy
-- Give a session the files of another, under the same ids.
insert into attachments (id, session_id, digest, size, content_type, filename, created_us)
select id, cast(:to_session_id as text), digest, size, content_type, filename, created_us
from attachments where session_id = :session_id;
