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

-- name: active
-- The rollouts that have not ended.
select *, now_us() as now_us from rollouts where active = 1 order by started_us, id;

-- name: listing
-- Rollouts from the newest to the oldest.
select * from rollouts
where (cast(:agent as text) is null or agent = :agent)
order by started_us desc, id desc
limit :limit;

-- name: last_live
-- The last rollout that made a candidate stable here.
select * from rollouts
where agent = :agent and environment = :environment and phase in ('live', 'draining', 'retired')
order by ended_us desc, id desc
limit 1;

-- name: transition
-- Move a rollout on, if it is still at the revision that was decided about. A new step begins
-- behind the last position that was given out, which only this statement knows.
update rollouts
set phase = :phase, hold = :hold, step = :step,
    step_since = case when step <> :step or weight <> :weight then assigned else step_since end,
    weight = :weight, reason = :reason, revision = revision + 1, active = :active,
    phase_since_us = now_us(),
    ended_us = case when :active = 0 then now_us() else ended_us end
where id = :id and revision = :revision
returning *, now_us() as now_us;

-- name: fold
-- Move the evidence's cursor, if nobody else has.
update rollouts set folded = :folded where id = :id and folded = :before and revision = :revision;

-- name: position
-- The next position of a rollout, with the weight in force at it.
update rollouts set assigned = assigned + 1 where id = :id and active = 1
returning assigned, weight, salt, stable, candidate;

-- name: assign
-- Keep what a unit was given.
insert into assignments (rollout_id, unit, position, arm, weight, draw, assigned_us)
values (:rollout_id, :unit, :position, :arm, :weight, :draw, now_us());

-- name: assignment
-- What a unit was given.
select arm from assignments where rollout_id = :rollout_id and unit = :unit;

-- name: outcomes
-- The sessions behind the evidence's cursor, in the order of their assignment.
select a.position, a.arm, a.weight, a.assigned_us, s.state, s.tasks, s.failures, s.cost_nanos,
       s.busy_us, s.thumb, s.judge, s.score, s.judged_us
from assignments a join sessions s on s.id = a.unit
where a.rollout_id = :rollout_id and a.position > :after
order by a.position
limit :limit;

-- name: candidates_between
-- Candidate sessions at positions behind one and up to another.
select count(*) as count from assignments
where rollout_id = :rollout_id and arm = 'candidate' and position > :after and position <= :last;

-- name: arms
-- How many sessions each arm was given.
select arm, count(*) as count from assignments where rollout_id = :rollout_id group by arm;

-- name: exposed
-- How many sessions of a rollout were really served.
select count(*) as count from exposures where rollout_id = :rollout_id;

-- name: finished
-- The tasks of an arm that have ended last, the newest first.
select t.finished_us, t.state, t.outcome
from assignments a join tasks t on t.session_id = a.unit
where a.rollout_id = :rollout_id and a.arm = :arm and a.position > :after
  and t.finished_us is not null
order by t.finished_us desc
limit :limit;

-- name: history
-- The last closed sessions of a release: what its baseline is taken from.
select tasks, failures, cost_nanos, busy_us, judge, score, judged_us from sessions
where agent = :agent and environment = :environment and release = :release and state = 'closed'
order by created_us desc
limit :limit;
