"""The web application: ask a model about a picture, test a region, see its layers; a page and a JSON API."""
