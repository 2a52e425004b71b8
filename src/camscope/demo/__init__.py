"""The demo: phantom chest radiographs with known truth, five tiny models, and a tour of both."""
