-- name: add
-- Begin a rollout.
insert into rollouts (
  id, agent, environment, stable, candidate, plan, salt, phase, step, weight, step_since, revision,
  assigned, folded, baseline, reason, hold, active, started_us, phase_since_us, ended_us
) values (
  :id, :agent, :environment, :stable, :candidate, :plan, :salt, :phase, :step, :weight, 0, 1,
  0, 0, :baseline, :reason, :hold, 1, now_us(), now_us(), null
)
returning *;

-- name: get
-- One rollout, and the time.
select *, now_us() as now_us from rollouts where id = :id;

-- name: lock
-- One rollout, held until the commit, so that nobody moves it meanwhile.
update rollouts set revision = revision where id = :id returning *;

-- name: active
-- The rollouts that have not ended.
select * from rollouts where active = 1 order by started_us, id;

-- name: active_ids
-- Which rollouts have not ended.
select id from rollouts where active = 1 order by started_us, id;

-- name: listing
-- Rollouts from the newest to the oldest.
select * from rollouts
where (cast(:agent as text) is null or agent = :agent)
order by started_us desc, id desc
limit :limit;

-- name: moves
-- How the stable release has changed here, the last change first.
select stable, candidate, ended_us from rollouts
where agent = :agent and environment = :environment and phase in ('live', 'draining', 'retired')
order by ended_us desc, id desc
limit :limit;

-- name: transition
-- Move a rollout on, if it is still at the revision that was decided about. A new step begins
-- behind the last position that was given out, which only this statement knows.
update rollouts
set phase = :phase, hold = :hold, step = :step,
    step_since = case when step <> :step or weight <> :weight then assigned else step_since end,
    weight = :weight, reason = :reason, revision = revision + 1, active = :active,
    phase_since_us = now_us(),
    ended_us = case when cast(:active as bigint) = 0 then now_us() else ended_us end
where id = :id and revision = :revision
returning *;

-- name: fold
-- Move the evidence's cursor, if nobody else has.
update rollouts set folded = :folded where id = :id and folded = :before and revision = :revision;

-- name: position
-- The next position of a rollout, with the weight in force at it; none for a unit that has one.
update rollouts set assigned = assigned + 1
where id = :id and active = 1
  and not exists (select 1 from assignments a where a.rollout_id = rollouts.id and a.unit = :unit)
returning assigned, weight, salt, stable, candidate;

-- name: assign
-- Keep what a unit was given.
insert into assignments (rollout_id, unit, position, arm, weight, draw, assigned_us)
values (:rollout_id, :unit, :position, :arm, :weight, :draw, now_us());

-- name: assignment
-- What a unit was given by a rollout that is still on.
select a.arm, r.stable, r.candidate
from assignments a join rollouts r on r.id = a.rollout_id
where a.rollout_id = :rollout_id and a.unit = :unit and r.active = 1;

-- name: results
-- The sessions behind the evidence's cursor, in the order of their assignment. What came after the
-- horizon came too late, however late it is looked at.
select a.position, a.arm, a.weight, a.assigned_us, s.tasks, s.failures, s.cost_nanos, s.busy_us,
       s.thumb,
       case when s.state = 'closed' and s.closed_us <= a.assigned_us + :horizon_us
            then 1 else 0 end as closed,
       case when s.judge is null or s.judged_us <= a.assigned_us + :horizon_us
            then 1 else 0 end as judged,
       s.score
from assignments a join sessions s on s.id = a.unit
where a.rollout_id = :rollout_id and a.position > :after
order by a.position
limit :limit;

-- name: arms
-- How many sessions each arm was given.
select arm, count(*) as count from assignments where rollout_id = :rollout_id group by arm;

-- name: exposed
-- How many sessions of a rollout were really served.
select count(*) as count from exposures where rollout_id = :rollout_id;

-- name: finished
-- The tasks that have ended last in an arm's latest sessions, the newest first; also those that
-- were deleted meanwhile.
select finished_us, state, outcome from (
  select t.id, t.finished_us, t.state, t.outcome
  from (
    select unit from assignments
    where rollout_id = :rollout_id and arm = :arm and position > :after
    order by position desc
    limit :sessions
  ) a join tasks t on t.session_id = a.unit
  where t.finished_us >= :since_us
  union all
  select d.id, d.finished_us, d.state, d.outcome
  from (
    select unit from assignments
    where rollout_id = :rollout_id and arm = :arm and position > :after
    order by position desc
    limit :sessions
  ) a join retired_tasks d on d.session_id = a.unit
  where d.finished_us >= :since_us
) every
order by finished_us desc, id desc
limit :limit;

-- name: history
-- The last closed sessions of a release: what its baseline is taken from.
select tasks, failures, cost_nanos, busy_us, judge, score, judged_us, created_us from sessions
where agent = :agent and environment = :environment and release = :release and state = 'closed'
order by created_us desc
limit :limit;
