import pytest
import torch

from camscope.errors import LayerError
from camscope.trace.layout import Layout, find_layout, fits, grid_of, guess_layout

LAYOUTS = [
    ((2, 5, 3, 4), Layout(), (2, 5, 3, 4)),
    ((2, 3, 4, 5), Layout(channel=3), (2, 5, 3, 4)),
    ((2, 12, 5), Layout(channel=2, grid=(3, 4)), (2, 5, 3, 4)),
    ((2, 13, 5), Layout(channel=2, grid=(3, 4), prefix=1), (2, 5, 3, 4)),
    ((2, 15, 5), Layout(channel=2, grid=(3, 4), prefix=2), (2, 5, 3, 4)),
    ((13, 2, 5), Layout(batch=1, channel=2, grid=(3, 4), prefix=1), (2, 5, 3, 4)),
    ((2, 5, 12), Layout(channel=1, grid=(3, 4)), (2, 5, 3, 4)),
    ((2, 5, 7), Layout(), (2, 5, 7)),
    ((2, 5, 3, 4, 6), Layout(), (2, 5, 3, 4, 6)),
    ((2, 3, 4, 6, 5), Layout(channel=4), (2, 5, 3, 4, 6)),
]


@pytest.mark.parametrize(("shape", "layout", "expected"), LAYOUTS)
def test_read_and_write_are_each_others_inverse(shape, layout, expected):
    output = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    grid = layout.read(output)
    assert grid.shape == expected
    assert torch.equal(layout.write(output, grid), output)
    negated = layout.write(output, -grid)
    assert torch.equal(layout.read(negated), -grid)
    changed = int((negated != output).sum())
    assert changed == int((grid != 0).sum()), "tokens outside the grid are kept"


def test_tokens_unfold_row_by_row_after_the_prefix():
    output = torch.arange(13.0).reshape(1, 13, 1)
    grid = Layout(channel=2, grid=(3, 4), prefix=1).read(output)
    assert torch.equal(grid[0, 0], torch.arange(1.0, 13).reshape(3, 4))


GUESSES = [
    # Channels first, channels last
    ((2, 512, 7, 7), (2, 3, 224, 224), Layout()),
    ((2, 7, 7, 768), (2, 3, 224, 224), Layout(channel=3)),
    ((2, 49, 7, 7), (2, 3, 224, 224), Layout()),
    ((2, 14, 14, 14), (2, 3, 224, 224), Layout()),
    ((2, 512, 5, 9), (2, 3, 160, 288), Layout()),
    ((2, 5, 9, 96), (2, 3, 160, 288), Layout(channel=3)),
    ((1, 16, 62, 62), (1, 1, 256, 256), Layout()),
    ((2, 32, 2, 2), (2, 12, 32, 32), Layout()),
    # Tokens: none, one and two before the grid; registers; another order of the axes
    ((2, 196, 192), (2, 3, 224, 224), Layout(channel=2, grid=(14, 14))),
    ((2, 197, 192), (2, 3, 224, 224), Layout(channel=2, grid=(14, 14), prefix=1)),
    ((2, 198, 192), (2, 3, 224, 224), Layout(channel=2, grid=(14, 14), prefix=2)),
    ((2, 201, 192), (2, 3, 224, 224), Layout(channel=2, grid=(14, 14), prefix=5)),
    ((197, 2, 192), (2, 3, 224, 224), Layout(batch=1, channel=2, grid=(14, 14), prefix=1)),
    ((2, 24, 192), (2, 3, 96, 64), Layout(channel=2, grid=(6, 4))),
    ((2, 25, 192), (2, 3, 64, 96), Layout(channel=2, grid=(4, 6), prefix=1)),
    ((2, 21, 48), (2, 3, 64, 64), Layout(channel=2, grid=(4, 4), prefix=5)),
    ((2, 30, 48), (2, 3, 80, 80), Layout(channel=2, grid=(5, 5), prefix=5)),
    ((2, 9, 48), (2, 3, 40, 70), Layout(channel=2, grid=(2, 4), prefix=1)),
    ((2, 197, 1024), (2, 3, 224, 224), Layout(channel=2, grid=(14, 14), prefix=1)),
    ((2, 192, 196), (2, 3, 224, 224), Layout(channel=1, grid=(14, 14))),
    ((2, 768, 49), (2, 3, 224, 224), Layout(channel=1, grid=(7, 7))),
    # One and three axes of space
    ((2, 16, 25), (2, 1, 100), Layout()),
    ((2, 8, 4, 4, 4), (2, 1, 32, 32, 32), Layout()),
    ((2, 4, 4, 4, 96), (2, 1, 32, 32, 32), Layout(channel=4)),
    ((2, 8, 2, 5, 5), (2, 1, 16, 40, 40), Layout()),
    ((2, 65, 48), (2, 1, 32, 32, 32), Layout(channel=2, grid=(4, 4, 4), prefix=1)),
    # No place for each part of the image
    ((2, 512), (2, 3, 224, 224), None),
    ((2, 3, 197, 197), (2, 3, 224, 448), None),
    ((2, 3, 50, 32), (2, 3, 224, 224), None),
    ((4, 512, 7, 7), (2, 3, 224, 224), None),
    ((2, 512, 448, 448), (2, 3, 224, 224), None),
    ((2, 4, 7, 7, 7), (2, 3, 224, 224), None),
    ((), (2, 3, 224, 224), None),
]


@pytest.mark.parametrize(("shape", "picture", "layout"), GUESSES)
def test_layout_told_from_shapes(shape, picture, layout):
    assert guess_layout(shape, picture) == layout
    if layout is None:
        with pytest.raises(LayerError, match=r"layer 'here' returns .*which has no place for each part of an image"):
            find_layout(shape, picture, layer="here")
        return
    assert find_layout(shape, picture, layer="here") == layout
    grid = layout.read(torch.zeros(shape))
    assert grid.shape[2:] == torch.Size(grid_of(shape, layout))
    assert len(grid) == picture[0]


def test_fits_allows_for_a_cell_of_rounding():
    assert fits((7, 7), (224, 224))
    assert fits((6, 7), (224, 224))
    assert not fits((5, 9), (224, 224))
    assert not fits((225, 225), (224, 224))
    assert fits((5, 9), (160, 288))
    assert not fits((9, 5), (160, 288))
