-- A program that runs workflows of its own is registered beside the servers, and is nobody's to end.
alter table workers add column kind text not null default 'server';  -- server | program
