"""What the commands of the campaign import and compute, done once in the process they fork from."""

import sklearn.manifold  # noqa: F401

import w2sdefense.bench.command
import w2sdefense.cli.app
import w2sdefense.commands.defend
import w2sdefense.commands.demo
import w2sdefense.defenses.w2s
import w2sdefense.report  # noqa: F401
from w2sdefense.version import code_version

code_version()
