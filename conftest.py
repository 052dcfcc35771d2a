"""Found by pytest before anything of ours is imported, whatever it is asked to run."""

from tests.type_checks import install

install("autorank")
