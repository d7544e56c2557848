-- name: expired
-- Sessions whose time is over, or that wait to be deleted, and in which nothing runs any more.
select id from sessions s
where id in (
    select id from sessions
    where deleted_us is null and expires_us is not null and expires_us <= (select now_us())
    union
    select id from sessions where deleted_us is null and delete_requested = 1)
  and not exists (
    select 1 from tasks t
    where t.session_id = s.id and (t.state = 'running' or (t.state in ('queued', 'waiting')
      and s.delete_requested = 0)))
order by coalesce(expires_us, 0), id
limit :limit;

-- name: due
-- Whether a session is still to be deleted now.
select 1 as due from sessions s
where id = :id and deleted_us is null and (expires_us <= now_us() or delete_requested = 1)
  and not exists (
    select 1 from tasks t
    where t.session_id = s.id and (t.state = 'running' or (t.state in ('queued', 'waiting')
      and s.delete_requested = 0)));

-- name: expired_tasks
-- Tasks that wait to be deleted and have ended.
select id from tasks
where delete_requested = 1 and state not in ('queued', 'running', 'waiting')
order by id limit :limit;

-- name: request_session
-- Let a session be deleted once nothing runs in it; nothing more begins, and nobody judges it.
update sessions
set delete_requested = 1, state = 'closed', closed_us = coalesce(closed_us, now_us()), judge = null
where id = :id;

-- name: request_task
-- Let a task be deleted once it has ended.
update tasks set delete_requested = 1 where id = :id;

-- name: live
-- The tasks of a session that have not ended.
select id, state from tasks
where session_id = :session_id and (cast(:task_id as text) is null or id = :task_id)
  and state in ('queued', 'running', 'waiting')
order by id;

-- name: exchanges
-- What the recorded calls of a session, or of one task, refer to.
select request, response from exchanges
where session_id = :session_id and (cast(:task_id as text) is null or task_id = :task_id);

-- name: doom
-- Note a content that may be needed by nobody now.
insert into doomed_blobs (digest) values (:digest) on conflict (digest) do nothing;

-- name: retire_exchanges
-- What the calls cost stays in the sums.
insert into retired_exchanges (
  agent, provider, model, outcome, count, input_tokens, output_tokens, cost_nanos
)
select coalesce(agent, ''), coalesce(provider, ''), coalesce(model, ''), outcome, count(*),
       sum(input_tokens), sum(output_tokens), sum(cost_nanos)
from exchanges
where session_id = :session_id and (cast(:task_id as text) is null or task_id = :task_id)
group by coalesce(agent, ''), coalesce(provider, ''), coalesce(model, ''), outcome
on conflict (agent, provider, model, outcome) do update
set count = retired_exchanges.count + excluded.count,
    input_tokens = retired_exchanges.input_tokens + excluded.input_tokens,
    output_tokens = retired_exchanges.output_tokens + excluded.output_tokens,
    cost_nanos = retired_exchanges.cost_nanos + excluded.cost_nanos;

-- name: retire_tasks
-- How tasks ended stays, while a rollout looks at it.
insert into retired_tasks (id, session_id, state, outcome, finished_us)
select t.id, t.session_id, t.state, t.outcome, t.finished_us
from tasks t
join sessions s on s.id = t.session_id
join rollouts r on r.id = s.rollout_id and r.active = 1
where t.session_id = :session_id and (cast(:task_id as text) is null or t.id = :task_id)
  and t.finished_us is not null;

-- name: delete_exchanges
-- The calls themselves.
delete from exchanges
where session_id = :session_id and (cast(:task_id as text) is null or task_id = :task_id);

-- name: delete_events
-- What happened, with all that was said.
delete from events where task_id in (
  select id from tasks
  where session_id = :session_id and (cast(:task_id as text) is null or id = :task_id));

-- name: delete_logs
-- What was printed.
delete from logs where task_id in (
  select id from tasks
  where session_id = :session_id and (cast(:task_id as text) is null or id = :task_id));

-- name: delete_steps
-- The journals.
delete from steps where task_id in (
  select id from tasks
  where session_id = :session_id and (cast(:task_id as text) is null or id = :task_id));

-- name: delete_tool_calls
-- What was asked of tools, and what they returned.
delete from tool_calls where task_id in (
  select id from tasks
  where session_id = :session_id and (cast(:task_id as text) is null or id = :task_id));

-- name: delete_tasks
-- Inputs, outputs and errors.
delete from tasks
where session_id = :session_id and (cast(:task_id as text) is null or id = :task_id);

-- name: doom_attachments
-- The files of a session may be needed by nobody now.
insert into doomed_blobs (digest)
select distinct digest from attachments where session_id = :session_id
on conflict (digest) do nothing;

-- name: delete_attachments
-- The files of a session.
delete from attachments where session_id = :session_id;

-- name: empty_session
-- What a rollout counts stays; whose session it was and what was noted about it does not.
update sessions
set deleted_us = now_us(), user_id = null, metadata = '{}', state = 'closed',
    closed_us = coalesce(closed_us, now_us()), judge = null, judge_error = null
where id = :session_id;

-- name: was_deleted
-- Whether a session, or one task of it, is gone.
select 1 as gone where not exists (select 1 from tasks where id = :task_id)
  and exists (select 1 from sessions where id = :session_id);

-- name: doomed
-- Contents that may be needed by nobody, and that nobody has sent lately.
select d.digest from doomed_blobs d
left join blobs b on b.digest = d.digest
where (b.digest is null or b.created_us < now_us() - :quiet_us) and d.digest > :after
order by d.digest limit :limit;

-- name: delete_blob
-- Delete a content that no record refers to, unless somebody has sent it meanwhile.
delete from blobs
where digest = :digest and created_us < now_us() - :quiet_us
  and not exists (select 1 from release_blobs r where r.blob_digest = :digest)
  and not exists (select 1 from components c where c.digest = :digest and c.kind = 'prompt')
  and not exists (select 1 from attachments a where a.digest = :digest);

-- name: spare
-- A content that has been looked at.
delete from doomed_blobs where digest = :digest;
