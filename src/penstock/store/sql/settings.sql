-- name: put_if_absent
-- Keep a value, unless there is one.
insert into settings (name, value) values (:name, :value) on conflict (name) do nothing;

-- name: get
-- One value.
select value from settings where name = :name;
