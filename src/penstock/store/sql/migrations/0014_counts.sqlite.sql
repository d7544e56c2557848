-- Ended tasks are counted from an index: their rows are wide, and there are more of them every day.
create index tasks_ended on tasks (agent, environment, state)
  where state not in ('queued', 'running', 'waiting');
