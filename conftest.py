"""Found by pytest before anything of ours is imported, whatever it is asked to run."""

import os
import sys

from tests.type_checks import install

# Bytecode is written even where the environment forbids it (images do, to stay small): a session has some hundred
# processes, and each would compile all that it imports again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

install("autorank")
