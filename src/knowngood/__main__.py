"""`python -m knowngood` is `knowngood`."""

from knowngood.cli import main

main()
