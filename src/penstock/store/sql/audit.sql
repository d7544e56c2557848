-- name: add
-- Write down what was done.
insert into audit (at_us, actor, action, object_kind, object_id, detail)
values (now_us(), :actor, :action, :object_kind, :object_id, :detail);

-- name: listing
-- Entries behind a sequence number, in order.
select * from audit
where seq > :after
  and (cast(:object_kind as text) is null or object_kind = :object_kind)
  and (cast(:object_id as text) is null or object_id = :object_id)
order by seq
limit :limit;
