"""Releases through registries: a real one of version 1.0, and one in memory of version 1.1."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, replace

import pytest

from penstock.domain.errors import Invalid, NotFound, Unavailable
from penstock.drivers.registries import (
    Credentials,
    Manifest,
    docker_credentials,
    parse_reference,
)
from penstock.drivers.registries.oci import OciRegistry
from penstock.rules.artifacts import (
    CONFIG,
    EMPTY_CONTENT,
    MANIFEST,
    PROVENANCE,
    SBOM,
    TAR,
    artifact,
    describe,
    referrer,
)
from registry_process import (
    PASSWORD,
    USER,
    FakeRegistry,
    RegistryProcess,
    Told,
    error,
    index,
)

ENOUGH = 64 << 20
LARGE = (16 << 20) + 12345  # one chunk and a bit


@dataclass
class Content:
    """A release as it is exported, its two referrers, and every blob."""

    manifests: list[Manifest]
    blobs: dict[str, bytes]

    @property
    def digest(self) -> str:
        return self.manifests[0].digest

    async def read(self, digest):
        return self.blobs[digest]


def content(name="one", size=1000):
    """What differs by ``name`` in every blob but the empty one."""
    config, code = b'{"name": "%b"}' % name.encode(), name.encode() * (size // len(name))
    notes = {PROVENANCE: f"provenance of {name}".encode(), SBOM: f"sbom of {name}".encode()}
    main = artifact(describe(config, CONFIG), [describe(code, TAR)])
    manifests = [Manifest(content=main, media_type=MANIFEST, tag="v3")]
    for kind, note in notes.items():
        refers = referrer(describe(main, MANIFEST), kind, describe(note, kind), made="yes")
        manifests.append(
            Manifest(
                content=refers,
                media_type=MANIFEST,
                subject=manifests[0].digest,
                artifact_type=kind,
                annotations={"made": "yes"},
            )
        )
    blobs = [config, code, EMPTY_CONTENT, *notes.values()]
    return Content(manifests, {hashlib.sha256(blob).hexdigest(): blob for blob in blobs})


@pytest.fixture
def registry(tmp_path):
    process = RegistryProcess(tmp_path / "registry")
    yield process
    process.stop()


@pytest.fixture
async def fake():
    async with FakeRegistry() as found:
        yield found


@pytest.fixture
def pauses(monkeypatch, tmp_path):
    """What a client waited, without waiting; and nobody has logged in anywhere."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    return []


@pytest.fixture
def client(pauses):
    return make_client(pauses)


def make_client(pauses, **credentials):
    async def pause(seconds):
        pauses.append(seconds)

    known = {name: Credentials(user=USER, password=word) for name, word in credentials.items()}
    return OciRegistry(credentials=known, pause=pause)


def at(registry, rest="team/support:v3"):
    return parse_reference(f"{registry.name}/{rest}")


async def push(client, registry, what):
    return await client.push(at(registry), manifests=what.manifests, read=what.read)


async def pull(client, registry, rest="team/support:v3", most_bytes=ENOUGH):
    kept = {}

    async def keep(digest, blob):
        assert digest not in kept
        kept[digest] = blob

    return await client.pull(at(registry, rest), keep=keep, most_bytes=most_bytes), kept


def assert_same(pulled, kept, what):
    assert (pulled.digest, pulled.content) == (what.digest, what.manifests[0].content)
    assert {item.digest: item.content for item in pulled.referrers} == {
        item.digest: item.content for item in what.manifests[1:]
    }
    assert kept == what.blobs


# ---------------------------------------------------------------- references


