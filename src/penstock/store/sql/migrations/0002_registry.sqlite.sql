-- Every part versioned alone: a registry of component versions with labels that move, what each
-- release is made of, who vouches for it, and what an environment adds to it.

create table component_versions (
  agent       text not null references agents (name),
  kind        text not null,                -- prompt | tools | model | code | policy
  name        text not null,                -- of one prompt or alias; '' for the whole component
  digest      text not null,
  number      bigint not null,              -- 1, 2, 3 … in order of first publication
  label       text not null,                -- what people read: v1.2, a dated model id, a code hash
  content     text not null,                -- canonical JSON of the component
  message     text not null,
  tags        text not null,                -- JSON list of texts
  created_by  text not null,
  created_us  bigint not null,
  primary key (agent, kind, name, digest),
  unique (agent, kind, name, number),
  unique (agent, kind, name, label)
);
insert into component_versions
  (agent, kind, name, digest, number, label, content, message, tags, created_by, created_us)
select agent, kind, '', digest, number,
  case when exists (
    select 1 from components o where o.agent = c.agent and o.kind = c.kind and o.label = c.label
    and o.number < c.number
  ) then label || '.' || cast(number as text) else label end,
  content, '', '[]', '', created_us
from components c;
drop table components;
alter table component_versions rename to components;

-- What a release is made of; a component version named here cannot be deleted.
create table release_components (
  release_digest text not null references releases (digest),
  kind           text not null,
  name           text not null,
  digest         text not null,
  primary key (release_digest, kind, name)
);
create index release_components_by_digest on release_components (kind, name, digest);
insert into release_components (release_digest, kind, name, digest)
select r.digest, part.key, '', part.value from releases r, json_each(json_extract(r.manifest, '$.components')) part;

-- Versions that were taken out; neither their numbers nor their labels are given again.
create table component_deletions (
  agent       text not null,
  kind        text not null,
  name        text not null,
  number      bigint not null,
  label       text not null,
  digest      text not null,
  deleted_by  text not null,
  deleted_us  bigint not null,
  primary key (agent, kind, name, number)
);

-- Names that move from version to version, with everywhere they have been.
create table labels (
  agent       text not null references agents (name),
  kind        text not null,
  name        text not null,
  label       text not null,                -- production, staging, an own one
  digest      text not null,
  revision    bigint not null,
  moved_by    text not null,
  moved_us    bigint not null,
  primary key (agent, kind, name, label)
);
create table label_moves (
  agent       text not null,
  kind        text not null,
  name        text not null,
  label       text not null,
  revision    bigint not null,
  before      text,                         -- digest; null when the label was new
  after       text,                         -- digest; null when the label was taken away
  message     text not null,
  moved_by    text not null,
  moved_us    bigint not null,
  primary key (agent, kind, name, label, revision)
);
create table protected_labels (
  agent       text not null references agents (name),
  label       text not null,
  primary key (agent, label)
);

-- Signed statements about a release: where it comes from, what it contains.
create table attestations (
  release_digest text not null references releases (digest),
  kind           text not null,             -- provenance | sbom
  key_id         text not null,             -- of the key that signed; '' for what is not signed
  content        blob not null,
  created_us     bigint not null,
  primary key (release_digest, kind, key_id)
);
create table signing_keys (
  id          text primary key,             -- sha256 of the public key
  name        text not null,                -- for people
  public_pem  text not null,
  state       text not null,                -- active | retired | trusted | revoked
  created_us  bigint not null,
  changed_us  bigint not null
);

-- What an agent's environment adds to its releases.
create table environments (
  agent       text not null references agents (name),
  environment text not null,
  overlay     text not null,                -- JSON: settings that make a derived release
  variables   text not null,                -- JSON: name → text or reference of a secret
  revision    bigint not null,
  updated_by  text not null,
  updated_us  bigint not null,
  primary key (agent, environment)
);
