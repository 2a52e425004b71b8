"""Parts of self-contained HTML pages: shell, content policy, figures as SVG."""
