-- name: get
-- One release.
select * from releases where digest = :digest;

-- name: by_number
-- An agent's release by its number.
select * from releases where agent = :agent and number = :number;

-- name: by_prefix
-- An agent's releases whose digest begins so.
select * from releases where agent = :agent and digest like :prefix order by number limit 2;

-- name: by_composite
-- An agent's latest release of a composite name.
select * from releases where agent = :agent and composite = :composite order by number desc limit 1;

-- name: latest
-- An agent's latest release.
select * from releases where agent = :agent order by number desc limit 1;

-- name: listing
-- An agent's releases from the newest to the oldest.
select * from releases where agent = :agent order by number desc limit :limit;

-- name: next_number
-- The number of an agent's next release.
select coalesce(max(number), 0) + 1 as number from releases where agent = :agent;

-- name: add
-- Publish a release.
insert into releases (digest, agent, number, composite, manifest, message, created_by, created_us)
values (:digest, :agent, :number, :composite, :manifest, :message, :created_by, now_us())
returning *;

-- name: add_blob
-- Note that a release needs a content.
insert into release_blobs (release_digest, blob_digest) values (:release_digest, :blob_digest)
on conflict (release_digest, blob_digest) do nothing;

-- name: component
-- One component version.
select * from components where agent = :agent and kind = :kind and digest = :digest;

-- name: next_component
-- The number of the next version of a component.
select coalesce(max(number), 0) + 1 as number from components where agent = :agent and kind = :kind;

-- name: add_component
-- Publish a component version.
insert into components (agent, kind, digest, number, label, content, created_us)
values (:agent, :kind, :digest, :number, :label, :content, now_us())
returning *;

-- name: components
-- Component versions, of one kind or of all.
select * from components
where agent = :agent and (cast(:kind as text) is null or kind = :kind)
order by kind, number desc;
