-- name: search
-- As in the general file, over an index of words.
select * from (
  select m.*, (
    select count(*) from json_array_elements_text(cast(:words as json)) w
    where strpos(m.words, ' ' || w || ' ') > 0
  ) as hits
  from memories m
  where agent = :agent and environment = :environment
    and to_tsvector('simple', words) @@ to_tsquery('simple', :any_word)
    and namespace >= :first and namespace < :beyond
    and (expires_us is null or expires_us > now_us())
    and (:own = '' or namespace < :users_first or namespace >= :users_beyond
         or substr(namespace, 1, length(:own)) = :own)
) as found
where hits > 0
order by hits desc, updated_us desc, namespace, key
limit :limit offset :offset;
