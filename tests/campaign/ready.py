"""What the commands of the campaign import and compute, done once in the process they fork from."""

import sklearn.manifold
import sklearn.metrics  # noqa: F401

import w2sdefense.bench.command
import w2sdefense.cli.app
import w2sdefense.commands.defend
import w2sdefense.commands.demo
import w2sdefense.commands.reporting
import w2sdefense.defenses.w2s
import w2sdefense.report
import w2sdefense.report.tsne  # noqa: F401
from w2sdefense.version import code_version

code_version()
