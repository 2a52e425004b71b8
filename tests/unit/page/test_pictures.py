"""Images as data addresses."""

import base64
import io

from PIL import Image

from camscope.page.pictures import data_address


def test_an_address_holds_the_picture():
    head, _, content = data_address(Image.new("RGB", (5, 3), "red")).partition(",")
    assert head == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(content))).size == (5, 3)
