"""`python -m rerankq.cli`, for where the script is not on the PATH."""

from rerankq.cli import main

main()
