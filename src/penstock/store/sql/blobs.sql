-- name: put
-- Keep a content under its address; a content that is there already stays as it is.
insert into blobs (digest, size, content, created_us)
values (:digest, :size, :content, now_us())
on conflict (digest) do nothing;

-- name: get
-- One content by its address.
select content from blobs where digest = :digest;

-- name: exists
-- Whether a content is kept.
select 1 as found from blobs where digest = :digest;
