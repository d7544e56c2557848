-- name: add
-- Keep a statement about a release.
insert into attestations (release_digest, kind, key_id, content, created_us)
values (:release_digest, :kind, :key_id, :content, now_us())
on conflict (release_digest, kind, key_id) do nothing;

-- name: of_release
-- The statements about a release.
select * from attestations where release_digest = :release_digest order by kind, key_id;

-- name: unsigned
-- Releases that nobody has vouched for.
select digest from releases r
where not exists (
  select 1 from attestations a where a.release_digest = r.digest and a.kind = 'provenance'
)
order by created_us limit :limit;

-- name: add_key
-- Know a public key.
insert into signing_keys (id, name, public_pem, state, created_us, changed_us)
values (:id, :name, :public_pem, :state, now_us(), now_us())
on conflict (id) do nothing;

-- name: keys
-- Every public key that is known.
select * from signing_keys order by created_us, id;

-- name: set_key_state
-- Change what a key is good for.
update signing_keys set state = :state, changed_us = now_us() where id = :id;
