-- name: undo_checkpoints
-- Remove the states a task came to.
delete from checkpoints where session_id = :session_id and task_id = :task_id;

-- name: undo_steps
-- Remove the journal of a task.
delete from steps where task_id = :task_id;