@pytest.mark.parametrize(
    ("text", "registry", "repository", "tag", "digest", "plain"),
    [
        ("registry.example:5000/team/support:v3", "registry.example:5000", "team/support", "v3", None, False),
        (f"registry.example/a@sha256:{'0' * 64}", "registry.example", "a", None, "0" * 64, False),
        (f"localhost/a:b@sha256:{'0' * 64}", "localhost", "a", "b", "0" * 64, True),
        ("127.0.0.1:5000/a:b", "127.0.0.1:5000", "a", "b", None, True),
        ("[::1]:5000/a:b", "[::1]:5000", "a", "b", None, True),
    ],
)  # fmt: skip
def test_a_reference_is_read_as_it_is_written(text, registry, repository, tag, digest, plain):
    """Registry, repository, tag and digest; HTTP without TLS only on this machine."""
    found = parse_reference(text)
    assert (found.registry, found.repository, found.tag) == (registry, repository, tag)
    assert (found.digest, found.plain, str(found)) == (digest, plain, text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("https://registry.example/a:b", "scheme"),
        ("team/support:v3", "registry's host"),
        ("registry.example", "registry's host"),
        ("registry.example:99999/a:b", "optional port"),
        ("user@registry.example/a:b", "optional port"),
        ("registry.example/Team:v3", "lower case"),
        ("registry.example/../v2:v3", "lower case"),
        (f"registry.example/{'a' * 250}:v3", "lower case"),
        ("registry.example/a:", "no tag"),
        ("registry.example/a:b/c", "no tag"),
        ("registry.example/a", "neither a tag nor a digest"),
        ("registry.example/a@sha256:12", "64 hex digits"),
        (f"registry.example/a@sha512:{'0' * 128}", "64 hex digits"),
    ],
)
def test_what_is_no_reference_is_refused_with_the_reason(text, why):
    with pytest.raises(Invalid, match=why):
        parse_reference(text)


def test_plain_http_to_another_machine_must_be_asked_for():
    assert parse_reference("registry.example/a:b").url.startswith("https://")
    assert parse_reference("registry.example/a:b", insecure=True).url.startswith("http://")


# ---------------------------------------------------------------- a real registry of version 1.0


async def test_what_is_pulled_is_what_was_pushed(client, registry):
    """Manifest, referrers (by the fallback tag) and blobs (one in chunks) are equal byte for byte."""
    what = content(size=LARGE)
    assert await push(client, registry, what) == what.digest
    assert registry.methods()["PATCH"] == 2
    for rest in ("team/support:v3", f"team/support@sha256:{what.digest}"):
        assert_same(*await pull(client, registry, rest), what)


async def test_a_second_push_uploads_nothing(client, registry):
    """Neither a blob nor a manifest nor the list of referrers is sent again."""
    what = content()
    await push(client, registry, what)
    before = registry.methods()
    assert before["PUT"]
    assert await push(client, registry, what) == what.digest
    assert registry.methods() == before


async def test_referrers_join_those_that_are_listed_already(client, registry):
    """A push that brings another referrer keeps the ones before, and what they say of themselves."""
    what = content()
    first = replace(what, manifests=what.manifests[:2])
    await push(client, registry, first)
    await push(client, registry, what)
    assert_same(*await pull(client, registry), what)
    listed = await pull_index(registry, what.digest)
    assert [item["artifactType"] for item in listed] == [PROVENANCE, SBOM]
    assert {item["annotations"]["made"] for item in listed} == {"yes"}


async def pull_index(registry, digest):
    folder = registry.storage / "docker/registry/v2/repositories/team/support/_manifests/tags"
    link = folder / f"sha256-{digest}" / "current/link"
    return json.loads(registry.blob(link.read_text().removeprefix("sha256:")).read_bytes())[
        "manifests"
    ]


async def test_a_flipped_byte_is_refused_by_the_blobs_name(client, registry):
    """Of every blob and manifest in the registry's storage, one at a time."""
    what = content()
    await push(client, registry, what)
    for digest in [*what.blobs, *(item.digest for item in what.manifests[1:])]:
        path = registry.blob(digest)
        good = path.read_bytes()
        path.write_bytes(good[:-2] + bytes([good[-2] ^ 1]) + good[-1:])
        # By us, or by a registry that looks at what it keeps and will not give it away.
        with pytest.raises((Invalid, Unavailable), match=digest):
            await pull(client, registry)
        path.write_bytes(good)
    assert_same(*await pull(client, registry), what)


async def test_what_is_not_there_is_not_found(client, registry):
    with pytest.raises(NotFound, match="team/support:v3"):
        await pull(client, registry)


async def test_a_registry_that_is_gone_is_unavailable_after_four_tries(client, registry, pauses):
    registry.stop()
    with pytest.raises(Unavailable, match="cannot be reached"):
        await pull(client, registry)
    assert len(pauses) == 3


