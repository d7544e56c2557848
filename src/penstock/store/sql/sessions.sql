-- name: add
-- Begin a session.
insert into sessions (
  id, agent, environment, release, user_id, metadata, state, rollout_id, arm, tasks, failures,
  cost_nanos, busy_us, thumb, judge, score, judged_us, judge_error, created_us, closed_us, ttl_us,
  expires_us
) values (
  :id, :agent, :environment, :release, :user_id, :metadata, 'open', :rollout_id, :arm, 0, 0,
  0, 0, 0, :judge, null, null, null, now_us(), null, cast(:ttl_us as bigint),
  now_us() + cast(:ttl_us as bigint)
)
returning *;

-- name: get
-- One session.
select * from sessions where id = :id and deleted_us is null;

-- name: lock
-- One session, held until the commit, so that nobody closes it meanwhile.
update sessions set state = state where id = :id and deleted_us is null returning *;

-- name: last_like
-- Let a session live for as long after its last use as another one.
update sessions
set ttl_us = (select o.ttl_us from sessions o where o.id = :other),
    expires_us = now_us() + (select o.ttl_us from sessions o where o.id = :other)
where id = :id
returning *;

-- name: listing
-- Sessions from the newest to the oldest.
select * from sessions
where deleted_us is null
  and (cast(:agent as text) is null or agent = :agent)
  and (cast(:state as text) is null or state = :state)
  and (cast(:before as text) is null or id < :before)
order by id desc
limit :limit;

-- name: account
-- Add an ended task to its session.
update sessions
set tasks = tasks + 1, failures = failures + :failures, cost_nanos = cost_nanos + :cost_nanos,
    busy_us = busy_us + :busy_us, expires_us = now_us() + ttl_us
where id = :id;

-- name: close
-- End a session; nothing more happens in it.
update sessions set state = 'closed', closed_us = now_us() where id = :id and state = 'open';

-- name: feedback
-- What a person thought of a session; the last word counts.
update sessions set thumb = :thumb where id = :id and deleted_us is null returning *;

-- name: to_judge
-- Closed sessions that wait for their evaluator.
select * from sessions
where judge is not null and judged_us is null and state = 'closed'
order by closed_us
limit :limit;

-- name: judged
-- The evaluator's answer; the first one counts.
update sessions set score = :score, judge_error = :judge_error, judged_us = now_us()
where id = :id and judged_us is null;
