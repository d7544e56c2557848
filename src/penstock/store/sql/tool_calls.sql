-- name: put
-- Keep a call as it stands now, if the attempt still owns its task.
insert into tool_calls (
  task_id, place, request, number, tool, effect, retry, arguments, epoch, state, encoding, result,
  error, begun_us, ended_us
)
select :task_id, :place, :request, :number, :tool, :effect, :retry, :arguments, :epoch, :state,
       :encoding, :result, :error, now_us(), case when :ended = 1 then now_us() end
from tasks
where id = :task_id and epoch = :epoch and state = 'running'
on conflict (task_id, place, request, number) do update
set epoch = excluded.epoch, state = excluded.state, encoding = excluded.encoding,
    result = excluded.result, error = excluded.error, ended_us = excluded.ended_us,
    begun_us = case when excluded.ended_us is null then excluded.begun_us
                    else tool_calls.begun_us end
returning number;

-- name: get
-- One call.
select * from tool_calls
where task_id = :task_id and place = :place and request = :request and number = :number;

-- name: of_task
-- Every call of a task, in the order in which they were begun.
select * from tool_calls where task_id = :task_id order by begun_us, place, request, number;