async def test_a_password_is_shown_where_it_is_asked_for(pauses, tmp_path):
    """Basic authentication: with the right password, a wrong one, and none."""
    registry = RegistryProcess(tmp_path / "guarded", guarded=True)
    try:
        known = make_client(pauses, **{registry.name: PASSWORD})
        await push(known, registry, content())
        assert_same(*await pull(known, registry), content())
        for other in (make_client(pauses, **{registry.name: "wrong"}), make_client(pauses)):
            with pytest.raises(Unavailable, match="401") as caught:
                await pull(other, registry)
            assert "docker login" in caught.value.hint
    finally:
        registry.stop()


async def test_what_docker_noted_is_used(client, tmp_path):
    """Credentials come from ``config.json`` when none are given."""
    registry = RegistryProcess(tmp_path / "guarded", guarded=True)
    try:
        note_login(tmp_path, registry.name)
        await push(client, registry, content())
        assert_same(*await pull(client, registry), content())
    finally:
        registry.stop()


def note_login(tmp_path, name):
    (tmp_path / "docker").mkdir()
    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    (tmp_path / "docker/config.json").write_text(json.dumps({"auths": {name: {"auth": auth}}}))


async def test_what_docker_noted_is_for_one_registry_only(pauses, tmp_path):
    """Another port is another registry; a damaged file is named, without what is in it."""
    note_login(tmp_path, "https://registry.example/v1/")
    found = await docker_credentials("registry.example")
    assert found == Credentials(user=USER, password=PASSWORD)
    assert PASSWORD not in repr(found)
    assert await docker_credentials("registry.example:5000") is None
    (tmp_path / "docker/config.json").write_text('{"auths": {"registry.example": {"auth": "%"}}}')
    with pytest.raises(Invalid, match=r"config\.json"):
        await docker_credentials("registry.example")


# ---------------------------------------------------------------- a registry of version 1.1


async def test_a_registry_that_lists_referrers_itself_gets_no_list(client, fake):
    """Pushed, pulled page by page, pushed again: and no fallback tag is ever made."""
    what = content(size=LARGE)
    await push(client, fake, what)
    assert_same(*await pull(client, fake), what)
    sent = fake.count("POST", "PATCH", "PUT")
    await push(client, fake, what)
    assert fake.count("POST", "PATCH", "PUT") == sent
    assert not [name for name in fake.manifests if name.startswith("sha256-")]


async def test_a_tag_comes_last(client, fake):
    """Nobody finds by its tag a release whose provenance is not there yet."""
    await push(client, fake, content())
    assert fake.asked[-1].method == "PUT"
    assert fake.asked[-1].path.endswith("/manifests/v3")


async def test_referrers_that_are_listed_by_two_writers_are_all_kept(client, fake):
    """A list that another writer replaces right after it was written is written once more."""
    what = content()
    lists = without_referrers(fake)
    mine = fake.before
    lost = []

    def before(asked):
        reads = asked.path.endswith(lists) and asked.method == "GET"
        if reads and fake.manifests.get(lists) and not lost:
            lost.append(fake.manifests.pop(lists))
        return mine(asked)

    lists = f"sha256-{what.digest}"
    fake.before = before
    await push(client, fake, what)
    assert lost
    assert_same(*await pull(client, fake), what)


def without_referrers(fake):
    """Make a registry of version 1.0 of it."""

    def before(asked):
        if "/referrers/" in asked.path:
            return Told(404, b"404 page not found")
        if asked.method == "PUT" and "/manifests/" in asked.path:
            told = fake._answer(asked)
            told.headers.pop("oci-subject", None)
            return told
        return None

    fake.before = before
    return ""


async def test_a_push_that_broke_off_before_the_list_is_mended_by_the_next(client, fake):
    """The list is completed although every manifest is there already."""
    what = content()
    without_referrers(fake)
    await push(client, fake, what)
    del fake.manifests[f"sha256-{what.digest}"]
    await push(client, fake, what)
    assert_same(*await pull(client, fake), what)


