-- The core tables. Times are microseconds since 1970 (…_us), money is nano-dollars (…_nanos),
-- JSON is canonical text, content is addressed by sha256 in lower-case hex.

create table blobs (
  digest      text primary key,
  size        bigint not null,
  content     blob not null,
  created_us  bigint not null
);

create table agents (
  name        text primary key,
  created_us  bigint not null
);

create table components (
  agent       text not null references agents (name),
  kind        text not null,                -- prompt | tools | model | code | policy
  digest      text not null,
  number      bigint not null,              -- 1, 2, 3 … in order of first publication
  label       text not null,                -- what people read: v1.2, a dated model id, a code hash
  content     text not null,                -- canonical JSON of the component
  created_us  bigint not null,
  primary key (agent, kind, digest),
  unique (agent, kind, number)
);

create table releases (
  digest      text primary key,             -- sha256 of the canonical manifest
  agent       text not null references agents (name),
  number      bigint not null,              -- 1, 2, 3 … within the agent
  composite   text not null,                -- prompt-v1.2+tools-v1.0+model-…+code-…
  manifest    text not null,
  message     text not null,
  created_by  text not null,
  created_us  bigint not null,
  unique (agent, number)
);

create table release_blobs (
  release_digest text not null references releases (digest),
  blob_digest    text not null references blobs (digest),
  primary key (release_digest, blob_digest)
);

create table deployments (
  agent       text not null references agents (name),
  environment text not null,
  stable      text not null references releases (digest),
  rollout_id  text,                         -- the rollout that is splitting traffic now
  revision    bigint not null,
  updated_us  bigint not null,
  primary key (agent, environment)
);

create table rollouts (
  id               text primary key,
  agent            text not null,
  environment      text not null,
  stable           text not null references releases (digest),
  candidate        text not null references releases (digest),
  plan             text not null,
  salt             text not null,
  phase            text not null,
  step             bigint not null,
  weight           double precision not null,
  step_since       bigint not null,          -- position at which the present step began
  revision         bigint not null,
  assigned         bigint not null,          -- units assigned so far; the last position given out
  folded           bigint not null,          -- positions the evidence has seen
  baseline         text not null,            -- frozen quantiles and means of the stable release
  reason           text not null,
  hold             text,                    -- why it waits: approval, paused …; null while it moves
  active           bigint not null,          -- 1 until a terminal phase
  started_us       bigint not null,
  phase_since_us   bigint not null,
  ended_us         bigint
);
create unique index rollouts_one_active on rollouts (agent, environment) where active = 1;

create table evidence (
  rollout_id  text not null references rollouts (id),
  metric      text not null,
  question    text not null,                -- worse | not_worse | split
  state       text not null,                -- the fold's state, as JSON
  primary key (rollout_id, metric, question)
);

create table sessions (
  id            text primary key,
  agent         text not null,
  environment   text not null,
  release       text not null references releases (digest),
  user_id       text,
  metadata      text not null,
  state         text not null,              -- open | closed
  rollout_id    text,
  arm           text,                       -- stable | candidate, when a rollout assigned it
  tasks         bigint not null,            -- tasks that reached a terminal state
  failures      bigint not null,            -- … of which did not complete
  cost_nanos    bigint not null,
  busy_us       bigint not null,            -- sum of task durations
  thumb         bigint not null,            -- -1 | 0 | 1
  judge         text,                       -- release whose evaluator judges it; null = none
  score         double precision,           -- the evaluator's answer in [0, 1]
  judged_us     bigint,
  judge_error   text,
  created_us    bigint not null,
  closed_us     bigint
);
create index sessions_by_agent on sessions (agent, created_us);
create index sessions_to_judge on sessions (closed_us) where judge is not null and judged_us is null and state = 'closed';

create table assignments (
  rollout_id  text not null references rollouts (id),
  unit        text not null,
  position    bigint not null,              -- order of assignment, without gaps
  arm         text not null,
  weight      double precision not null,    -- the weight in force when it was drawn
  draw        double precision not null,
  assigned_us bigint not null,
  primary key (rollout_id, unit),
  unique (rollout_id, position)
);

create table exposures (
  rollout_id  text not null,
  unit        text not null,
  task_id     text not null,
  exposed_us  bigint not null,
  primary key (rollout_id, unit)
);

