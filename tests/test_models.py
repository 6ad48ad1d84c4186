"""The table of networks: names and arguments."""

import pytest

import paddlevid
from paddlevid.models import MODELS, TSN, create_model, list_models


def test_the_five_depths_of_tsn_are_listed():
    assert [name for name in list_models() if name.startswith("tsn_")] == [
        "tsn_r18", "tsn_r34", "tsn_r50", "tsn_r101", "tsn_r152",
    ]  # fmt: skip
    assert list_models() == list(MODELS)


def test_changing_the_list_does_not_change_the_table():
    list_models().clear()
    assert "tsn_r50" in list_models()


def test_a_network_is_made_with_its_arguments():
    model = create_model("tsn_r34", num_classes=7, width=8, dropout=0.25)
    assert isinstance(model, TSN)
    assert (model.depth, model.dropout.p, list(model.fc.weight.shape)) == (34, 0.25, [64, 7])


def test_the_package_offers_the_same_functions():
    assert paddlevid.create_model is create_model
    assert paddlevid.list_models is list_models
    with pytest.raises(AttributeError, match="module 'paddlevid' has no attribute 'create'"):
        _ = paddlevid.create


def test_an_unknown_name_offers_the_near_ones():
    with pytest.raises(ValueError, match=r"unknown model 'tsn_r5'; did you mean tsn_r50.*\?"):
        create_model("tsn_r5", num_classes=2)
    with pytest.raises(ValueError, match="unknown model 'zzz'; did you mean .*tsn_r101.*tsn_r50"):
        create_model("zzz", num_classes=2)


def test_an_unknown_argument_offers_the_near_one():
    message = r"tsn_r18 has no argument 'drop_out'; did you mean dropout\?"
    with pytest.raises(ValueError, match=message):
        create_model("tsn_r18", num_classes=2, drop_out=0.1)
    with pytest.raises(ValueError, match="no argument 'zz'; did you mean dropout, in_channels, wi"):
        create_model("tsn_r18", num_classes=2, zz=0.1)
    with pytest.raises(ValueError, match="tsn_r18 has no argument 'depth'"):
        create_model("tsn_r18", num_classes=2, depth=50)


def test_arguments_are_given_by_name():
    with pytest.raises(TypeError):
        create_model("tsn_r18", 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 8.5}, r"tsn_r18: width = 8\.5: needs int"),
        ({"width": True}, "tsn_r18: width = True: needs int"),
        ({"dropout": "half"}, "tsn_r18: dropout = 'half': needs float"),
        ({"partial_bn": 1}, "tsn_r18: partial_bn = 1: needs bool"),
    ],
)
def test_an_argument_of_a_wrong_type_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        create_model("tsn_r18", num_classes=2, **arguments)


def test_a_whole_number_is_taken_for_a_float():
    assert create_model("tsn_r18", num_classes=2, width=8, dropout=0).dropout.p == 0