@pytest.mark.parametrize("path", ["/blobs/uploads/", "/manifests/", "/blobs/sha256:"])
async def test_an_upload_that_breaks_is_started_again(client, fake, pauses, path):
    """The connection breaks at each kind of request once; what arrives is whole."""
    what, broken = content(size=LARGE), set()

    def before(asked):
        if path in asked.path and asked.method not in broken:
            broken.add(asked.method)
            return Told(None)
        return None

    fake.before = before
    await push(client, fake, what)
    assert len(pauses) >= len(broken) > 0
    assert_same(*await pull(client, fake), what)


async def test_an_upload_that_the_registry_forgot_is_started_again(client, fake):
    forgotten = []

    def before(asked):
        if asked.method == "PATCH" and not forgotten:
            forgotten.append(asked)
            return error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown")
        return None

    fake.before = before
    what = content(size=LARGE)
    await push(client, fake, what)
    assert forgotten
    assert_same(*await pull(client, fake), what)


async def test_a_registry_that_is_busy_is_asked_again_when_it_says(client, fake, pauses):
    """Retry-After counts, within reason; in the end its own words are the error."""
    await push(client, fake, content())
    answers = [("503", "7"), ("429", "86400"), ("500", "Wed, 21 Oct 2015 07:28:00 GMT")]

    def before(_):
        status, after = answers.pop(0)
        return error(int(status), "TOOMANY", "not now", retry_after=after)

    fake.before = lambda asked: before(asked) if answers else None
    assert_same(*await pull(client, fake), content())
    assert pauses[0] == 7
    assert pauses[1] == 30
    assert 0 < pauses[2] <= 4
    fake.before = lambda _: error(503, "BUSY", "too\nmany of you")
    with pytest.raises(Unavailable, match=r"HTTP 503: too many of you"):
        await pull(client, fake)


async def test_a_refusal_says_what_the_registry_said(client, fake):
    fake.before = lambda asked: (
        error(400, "MANIFEST_INVALID", "too old a manifest")
        if asked.method == "PUT" and "/manifests/" in asked.path
        else None
    )
    with pytest.raises(Invalid, match=r"take manifest sha256:\w+ \(HTTP 400: too old a manifest\)"):
        await push(client, fake, content())


async def test_at_most_four_uploads_run_at_a_time(client, fake):
    blobs = {hashlib.sha256(blob).hexdigest(): blob for blob in (b"%d" % i for i in range(20))}
    layers = [describe(blob, TAR) for blob in blobs.values()]
    main = Manifest(content=artifact(layers[0], layers[1:]), media_type=MANIFEST, tag="v3")
    reading = most = 0

    async def read(digest):
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        await docker_credentials("registry.example")  # lets the others run
        reading -= 1
        return blobs[digest]

    await client.push(at(fake), manifests=[main], read=read)
    assert 1 < most <= 4


# ---------------------------------------------------------------- who may know what


async def test_a_token_is_fetched_for_this_repository_only(pauses, fake):
    """Bearer: the password goes to where tokens are given, the token to the registry."""
    async with FakeRegistry() as tokens:
        guard(fake, tokens, realm=f"{tokens.url}/token")
        known = make_client(pauses, **{fake.name: PASSWORD})
        await push(known, fake, content())
        assert_same(*await pull(known, fake), content())
        assert [asked.query for asked in tokens.asked] == [
            {"service": "registry", "scope": f"repository:team/support:{actions}"}
            for actions in ("pull,push", "pull")
        ]
        basic = Credentials(user=USER, password=PASSWORD).basic
        assert {asked.headers["authorization"] for asked in tokens.asked} == {basic}
        assert {asked.headers.get("authorization") for asked in fake.asked} == {
            None,
            "Bearer good",
        }


async def test_a_token_is_fetched_without_a_password_where_there_is_none(client, fake):
    async with FakeRegistry() as tokens:
        guard(fake, tokens, realm=f"{tokens.url}/token")
        await push(client, fake, content())
        assert "authorization" not in tokens.asked[0].headers


async def test_a_token_that_has_expired_is_renewed(client, fake):
    """The registry takes each token for eight requests only, twice as many as run at once."""
    async with FakeRegistry() as tokens:
        guard(fake, tokens, realm=f"{tokens.url}/token", lasts=8)
        await push(client, fake, content())
        assert_same(*await pull(client, fake), content())
        assert len(tokens.asked) > 1


