-- What a task was asked to stream, as JSON; null = the usual.
alter table tasks add column stream text;
