"""Models: networks with the preprocessing, class names and layer that belong to them."""