def guard(fake, tokens, *, realm, lasts=None):
    """Let ``fake`` take only tokens from ``tokens``, each for so many requests."""
    left = {}

    def give(_):
        token = "good" if lasts is None else f"good{len(left)}"
        left[token] = lasts or 1000
        return Told(content=json.dumps({"token": token}).encode())

    def before(asked):
        token = asked.headers.get("authorization", "").removeprefix("Bearer ")
        left[token] = left.get(token, 0) - 1
        if left[token] >= 0:
            return None
        challenge = f'Bearer realm="{realm}",service="registry",scope="registry:catalog:*"'
        return error(401, "UNAUTHORIZED", "who are you", www_authenticate=challenge)

    tokens.before, fake.before = give, before


async def test_a_password_is_not_sent_to_another_host_without_tls(pauses, fake):
    """A registry may not have it sent wherever it likes."""
    guard(fake, fake, realm="http://elsewhere.example/token")
    fake.before = guard_only(fake)
    with pytest.raises(Invalid, match=r"elsewhere\.example"):
        await pull(make_client(pauses, **{fake.name: PASSWORD}), fake)


def guard_only(fake):
    challenge = 'Bearer realm="http://elsewhere.example/token"'
    return lambda _: error(401, "UNAUTHORIZED", "who are you", www_authenticate=challenge)


async def test_a_redirect_is_followed_without_credentials(pauses, fake):
    """Blobs may be in a storage elsewhere, which learns nothing about us."""
    async with FakeRegistry() as storage:
        await push(make_client(pauses), fake, content())
        storage.blobs = fake.blobs
        challenge = {"www_authenticate": 'Basic realm="test"'}

        def before(asked):
            if "authorization" not in asked.headers:
                return error(401, "UNAUTHORIZED", "who are you", **challenge)
            if "/blobs/" in asked.path:
                return Told(307, headers={"location": f"{storage.url}{asked.path}"})
            return None

        fake.before = before
        known = make_client(pauses, **{fake.name: PASSWORD})
        assert_same(*await pull(known, fake), content())
        assert len(storage.asked) == len(content().blobs)
        assert not [asked for asked in storage.asked if "authorization" in asked.headers]


async def test_a_refusal_that_quotes_the_password_is_not_repeated(pauses, fake):
    def before(asked):
        if "authorization" in asked.headers:
            return error(403, "DENIED", f"{PASSWORD} is no good")
        return error(401, "UNAUTHORIZED", "who", www_authenticate='Basic realm="test"')

    fake.before = before
    with pytest.raises(Unavailable, match="403") as caught:
        await pull(make_client(pauses, **{fake.name: PASSWORD}), fake)
    assert PASSWORD not in str(caught.value)


async def test_redirects_come_to_an_end(client, fake):
    fake.before = lambda asked: Told(307, headers={"location": asked.path})
    with pytest.raises(Invalid, match="more than 4 times"):
        await pull(client, fake)


# ---------------------------------------------------------------- what a stranger may send


async def test_a_blob_that_is_not_its_digest_is_refused_before_it_is_kept(client, fake):
    """Another content, a longer one and a shorter one; each by the blob's name."""
    what = content()
    await push(client, fake, what)
    digest = max(what.blobs, key=lambda digest: len(what.blobs[digest]))
    good = what.blobs[digest]
    for bad in (b"x" * len(good), good + b"x", good[:-1]):
        fake.blobs[f"sha256:{digest}"] = bad
        with pytest.raises(Invalid, match=digest):
            await pull(client, fake)


async def test_a_tag_whose_manifest_is_not_what_the_registry_says_is_refused(client, fake):
    what = content()
    await push(client, fake, what)
    said = {"content-type": MANIFEST, "docker-content-digest": f"sha256:{'0' * 64}"}
    fake.before = lambda asked: (
        Told(content=what.manifests[0].content, headers=said)
        if asked.path.endswith("/v3")
        else None
    )
    with pytest.raises(Invalid, match="manifest v3 is damaged"):
        await pull(client, fake)


