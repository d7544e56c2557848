-- name: count
-- How many principals there are.
select count(*) as count from principals;

-- name: add
-- Make a principal known.
insert into principals (id, name, role, created_us) values (:id, :name, :role, now_us());

-- name: add_key
-- Keep a key's hash.
insert into keys (id, principal_id, hash, hint, created_us, revoked_us)
values (:id, :principal_id, :hash, :hint, now_us(), null);

-- name: by_key
-- Whose key this is, while it is valid.
select p.id, p.name, p.role from keys k join principals p on p.id = k.principal_id
where k.hash = :hash and k.revoked_us is null;

-- name: keys
-- Every key, without its secret.
select k.id, p.name, p.role, k.hint, k.created_us, k.revoked_us
from keys k join principals p on p.id = k.principal_id
order by k.created_us, k.id;

-- name: revoke
-- End a key.
update keys set revoked_us = now_us() where id = :id and revoked_us is null;

-- name: valid_admin_keys
-- How many valid keys of administrators there are beside one.
select count(*) as count from keys k join principals p on p.id = k.principal_id
where p.role = 'admin' and k.revoked_us is null and k.id <> :id;
