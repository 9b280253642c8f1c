-- The clock runs with the rights of a command process: it sends commands. What is due it asks the live generation of `books`,
-- which grants it the one table it needs.

grant usage on schema projections to daybook_command;
grant select on projections.live, projections.generations to daybook_command;
