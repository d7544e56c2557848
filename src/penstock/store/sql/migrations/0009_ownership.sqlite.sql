-- What names a worker's process on its machine, so that a neighbour sees at once when it has died.
alter table workers add column process text not null default '';
