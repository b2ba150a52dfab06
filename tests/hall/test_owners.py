"""Which layers own K and V: laws of the rule, for every model it allows."""

from hypothesis import given
from hypothesis import strategies as st

from swiftkv.layers import Layers


@st.composite
def allowed(draw) -> Layers:
    cut, groups, group = draw(st.integers(1, 40)), draw(st.integers(0, 20)), draw(st.integers(1, 8))
    return Layers(cut + groups * group, cut, group)


@given(allowed())
def test_every_cache_has_one_owner_that_reads_it_first(layers):
    owners = [*range(layers.cut), *layers.leaders]
    assert layers.problem is None and layers.caches == len(owners)
    assert [layers.cache(owner) for owner in owners] == list(range(layers.caches))


@given(allowed())
def test_late_layers_read_their_leaders_cache(layers):
    for layer in layers.late:
        leader = layers.leader(layer)
        assert leader in layers.leaders and leader <= layer < leader + layers.group
        assert layers.cache(layer) == layers.cache(leader) and layers.behind(layer) == layer - leader


@given(st.integers(1, 40), st.integers(-2, 45), st.integers(-2, 9))
def test_what_is_impossible_is_said(number, cut, group):
    problem = Layers(number, cut, group).problem
    if not 1 <= cut <= number:
        assert f"num_key_value_layers is {cut}; allowed is 1 to {number}" in problem
    elif group < 1 or (number - cut) % group:
        assert f"key_value_group_size {group} does not divide the {number - cut} layers" in problem
    else:
        assert problem is None
