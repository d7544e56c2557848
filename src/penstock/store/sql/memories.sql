-- name: put
-- Remember something, or something else under the same key.
insert into memories (
  agent, environment, namespace, key, value, words, user_id, ttl_us, expires_us, created_us,
  updated_us
) values (
  :agent, :environment, :namespace, :key, :value, :words, :user_id, :ttl_us,
  now_us() + :ttl_us, now_us(), now_us()
)
on conflict (agent, environment, namespace, key) do update set
  value = excluded.value, words = excluded.words, user_id = excluded.user_id,
  ttl_us = excluded.ttl_us, expires_us = excluded.expires_us, updated_us = excluded.updated_us;

-- name: remove
-- Forget one key.
delete from memories
where agent = :agent and environment = :environment and namespace = :namespace and key = :key;

-- name: remove_vectors
-- Forget what an embedding made of one key.
delete from memory_vectors
where agent = :agent and environment = :environment and namespace = :namespace and key = :key;

-- name: add_vector
-- Keep what an embedding made of a key.
insert into memory_vectors (agent, environment, namespace, key, number, vector)
values (:agent, :environment, :namespace, :key, :number, :vector);

-- name: get
-- One memory that has not expired.
select *, 0 as hits from memories
where agent = :agent and environment = :environment and namespace = :namespace and key = :key
  and (expires_us is null or expires_us > now_us());

-- name: page
-- Memories below a namespace, those that were written last first. Of the users' only one user's are
-- seen, when there is one.
select *, 0 as hits from memories m
where agent = :agent and environment = :environment
  and namespace >= :first and namespace < :beyond
  and (expires_us is null or expires_us > now_us())
  and (:own = '' or namespace < :users_first or namespace >= :users_beyond
       or substr(namespace, 1, length(:own)) = :own)
  and (:scoreless = 0 or not exists (
    select 1 from memory_vectors v
    where v.agent = m.agent and v.environment = m.environment and v.namespace = m.namespace
      and v.key = m.key))
order by updated_us desc, namespace, key
limit :limit offset :offset;

-- name: search
-- Memories with some of the words, those with most of them first.
select * from (
  select m.*, (
    select count(*) from json_each(:words) w where instr(m.words, ' ' || w.value || ' ') > 0
  ) as hits
  from memories m
  where agent = :agent and environment = :environment
    and namespace >= :first and namespace < :beyond
    and (expires_us is null or expires_us > now_us())
    and (:own = '' or namespace < :users_first or namespace >= :users_beyond
         or substr(namespace, 1, length(:own)) = :own)
) as found
where hits > 0
order by hits desc, updated_us desc, namespace, key
limit :limit offset :offset;

-- name: vectors
-- What an embedding made of the memories below a namespace, those that were written last first.
select v.namespace, v.key, v.vector
from memory_vectors v
join memories m on m.agent = v.agent and m.environment = v.environment
  and m.namespace = v.namespace and m.key = v.key
where m.agent = :agent and m.environment = :environment
  and m.namespace >= :first and m.namespace < :beyond
  and (m.expires_us is null or m.expires_us > now_us())
  and (:own = '' or m.namespace < :users_first or m.namespace >= :users_beyond
       or substr(m.namespace, 1, length(:own)) = :own)
order by m.updated_us desc, v.namespace, v.key, v.number
limit :limit;

-- name: nearest
-- Memories below a namespace by the cosine of the best of their vectors, where the database compares
-- vectors. One with a vector of another dimension comes first.
select namespace, key, max(coalesce(1 - distance, 0)) as score, max(other_bytes) as other_bytes
from (
  select v.namespace, v.key, m.updated_us,
    case when length(v.vector) = length(:vector)
      then vec_distance_cosine(v.vector, :vector) end as distance,
    case when length(v.vector) = length(:vector) then 0 else length(v.vector) end as other_bytes
  from memories m
  join memory_vectors v on v.agent = m.agent and v.environment = m.environment
    and v.namespace = m.namespace and v.key = m.key
  where m.agent = :agent and m.environment = :environment
    and m.namespace >= :first and m.namespace < :beyond
    and (m.expires_us is null or m.expires_us > now_us())
    and (:own = '' or m.namespace < :users_first or m.namespace >= :users_beyond
         or substr(m.namespace, 1, length(:own)) = :own)
) as compared
group by namespace, key
order by other_bytes desc, score desc, max(updated_us) desc, namespace, key
limit :limit offset :offset;

-- name: namespaces
-- Every namespace in which something is remembered.
select distinct namespace from memories
where agent = :agent and environment = :environment
  and (expires_us is null or expires_us > now_us())
  and (:own = '' or namespace < :users_first or namespace >= :users_beyond
       or substr(namespace, 1, length(:own)) = :own)
order by namespace;

-- name: touch
-- Begin the time of a memory that was read anew.
update memories set expires_us = now_us() + ttl_us
where agent = :agent and environment = :environment and namespace = :namespace and key = :key
  and ttl_us is not null and expires_us > now_us();

-- name: forget
-- Forget a user's memories, those below a namespace, or one key; all of them that fit.
delete from memories
where agent = :agent
  and (cast(:environment as text) is null or environment = :environment)
  and namespace >= :first and namespace < :beyond
  and (cast(:key as text) is null or key = :key)
  and (cast(:user_id as text) is null or user_id = :user_id
       or substr(namespace, 1, length(:own)) = :own);

-- name: forget_vectors
-- Forget what embeddings made of memories that are no more.
delete from memory_vectors
where agent = :agent and not exists (
  select 1 from memories m
  where m.agent = memory_vectors.agent and m.environment = memory_vectors.environment
    and m.namespace = memory_vectors.namespace and m.key = memory_vectors.key);

-- name: expired
-- Memories whose time is over.
select agent, environment, namespace, key from memories
where expires_us <= (select now_us())
order by expires_us
limit :limit;

-- name: remove_expired
-- Forget one memory, if its time is still over.
delete from memories
where agent = :agent and environment = :environment and namespace = :namespace and key = :key
  and expires_us <= now_us();
