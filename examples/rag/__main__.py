"""`python -m examples.rag [QUESTION …]`."""

import sys

from examples.rag.demo import demo

sys.exit(demo(sys.argv[1:]))
