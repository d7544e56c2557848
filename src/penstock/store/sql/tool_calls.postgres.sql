-- name: put
-- As in the general file. The lock keeps a takeover from slipping in between fence and write; calls
-- of one attempt share it, and so do not wait for each other.
with fence as (
  select id from tasks
  where id = :task_id and epoch = :epoch and state = 'running'
  for share
)
insert into tool_calls (
  task_id, place, request, number, tool, effect, retry, arguments, epoch, state, encoding, result,
  error, begun_us, ended_us
)
select cast(:task_id as text), cast(:place as text), cast(:request as text),
       cast(:number as bigint), cast(:tool as text), cast(:effect as text), cast(:retry as text),
       cast(:arguments as text), cast(:epoch as bigint), cast(:state as text),
       cast(:encoding as text), cast(:result as bytea), cast(:error as text), now_us(),
       case when cast(:ended as bigint) = 1 then now_us() end
from fence
on conflict (task_id, place, request, number) do update
set epoch = excluded.epoch, state = excluded.state, encoding = excluded.encoding,
    result = excluded.result, error = excluded.error, ended_us = excluded.ended_us,
    begun_us = case when excluded.ended_us is null then excluded.begun_us
                    else tool_calls.begun_us end
returning number;
