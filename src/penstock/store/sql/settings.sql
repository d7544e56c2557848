-- name: put_if_absent
-- Keep a value, unless there is one.
insert into settings (name, value) values (:name, :value) on conflict (name) do nothing;

-- name: get
-- One value.
select value from settings where name = :name;

-- name: change
-- Replace a value that is still the one that was seen.
update settings set value = :value where name = :name and value = :seen;
