-- The cluster's roles, made once with an administrator's URL; see runner.ensure_roles.
-- No password is written here: the runner sets verifiers, so that no server log ever holds a secret.
-- daybook_owner owns every object and nobody logs in as it; only the migrator may become it.
do $$
declare
  name text;
begin
  if not exists (select from pg_roles where rolname = 'daybook_owner') then
    create role daybook_owner nologin;
  end if;
  foreach name in array array['daybook_migrator', 'daybook_command', 'daybook_query', 'daybook_relay', 'daybook_projector', 'daybook_importer', 'daybook_monitor']
  loop
    if not exists (select from pg_roles where rolname = name) then
      execute format('create role %I login', name);
    end if;
  end loop;
  if not exists (
    select from pg_auth_members m
    join pg_roles r on r.oid = m.roleid
    join pg_roles u on u.oid = m.member
    where r.rolname = 'daybook_owner' and u.rolname = 'daybook_migrator'
  ) then
    grant daybook_owner to daybook_migrator;
  end if;
  -- As whom the SQL of a projection runs: it may make things in the one schema it is given, and has no other right.
  if not exists (select from pg_roles where rolname = 'daybook_builder') then
    create role daybook_builder nologin;
  end if;
  if not exists (
    select from pg_auth_members m
    join pg_roles r on r.oid = m.roleid
    join pg_roles u on u.oid = m.member
    where r.rolname = 'daybook_builder' and u.rolname = 'daybook_projector'
  ) then
    grant daybook_builder to daybook_projector;
  end if;
  -- To see what other sessions do. To end one (DAYBOOK_CANCELLING) it needs pg_signal_backend too, which nobody gets unasked.
  if not pg_has_role('daybook_monitor', 'pg_read_all_stats', 'member') then
    grant pg_read_all_stats to daybook_monitor;
  end if;
  -- The database at hand: nobody but our roles connects; the projector makes a schema per generation.
  execute format('revoke all on database %I from public', current_database());
  execute format(
    'grant connect on database %I to daybook_migrator, daybook_command, daybook_query, daybook_relay, daybook_projector, daybook_importer, daybook_monitor',
    current_database()
  );
  execute format('grant create on database %I to daybook_owner, daybook_projector', current_database());
end
$$;
