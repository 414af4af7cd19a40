"""`python -m rerank_plugins` is `rerank-plugins`."""

from rerank_plugins.cli import main

if __name__ == "__main__":
    main()
