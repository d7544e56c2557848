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

-- name: add_component
-- Note what a release is made of.
insert into release_components (release_digest, kind, name, digest)
values (:release_digest, :kind, :name, :digest)
on conflict (release_digest, kind, name) do nothing;

-- name: made_of
-- The component versions that a release is made of.
select kind, name, digest from release_components where release_digest = :digest
order by kind, name;

-- name: raw
-- A release's manifest as it was stored.
select manifest from releases where digest = :digest;

-- name: blob_digests
-- The contents that a release needs.
select blob_digest from release_blobs where release_digest = :digest order by blob_digest;
