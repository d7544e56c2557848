-- name: users_of_release
-- Everything that still needs a release, each kind once with an example.
select 'the stable release in ' || environment as what from deployments where stable = :digest
union all
select 'in the history of rollout ' || min(id) from rollouts
where stable = :digest or candidate = :digest having count(*) > 0
union all
select 'the release of session ' || min(id) from sessions
where release = :digest or judge = :digest having count(*) > 0
union all
select 'the release of task ' || min(id) from tasks where release = :digest having count(*) > 0
union all
select 'recorded with exchange ' || min(id) from exchanges
where release = :digest having count(*) > 0;

-- name: delete_release_blobs
-- Forget what a release needs.
delete from release_blobs where release_digest = :digest;

-- name: delete_release_components
-- Forget what a release is made of.
delete from release_components where release_digest = :digest;

-- name: delete_attestations
-- Forget who vouches for a release.
delete from attestations where release_digest = :digest;

-- name: delete_release
-- Delete a release that nothing needs.
delete from releases where digest = :digest;

-- name: exchanges_page
-- What exchanges refer to, some at a time.
select id, request, response from exchanges where id > :after order by id limit :limit;

-- name: unreferenced
-- Contents that are old enough, and that no release and no component version needs.
select digest, size from blobs b
where created_us < :before_us and digest > :after
  and not exists (select 1 from release_blobs r where r.blob_digest = b.digest)
  and not exists (select 1 from components c where c.digest = b.digest and c.kind = 'prompt')
  and not exists (select 1 from attachments a where a.digest = b.digest)
order by digest limit :limit;

-- name: delete_blob
-- Delete a content that is still old and still not needed: both may have changed by now.
delete from blobs
where digest = :digest and created_us < :before_us
  and not exists (select 1 from release_blobs r where r.blob_digest = :digest)
  and not exists (select 1 from components c where c.digest = :digest and c.kind = 'prompt')
  and not exists (select 1 from attachments a where a.digest = :digest);
