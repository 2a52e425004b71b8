"""Models: networks with their preprocessing, class names and target layer."""
