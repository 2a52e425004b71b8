"""Reviews of readers in a file of a study's folder."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from camscope.app.reviews import Reviews
from camscope.errors import StoreError


def put(reviews, image, reader, rating="yes", **more):
    reviews.put(image, "Effusion", reader, **{"rating": rating, "flag": False, "comment": "", "blinded": False, **more})


def test_each_reader_has_one_review_per_image(tmp_path):
    reviews = Reviews(tmp_path)
    assert reviews.all() == []
    assert list(tmp_path.iterdir()) == []
    put(reviews, "a.png", "Ann")
    put(reviews, "a.png", "Ann", "no", flag=True, comment="'; drop table reviews; --")
    put(reviews, "a.png", "Ben")
    again = Reviews(tmp_path).all()
    assert [(one["reader"], one["rating"], one["flag"]) for one in again] == [
        ("Ann", "no", True),
        ("Ben", "yes", False),
    ]
    assert again[0]["comment"] == "'; drop table reviews; --"


def test_agreement_counts_the_images_that_both_rated(tmp_path):
    reviews = Reviews(tmp_path)
    for image, first, second in (("a", "yes", "yes"), ("b", "yes", "no"), ("c", "no", "no"), ("d", "no", "no")):
        put(reviews, image, "Ann", first)
        put(reviews, image, "Ben", second)
    put(reviews, "e", "Ann", "yes")
    put(reviews, "f", "Ben", "")  # a flag without a rating
    (pair,) = reviews.agreement()["pairs"]
    assert (pair["images"], pair["equal"], pair["kappa"]) == (4, 0.75, 0.5)
    assert reviews.agreement()["all"] is None
    put(reviews, "a", "Cem", "yes")
    assert reviews.agreement()["all"] == {"readers": ["Ann", "Ben", "Cem"], "images": 1, "kappa": None}


def test_reviews_of_many_readers_at_once_are_all_kept(tmp_path):
    reviews = Reviews(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: put(reviews, f"{n % 10}.png", f"reader {n // 10}"), range(80)))
    assert len(reviews.all()) == 80


def test_a_damaged_file_is_one_sentence(tmp_path):
    (tmp_path / "reviews.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(StoreError, match=r"reviews.sqlite cannot be used"):
        Reviews(tmp_path).all()
