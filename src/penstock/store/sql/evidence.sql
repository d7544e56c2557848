-- name: of_rollout
-- The running tests of a rollout.
select metric, question, state from evidence where rollout_id = :rollout_id order by metric, question;

-- name: put
-- Keep the state of a running test.
insert into evidence (rollout_id, metric, question, state)
values (:rollout_id, :metric, :question, :state)
on conflict (rollout_id, metric, question) do update set state = excluded.state;
