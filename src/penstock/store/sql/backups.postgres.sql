-- name: columns
-- Every column of every table of ours, in the order in which it was declared.
select c.relname as "table", a.attname as "column", format_type(a.atttypid, a.atttypmod) as type
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
join pg_attribute a on a.attrelid = c.oid
where n.nspname = current_schema() and c.relkind in ('r', 'p') and not c.relispartition
and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
order by c.relname, a.attnum;

-- name: foreign_keys
-- How every foreign key is taken away, and how it is made again.
select format('alter table %s drop constraint %I', cast(k.conrelid as regclass), k.conname) as drop,
  format('alter table %s add constraint %I %s', cast(k.conrelid as regclass), k.conname,
    pg_get_constraintdef(k.oid)) as add
from pg_constraint k
join pg_namespace n on n.oid = k.connamespace
where n.nspname = current_schema() and k.contype = 'f'
order by k.conname;

-- name: counters
-- Columns that a sequence fills, with their sequence.
select c."table", c."column", c.sequence from (
  select r.relname as "table", a.attname as "column",
    pg_get_serial_sequence(format('%I.%I', n.nspname, r.relname), a.attname) as sequence
  from pg_class r
  join pg_namespace n on n.oid = r.relnamespace
  join pg_attribute a on a.attrelid = r.oid
  where n.nspname = current_schema() and r.relkind in ('r', 'p')
  and a.attnum > 0 and not a.attisdropped
) c
where c.sequence is not null;

-- name: servers
-- Who works on this database now.
select id, host, pid from workers where lease_until_us > now_us() order by id;

-- name: size
-- What the database takes on its server's disk.
select pg_database_size(current_database()) as bytes;
