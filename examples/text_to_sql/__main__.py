"""`python -m examples.text_to_sql [QUESTION …]`."""

import sys

from examples.text_to_sql.demo import demo

sys.exit(demo(sys.argv[1:]))