create table tasks (
  id              text primary key,
  session_id      text not null references sessions (id),
  agent           text not null,
  environment     text not null,
  release         text not null,
  state           text not null,            -- queued | running | completed | failed | cancelled | dead_lettered
  outcome         text,                     -- why it ended: ok, error, timeout, memory, budget, crash, cancelled …
  input           text not null,
  output          text,
  error           text,
  epoch           bigint not null,          -- raised by every claim; the fence
  crashes         bigint not null,          -- attempts that died by themselves
  losses          bigint not null,          -- attempts lost with their worker
  worker_id       text,
  run_after_us    bigint not null,
  close_session   bigint not null,
  cancel_requested bigint not null,
  limit_hit       text,                     -- cost, when the gateway refused a call for it
  idempotency_key text,
  events          bigint not null,          -- the last event's sequence number
  steps           bigint not null,          -- committed steps
  cost_nanos      bigint not null,
  created_us      bigint not null,
  started_us      bigint,                   -- first claim
  finished_us     bigint
);
create index tasks_queue on tasks (run_after_us, id) where state = 'queued';
create index tasks_by_session on tasks (session_id, id);
create index tasks_by_agent on tasks (agent, created_us);
create unique index tasks_one_running on tasks (session_id) where state = 'running';
create unique index tasks_idempotent on tasks (agent, idempotency_key) where idempotency_key is not null;
create index tasks_running on tasks (worker_id) where state = 'running';

create table steps (
  task_id     text not null,
  key         text not null,                -- name#occurrence within the task
  number      bigint not null,
  epoch       bigint not null,
  kind        text not null,                -- step | checkpoint
  output      text not null,
  created_us  bigint not null,
  primary key (task_id, key)
);

create table checkpoints (
  session_id    text not null,
  namespace     text not null,
  checkpoint_id text not null,
  parent_id     text,
  task_id       text not null,
  epoch         bigint not null,
  encoding      text not null,
  data          blob not null,
  metadata      blob not null,
  created_us    bigint not null,
  primary key (session_id, namespace, checkpoint_id)
);

create table checkpoint_writes (
  session_id    text not null,
  namespace     text not null,
  checkpoint_id text not null,
  node_task     text not null,
  number        bigint not null,
  channel       text not null,
  path          text not null,
  encoding      text not null,
  data          blob not null,
  task_id       text not null,
  epoch         bigint not null,
  primary key (session_id, namespace, checkpoint_id, node_task, number)
);

create table events (
  task_id     text not null,
  seq         bigint not null,              -- 1, 2, 3 … without gaps
  epoch       bigint not null,
  kind        text not null,
  data        text not null,
  created_us  bigint not null,
  primary key (task_id, seq)
);

create table logs (
  task_id     text not null,
  epoch       bigint not null,
  number      bigint not null,
  stream      text not null,                -- stdout | stderr
  text        text not null,
  created_us  bigint not null,
  primary key (task_id, epoch, number)
);

create table exchanges (
  id              text primary key,
  task_id         text,
  session_id      text,
  agent           text,
  release         text,
  epoch           bigint not null,
  step            bigint not null,          -- committed steps of the task when the call was made
  alias           text not null,
  request_digest  text not null,            -- sha256 of the canonical request
  request         text not null,            -- JSON: the request with messages as blob digests
  response        text,                     -- JSON: the response with its bodies as blob digests
  status          bigint not null,          -- HTTP status the agent saw
  outcome         text not null,            -- ok | error | refused | cut
  streamed        bigint not null,
  provider        text,
  model           text,                     -- the pinned id that was asked
  model_returned  text,
  fingerprint     text,
  attempts        text not null,            -- JSON: every link that was tried
  replayed_from   text,                     -- the exchange whose record answered
  input_tokens    bigint not null,
  output_tokens   bigint not null,
  cached_tokens   bigint not null,
  reasoning_tokens bigint not null,
  cost_nanos      bigint not null,
  started_us      bigint not null,
  first_token_us  bigint,                   -- microseconds after started_us
  duration_us     bigint not null
);
create index exchanges_by_task on exchanges (task_id, started_us);

create table workers (
  id            text primary key,
  host          text not null,
  pid           bigint not null,
  started_us    bigint not null,
  heartbeat_us  bigint not null,
  lease_until_us bigint not null,
  draining      bigint not null,
  capacity      bigint not null
);

create table leases (
  name          text primary key,           -- leader of the control loops, and the like
  holder        text not null,
  epoch         bigint not null,
  until_us      bigint not null
);

create table principals (
  id          text primary key,
  name        text not null unique,
  role        text not null,                -- admin | operator | viewer
  created_us  bigint not null
);

create table keys (
  id           text primary key,
  principal_id text not null references principals (id),
  hash         text not null unique,        -- HMAC-SHA256 of the key
  hint         text not null,               -- its first characters, for a list
  created_us   bigint not null,
  revoked_us   bigint
);

create table audit (
  seq         integer primary key autoincrement,
  at_us       bigint not null,
  actor       text not null,
  action      text not null,
  object_kind text not null,
  object_id   text not null,
  detail      text not null
);
create index audit_by_object on audit (object_kind, object_id, seq);

-- What every server of one database must agree on: the pepper of its keys, and the like.
create table settings (
  name        text primary key,
  value       text not null
);
