import dataclasses
from collections import OrderedDict, namedtuple

import pytest
import torch

from camscope.errors import TargetError
from camscope.trace import tensors, unwrap
from camscope.trace.outputs import other_outputs
from camscope.trace.pytree import find_picture, first_tensor, map_tensors

Pair = namedtuple("Pair", "first second")


@dataclasses.dataclass
class Output:
    scores: torch.Tensor
    name: str = "x"
    parts: tuple = ()


def hugging_face(**values):
    outputs = pytest.importorskip("transformers.modeling_outputs")
    return outputs.ImageClassifierOutput(**values)


def one(value):
    return torch.full((2, 3), float(value))


STRUCTURES = [
    one(1),
    (one(1), one(2)),
    [one(1), (one(2), None)],
    {"a": one(1), "b": {"c": one(2)}},
    OrderedDict(out=one(1), aux=one(2)),
    Pair(one(1), one(2)),
    Output(one(1), parts=(one(2),)),
    "nothing",
    (),
]


@pytest.mark.parametrize("value", STRUCTURES, ids=lambda v: type(v).__name__)
def test_map_tensors_keeps_the_structure(value):
    doubled = map_tensors(value, lambda t: 2 * t)
    assert type(doubled) is type(value)
    assert [float(t.mean()) for t in tensors(doubled)] == [2 * float(t.mean()) for t in tensors(value)]
    again = map_tensors(doubled, lambda t: t / 2)
    assert repr(again) == repr(value)


def test_hugging_face_outputs():
    value = hugging_face(loss=one(0), logits=one(1), hidden_states=(one(2), one(3)))
    doubled = map_tensors(value, lambda t: 2 * t)
    assert type(doubled) is type(value)
    assert [float(t.mean()) for t in tensors(doubled)] == [0, 2, 4, 6]
    assert unwrap(value) is value.logits


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (one(1), 1),
        ((one(1), one(2)), 1),
        ({"aux": one(2), "out": one(1)}, 1),
        ({"features": one(2), "logits": one(1)}, 1),
        ({"ids": torch.arange(3), "scores": one(1)}, 1),
        (Output(one(1)), 1),
        (Pair(torch.arange(3), one(1)), 1),
    ],
)
def test_unwrap(value, expected):
    assert float(unwrap(value).mean()) == expected


def test_unwrap_of_nothing():
    with pytest.raises(TargetError, match="returned dict without a floating-point tensor"):
        unwrap({"ids": torch.arange(3)})


def test_first_tensor_puts_another_in_its_place():
    value = (torch.arange(3), {"a": one(1)}, one(2))
    first = first_tensor(value)
    put = first.put(one(5))
    assert first.tensor is value[1]["a"]
    assert put[0] is value[0]
    assert put[2] is value[2]
    assert float(put[1]["a"].mean()) == 5
    assert first_tensor(torch.arange(3)) is None


def test_a_mask_before_the_images_is_not_taken_for_them():
    mask, image = torch.ones(1, 1, 8, 8, dtype=torch.bool), torch.zeros(1, 3, 8, 8)
    assert find_picture({"mask": mask, "image": image}) == 1
    assert find_picture((mask, torch.zeros(1, 4))) == 0


LOSS, AGE, SEX = torch.tensor(1.0), torch.zeros(2, 3), torch.ones(2, 2)


@pytest.mark.parametrize("outputs", [(LOSS, AGE), {"loss": LOSS, "scores": AGE}, [LOSS, [AGE, SEX]]])
def test_a_loss_before_the_scores_is_passed_over(outputs):
    assert unwrap(outputs) is AGE
    assert unwrap((LOSS,)) is LOSS


def test_nested_outputs_have_names_with_dots():
    outputs = {"heads": {"age": AGE, "sex": SEX}, "more": [LOSS, SEX]}
    assert unwrap(outputs, "heads.sex") is SEX
    assert unwrap(outputs, "more.1") is SEX
    assert unwrap({"a.b": AGE, "a": {"b": SEX}}, "a.b") is AGE
    with pytest.raises(TargetError, match=r"no output 'sex'; possible: 'heads.age', 'heads.sex', 'more.0', 'more.1'"):
        unwrap(outputs, "sex")
    assert "output 'heads.age' is explained" in other_outputs(outputs, AGE)
