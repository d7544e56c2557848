"""Whatever the load does, replicas stay within bounds, come in time and do not flap."""

from hypothesis import given
from hypothesis import strategies as st

from penstock.domain.replicas import Load, Scaling
from penstock.rules.replicas import desired_replicas, wanted

scalings = st.builds(
    lambda least, more, target, up, down: Scaling(
        least=least, most=max(1, least + more), target=target, up_seconds=up, down_seconds=down
    ),
    st.integers(0, 3),
    st.integers(0, 20),
    st.integers(1, 50),
    st.integers(0, 20),
    st.integers(0, 60),
)
loads = st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=1, max_size=60)


def run(scaling, loads):
    """(load, replicas before, replicas after) of each second."""
    wishes, replicas, story = (), 0, []
    for second, (backlog, in_flight) in enumerate(loads):
        load = Load(backlog=backlog, in_flight=in_flight, replicas=replicas)
        found = desired_replicas(load, scaling, wishes, now_seconds=float(second))
        story.append((load, replicas, found.replicas))
        wishes, replicas = found.wishes, found.replicas
    return story


@given(scalings, loads)
def test_replicas_stay_within_bounds(scaling, loads):
    for _, _, after in run(scaling, loads):
        assert scaling.least <= after <= scaling.most


@given(scalings, loads)
def test_nobody_waits_while_there_is_no_replica(scaling, loads):
    for load, _, after in run(scaling, loads):
        if load.backlog + load.in_flight:
            assert after >= 1


@given(scalings, loads)
def test_no_replica_is_taken_away_that_the_load_of_the_window_called_for(scaling, loads):
    story = run(scaling, loads)
    for second, (_, before, after) in enumerate(story):
        if after < before:
            window = story[max(0, second - int(scaling.down_seconds)) : second + 1]
            assert all(wanted(load, scaling) <= after for load, _, _ in window)


@given(scalings, st.tuples(st.integers(0, 500), st.integers(0, 500)))
def test_a_steady_load_ends_at_what_it_calls_for_and_stays_there(scaling, load):
    seconds = int(scaling.up_seconds + scaling.down_seconds) + 30
    story = run(scaling, [load] * seconds)
    ends = [after for _, _, after in story[-5:]]
    assert set(ends) == {wanted(Load(backlog=load[0], in_flight=load[1], replicas=0), scaling)}
