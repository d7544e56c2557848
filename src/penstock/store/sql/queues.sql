-- name: know
-- Make the rows of a queue.
insert into arrivals (agent, environment, number) values (:agent, :environment, 0)
on conflict (agent, environment) do nothing;

-- name: know_departures
-- Make the rows of a queue.
insert into departures
  (agent, environment, number, since_us, since_number, before_us, before_number)
values (:agent, :environment, 0, now_us(), 0, now_us(), 0)
on conflict (agent, environment) do nothing;

-- name: arrive
-- Count one more, and hold the count until the commit. What has left meanwhile is seen late at worst,
-- so a queue is never believed emptier than it is.
update arrivals set number = number + 1
where agent = :agent and environment = :environment
returning
  number - coalesce((
    select d.number from departures d
    where d.agent = arrivals.agent and d.environment = arrivals.environment), 0) as waiting,
  coalesce((
    select d.number - d.before_number from departures d
    where d.agent = arrivals.agent and d.environment = arrivals.environment), 0) as departed,
  coalesce((
    select now_us() - d.before_us from departures d
    where d.agent = arrivals.agent and d.environment = arrivals.environment), 0) as period_us;

-- name: depart
-- Count what has left, and begin a new window of the drain rate when the present one is old.
update departures
set number = number + :number,
    before_us = case when since_us < now_us() - :window_us then since_us else before_us end,
    before_number = case
      when since_us < now_us() - :window_us then since_number else before_number end,
    since_number = case when since_us < now_us() - :window_us then number else since_number end,
    since_us = case when since_us < now_us() - :window_us then now_us() else since_us end
where agent = :agent and environment = :environment;

-- name: get
-- How full a queue is, and how fast it drains.
select a.number - d.number as waiting, d.number - d.before_number as departed,
  now_us() - d.before_us as period_us
from arrivals a
join departures d on d.agent = a.agent and d.environment = a.environment
where a.agent = :agent and a.environment = :environment;

-- name: hold_arrivals
-- Let nobody into a queue until the commit.
update arrivals set number = number where agent = :agent and environment = :environment;

-- name: hold_departures
-- Let nobody out of a queue until the commit.
update departures set number = number where agent = :agent and environment = :environment;

-- name: count
-- How many tasks of a queue really have not begun.
select count(*) as waiting from tasks
where state in ('queued', 'running', 'waiting') and state = 'queued' and epoch = 0
  and (:agent = '' or (agent = :agent and environment = :environment));

-- name: correct
-- Let what has left be what has come and does not wait.
update departures
set number = (
    select a.number from arrivals a
    where a.agent = departures.agent and a.environment = departures.environment) - :waiting
where agent = :agent and environment = :environment;