async def test_nothing_is_read_beyond_what_may_be_read(client, fake):
    """Too much in all is refused before a blob is asked for; what fits exactly is taken."""
    what = content()
    await push(client, fake, what)
    fake.page = 10
    before = len(fake.asked)
    pulled, kept = await pull(client, fake)
    assert_same(pulled, kept, what)
    listed = next(a for a in fake.asked[before:] if "/referrers/" in a.path)
    most = sum(map(len, kept.values())) + len(
        fake._referrers(listed, listed.path.rsplit("/", 1)[1]).content
    )
    most += sum(len(item.content) for item in what.manifests)
    assert_same(*await pull(client, fake, most_bytes=most), what)
    before = len(fake.asked)
    with pytest.raises(Invalid, match=f"{most - 1} bytes that may be read"):
        await pull(client, fake, most_bytes=most - 1)
    assert not [asked for asked in fake.asked[before:] if "/blobs/" in asked.path]
    with pytest.raises(Invalid, match="manifest v3 is larger than the 10 bytes"):
        await pull(client, fake, most_bytes=10)


@pytest.mark.parametrize(
    ("document", "kind", "why"),
    [
        (b"[]", MANIFEST, "no OCI manifest"),
        (b"[" * 100_000, MANIFEST, "no OCI manifest"),
        (index([]), json.loads(index([]))["mediaType"], "not a application"),
        (index([]), MANIFEST, "not a application"),
        (b'{"schemaVersion": 2}', MANIFEST, "list of layers"),
        (b'{"schemaVersion": 2, "layers": []}', MANIFEST, "without a kind"),
        (b'{"schemaVersion": 2, "layers": [], "config": {"mediaType": "a", "size": -1}}', MANIFEST, "without a kind"),
        (b'{"schemaVersion": 2, "layers": [], "config": {"mediaType": "a", "size": 1, "digest": "sha256:../../x"}}', MANIFEST, "without a kind"),
    ],
)  # fmt: skip
async def test_what_is_no_artifact_is_refused(client, fake, document, kind, why):
    """Other kinds of manifests, and manifests that name their blobs in ways that lead elsewhere."""
    fake.add(document, kind, "v3")
    with pytest.raises(Invalid, match=why):
        await pull(client, fake)


async def test_a_listed_manifest_that_refers_to_something_else_is_refused(client, fake):
    what, other = content(), content("two")
    await push(client, fake, what)
    await push(client, fake, other)
    stray = other.manifests[1]
    entry = {"mediaType": MANIFEST, "digest": f"sha256:{stray.digest}", "size": len(stray.content)}
    without_referrers(fake)
    fake.add(index([entry]), json.loads(index([]))["mediaType"], f"sha256-{what.digest}")
    with pytest.raises(Invalid, match=f"{stray.digest} does not refer to sha256:{what.digest}"):
        await pull(client, fake, f"team/support@sha256:{what.digest}")


# ---------------------------------------------------------------- what we may send


async def test_a_blob_that_is_not_its_digest_is_not_sent(client, fake):
    what = content()
    digest = next(iter(what.blobs))
    what.blobs[digest] = b"something else"
    with pytest.raises(Invalid, match=f"{digest} is damaged"):
        await push(client, fake, what)
    assert not fake.manifests


async def test_manifests_that_contradict_themselves_are_not_sent(client, fake):
    """Nothing at all is asked of the registry."""
    first, second, _ = content().manifests
    for manifests, why in (
        ([], "nothing is to be pushed"),
        ([first, replace(second, subject=None)], "not to None"),
        ([replace(first, media_type="text/plain")], "text/plain"),
        ([replace(first, tag="../x")], "no tag"),
        ([replace(first, tag="v4")], "would get the tag"),
        ([replace(first, content=b"{}")], "no OCI manifest"),
    ):
        with pytest.raises(Invalid, match=why):
            await client.push(at(fake), manifests=manifests, read=content().read)
    reference = at(fake, f"team/support:v3@sha256:{'0' * 64}")
    with pytest.raises(Invalid, match="no manifest is the one"):
        await client.push(reference, manifests=[first], read=content().read)
    assert not fake.asked
