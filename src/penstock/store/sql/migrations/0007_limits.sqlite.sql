-- What a task has used of its limit of tokens, and how much memory its next attempt gets.
alter table tasks add column tokens bigint not null default 0;
alter table tasks add column resource_class text not null default 'standard';  -- standard | large
update tasks set tokens = coalesce((
  select sum(e.input_tokens + e.output_tokens) from exchanges e
  where e.task_id = tasks.id and e.replayed_from is null), 0);
