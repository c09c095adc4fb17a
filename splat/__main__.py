"""python -m splat"""

from splat.cli import main

main()
