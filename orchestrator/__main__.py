"""`python -m orchestrator`: the same command line as `tenuto`."""

from orchestrator.cli import main

if __name__ == "__main__":
    main()
