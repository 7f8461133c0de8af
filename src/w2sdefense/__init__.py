"""Remove backdoors from language models, and show that they are gone."""

import logging

# On a CPU with bfloat16 it says, when peft is imported, that compiled code of the hub is missing.
# No such code is wanted here. Worker processes import this, too.
logging.getLogger("bitsandbytes.backends.cpu").setLevel(logging.ERROR)
