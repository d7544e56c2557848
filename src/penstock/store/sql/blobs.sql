-- name: put
-- Keep a content under its address. One that is there already stays as it is; if it is half as old
-- as what may be garbage it becomes young, so that none is removed while somebody begins to need it.
insert into blobs (digest, size, content, created_us)
values (:digest, :size, :content, now_us())
on conflict (digest) do update set created_us = excluded.created_us
where blobs.created_us < excluded.created_us - 43200000000;

-- name: get
-- One content by its address.
select content from blobs where digest = :digest;

-- name: exists
-- Whether a content is kept.
select 1 as found from blobs where digest = :digest;
