"""Run the demo: a cohort of phantom chest radiographs with known truth, and five tiny models."""
