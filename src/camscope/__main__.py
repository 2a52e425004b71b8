"""Run the command as a module: python -m camscope."""

from camscope.cli import main

if __name__ == "__main__":
    main()
