-- The journal of tool calls: what was begun, and what came of it. And, with every model call, the
-- part of the agent's work it was made in, so that a repeated one is found whatever runs beside it.

create table tool_calls (
  task_id     text not null,
  place       text not null,                -- the part of the agent's work the call belongs to
  request     text not null,                -- sha256 of tool and arguments
  number      bigint not null,              -- 1, 2, 3 … among equal requests of a place
  tool        text not null,
  effect      text not null,                -- read | write
  retry       text not null,                -- safe | keyed | never
  arguments   text not null,                -- JSON
  epoch       bigint not null,              -- the attempt that made it last
  state       text not null,                -- begun | done | raised | suspended | given_up
  encoding    text,                         -- of the result; null: there is none, or it has no form
  result      blob,
  error       text,                         -- JSON: type, message
  begun_us    bigint not null,
  ended_us    bigint,
  primary key (task_id, place, request, number)
);

alter table exchanges add column scope text not null default '';
