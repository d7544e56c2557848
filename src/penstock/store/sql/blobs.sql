-- name: put
-- Keep a content under its address. One that is there already stays as it is, and becomes young: none
-- is removed while somebody begins to need it.
insert into blobs (digest, size, content, created_us)
values (:digest, :size, :content, now_us())
on conflict (digest) do update set created_us = excluded.created_us
where blobs.created_us < excluded.created_us - 60000000;

-- name: get
-- One content by its address.
select content from blobs where digest = :digest;

-- name: exists
-- Whether a content is kept.
select 1 as found from blobs where digest = :digest;
