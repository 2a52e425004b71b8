"""Self-contained pages: the shell with its policy, figures as SVG."""
