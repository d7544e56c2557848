-- name: add
-- Record one exchange.
insert into exchanges (
  id, task_id, session_id, agent, release, epoch, step, scope, alias, request_digest, request, response,
  status, outcome, streamed, provider, model, model_returned, fingerprint, attempts, replayed_from,
  input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost_nanos,
  started_us, first_token_us, duration_us
) values (
  :id, :task_id, :session_id, :agent, :release, :epoch, :step, :scope, :alias, :request_digest, :request,
  :response, :status, :outcome, :streamed, :provider, :model, :model_returned, :fingerprint,
  :attempts, :replayed_from, :input_tokens, :output_tokens, :cached_tokens, :reasoning_tokens,
  :cost_nanos, :started_us, :first_token_us, :duration_us
);

-- name: charge
-- Add what an exchange cost to its task. Its row stays locked until the commit, so the epoch
-- that comes back is the one under which the exchange is recorded.
update tasks
set cost_nanos = cost_nanos + :cost_nanos, tokens = tokens + :tokens,
    limit_hit = coalesce(cast(:limit_hit as text), limit_hit)
where id = :task_id
returning cost_nanos, tokens, epoch;

-- name: has
-- Whether an exchange is on record: its commit may have landed without an answer.
select 1 as yes from exchanges where id = :id;

-- name: standing
-- What a task has cost so far, and whose it is now.
select cost_nanos, tokens, epoch from tasks where id = :task_id;

-- name: repeatable
-- The successful exchanges of earlier epochs that answer this request again, in their order,
-- less those that this epoch has used already.
select e.id, e.response, e.streamed, e.provider, e.model, e.model_returned, e.fingerprint,
       e.input_tokens, e.output_tokens, e.cached_tokens, e.reasoning_tokens
from exchanges e
where e.task_id = :task_id and e.request_digest = :request_digest
  and e.scope = :scope and (:scope <> '' or e.step = :step)
  and e.epoch < :epoch and e.outcome = 'ok' and e.replayed_from is null
  and not exists (
    select 1 from exchanges used
    where used.task_id = :task_id and used.epoch = :epoch and used.outcome = 'ok'
      and used.replayed_from = e.id
  )
order by e.epoch, e.started_us, e.id;

-- name: of_task
-- Every exchange of a task, in the order in which they began.
select e.*, t.environment
from exchanges e left join tasks t on t.id = e.task_id
where e.task_id = :task_id
order by e.started_us, e.id;

-- name: get
-- One exchange.
select e.*, t.environment
from exchanges e left join tasks t on t.id = e.task_id
where e.id = :id;

-- name: totals
-- What all exchanges come to, by agent, provider, model and outcome; also those that are deleted.
select agent, provider, model, outcome, sum(count) as count, sum(input_tokens) as input_tokens,
       sum(output_tokens) as output_tokens, sum(cost_nanos) as cost_nanos
from (
  select coalesce(agent, '') as agent, coalesce(provider, '') as provider,
         coalesce(model, '') as model, outcome, count(*) as count,
         sum(input_tokens) as input_tokens, sum(output_tokens) as output_tokens,
         sum(cost_nanos) as cost_nanos
  from exchanges
  group by coalesce(agent, ''), coalesce(provider, ''), coalesce(model, ''), outcome
  union all
  select agent, provider, model, outcome, count, input_tokens, output_tokens, cost_nanos
  from retired_exchanges
) every
group by agent, provider, model, outcome;
