-- name: acquire
-- Take a lease that is free or over, or renew one's own; a new holder raises the epoch.
insert into leases (name, holder, epoch, until_us)
values (:name, :holder, 1, now_us() + :lease_us)
on conflict (name) do update
set epoch = case when leases.holder = excluded.holder then leases.epoch else leases.epoch + 1 end,
    holder = excluded.holder, until_us = excluded.until_us
where leases.holder = excluded.holder or leases.until_us < now_us()
returning epoch;

-- name: release
-- Give a lease back; its epoch is kept, so that it never falls.
update leases set until_us = 0 where name = :name and holder = :holder;
